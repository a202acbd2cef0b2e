"""Samples that were asked for something: what came of it, beside samples of the same model that were not asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pymatgen.core import Structure
from support.layers import mx2

from scdm_flows.analysis.relaxed import RelaxedSample
from scdm_flows.cli.evaluate import evaluate
from scdm_flows.evaluation import baselines, run
from scdm_flows.evaluation.asked import EVERYTHING, fulfilment, meets
from scdm_flows.evaluation.judge import Judged, compact
from scdm_flows.evaluation.reading import Sample, SampleSet, read_models, read_samples
from scdm_flows.thermo.energy_model import load_energy_model, load_guide, shared_with_guide
from scdm_models.datasets.known import KnownLayers
from scdm_models.datasets.records import LayerRecord
from scdm_models.metrics.validity import judge_sample
from scdm_models.symmetry.encoding import LayerCrystal, Site

MOS2 = mx2("1H")
NBS2, VCL2 = mx2("1H", a=3.34), mx2("1T", a=3.54)
NBS2.replace_species({"Mo": "Nb"})
VCL2.replace_species({"Mo": "V", "S": "Cl"})
CRYSTAL = LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0, 0, 0)), Site(16, "e", (1 / 3, 2 / 3, 1.56))))
# what an energy model may say of the three: gap (eV), magnetic, energy above hull (eV/atom), layer group
SAID = {"MoS2": (1.6, False, 0.0, 78), "NbS2": (0.0, False, 0.01, 78), "VCl2": (1.1, True, 0.06, 72)}


def relaxed(structure: Structure, **changes: Any) -> Judged:
    gap, magnetic, energy, group = SAID[structure.composition.reduced_formula]
    good = RelaxedSample(True, True, 0.02, group, group, True, -1.0, 0.05, energy, False, band_gap=gap)
    return Judged(judge_sample(structure), replace(good, **{"magnetic": magnetic, **changes}), structure)


@pytest.mark.parametrize(
    ("name", "wish", "expected"),
    [
        ("gap", [1.0, 2.0], [True, False, True]),
        ("gap", [0.0, 0.0], [False, True, False]),
        ("magnetic", False, [True, True, False]),
        ("magnetic", True, [False, False, True]),
        ("stability", 0.05, [True, True, False]),
        ("max_predicted_e_hull", 0.0, [True, False, False]),
        ("layer_group", 72, [False, False, True]),
        ("elements", ["Mo", "Nb", "S"], [True, True, False]),
        ("formula", "VCl2", [False, False, True]),
        ("n_atoms", 3, [True, True, True]),
        ("n_atoms", 6, [False, False, False]),
        ("unknown_formulas", True, [False, True, True]),
    ],
)
def test_what_meets_a_wish(name: str, wish: Any, expected: list[bool]) -> None:
    assert [meets(name, wish, relaxed(one), {"MoS2"}) for one in (MOS2, NBS2, VCL2)] == expected


def test_what_is_no_layer_or_extrapolated_has_no_properties() -> None:
    for changes in ({"converged": False}, {"one_layer": False}, {"extrapolated": True}, {"band_gap": None}):
        assert not meets("gap", [1.0, 2.0], relaxed(MOS2, **changes), ())
    assert not meets("stability", 0.1, relaxed(MOS2, e_above_hull=None), ())
    assert not meets("magnetic", False, relaxed(MOS2, magnetic=None), ())
    assert meets("formula", "MoS2", relaxed(MOS2, one_layer=False), ())  # a formula it has whatever it relaxes to
    unreadable = Judged(judge_sample(None), RelaxedSample(), None)
    assert not meets("elements", ["Mo", "S"], unreadable, ())


def sample_set(label: str, structures: Sequence[Structure], **asked: Any) -> SampleSet:
    samples = tuple(Sample(str(k), structure) for k, structure in enumerate(structures))
    return SampleSet(label, samples, model_id="scdm-test", steps=8, asked=asked)


def test_a_wish_stands_beside_samples_that_were_not_asked_for_it() -> None:
    asked = sample_set("asked", [MOS2] * 3 + [NBS2], gap=[1.0, 2.0], stability=0.05)
    plain = sample_set("plain", [MOS2, NBS2, NBS2, VCL2])
    stable = sample_set("stable", [NBS2], stability=0.05)
    foreign = replace(sample_set("foreign", [MOS2]), model_id="another")
    sets = [asked, stable, foreign, plain]
    judged = {one.label: [relaxed(s.structure) for s in one.samples if s.structure is not None] for one in sets}
    found = fulfilment(asked, sets, judged, ())
    assert found is not None
    assert found["beside"] == "plain"  # of this model, and asked for least
    gap, stability, together = (found["wishes"][name] for name in ("gap", "stability", EVERYTHING))
    assert (gap["words"], stability["words"]) == ("gap 1 to 2 eV", "E_hull ≤ 0.05 eV/atom")
    assert (gap["met"]["value"], gap["met_beside"]["value"]) == (0.75, 0.5)
    assert gap["ratio"]["value"] == pytest.approx(1.5)
    assert (together["met"]["value"], together["met_beside"]["value"]) == (0.75, 0.25)
    assert found["variety"]["all"] == {"n": 4, "formulas": 2, "systems": 2, "templates": 0}
    assert found["variety"]["met"] == {"n": 3, "formulas": 1, "systems": 1, "templates": 0}
    assert [found["variety_beside"][of]["formulas"] for of in ("all", "met")] == [3, 1]
    # without the plain ones those that were asked for a part of it stay, and that part has nothing to stand beside
    found = fulfilment(asked, sets[:3], judged, ())
    assert found is not None
    assert found["beside"] == "stable"
    assert found["wishes"]["stability"]["met_beside"] is None
    assert found["wishes"]["gap"]["met_beside"]["value"] == 0
    assert found["wishes"]["gap"]["ratio"] is None  # nothing can be divided by 0
    assert fulfilment(plain, sets, judged, ()) is None


def line(structure: Structure, index: int, **said: Any) -> str:
    """A line of ``scdm generate``."""
    record = {"structure": structure.as_dict(), "crystal": CRYSTAL.to_dict(), "model_id": "scdm-test", "steps": 8}
    return json.dumps({**record, "index": index, "draw": index, **said})


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two samples that were asked for a gap, and three that were not, by the generator that asks for stable layers."""
    asked, plain = tmp_path / "asked.jsonl", tmp_path / "plain.jsonl"
    wishes = {"gap": [1.0, 2.0], "magnetic": False, "stability": 0.2}
    asked.write_text("\n".join(line(s, k, seed=1, asked=wishes) for k, s in enumerate([MOS2, MOS2])))
    plain.write_text("\n".join(line(s, k, seed=2, asked={"stability": 0.2}) for k, s in enumerate([MOS2, NBS2, VCL2])))
    return [asked, plain]


def test_files_of_one_model_are_kept_apart_by_what_was_asked(files: list[Path], tmp_path: Path) -> None:
    asked, plain = read_models(files)
    assert (asked.asked, plain.asked) == ({"gap": [1.0, 2.0], "magnetic": False}, {})
    assert asked.label == "scdm-test, asked for gap 1 to 2 eV, not magnetic"
    assert plain.label == "scdm-test, not asked"
    assert read_models(files[:1])[0].label == "scdm-test"
    # records that say nothing, such as older ones, were asked for nothing that is known
    older = tmp_path / "older.jsonl"
    older.write_text(line(MOS2, 0, seed=3))
    assert [one.seeds for one in read_models([files[1], older])] == [(2, 3)]
    # several streams in one file: what all were asked for
    both = tmp_path / "both.jsonl"
    both.write_text(
        "\n".join(line(MOS2, k, asked=a) for k, a in enumerate([{"gap": [1, 2], "n_atoms": 3}, {"n_atoms": 3}]))
    )
    assert read_samples(both).asked == {"n_atoms": 3}


def cheap(part: Sequence[tuple[Any, ...]], protocol: Any, engine: Any = None) -> list[dict[str, Any]]:
    """``judge_part`` with what ``SAID`` says."""
    found = [relaxed(structure) for structure, _, _ in part]
    return [
        {"sampled": asdict(one.sampled), "relaxed": asdict(one.relaxed), "structure": compact(structure)}
        for one, (structure, _, _) in zip(found, part, strict=True)
    ]


def test_the_command_prints_what_came_of_it(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownLayers.build([LayerRecord("m", "C2DB", MOS2)])[0]
    monkeypatch.setattr(run, "judge_part", cheap)
    monkeypatch.setattr("scdm_flows.stores.known_sets.known_layers", lambda settings=None: known)

    def judged(*paths: Path) -> tuple[dict[str, Any], str]:
        out = tmp_path / f"{len(paths)}.json"
        options = ["--protocol", "2d-1", "--no-baselines", "--phonons", "0", "--processes", "1", "-o", str(out)]
        result = CliRunner().invoke(evaluate, [*map(str, paths), *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(out.read_text()), result.output

    result, printed = judged(*files)
    # the packaged energy model judges, fitted on layers relaxed by CHGNet, with its features, of all chemical systems
    shared = ["the features of CHGNet", "layers relaxed by CHGNet", "the guide's chemical systems"]
    assert result["energies"]["shared_with_guide"] == shared
    assert f"chosen by the guide, with which the judge shares {', '.join(shared)};" in " ".join(printed.split())
    asked, plain = result["models"]
    assert plain["fulfilment"] is None
    assert {name: row["met"]["value"] for name, row in asked["fulfilment"]["wishes"].items()} == {
        "gap": 1.0,
        "magnetic": 1.0,
        EVERYTHING: 1.0,
    }
    # two of two beside two of three (MoS2, VCl2) with a gap from 1 to 2 eV
    row = next(text for text in printed.splitlines() if text.strip().startswith("gap 1 to 2 eV"))
    assert "100.0 %" in row
    assert "66.7 %" in row
    assert f"{asked['fulfilment']['wishes']['gap']['ratio']['value']:.2f}" == "1.50"
    assert "1.50 (" in row
    # where no file has samples that were not asked, a packaged model makes them; one that is not packaged cannot
    result, printed = judged(files[0])
    assert result["models"][0]["fulfilment"]["beside"] is None
    assert "give a file of such" in printed
    made = replace(read_samples(files[1]), label=baselines.UNASKED, kind="baseline")
    monkeypatch.setattr(baselines, "unasked", lambda like, seed, processes: made)
    (tmp_path / "1.json").unlink()
    result, printed = judged(files[0])
    assert result["models"][0]["fulfilment"]["beside"] == baselines.UNASKED
    assert "66.7 %" in printed


def test_a_fair_judge_shares_nothing_with_the_guide() -> None:
    guide = load_guide()
    headers: list[dict[str, Any]] = [
        {"force_field": "SevenNet-0", "features": ["SevenNet-0", "SevenNet-l3i5"], "half": "judge"},
        {"force_field": "SevenNet-0", "features": ["SevenNet-0"], "half": None},
    ]
    assert [shared_with_guide(replace(guide, header=header)) for header in headers] == [
        [],
        ["the guide's chemical systems"],
    ]
    assert shared_with_guide(guide) == shared_with_guide(load_energy_model())


def test_what_a_request_costs_is_not_what_samples_without_one_cost() -> None:
    from scdm_models.model.checkpoint import load_checkpoint

    # dozens of draws are passed over for a sample that a guide chooses; drawing others would time something else
    asked = replace(sample_set("asked", [MOS2], gap=[1.0, 2.0]), model_id=load_checkpoint().model_id)
    assert run._timed(asked) is None


@pytest.mark.slow
def test_unasked_samples_are_of_another_seed() -> None:
    from scdm_models.model.checkpoint import load_checkpoint

    like = replace(sample_set("asked", [MOS2] * 3, gap=[1.0, 2.0]), model_id=load_checkpoint().model_id, seeds=(4, 5))
    made = baselines.unasked(like, 4, 1)
    assert made is not None
    assert (made.seeds, made.model_id, len(made.samples), made.asked) == ((6,), like.model_id, 3, {})
    assert baselines.unasked(replace(like, model_id="another"), 4, 1) is None
