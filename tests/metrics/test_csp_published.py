"""The published distances: values of the benchmark's tables, and which superpositions are allowed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from scdm_models.metrics.csp import csp_distances
from scdm_models.metrics.csp_published import superpose_distance

COLUMNS = {
    "sinkhorn": "sinkhorn_dist",
    "superpose": "superpose_rmsd",
    "crystalnn": "fingerPrint",
    "xrd": "XRD_dist",
    "ofm": "OFM_dist",
}


@pytest.mark.slow
def test_published_values(shared_data: Path) -> None:
    # tables of CSPBenchMetrics (Wei et al., doi:10.1016/j.commatsci.2024.112802), printed with four decimals
    with gzip.open(shared_data / "cspbench_reference.json.gz", "rt", encoding="utf-8") as file:
        pairs = json.load(file)["pairs"]
    assert len(pairs) == 9
    for row in pairs:
        cifs = (Structure.from_str(row[f"{kind}_cif"], fmt="cif") for kind in ("ground_truth", "predicted"))
        found = csp_distances(*cifs)
        assert found.failures == {}
        for name, column in COLUMNS.items():
            assert getattr(found, name) == pytest.approx(row["expected"][column], abs=5.1e-5), (row["name"], name)


def test_published_superposition_allows_similarity_only() -> None:
    # turned, moved and doubled is the same shape; the mirror image of a chiral set of points is not
    layer = Structure(
        Lattice.cubic(30), ["C"] * 4, [[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 1]], coords_are_cartesian=True
    )
    turn = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    same = Structure(layer.lattice, layer.species, 2 * layer.cart_coords @ turn + 5, coords_are_cartesian=True)
    mirror = Structure(layer.lattice, layer.species, layer.cart_coords * [1, 1, -1], coords_are_cartesian=True)
    assert superpose_distance(layer, same) == pytest.approx(0, abs=1e-9)
    assert superpose_distance(layer, mirror) > 0.1
