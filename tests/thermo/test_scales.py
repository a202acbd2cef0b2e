"""The conversion of phases from one scale to another, where the answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pymatgen.analysis.compatibility as compatibility
import pytest
import yaml

from scdm_flows.thermo.composition import U_METALS
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.scales import (
    FITTED_GASES,
    LEGACY_ANIONS,
    PBE_GASES,
    HullEnergy,
    Kernel,
    PhaseSet,
    chemical_potentials,
    convert,
    legacy_correction,
)
from scdm_flows.thermo.sources import c2db_layers, hull_energies, published_phases
from scdm_flows.thermo.validate import FOLDS, chemistry, folds_of, scores

METALS = ("Na", "K", "Mg", "Ca", "Al", "Ti", "Zn", "Ga")
SHIFT = {"Cl": 0.3, "Se": -0.2}  # eV per atom of the anion, the difference between two made-up scales


def salts() -> list[Phase]:
    """MX and MX2 of eight metals and two anions, all far below the elements."""
    rows = [(m, x, n) for m in METALS for x in SHIFT for n in (1, 2)]
    return [Phase.from_formula(f"{m}1{x}{n}", f"{m}1{x}{n}", -1.5 - 0.05 * n) for m, x, n in rows]


def shift(phase: Phase) -> float:
    """What the second scale adds, eV/atom."""
    return sum(x * SHIFT.get(e, 0.0) for e, x in phase.fractions.items())


def test_a_shift_of_elements_is_recovered_for_phases_that_were_not_seen() -> None:
    # the two scales differ by a constant per atom of an anion: the linear term of the kernel holds just that
    phases = PhaseSet(salts())
    start = phases.without_legacy
    seen = [i for i, p in enumerate(phases.phases) if "Zn" not in p.fractions and "Ga" not in p.fractions]
    targets = [
        HullEnergy(phases.phases[i].fractions, float(start[i]) + shift(phases.phases[i]))
        for i in seen
        if phases.hulls(start, [phases.phases[i].fractions])[1][0] == {i: pytest.approx(1.0)}
    ]
    assert len(targets) >= len(seen) // 2
    energies = convert(phases, targets, Kernel(linear=1.0, category=0.0, matern=0.0, noise=1e-8))
    expected = start + np.array([shift(p) for p in phases.phases])
    assert energies == pytest.approx(expected, abs=2e-3)


def test_without_targets_that_differ_nothing_changes_but_the_legacy_corrections() -> None:
    phases = PhaseSet(salts())
    start = phases.without_legacy
    compositions = [p.fractions for p in phases.phases]
    hull, _ = phases.hulls(start, compositions)
    targets = [HullEnergy(f, float(h)) for f, h in zip(compositions, hull, strict=True)]
    assert convert(phases, targets) == pytest.approx(start, abs=1e-9)


def test_a_hull_between_phases_pulls_on_both() -> None:
    # one target halfway between two phases sees the mean of both, so the process shares the difference out evenly
    phases = PhaseSet([Phase.from_formula("a", "Na1Cl1", -1.0), Phase.from_formula("b", "K1Cl1", -1.0)])
    start = phases.without_legacy
    middle = {"Na": 0.25, "K": 0.25, "Cl": 0.5}
    hull, products = phases.hulls(start, [middle])
    assert products == [{0: pytest.approx(0.5), 1: pytest.approx(0.5)}]
    moved = convert(phases, [HullEnergy(middle, float(hull[0]) - 0.1)], Kernel(noise=1e-8)) - start
    assert moved == pytest.approx([-0.1, -0.1], abs=0.01)


def test_the_matern_term_is_that_of_the_book() -> None:
    # Rasmussen & Williams 2006, eq. 4.17 with nu = 5/2: s (1 + sqrt(5) d/l + 5 d^2 / 3 l^2) exp(-sqrt(5) d/l)
    phases = PhaseSet(salts())
    kernel = Kernel(linear=0.0, category=0.0, matern=0.7, length=0.5)
    d = float(np.linalg.norm(phases.descriptors[0] - phases.descriptors[5]))
    expected = 0.7 * (1 + 5**0.5 * d / 0.5 + 5 * d * d / (3 * 0.25)) * np.exp(-(5**0.5) * d / 0.5)
    found = phases.covariance(np.array([0]), np.array([5, 0]), kernel)
    assert found == pytest.approx(np.array([[expected, 0.7]]))


def test_legacy_corrections_are_those_of_pymatgen() -> None:
    # pymatgen keeps the scheme that the Materials Project used until 2020
    scheme = yaml.safe_load((Path(compatibility.__file__).parent / "MPCompatibility.yaml").read_text())
    assert LEGACY_ANIONS["O"] == scheme["OxideCorrections"]["oxide"]
    assert LEGACY_ANIONS["S"] == scheme["SulfideCorrections"]["sulfide"]
    gases = scheme["Advanced"]["CompoundEnergies"]
    assert {e: gases[f"{e}2"] for e in PBE_GASES} == FITTED_GASES
    assert set(U_METALS) == set(scheme["Advanced"]["UCorrections"]["O"])


def test_legacy_correction_of_a_formation_energy() -> None:
    # an oxide: 0.70229 eV too low per O. A fluoride: relative to F2 at -1.42055 where PBE has -1.91148, so per F too
    # low by 0.49093
    assert legacy_correction({"Ca": 0.5, "O": 0.5}) == pytest.approx(-0.351145)
    assert legacy_correction({"Ca": 1 / 3, "F": 2 / 3}) == pytest.approx(-0.49093 * 2 / 3, abs=1e-5)
    assert legacy_correction({"Ni": 0.5, "Al": 0.5}) == 0.0


def test_categories_hold_u_metals_where_u_applies() -> None:
    formulas = ("Fe1O1", "Fe1F2", "Fe1O1F1", "Fe1S1", "Ca1O1")
    rows = PhaseSet([Phase.from_formula(f, f, -1.0) for f in formulas]).categories
    iron = U_METALS.index("Fe")
    assert rows.shape == (5, 16)
    assert rows[0, iron] == 0.5
    assert rows[1, 8 + iron] == pytest.approx(1 / 3)
    assert rows[2, iron] == pytest.approx(1 / 3)
    assert rows[2, 8:].sum() == 0  # an oxyfluoride counts as an oxide
    assert not rows[3:].any()


def test_chemical_potentials_are_recovered() -> None:
    mu = {"Mo": -10.9, "S": -4.1, "Se": -3.5}
    fractions = [{"Mo": 1 / 3, "S": 2 / 3}, {"Mo": 1 / 3, "Se": 2 / 3}, {"Mo": 1 / 3, "S": 1 / 3, "Se": 1 / 3}]
    fractions += [{"Mo": 0.5, "S": 0.5}, {"Mo": 0.5, "Se": 0.5}]
    differences = [sum(x * mu[e] for e, x in row.items()) for row in fractions]
    found, residual = chemical_potentials(fractions, differences)
    assert found == pytest.approx(mu)
    assert residual == pytest.approx(0.0, abs=1e-12)


def test_folds_keep_chemical_systems_together() -> None:
    rng = np.random.default_rng(0)
    targets = []
    for _ in range(300):
        a, b = rng.choice(METALS, 2, replace=False)
        share = float(rng.uniform(0.1, 0.9))
        targets.append(HullEnergy({str(a): share, str(b): 1 - share}, 0.0))
    fold = folds_of([t.system for t in targets])
    assert set(fold.tolist()) == set(range(FOLDS))
    of_system: dict[str, set[int]] = {}
    for target, number in zip(targets, fold.tolist(), strict=True):
        of_system.setdefault(target.system, set()).add(number)
    assert {len(numbers) for numbers in of_system.values()} == {1}


def test_scores_of_errors_that_are_known() -> None:
    found = scores(np.array([0.01, -0.01, 0.03, 0.05]), ["a", "a", "b", "c"])
    assert (found["n"], found["n_systems"]) == (4, 3)
    assert (found["mae"], found["median"], found["bias"]) == (0.025, 0.02, 0.02)
    assert found["share_within_0.02"] == 0.5
    low, high = found["mae_95"]
    assert 0.01 <= low < 0.025 < high <= 0.05  # resamples of whole systems lie between the best and the worst one


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("Fe2O3", "oxides with a +U metal"),
        ("BiOCl", "other oxides"),
        ("CaF2", "fluorides"),
        ("CrI3", "chlorides, bromides, iodides"),
        ("MoS2", "sulfides, selenides, tellurides"),
        ("BN", "pnictides, carbides, borides, hydrides"),
        ("NiAl", "intermetallics"),
        ("C", "elements"),
    ],
)
def test_chemistry_by_the_most_electronegative_kind(formula: str, expected: str) -> None:
    assert chemistry(Phase.from_formula("", formula, 0.0).fractions) == expected


def test_elements_of_c2db_have_one_energy_each(shared_data: Path) -> None:
    # heats of formation of one database refer to one energy per element, so the differences are linear in composition
    layers = c2db_layers(shared_data)
    mu, residual = chemical_potentials(
        [one.fractions for one in layers], [one.energy_per_atom - one.formation_energy_per_atom for one in layers]
    )
    assert len(mu) == 62
    assert residual < 0.001


@pytest.mark.slow
def test_intermetallics_stay_where_they_are(shared_data: Path) -> None:
    # no corrections and no +U in either database: both are PBE, and codes agree on it within a few ten meV/atom
    # (Lejaeghere et al., Science 351, aad3000 (2016), doi:10.1126/science.aad3000)
    layers = c2db_layers(shared_data)
    phases = PhaseSet(published_phases(shared_data, {e for one in layers for e in one.fractions}))
    some = np.array([i for i, p in enumerate(phases.phases) if chemistry(p.fractions) == "intermetallics"])
    targets = hull_energies(layers)
    assert phases.without_legacy[some].tolist() == phases.published[some].tolist()
    moved = np.abs(convert(phases, targets) - phases.published)[some]
    assert np.median(moved) < 0.03
    assert np.percentile(moved, 95) < 0.1
