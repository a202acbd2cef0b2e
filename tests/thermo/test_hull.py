"""The hull against pymatgen, against a published table, and its invariants."""

from __future__ import annotations

import csv
import gzip
import os
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
from scipy.optimize import linprog

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.build import elsewhere, table_rows, write_table
from scdm_flows.thermo.competing_phases import compete, place, points
from scdm_flows.thermo.hull import Phase, PhaseSystem, energy_above_hull
from scdm_flows.thermo.scales import PhaseSet, chemical_potentials, convert
from scdm_flows.thermo.sources import c2db_layers, hull_energies, published_phases
from scdm_flows.thermo.table import PACKAGED, ReferenceTable
from scdm_flows.thermo.validate import COMMON, on_hull

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


@pytest.mark.parametrize(
    ("formula", "atoms"),
    [
        ("TiGa2(SeBr2)2", {"Ti": 1, "Ga": 2, "Se": 2, "Br": 4}),  # reduced formulas have brackets
        ("KP3(C2N3)2", {"K": 1, "P": 3, "C": 4, "N": 6}),
        ("Mo1S2", {"Mo": 1, "S": 2}),
    ],
)
def test_a_phase_has_the_atoms_of_its_formula(formula: str, atoms: dict[str, int]) -> None:
    total = sum(atoms.values())
    wanted = {element: n / total for element, n in atoms.items()}
    assert Phase.from_formula("p", formula, 0.0).fractions == pytest.approx(wanted)


def test_a_layer_of_an_element_never_becomes_its_reference() -> None:
    """One below the bulk is below the hull by as much; it competes with nothing, and nothing lies higher for it."""
    bulk = [Phase("B", {"B": 1.0}, 0.0, "B"), Phase("N", {"N": 1.0}, 0.0, "N")]
    layers = [Phase("one", {"B": 1.0}, -0.05, "B2"), Phase("two", {"B": 1.0}, -0.02, "B3")]
    nitride = Phase("nitride", {"B": 0.75, "N": 0.25}, -0.2, "B3N")
    system = PhaseSystem(["B", "N"], bulk)
    placed = place(system, [*layers, nitride])
    found = compete(placed, system, [*layers, nitride])
    assert [p.e_above_hull for p in found] == pytest.approx([-0.05, -0.02, -0.2])
    assert [p.computed_competitors for p in found] == [(), (), ()]
    drawn = {p.name: p for p in points(["B", "N"], bulk, [*layers, nitride])}
    assert drawn["B"].formation_energy_per_atom == 0
    assert {name for name, p in drawn.items() if p.stable} == {"B", "N", "nitride"}


def test_equal_layers_of_several_campaigns_are_no_rivals() -> None:
    """Each lies as far below the others as if it were alone; a third that is another layer competes with both."""
    bulk = [Phase("B", {"B": 1.0}, 0.0, "B"), Phase("N", {"N": 1.0}, 0.0, "N")]
    layers = [
        Phase(name, {"B": 0.5, "N": 0.5}, energy, "BN") for name, energy in (("a", -0.30), ("b", -0.29), ("c", 0.1))
    ]
    system = PhaseSystem(["B", "N"], bulk)
    placed, lower = place(system, layers), layers[:2]
    assert [p.e_above_hull for p in compete(placed, system, lower)] == pytest.approx([-0.01, 0.01, 0.40])
    found = compete(placed, system, lower, {"a": "a", "b": "a"})
    assert [p.e_above_hull for p in found] == pytest.approx([-0.30, -0.29, 0.40])
    assert [p.e_above_same_composition for p in found] == [None, None, pytest.approx(0.40)]
    # one above the references' hull is no rival of its like either
    high = [Phase("d", {"B": 0.5, "N": 0.5}, 0.05, "BN"), layers[0]]
    found = compete(place(system, high), system, layers[:1], {"a": "a", "d": "a"})
    assert [p.e_above_hull for p in found] == pytest.approx([0.05, -0.30])


def test_new_stable_phase_is_negative_and_decomposes_to_its_rivals() -> None:
    # LiO at -2 between Li (0) and O (0): 2 eV/atom below the tie line
    rivals = [Phase("Li", {"Li": 1.0}, 0.0, "Li"), Phase("O", {"O": 1.0}, 0.0, "O")]
    result = energy_above_hull({"Li": 1, "O": 1}, -2.0, rivals)
    assert result.e_above_hull == pytest.approx(-2.0)
    assert result.formation_energy_per_atom == pytest.approx(-2.0)
    assert result.decomposition == {"Li Li": pytest.approx(0.5), "O O": pytest.approx(0.5)}


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.integers(2, 7))
def test_order_and_scale_do_not_matter(seed: int, scale: int) -> None:
    phases = random_phases(seed)
    base = energy_above_hull({"Li": 1, "Fe": 2, "O": 3}, -0.3, phases).e_above_hull
    shuffled = phases[:]
    random.Random(seed).shuffle(shuffled)
    again = energy_above_hull({"O": 3 * scale, "Fe": 2 * scale, "Li": scale}, -0.3, shuffled).e_above_hull
    assert again == pytest.approx(base, abs=1e-9)


@settings(max_examples=40)
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


@pytest.mark.slow
def test_published_decomposition_energies(shared_data: Path) -> None:
    # Bartel et al., npj Comput. Mater. 6, 97 (2020): the energy of a ground state against all other compositions,
    # elements at 0; of the 85,014 those of every sixth chemical system (all: SCDM_TEST_SYSTEMS=1)
    with gzip.open(shared_data / "mp_compositions_ef_ed.csv.gz", "rt") as handle:
        rows = list(csv.DictReader(handle))
    by_system: dict[str, list[Phase]] = defaultdict(list)
    for row in rows:
        phase = Phase.from_formula(row["formula"], row["formula"], float(row["formation_energy_ev_per_atom"]))
        by_system["-".join(sorted(phase.fractions))].append(phase)
    for element in {e for name in by_system for e in name.split("-")}:
        by_system[element] = [Phase(element, {element: 1.0}, 0.0, element)]
    found = {}
    for name in sorted(n for n in by_system if "-" in n)[:: int(os.environ.get("SCDM_TEST_SYSTEMS", "6"))]:
        elements, own = name.split("-"), by_system[name]
        system = PhaseSystem(elements, [*own, *(p for s in subsystems(elements) for p in by_system.get(s, ()))])
        for i, phase in enumerate(own):
            found[phase.name] = system.place(phase.fractions, phase.energy_per_atom, [i]).e_above_hull
    assert len(rows) == 85014
    said = {row["formula"]: float(row["decomposition_energy_ev_per_atom"]) for row in rows}
    off = np.array([energy - said[formula] for formula, energy in found.items()])
    assert len(off) > 10_000
    assert (np.abs(off) <= 0.002).mean() >= 0.995


def test_real_systems_equal_pymatgen() -> None:
    """All packaged phases of 600 random chemical systems of two to four elements."""
    table, rng = ReferenceTable.load(), random.Random(1)
    names = sorted(table.elements)
    compared = 0
    for _ in range(600):
        elements = sorted(rng.sample(names, rng.choice((2, 3, 4))))
        phases = table.entries(elements)
        entries = [PDEntry(Composition(dict(p.fractions)), p.energy_per_atom) for p in phases]
        diagram, system = PhaseDiagram(entries), PhaseSystem(elements, phases)
        for phase, entry in zip(phases, entries, strict=True):
            ours = system.place(phase.fractions, phase.energy_per_atom).e_above_hull
            assert ours == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-6)
            compared += 1
    assert compared > 4_000


@pytest.mark.parametrize("elements", [2, 3, 5])
@pytest.mark.parametrize("step", [1e-3, 0.25, 10.0])
def test_many_compositions_at_once_are_those_of_a_general_solver(elements: int, step: float) -> None:
    """Energies in large steps, and phases that come twice, make ties: facets of more corners than elements."""
    rng, names = np.random.default_rng(elements), ["Li", "B", "C", "N", "O"][:elements]

    def fractions(many: int) -> np.ndarray:
        counts = rng.integers(0, 4, (many, elements)) + np.eye(elements, dtype=int)[rng.integers(0, elements, many)]
        return np.asarray(counts / counts.sum(1, keepdims=True))

    x = np.vstack([np.eye(elements), fractions(60), fractions(5).repeat(2, 0)])
    energy = np.where(x.max(1) == 1, 0.0, -step * rng.integers(0, round(2 / step) + 1, len(x)))
    phases = [
        Phase(str(i), {e: v for e, v in zip(names, row.tolist(), strict=True) if v}, float(own))
        for i, (row, own) in enumerate(zip(x, energy, strict=True))
    ]
    asked = fractions(80)
    system = PhaseSystem(names, phases)
    found = system.place_all([dict(zip(names, row.tolist(), strict=True)) for row in asked], [0.0] * len(asked))
    for row, hull in zip(asked, found, strict=True):
        solved = linprog(energy, A_eq=x.T, b_eq=row, method="highs")
        assert hull.e_above_hull == pytest.approx(-solved.fun, abs=1e-9)
        numbers, weights = [int(i) for i in hull.decomposition], np.array(list(hull.decomposition.values()))
        assert weights @ x[numbers] == pytest.approx(row, abs=1e-9)
        assert weights @ energy[numbers] == pytest.approx(solved.fun, abs=1e-9)


@pytest.mark.parametrize("formula", COMMON)
def test_common_salts_are_on_the_hull(formula: str) -> None:
    # all of them are minerals or textbook compounds that no decomposition beats
    assert on_hull(ReferenceTable.load(), formula) is True


def test_an_element_without_a_reference_is_refused_by_name() -> None:
    # no known layer holds an actinide, so there is no energy of one on the scale of the layers
    table = ReferenceTable.load()
    with pytest.raises(ReferenceDataError, match="no c2db-pbe reference energy for U; .* exclude the element"):
        table.entries(["S", "U"])
    assert "reference energy for U" in str(on_hull(table, "US2"))


def test_elements_are_references_and_nothing_else_is() -> None:
    # C2DB's formation energies refer to these; a layer such as graphene below its bulk would shift all carbides
    table = ReferenceTable.load()
    assert len(table.elements) == 65  # C2DB's 62, and La, Ce and Tc of 2DMatPedia's layers
    assert all(len(table.phases[e]) == 1 for e in table.elements)
    assert (table.scheme, table.surrogate) == ("c2db-pbe", False)
    assert sum(len(table.phases[name]) for name in table.phases) == sum(table.header["counts"].values())


def test_a_stable_layer_is_part_of_the_hull() -> None:
    # 1H-MoS2 lies on C2DB's hull; without interlayer dispersion (PBE) a layer costs as much as its bulk
    table = ReferenceTable.load()
    hull = energy_above_hull({"Mo": 1, "S": 2}, 0.0, table.entries(["Mo", "S"]))
    assert {label.split()[-1] for label in hull.decomposition} <= {"Mo1S2"}


def test_labels_of_decompositions_tell_phases_apart() -> None:
    table = ReferenceTable.load()
    for name in table.phases:
        labels = [f"{p.name} {p.formula}" for p in table.phases[name]]
        assert len(set(labels)) == len(labels)


def test_a_table_of_another_scheme_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.csv.gz"
    write_table([("mp-1", "Mo1", -10.8, "element")], {"scheme": "chgnet-0.3.0", "surrogate": True}, path)
    with pytest.raises(ReferenceDataError, match="scheme chgnet-0.3.0, those of c2db-pbe are needed; make it again"):
        ReferenceTable.load(path)


@pytest.mark.parametrize("row", [("mp-1", "Mo1", "x", "bulk"), ("mp-1", "Mo1", "-1.0", "gas"), ("mp-1", "Mo1", "-1.0")])
def test_a_broken_row_is_refused_when_the_table_is_read(tmp_path: Path, row: tuple[str, ...]) -> None:
    path = tmp_path / "table.csv.gz"
    lines = ['# {"scheme": "c2db-pbe", "surrogate": false}', "source_id,formula,energy_per_atom,kind", ",".join(row)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(ReferenceDataError, match="is not a reference table"):
        ReferenceTable.load(path)


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    rows = [("mp-2", "S1", -4.1, "element"), ("mp-1", "Mo1", -10.8, "element"), ("mp", "Mo1S2", -7.2, "bulk")]
    header = {"scheme": "c2db-pbe", "surrogate": False}
    write_table(rows, header, tmp_path / "a.csv.gz")
    write_table(rows[::-1], header, tmp_path / "b.csv.gz")
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    table = ReferenceTable.load(tmp_path / "a.csv.gz")
    assert [p.formula for p in table.entries(["S", "Mo"])] == ["Mo1", "S1", "Mo1S2"]
    assert table.entries(["Mo"])[0].energy_per_atom == -10.8


@pytest.mark.slow
def test_the_packaged_table_is_what_the_data_give(shared_data: Path) -> None:
    layers = c2db_layers(shared_data)
    mu, _ = chemical_potentials(
        [one.fractions for one in layers], [one.energy_per_atom - one.formation_energy_per_atom for one in layers]
    )
    mu = elsewhere(shared_data, mu) | mu
    phases = PhaseSet(published_phases(shared_data, set(mu)))
    energies = convert(phases, hull_energies(layers))
    made = {(i, f): e for i, f, e, _ in table_rows(shared_data, layers, mu, phases, energies)}
    table = ReferenceTable.load()
    held = {(p.name, p.formula): p.energy_per_atom for name in table.phases for p in table.phases[name]}
    # linear algebra differs in its last digits between machines, and a phase may lie at the edge of the window
    assert len(made.keys() ^ held.keys()) <= 5, PACKAGED
    assert max(abs(made[k] - held[k]) for k in made.keys() & held.keys()) < 1e-4

    # placed on this hull, C2DB's layers lie where C2DB says: within 0.01 eV/atom on average, as the fit has seen them
    systems: dict[str, PhaseSystem] = {}
    off = []
    for one in layers[::8]:
        if one.system not in systems:
            systems[one.system] = PhaseSystem(list(one.fractions), table.entries(list(one.fractions)))
        system = systems[one.system]
        itself = [i for i, p in enumerate(system.phases) if p.name == one.id]
        off.append(system.place(one.fractions, one.energy_per_atom, itself).e_above_hull - one.e_hull)
    assert np.abs(off).mean() < 0.01
