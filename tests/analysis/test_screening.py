"""The screen's verdicts, one rule at a time, on small layers whose answer is known."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import mx2

from scdm_flows.analysis.screening import candidate_id, screen
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.documents import ScreenedCandidate
from scdm_models.datasets.known import KnownLayers
from scdm_models.datasets.records import LayerRecord

EMPTY = KnownLayers.build([])[0]


def campaign(**rules: Any) -> CampaignConfig:
    return parse_config({"name": "t", "generator": {"kind": "files", "paths": ["x"]}, "screen": rules})


def verdicts(*structures: Structure | None, known: KnownLayers = EMPTY, **rules: Any) -> list[ScreenedCandidate]:
    records = [{"index": i, "structure": s.as_dict() if s else None} for i, s in enumerate(structures)]
    return screen(campaign(**rules), records, known)


def test_a_good_layer_is_accepted_and_described() -> None:
    (verdict,) = verdicts(mx2("1H"))
    assert verdict.accepted
    assert verdict.reason is None
    # 1H-MoS2 is p-6m2, layer group 78; its cell with vacuum P-6m2, space group 187
    assert (verdict.layer_group_generated, verdict.space_group_generated) == (78, 187)
    assert verdict.thickness_angstrom == pytest.approx(3.13)  # twice the height of sulfur
    assert verdict.min_distance_angstrom == pytest.approx(np.hypot(3.18 / np.sqrt(3), 1.565), abs=1e-4)  # Mo-S
    assert (verdict.valid_distance, verdict.valid_radii, verdict.one_layer, verdict.novel) == (True,) * 4
    # the exchanged structure obeys the slab contract: c along z, centred
    slab = verdict.structure
    assert slab is not None
    assert np.allclose(slab.lattice.matrix[2, :2], 0)
    assert slab.frac_coords[:, 2].mean() == pytest.approx(0.5)


def test_ids_depend_on_campaign_and_index_alone() -> None:
    first, second = verdicts(mx2("1H"), mx2("1T"))
    assert first.candidate_id == candidate_id(campaign(), 0) != second.candidate_id
    assert candidate_id(campaign(max_atoms=12), 0) != first.candidate_id
    assert first.candidate_id.startswith("t-")
    assert len(first.candidate_id) == len("t-") + 12


def bulk() -> Structure:
    return Structure(Lattice.cubic(4.0), ["Na"], [[0, 0, 0]])


def close() -> Structure:
    """Two carbon atoms 0.4 angstrom apart, below the paper's 0.5."""
    return Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[0, 0, 0.5], [0, 0, 0.52]])


def overlapping() -> Structure:
    return Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[0, 0, 0.5], [0, 0, 0.5]])


def squeezed() -> Structure:
    """Graphene with bonds of 1.0 angstrom: apart by the paper's rule, but 0.66 of the sum of covalent radii (1.52)."""
    return Structure(Lattice.hexagonal(1.732, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])


def bilayer() -> Structure:
    """Two sheets of graphene 6 angstrom apart: no bond between them."""
    plane = [[1 / 3, 2 / 3], [2 / 3, 1 / 3]]
    frac = [[x, y, z] for z in (0.35, 0.65) for x, y in plane]
    return Structure(Lattice.hexagonal(2.46, 20), ["C"] * 4, frac)


def large() -> Structure:
    """41 atoms in a square sheet, one more than the paper's 40."""
    return Structure(
        Lattice([[41 * 2.4, 0, 0], [0, 2.4, 0], [0, 0, 20]]),
        ["C"] * 41,
        [[i / 41, 0, 0.5] for i in range(41)],
    )


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (None, "unreadable: no structure"),
        (bulk(), "not usable: .*bulk crystal"),
        (close(), "atoms too close: .*0.400 angstrom apart, at least 0.5"),
        (overlapping(), "atoms too close: .*0.000 angstrom apart"),
        (squeezed(), "atoms too close: .*covalent radii, at least 0.7"),
        (bilayer(), "not one connected layer"),
        (large(), "too large: 41 atoms, at most 40"),
    ],
)
def test_what_is_wrong_is_said_and_the_others_go_on(structure: Structure | None, reason: str) -> None:
    bad, good = verdicts(structure, mx2("1H"))
    assert not bad.accepted
    assert bad.reason is not None
    assert re.match(reason, bad.reason), bad.reason
    assert good.accepted


def test_a_record_that_breaks_a_library_is_one_rejection() -> None:
    records = [
        {"index": 0, "structure": {"lattice": "nonsense"}},
        {"index": 1, "structure": mx2("1H").as_dict()},
    ]
    broken, good = screen(campaign(), records, EMPTY)
    assert not broken.accepted
    assert broken.reason == "unreadable: pymatgen cannot read it"
    assert good.accepted


def test_rules_can_be_loosened() -> None:
    assert verdicts(squeezed(), require_radii=False)[0].accepted
    assert verdicts(bilayer(), require_one_layer=False)[0].accepted
    assert not verdicts(mx2("1H"), max_atoms=2)[0].accepted


def test_duplicates_keep_the_first_and_polytypes_are_not_duplicates() -> None:
    shifted = mx2("1H", c=26.0, shift=0.02)  # other vacuum, across the cell boundary: the same layer
    first, polytype, again = verdicts(mx2("1H"), mx2("1T"), shifted)
    assert (first.accepted, polytype.accepted, again.accepted) == (True, True, False)
    assert again.duplicate_of == first.candidate_id
    assert (again.reason or "").startswith("duplicate")


def test_known_layers_are_rejected_only_where_novelty_is_required() -> None:
    known, _ = KnownLayers.build([LayerRecord("c2db-1", "C2DB", mx2("1H"))])
    old, new = verdicts(mx2("1H"), mx2("1T"), known=known)
    assert (old.accepted, old.novel, old.known_as) == (False, False, ["c2db-1"])
    assert (new.accepted, new.novel) == (True, True)
    assert verdicts(mx2("1H"), known=known, require_novel=False)[0].accepted
