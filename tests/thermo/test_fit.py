"""Fitting an energy model: relaxations that go on after a kill, a cross-validation that tells the truth, honest errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.layers import mx2
from support.made_up_layers import ELEMENTS, fitted, hull, made_up_layers

from scdm_flows.analysis.relaxed import Relaxed
from scdm_flows.engines.forcefield.relaxed_layers import relax_known
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_fit import fit
from scdm_flows.thermo.energy_model import Seen, energy_model_for, load_energy_model
from scdm_flows.thermo.left_out import errors_by_distance
from scdm_flows.thermo.training_layers import Measured, direct_gaps, in_other_half, measured, records_of


def test_cross_validation_finds_what_can_be_learned_and_no_more() -> None:
    noise = 0.02
    header = fitted(600, noise).header
    # the mean of |noise| is 0.8 sigma: nobody who has not seen the noise can do better
    least = np.sqrt(2 / np.pi) * noise
    assert 0.9 * least < header["e_above_hull"]["mae"] < 2 * least
    assert header["hull_energy"]["mae"] == pytest.approx(0.0, abs=1e-9)
    # errors that are said of a fold come from the other folds, and 600 layers tell a share of 0.9 to +-0.025
    assert header["error_coverage"] == pytest.approx(0.9, abs=0.03)


def test_what_is_said_of_phonons_comes_true_as_often() -> None:
    model = fitted(800)
    new = made_up_layers(1500, 9)
    said = np.array([p.properties.stable_probability for p in model.predict(new.compositions, new.seen)])
    truth = 1 / (1 + np.exp(-3 * np.array([s.features[1] for s in new.seen[0]])))
    # 1,500 coins: among those said to be stable with 70 to 90 %, the share that is has a standard error of 0.025
    likely = (said > 0.7) & (said < 0.9)
    assert new.stable[likely].mean() == pytest.approx(said[likely].mean(), abs=0.08)
    assert np.corrcoef(said, truth)[0, 1] > 0.85
    told = model.header["phonon_stability"]
    # no rule beats the one that knows the probability: its area under the curve, from the definition
    pairs = truth[new.stable == 1][:, None] - truth[new.stable == 0][None]
    best = float((pairs > 0).mean())
    assert best - 0.1 < told["auc"] < best + 0.03


def test_band_gaps_and_magnetism_are_learned_and_errors_hold() -> None:
    model, new = fitted(800), made_up_layers(600, 9)
    found = [p.properties for p in model.predict(new.compositions, new.seen)]
    gap, truth = np.array([p.band_gap for p in found], dtype=float), new.band_gap
    assert np.mean((gap > 0) == (truth > 0)) > 0.9
    both = (gap > 0) & (truth > 0)
    assert np.abs(gap - truth)[both].mean() < 0.15  # the gaps of those that have one are spread by 0.3 eV
    inside = [abs(p.band_gap - t) <= p.band_gap_error for p, t in zip(found, truth, strict=True) if p.band_gap]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.07)
    assert all((p.band_gap_error is None) is (p.band_gap == 0) for p in found)
    # one in six is magnetic: 1/2 is too high a bar for a rare answer, the share among the known layers is the right one
    share, magnetic = float(np.mean(made_up_layers(800, 0).magnetic)), new.magnetic == 1
    said = np.array([p.magnetic_probability for p in found]) > share
    assert (said[magnetic].mean() + (~said)[~magnetic].mean()) / 2 > 0.85
    told = model.header["magnetic"]
    assert told["share"] == pytest.approx(share, abs=1e-4)
    assert told["balanced_accuracy"] > 0.8
    assert model.header["band_gap"]["error_coverage"] == pytest.approx(0.9, abs=0.05)


def test_direct_gaps_are_learned_from_those_that_are_known() -> None:
    model, new = fitted(600), made_up_layers(600, 9)
    said = np.array([p.properties.direct_gap_probability for p in model.predict(new.compositions, new.seen)])
    known = np.isfinite(new.direct)
    truth = new.direct[known] == 1
    share = model.header["direct_gap"]["share"]
    assert 0.2 < share < 0.42  # a normal number is above 0.5 in 31 % of cases
    found = said[known] > share
    assert (found[truth].mean() + (~found)[~truth].mean()) / 2 > 0.85
    assert model.header["direct_gap"]["n"] == int(np.isfinite(made_up_layers(600, 0).direct).sum())
    # of too few nothing is said
    few = made_up_layers(120, 0)
    assert np.isfinite(few.direct).sum() < 100
    assert fitted(120).predict(few.compositions[:1], [[few.seen[0][0]]])[0].properties.direct_gap_probability is None


def test_an_equal_layer_of_2dmatpedia_says_whether_a_gap_is_direct() -> None:
    def layer(name: str, polytype: str, gap: float, **said: Any) -> dict[str, Any]:
        structure = mx2(polytype)
        return {
            "id": name,
            "formula": "MoS2",
            "lattice": structure.lattice.matrix.tolist(),
            "species": [str(site.specie) for site in structure],
            "frac_coords": structure.frac_coords.tolist(),
            "band_gap": gap,
            **said,
        }

    h, t, metal = layer("h", "1H", 1.6), layer("t", "1T", 0.2), layer("m", "1H", 0.0)
    # 1H-MoS2's gap is direct, at K; the same layer as a metal says nothing, and a layer of another polytype is not it
    others = [layer("0", "1H", 0.0, gap_direct=False), layer("1", "1H", 1.6, gap_direct=True)]
    assert direct_gaps([h, t, metal], others).tolist() == pytest.approx([1.0, np.nan, np.nan], nan_ok=True)
    assert direct_gaps([t], [layer("2", "1T", 0.1, gap_direct=False)]).tolist() == [0.0]
    assert direct_gaps([{**h, "band_gap": None}], others).tolist() == pytest.approx([np.nan], nan_ok=True)


def test_too_few_phonon_verdicts_are_refused() -> None:
    known = made_up_layers(200, 0)
    known.stable[:150] = np.nan
    with pytest.raises(ReferenceDataError, match="50 layers have a phonon verdict .* at least 100"):
        fit(
            known,
            None,
            hull_left_out=dict.fromkeys(known.ids, -1.0),
            hull=hull,
            elemental=[dict.fromkeys(ELEMENTS, 0.0)],
            header={"force_field": "made-up", "features": ["made-up"]},
        )


def test_predictions_and_errors_of_new_layers() -> None:
    model = fitted()
    new = made_up_layers(300, 7)
    found = model.predict(new.compositions, new.seen)
    off = np.abs(np.array([p.formation_energy_per_atom for p in found]) - new.formation)
    assert off.mean() < 0.03
    assert np.mean(off <= [p.error for p in found]) > 0.85
    far = [Seen(-5.0, np.full(4, 30.0))]
    (strange,) = model.predict([{"Mo": 1 / 3, "S": 2 / 3}], [far])
    assert strange.extrapolated
    assert strange.error > 5 * float(np.median([p.error for p in found]))  # in proportion to the distance
    (element,) = model.predict([{"Mo": 1.0}], [[new.seen[0][0]]])
    assert element.extrapolated  # no compound: whatever its features
    with pytest.raises(ReferenceDataError, match="Pu is in none of the layers"):
        model.predict([{"Pu": 0.5, "S": 0.5}], [[new.seen[0][0]]])
    with pytest.raises(ReferenceDataError, match="no numbers"):
        model.predict([{"Mo": 0.5, "S": 0.5}], [[Seen(float("nan"), np.zeros(4))]])


def test_a_model_survives_its_file_and_a_damaged_file_says_so(tmp_path: Path) -> None:
    model, new = fitted(200), made_up_layers(20, 3)
    path = tmp_path / "model.npz"
    model.save(path)
    read = load_energy_model(str(path))
    assert (read.id, read.header) == (model.id, model.header)
    before, after = (m.predict(new.compositions, new.seen) for m in (model, read))
    # the rows are kept in single precision
    assert [p.formation_energy_per_atom for p in after] == pytest.approx(
        [p.formation_energy_per_atom for p in before], abs=1e-4
    )
    assert [p.error for p in after] == pytest.approx([p.error for p in before], rel=1e-4)
    for name in ("stable_probability", "nonmetal_probability", "magnetic_probability", "band_gap", "gap_if_nonmetal"):
        values = [[getattr(p.properties, name) for p in found] for found in (after, before)]
        assert values[0] == pytest.approx(values[1], abs=1e-3)
    assert [p.properties.stable_probability for p in after] == pytest.approx(
        [p.properties.stable_probability for p in before], abs=1e-4
    )
    with pytest.raises(
        ReferenceDataError, match="relaxed with made-up, the campaign's are relaxed with CHGNet;.*refs fit"
    ):
        energy_model_for("CHGNet", str(path))
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ReferenceDataError, match="damaged"):
        load_energy_model(str(damaged))
    with pytest.raises(ReferenceDataError, match="does not exist; make it with"):
        load_energy_model(str(tmp_path / "none.npz"))


def test_the_packaged_model_is_of_the_shipped_weights_alone() -> None:
    assert energy_model_for("CHGNet") is not None
    assert energy_model_for("CHGNet", None, {"weights": "others.safetensors"}) is None
    assert energy_model_for("SevenNet-0") is None


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_errors_never_fall_with_the_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distance = rng.gamma(2.0, 0.3, 500)
    errors = errors_by_distance(distance, np.abs(rng.normal(0, 0.05 * (1 + distance))))
    widths = errors(np.linspace(0, 3 * distance.max(), 50))
    assert (np.diff(widths) >= -1e-12).all()
    assert (distance > errors.farthest).mean() == pytest.approx(0.01, abs=0.003)


def test_relaxations_are_kept_and_half_a_line_is_done_again(tmp_path: Path, graphene: Structure) -> None:
    for name, key, structures in (
        ("c2db", "e_hull", {"mos2": mx2("1H"), "graphene": graphene}),
        ("2dmatpedia", "decomposition_energy", {"mos2-again": mx2("1T")}),  # in a system that C2DB has: left out
    ):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as handle:
            for label, s in structures.items():
                row = {
                    "id": label,
                    "lattice": s.lattice.matrix.tolist(),
                    "species": [str(site.specie) for site in s],
                    "frac_coords": s.frac_coords.tolist(),
                    key: 0.0,
                    "formation_energy_per_atom": -0.1,
                }
                handle.write(json.dumps(row) + "\n")
    relaxed: list[int] = []

    def relax(given: list[Structure]) -> list[Relaxed]:
        relaxed.append(len(given))
        return [Relaxed(s, -5.0, True, 3, 0.01) for s in given]

    def see(given: list[Structure]) -> list[dict[str, Seen] | str]:
        return ["isolated atom" if len(s) == 2 else {"made-up": Seen(-5.0, np.arange(3.0))} for s in given]

    kept = tmp_path / "relaxed.jsonl"
    first = relax_known(records_of(tmp_path), kept, relax, see)
    assert set(first) == {"mos2", "graphene"}
    assert first["mos2"]["seen"] == first["mos2"]["given"] == {"made-up": [-5.0, [0.0, 1.0, 2.0]]}
    assert first["graphene"]["error"] == "isolated atom"
    lines = [line for line in kept.read_text().splitlines() if line]
    kept.write_text(lines[0] + "\n" + lines[1][:40])  # killed while it wrote the second
    again = relax_known(records_of(tmp_path), kept, relax, see)
    assert relaxed == [2, 1]
    assert again == first
    assert relax_known(records_of(tmp_path), kept, relax, see) == first
    assert relaxed == [2, 1]
    with pytest.raises(ReferenceDataError, match="1 layers .* at least 100"):
        measured(tmp_path, first, ["made-up"], "c2db")


def test_guide_and_judge_share_no_chemical_system() -> None:
    systems = sorted({"-".join(sorted({a, b, c})) for a in ELEMENTS for b in ELEMENTS for c in ELEMENTS})
    n = len(systems)
    seen = [[(0.0, np.zeros(1))] * n]
    none = np.zeros(n)
    layers = Measured(
        [f"id-{s}" for s in systems],
        [{"S": 1.0}] * n,
        systems,
        seen,
        seen,
        none,
        none.astype(bool),
        none,
        none,
        none,
        none,
        none,
        none,
        {},
    )
    guide, judge = layers.half(other=False), layers.half(other=True)
    assert sorted(guide.systems + judge.systems) == systems  # each in one of them
    assert min(len(guide.systems), len(judge.systems)) > n // 4
    assert all(in_other_half(system) for system in judge.systems)
    assert [f"id-{system}" for system in guide.systems] == guide.ids
