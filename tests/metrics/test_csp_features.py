"""Local environments that the distances compare."""

from __future__ import annotations

import pytest
from pymatgen.core.local_env import CN_OPT_PARAMS, CrystalNN, LocalStructOrderParams
from support.layers import mx2

from scdm_models.metrics.csp import perturb
from scdm_models.metrics.csp_features import cache_key, environments


def test_order_parameters_are_those_of_single_calls() -> None:
    # several order parameters are asked for in one call, which pymatgen gets right in one order only
    crystal = perturb(mx2("1T") * (2, 1, 1), seed=1)
    found = environments(cache_key(crystal))[0]
    crystalnn = CrystalNN(distance_cutoffs=None, x_diff_weight=0)
    for i, site in enumerate(crystal):
        data = crystalnn.get_nn_data(crystal, i)
        expected = []
        for cn in range(1, 25):
            motifs = [("sgl_bd", None)] if cn == 1 else [(*m, None)[:2] for m in CN_OPT_PARAMS.get(cn, {}).values()]
            motifs += [(q, None) for q in ("q2", "q4", "q6")] if 9 <= cn <= 12 else []
            weight = data.cn_weights.get(cn, 0)
            expected.append(weight)
            for name, parameters in motifs:
                sites = [site, *(entry["site"] for entry in data.cn_nninfo.get(cn, []))]
                value = (
                    weight
                    and LocalStructOrderParams([name], [parameters]).get_order_parameters(
                        sites, 0, indices_neighs=list(range(1, len(sites)))
                    )[0]
                )
                expected.append(weight * (value or 0))
        assert found[i] == pytest.approx(expected, abs=1e-6)  # structures are rounded to 1e-9
