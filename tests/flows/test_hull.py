"""The hull against pymatgen, against a published table, and its invariants."""

from __future__ import annotations

import csv
import gzip
import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from scdm_flows.thermo.hull import Phase, PhaseSystem, energy_above_hull
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.table import ReferenceTable

ELEMENTS = ["Li", "Fe", "O"]


def random_phases(seed: int, n: int = 12) -> list[Phase]:
    """Elements at 0 and n random compounds between -2 and 0.5 eV/atom."""
    rng = np.random.default_rng(seed)
    phases = [Phase(e, {e: 1.0}, 0.0, e) for e in ELEMENTS]
    for k in range(n):
        counts = rng.integers(0, 5, 3)
        if (counts > 0).sum() < 2:
            continue
        formula = "".join(f"{e}{c}" for e, c in zip(ELEMENTS, counts, strict=True) if c)
        phases.append(Phase.from_formula(f"p{k}", formula, float(rng.uniform(-2, 0.5))))
    return phases


@pytest.mark.parametrize("seed", range(25))
def test_equals_pymatgen(seed: int) -> None:
    phases = random_phases(seed)
    entries = [PDEntry(Composition(dict(p.fractions)), p.energy_per_atom) for p in phases]
    diagram = PhaseDiagram(entries)
    for phase, entry in zip(phases, entries, strict=True):
        # with the phase itself competing, ours is pymatgen's e_above_hull, which is never negative
        ours = energy_above_hull(phase.fractions, phase.energy_per_atom, phases).e_above_hull
        assert ours == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-6)


def test_new_stable_phase_is_negative_and_decomposes_to_its_rivals() -> None:
    # LiO at -2 between Li (0) and O (0): 2 eV/atom below the tie line
    rivals = [Phase("Li", {"Li": 1.0}, 0.0, "Li"), Phase("O", {"O": 1.0}, 0.0, "O")]
    result = energy_above_hull({"Li": 1, "O": 1}, -2.0, rivals)
    assert result.e_above_hull == pytest.approx(-2.0)
    assert result.formation_energy_per_atom == pytest.approx(-2.0)
    assert result.decomposition == {"Li Li": pytest.approx(0.5), "O O": pytest.approx(0.5)}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.integers(2, 7))
def test_order_and_scale_do_not_matter(seed: int, scale: int) -> None:
    phases = random_phases(seed)
    base = energy_above_hull({"Li": 1, "Fe": 2, "O": 3}, -0.3, phases).e_above_hull
    shuffled = phases[:]
    random.Random(seed).shuffle(shuffled)
    again = energy_above_hull({"O": 3 * scale, "Fe": 2 * scale, "Li": scale}, -0.3, shuffled).e_above_hull
    assert again == pytest.approx(base, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), energy=st.floats(-3, 1))
def test_another_phase_never_lowers_e_above_hull(seed: int, energy: float) -> None:
    # the hull is a minimum: a further competitor can only lower it
    phases = random_phases(seed)
    before = energy_above_hull({"Li": 1, "Fe": 1, "O": 1}, -0.5, phases).e_above_hull
    after = energy_above_hull({"Li": 1, "Fe": 1, "O": 1}, -0.5, [*phases, Phase.from_formula("x", "Fe1O1", energy)])
    assert after.e_above_hull >= before - 1e-9


@pytest.mark.parametrize("energy", [float("nan"), float("inf"), 1e4])
def test_absurd_energies_are_refused(energy: float) -> None:
    with pytest.raises(ReferenceDataError, match="must be a number"):
        energy_above_hull({"Li": 1, "O": 1}, energy, random_phases(0))
    with pytest.raises(ReferenceDataError, match="of bad must be a number"):
        energy_above_hull({"Li": 1, "O": 1}, 0.0, [*random_phases(0), Phase.from_formula("bad", "Li1O1", energy)])


def test_missing_element_is_named() -> None:
    with pytest.raises(ReferenceDataError, match="no elemental reference phase for Xe"):
        energy_above_hull({"Li": 1, "Xe": 1}, 0.0, random_phases(0))


def subsystems(elements: list[str]) -> Iterator[str]:
    """Names of the chemical systems within ``elements``, itself left out."""
    for n in range(1, len(elements)):
        yield from ("-".join(c) for c in combinations(elements, n))


def test_published_decomposition_energies(shared_data: Path) -> None:
    # Bartel et al., npj Comput. Mater. 6, 97 (2020): the energy of a ground state against all other compositions,
    # elements at 0; all 85,014 of them
    with gzip.open(shared_data / "mp_compositions_ef_ed.csv.gz", "rt") as handle:
        rows = list(csv.DictReader(handle))
    by_system: dict[str, list[Phase]] = defaultdict(list)
    for row in rows:
        phase = Phase.from_formula(row["formula"], row["formula"], float(row["formation_energy_ev_per_atom"]))
        by_system["-".join(sorted(phase.fractions))].append(phase)
    for element in {e for name in by_system for e in name.split("-")}:
        by_system[element] = [Phase(element, {element: 1.0}, 0.0, element)]
    found = {}
    for name, own in list(by_system.items()):
        elements = name.split("-")
        if len(elements) == 1:
            continue
        system = PhaseSystem(elements, [*own, *(p for s in subsystems(elements) for p in by_system.get(s, ()))])
        for i, phase in enumerate(own):
            found[phase.name] = system.place(phase.fractions, phase.energy_per_atom, [i]).e_above_hull
    off = np.array([found[row["formula"]] - float(row["decomposition_energy_ev_per_atom"]) for row in rows])
    assert len(off) == 85014
    assert (np.abs(off) <= 0.002).mean() >= 0.995


def test_real_systems_equal_pymatgen() -> None:
    """All packaged phases of 2,000 random chemical systems of two to four elements."""
    table, rng = ReferenceTable.load(), random.Random(1)
    names = sorted(table.elements)
    compared = 0
    for _ in range(2000):
        elements = sorted(rng.sample(names, rng.choice((2, 3, 4))))
        phases = table.entries(elements)
        entries = [PDEntry(Composition(dict(p.fractions)), p.energy_per_atom) for p in phases]
        diagram, system = PhaseDiagram(entries), PhaseSystem(elements, phases)
        for phase, entry in zip(phases, entries, strict=True):
            ours = system.place(phase.fractions, phase.energy_per_atom).e_above_hull
            assert ours == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-6)
            compared += 1
    assert compared > 10_000
