"""Phonon verdicts beside C2DB's: which layers, the Hessian's lowest eigenvalue, shares recounted, runs that go on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from pymatgen.core import Lattice, Structure
from scipy.stats import binomtest, mannwhitneyu
from support.layers import mx2

from scdm_flows.cli.cards import phonons as command
from scdm_flows.errors import DatasetError, EngineError
from scdm_flows.evaluation import phonon_verdicts
from scdm_flows.evaluation.ledger import Ledger
from scdm_flows.evaluation.phonon_verdicts import (
    FAILED,
    band_score,
    causes,
    choose,
    judged,
    markdown,
    measure,
    softest,
    ways,
)
from scdm_flows.evaluation.phonon_verdicts import results as results_of
from scdm_flows.report.cards import PHONONS, card, card_path
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import LayerRecord
from scdm_models.training.forcefield.labels import held_out

METALS = ("Ti", "V", "Zr", "Nb", "Mo", "Hf", "Ta", "W", "Re", "Pt", "Pd", "Sn", "Ge", "Ni", "Co", "Fe", "Mn", "Cr")


def layer(metal: str, other: str, label: str | None, hessian: float = -0.5) -> str:
    """A line of C2DB's layers."""
    structure = mx2("1H")
    structure.replace_species({"Mo": metal, "S": other})
    said = {} if label is None else {"dyn_stab_phonons": label, "min_hessian_eig": hessian, "magstate": "NM"}
    return json.dumps(
        {
            "id": f"{metal}{other}2",
            "source": "C2DB",
            "lattice": structure.lattice.matrix.tolist(),
            "species": [str(s) for s in structure.species],
            "frac_coords": structure.frac_coords.tolist(),
            **said,
        }
    )


@pytest.fixture
def c2db(tmp_path: Path) -> Path:
    """Layers of the held-out systems of a grid of elements, every third without a label, and two that are learned from."""
    systems = [sorted(pair) for pair in itertools.product(METALS, ("O", "S", "Se", "Te", "Cl", "Br", "I"))]
    pairs = [(a, b) if a in METALS else (b, a) for a, b in systems if held_out(f"{a}-{b}")]
    assert len(pairs) >= 9
    labels = itertools.cycle(("high", "low", None))
    lines = [layer(*pair, label) for pair, label in zip(pairs, labels, strict=False)]
    assert not held_out("Mo-S")
    path = tmp_path / "c2db.jsonl"
    path.write_text("\n".join([*lines, layer("Mo", "S", "high"), "no JSON"]))
    return path


def test_as_many_stable_as_unstable_layers_of_held_out_systems_are_taken(c2db: Path) -> None:
    everything = choose(c2db, 1000, 0)
    counts = [r.properties["dyn_stab_phonons"] for r in everything]
    assert counts.count("high") == counts.count("low") == len(counts) // 2 >= 3
    assert all(held_out(r.structure.composition.chemical_system) for r in everything)
    assert len(choose(c2db, 2, 0)) == 4
    assert [r.id for r in choose(c2db, 2, 0)] == [r.id for r in choose(c2db, 2, 0)]
    assert {r.id for r in choose(c2db, 2, 1)} != {r.id for r in choose(c2db, 2, 0)}


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c2db.jsonl"
    path.write_text(layer("Mo", "S", "high"))
    with pytest.raises(DatasetError, match="give C2DB's layers with their labels"):
        choose(path, 5, 0)


def square_lattice(along_x: float, along_y: float, mass: float) -> Any:
    """A square lattice whose nearest neighbours are held by springs of all directions, eV/angstrom^2, in 2 x 2 cells."""
    cell = PhonopyAtoms(symbols=["Mo"], cell=np.diag([3.0, 3.0, 20.0]), scaled_positions=[[0, 0, 0]], masses=[mass])
    phonon = Phonopy(cell, np.diag([2, 2, 1]), primitive_matrix=np.eye(3), is_symmetry=False)
    constants = np.zeros((4, 4, 3, 3))
    places = np.rint(phonon.supercell.scaled_positions * 2).astype(int)
    for i, j in itertools.product(range(4), repeat=2):
        apart = tuple((places[j] - places[i]) % 2)[:2]
        # of four cells the neighbours on both sides are one atom
        spring = {(0, 0): 2 * along_x + 2 * along_y, (1, 0): -2 * along_x, (0, 1): -2 * along_y}.get(apart, 0.0)
        constants[i, j] = spring * np.eye(3)
    phonon.force_constants = constants
    return phonon


@pytest.mark.parametrize("mass", [1.0, 95.95])
def test_the_lowest_eigenvalue_of_the_hessian_is_that_of_springs(mass: float) -> None:
    # one atom with springs k_x, k_y: the Hessian is 2 k_x (1 - cos q_x) + 2 k_y (1 - cos q_y), whatever the mass;
    # 4 k_x at (1/2, 0), 4 k_y at (0, 1/2), both together at (1/2, 1/2), 0 (three translations) at Gamma
    for k_x, k_y, lowest in ((-0.05, 0.3, -0.2), (0.1, 0.3, 0.4), (-0.05, -0.1, -0.6)):
        assert softest(SimpleNamespace(phonon=square_lattice(k_x, k_y, mass))) == pytest.approx(lowest, abs=1e-9)


def test_a_layer_without_force_constants_has_its_reason() -> None:
    assert softest("no forces") == FAILED
    assert band_score("no forces", mx2("1H")) == {"bands_thz": FAILED, "error": "no forces"}
    broken = SimpleNamespace(phonon=None, virial=None)
    assert "no bands: AttributeError" in band_score(broken, mx2("1H"))["error"]  # type: ignore[arg-type]


def row(stable: bool, score: float, **more: Any) -> dict[str, Any]:
    found = {
        "id": "x",
        "stable_c2db": stable,
        "stable": score >= -0.2,
        "stable_without_rules": True,
        "bands_thz": score,
        "hessian_ev": score,
        "hessian_given_ev": score,
        "hessian_c2db_ev": 0.0 if stable else -0.1,
        "flexural_exponent": 2.0,
        "correlated": False,
        "magnetic": False,
        "area_change": 0.01,
    }
    return found | more


def test_shares_are_counted_and_have_wilsons_interval() -> None:
    rows = [row(True, 0.0)] * 6 + [row(True, -1.0)] * 2 + [row(False, -1.0)] * 3 + [row(False, 0.0)]
    found = judged(rows, [r["bands_thz"] for r in rows], 0.2)
    names = ("stable_said_stable", "stable_said_unstable", "unstable_said_stable", "unstable_said_unstable")
    assert [found[name] for name in names] == [6, 2, 1, 3]
    assert found["f1_of_stable"] == pytest.approx(2 * 6 / (2 * 6 + 2 + 1))
    wilson = binomtest(9, 12).proportion_ci(method="wilson")
    assert (found["accuracy"], found["low"], found["high"]) == pytest.approx((0.75, wilson.low, wilson.high))
    # what lies exactly at the threshold is stable
    assert judged([row(True, -0.2)], [-0.2], 0.2)["accuracy"] == 1.0


def test_area_under_the_curve_is_mann_and_whitneys() -> None:
    rng = np.random.default_rng(0)
    rows = [row(bool(k % 2), float(np.round(rng.normal(k % 2), 1))) for k in range(60)]  # rounded: there are ties
    stable, unstable = ([r["bands_thz"] for r in rows if r["stable_c2db"] is flag] for flag in (True, False))
    expected = mannwhitneyu(stable, unstable).statistic / (len(stable) * len(unstable))
    assert ways(rows)["bands"]["auc"] == pytest.approx(expected)


def test_a_threshold_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    # on the even rows stable ones lie at -0.5, unstable ones at -1; on the odd rows the other way round, so that a
    # threshold between the two is right for the one half and wrong for all of the other
    even = [row(True, -0.5), row(False, -1.0)]
    odd = [row(True, -1.0), row(False, -0.5)]
    rows = [r for pair in zip(even * 5, odd * 5, strict=True) for r in pair]
    chosen = ways(rows)["bands"]["chosen_on_the_other_half"]
    assert 0.5 < chosen["threshold"] < 1.0
    assert (chosen["accuracy"], chosen["n"]) == (0.0, 10)


def test_errors_are_sorted_by_their_causes() -> None:
    rows = [
        row(True, -1.0, correlated=True, area_change=0.1),
        row(True, 0.0, stable_without_rules=False),
        row(False, -1.0, hessian_c2db_ev=-0.7, magnetic=True, hessian_given_ev=0.1),
        {**row(False, FAILED, hessian_c2db_ev=-9.0, error="not relaxed")},
    ]
    for name in ("stable", "area_change"):
        del rows[3][name]  # a layer that failed has none
    found = causes(rows)
    assert (found["with_V_Cr_Mn_Fe_Co_Ni_Cu"]["value"], found["without_these"]["value"]) == (0.0, 1.0)
    assert found["area_changed_more"]["n"] == 2  # and the one that did not relax
    by_strength = found["unstable_found_by_c2db_hessian"]
    assert {name: both["bands"]["n"] for name, both in by_strength.items()} == {
        "-0.2 to -0.01": 0,
        "-1 to -0.2": 1,
        "-5 to -1": 0,
        "below -5": 1,
    }
    assert by_strength["-1 to -0.2"]["bands"]["value"] == 1.0
    assert by_strength["-1 to -0.2"]["c2db, its geometry"]["value"] == 0.0
    assert (found["false_imaginary_without_rules"], found["failed"]) == (1, 1)
    assert "| magnetic | 100 % (21-100) | 1 |" in markdown(results_of(rows, "FF", 2, 0))


def test_every_number_of_the_packaged_card_is_recounted_from_its_layers() -> None:
    found, path = card(PHONONS), card_path("phonons.md")
    assert found is not None
    assert results_of(found["layers"], found["force_field"], found["n"] // 2, found["seed"]) == found
    assert path is not None
    assert path.read_text() == markdown(found)


# --- the command


def cheap(part: Sequence[LayerRecord], force_field: str) -> list[dict[str, Any]]:
    """``measure`` that agrees with C2DB but for what holds oxygen."""
    return [
        row(
            stable := record.properties["dyn_stab_phonons"] == "high",
            0.0 if stable is not ("O" in record.structure.composition) else -1.0,
            id=record.id,
        )
        for record in part
    ]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(command, [*map(str, arguments), "--processes", "1"], catch_exceptions=False)


def test_the_command_writes_the_card_and_goes_on_where_it_was(
    c2db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--c2db", c2db, "--work", tmp_path / "work", "-n", 3, "--output", tmp_path / "cards"]
    measured: list[str] = []

    def stopped(part: Sequence[LayerRecord], force_field: str) -> list[dict[str, Any]]:
        if measured:
            raise EngineError("stopped")
        measured.extend(r.id for r in part)
        return cheap(part, force_field)

    monkeypatch.setattr(phonon_verdicts, "measure", stopped)
    with pytest.raises(EngineError, match="stopped"):
        run(*arguments)
    assert len(measured) == 4  # one part of six layers

    def rest(part: Sequence[LayerRecord], force_field: str) -> list[dict[str, Any]]:
        assert not set(measured) & {r.id for r in part}
        measured.extend(r.id for r in part)
        return cheap(part, force_field)

    monkeypatch.setattr(phonon_verdicts, "measure", rest)
    assert "beside C2DB's verdict on 6 layers" in run(*arguments).stdout
    found = json.loads((tmp_path / "cards" / "phonons.json").read_text())
    chosen = [r.id for r in choose(c2db, 3, 0)]
    assert sorted(measured) == sorted(chosen)
    assert [r["id"] for r in found["layers"]] == chosen
    right = sum("O" not in name for name in chosen)
    assert found["ways"]["bands"]["all"]["accuracy"] == pytest.approx(right / 6)
    assert found["command"] == "scdm cards phonons --c2db FILE --work DIR -n 3 --seed 0"
    assert (tmp_path / "cards" / "phonons.md").read_text() == markdown(found)
    # all is there: nothing is measured again; other layers under the same name are
    assert json.loads(run(*arguments, "--json").stdout) == found
    c2db.write_text(c2db.read_text() + "\n")
    monkeypatch.setattr(phonon_verdicts, "measure", cheap)
    assert "everything anew" in run(*arguments).stderr


def test_a_worker_measures_what_this_process_does(c2db: Path, tmp_path: Path) -> None:
    """Two processes, with a force field that there is not: its error comes from a worker, in words."""
    ledger = Ledger(tmp_path / "ledger.jsonl", {})
    with pytest.raises(EngineError, match="no-such-force-field"):
        phonon_verdicts.measure_all(choose(c2db, 1, 0), "no-such-force-field", ledger, 2, lambda done, total: None)


@pytest.mark.slow
def test_packaged_rows_of_real_layers_are_measured_again(shared_data: Path) -> None:
    """The smallest stable and unstable layers of the packaged card: the same numbers from the same force field."""
    found = card(PHONONS)
    assert found is not None
    rows = sorted(found["layers"], key=lambda r: (r["n_atoms"], r["id"]))
    wanted = [next(r for r in rows if r["stable_c2db"] is flag) for flag in (True, False)]
    layers = {r.id: r for r in read_any(shared_data / "c2db.jsonl.gz") if isinstance(r, LayerRecord)}
    made = measure([layers[r["id"]] for r in wanted], found["force_field"])
    for old, new in zip(wanted, made, strict=True):
        assert new.keys() == old.keys()
        for name in ("id", "stable_c2db", "stable", "n_atoms", "magnetic", "correlated"):
            assert new[name] == old[name]
        assert new["energy_per_atom"] == pytest.approx(old["energy_per_atom"], abs=1e-4)
        assert new["hessian_ev"] == pytest.approx(old["hessian_ev"], abs=0.02)
        assert new["bands_thz"] == pytest.approx(old["bands_thz"], abs=0.05)


@pytest.mark.slow
def test_one_layer_that_breaks_does_not_stop_the_others() -> None:
    good = LayerRecord("good", "C2DB", mx2("1H"), {"dyn_stab_phonons": "high", "min_hessian_eig": 0.0})
    alone = Structure(Lattice.hexagonal(15.0, 20.0), ["Mo"], [[0, 0, 0.5]])  # no force field sees a neighbour
    bad = LayerRecord("bad", "C2DB", alone, {"dyn_stab_phonons": "low", "min_hessian_eig": -1.0})
    first, second = measure([bad, good], "CHGNet")
    assert (first["bands_thz"], first["hessian_ev"], first["hessian_given_ev"]) == (FAILED, FAILED, FAILED)
    assert first["error"] == "not relaxed"
    assert second["stable"] is True  # 1H-MoS2 exists
    assert second["hessian_ev"] > -0.01
    assert first["magnetic"] is True  # as long as nothing says that it is not
