"""How two fidelities compare on promoted candidates, by numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.documents import candidate
from support.layers import mx2

from scdm_flows.analysis.fidelity import compare
from scdm_flows.documents import CandidateDoc, ParentRecord
from scdm_flows.report.fidelities import by_fidelity, promoted_section


def promoted(index: int, before: float | None, after: float | None, **fields: Any) -> CandidateDoc:
    """A candidate with energies above hull (eV/atom) by a surrogate, error 0.1 eV/atom, and by DFT."""
    parent = ParentRecord(
        candidate_id=f"p-{index}",
        campaign="p",
        rank=index,
        energy_scheme="c2db-pbe",
        surrogate=True,
        e_above_hull=before,
        e_above_hull_error=0.1,
        layer_group=78,
        area_per_atom_angstrom2=3.0,
        dynamically_stable=True,
    )
    values = {
        "energy_scheme": "vasp-pbe",
        "surrogate": False,
        "e_above_hull": after,
        "layer_group": 78,
        "area_per_atom_angstrom2": 3.03,
        "promoted_from": parent.candidate_id,
        "parent": parent,
    }
    return candidate(index, mx2("1H"), **{**values, **fields})


def test_the_numbers_of_ten_candidates() -> None:
    # surrogate minus DFT: eight times 0.05 too high, twice 0.2 too low; the error is 0.1
    pairs = [(0.1, 0.05)] * 8 + [(0.1, 0.3)] * 2
    several = [promoted(k, before, after) for k, (before, after) in enumerate(pairs)]
    several[0].layer_group = 72
    failed = promoted(10, 0.1, None, surrogate=None, energy_scheme=None)
    found = compare([*several, failed])
    assert found is not None
    assert (found.before, found.after) == ("surrogate (c2db-pbe)", "DFT (vasp-pbe)")
    assert (found.promoted, found.compared) == (11, 10)
    measures = {one.words: one.found for one in found.measures}
    error, bias = measures["E_hull: mean absolute difference"], measures["E_hull: bias"]
    assert error.value == pytest.approx((8 * 0.05 + 2 * 0.2) / 10)
    assert bias.value == pytest.approx((8 * 0.05 - 2 * 0.2) / 10, abs=1e-12)
    assert bias.low < bias.value < bias.high
    (held,) = [one for words, one in measures.items() if words.startswith("error bars")]
    # Wilson (1927), doi:10.1080/01621459.1927.10502953, of 8 in 10 with z = 1.96
    z, n, p = 1.959964, 10, 0.8
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (held.value, held.n) == (0.8, 10)
    assert (held.low, held.high) == pytest.approx((middle - half, middle + half), abs=1e-5)
    assert measures["geometry: change of the cell's area by relaxing here"].value == pytest.approx(1.0)  # percent
    assert measures["geometry: layer group kept"].value == 0.9
    # DFT's phonons are not known, and no formation energy is: nothing is said of them
    assert not [words for words in measures if words.startswith(("phonon", "formation"))]


def test_a_single_candidate_has_no_interval() -> None:
    section = promoted_section([promoted(0, 0.1, 0.05)])
    assert section is not None
    assert ("E_hull: bias", "0.050 eV/atom", "–", 1) in section["rows"]  # type: ignore[operator]


def test_nothing_is_compared_before_it_is_computed() -> None:
    assert compare([candidate(0, mx2("1H"))]) is None
    found = compare([promoted(0, 0.1, None, surrogate=None, energy_scheme=None)])
    assert found is not None
    assert (found.after, found.compared, found.measures) == ("no energy", 0, ())


def test_a_surrogate_is_never_called_dft() -> None:
    another = promoted(0, 0.1, 0.05, surrogate=True, energy_scheme="c2db-pbe")
    found = compare([another])
    assert found is not None
    assert (found.before, found.after) == ("surrogate (c2db-pbe)", "surrogate (c2db-pbe)")
    assert another.parent is not None
    table = by_fidelity([another.parent, another])
    assert "DFT" not in repr(table)
    assert by_fidelity([another]) is None
