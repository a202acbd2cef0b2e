"""Judging generators by a protocol: files of any program, baselines, verdicts that add up, runs that go on."""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import write
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from scipy import stats
from support.layers import diamond, mx2

from scdm_flows.analysis.relaxed import RelaxedSample
from scdm_flows.cli.evaluate import evaluate
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.errors import DatasetError, EngineError, ScdmError
from scdm_flows.evaluation import baselines, run
from scdm_flows.evaluation.judge import Judged, compact, displaced, judge_part, phonon_part
from scdm_flows.evaluation.ledger import Ledger, carry_out
from scdm_flows.evaluation.protocol import PROTOCOLS
from scdm_flows.evaluation.reading import Sample, SampleSet, read_models, read_samples
from scdm_flows.evaluation.shares import MEASURES, measures, per_thousand_draws, product_interval, verdicts
from scdm_flows.report.evaluation import side_by_side
from scdm_flows.thermo.energy_model import load_energy_model
from scdm_models.datasets.known import KnownLayers
from scdm_models.datasets.records import LayerRecord
from scdm_models.metrics.intervals import mean_interval
from scdm_models.metrics.validity import judge_sample
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode

PROTOCOL = PROTOCOLS["2d-1"]


def trilayer(metal: int, other: int, a: float, height: float, group: int = 78) -> LayerCrystal:
    """1H (layer group 78) or 1T (72) layer, lengths in angstrom."""
    letter = "e" if group == 78 else "c"
    return LayerCrystal(
        group, (a, a, 120.0), (Site(metal, "a", (0, 0, 0)), Site(other, letter, (1 / 3, 2 / 3, height)))
    )


MOS2, WSE2 = trilayer(42, 16, 3.18, 1.56), trilayer(74, 34, 3.32, 1.68)
HFS2 = trilayer(72, 16, 3.64, 1.45, group=72)
CLASH = Structure(Lattice.hexagonal(3.2, 20), ["Mo", "Mo"], [[0, 0, 0.5], [0, 0, 0.51]])  # 0.2 angstrom apart
BULK = diamond("Si", 5.43)


def record(crystal: LayerCrystal, *, draw: int, seed: int = 0, model: str = "scdm-test") -> str:
    """A line of `scdm generate`."""
    return json.dumps(
        {
            "structure": decode(crystal).as_dict(),
            "crystal": crystal.to_dict(),
            "layer_group_requested": crystal.layer_group,
            "layer_group_detected": crystal.layer_group,
            "space_group_detected": 187,
            "model_id": model,
            "seed": seed,
            "index": draw,
            "draw": draw,
            "mended": False,
            "steps": 8,
        }
    )


@pytest.fixture
def known() -> KnownLayers:
    """Two known layers: 1H-MoS2 and 1T-HfS2."""
    layers = [LayerRecord("m", "C2DB", decode(MOS2)), LayerRecord("h", "2dMatPedia", decode(HFS2))]
    return KnownLayers.build(layers)[0]


# What the cheap engine says of a formula: energy above hull, eV/atom, and whether its phonons are stable. A relaxation
# moves every atom by 0.03 angstrom in the plane, which no comparison notices.
ENERGIES = {"MoS2": 0.0, "WSe2": -0.01, "HfS2": 0.08, "MoSe2": 0.04, "WS2": 0.3, "ZrS2": 0.09}
STABLE = {"WSe2": True, "MoSe2": False, "ZrS2": True}


def cheap(part: Sequence[tuple[Any, ...]], protocol: Any, engine: Any = None) -> list[dict[str, Any]]:
    """``judge_part`` with energies from a table."""
    found = []
    for structure, reason, seed in part:
        sampled = judge_sample(structure)
        relaxed, after = RelaxedSample(reason=reason or sampled.reason), None
        if structure is not None and sampled.valid_distance and sampled.one_layer:
            assert len(seed) == 2
            after = structure.copy()
            after.translate_sites(list(range(len(after))), [0.03, 0, 0], frac_coords=False)
            energy = ENERGIES.get(str(sampled.formula), 0.5)
            relaxed = RelaxedSample(True, True, 0.03, 78, 78, True, -1.0, 0.05, energy, False)
        found.append({"sampled": asdict(sampled), "relaxed": asdict(relaxed), "structure": after and compact(after)})
    return found


def cheap_phonons(part: Sequence[Structure], protocol: Any, engine: Any = None) -> list[dict[str, Any]]:
    """``phonon_part`` with verdicts from a table."""
    return [
        {"stable": STABLE.get(s.composition.reduced_formula, False), "min_frequency_thz": -0.1, "reason": None}
        for s in part
    ]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, known: KnownLayers) -> None:
    """The command with the cheap engine, two known layers, and its own samples in the place of UnSCDM's."""
    monkeypatch.setattr(run, "judge_part", cheap)
    monkeypatch.setattr(run, "phonon_part", cheap_phonons)
    monkeypatch.setattr(
        baselines, "unscdm", lambda like, seed, n: replace(like, label=baselines.UNSCDM, kind="baseline", files={})
    )
    monkeypatch.setattr("scdm_models.model.checkpoint.PACKAGED", ())  # no packaged model made the samples
    monkeypatch.setattr("scdm_flows.stores.known_sets.known_layers", lambda settings=None: known)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Seven lines, of draws 0 to 11: six layers of which two are equal, and one that is none."""
    crystals = [MOS2, WSE2, trilayer(74, 34, 3.33, 1.67), trilayer(42, 34, 3.3, 1.66), trilayer(40, 16, 3.66, 1.45, 72)]
    lines = [record(crystal, draw=2 * k) for k, crystal in enumerate([*crystals, trilayer(74, 16, 3.18, 1.57)])]
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join([*lines, "no JSON"]))
    return path


def judged(*arguments: object) -> dict[str, Any]:
    """What the command writes as JSON."""
    out = next(Path(str(b)) for a, b in itertools.pairwise(arguments) if a == "-o")
    result = CliRunner().invoke(
        evaluate, [str(a) for a in arguments] + ["--protocol", "2d-1", "--processes", "1"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return {**json.loads(out.read_text()), "printed": result.output}


# --- verdicts and shares


def test_every_printed_share_is_recounted_from_the_verdicts(engine: None, samples: Path, tmp_path: Path) -> None:
    result = judged(samples, "-o", tmp_path / "e.json")
    model = result["models"][0]
    assert model["n"] == len(model["samples"]) == 7
    for one in result["models"]:
        for name, share in one["measures"].items():
            flags = [s["verdicts"].get(name) for s in one["samples"]]
            asked = [flag for flag in flags if flag is not None]
            if name == "rmsd_angstrom":
                moved = [s["relaxed"]["rmsd_angstrom"] for s in one["samples"] if s["relaxed"]["rmsd_angstrom"]]
                assert share["value"] == pytest.approx(np.mean(moved))
            elif name != "sun_phonon":
                assert (share["value"], share["n"]) == (pytest.approx(sum(asked) / len(asked)), len(asked)), name
                wilson = stats.binomtest(sum(asked), len(asked)).proportion_ci(method="wilson")
                assert (share["low"], share["high"]) == pytest.approx((wilson.low, wilson.high), abs=1e-12)
    for name, words in MEASURES.items():
        if name in model["measures"] and name != "rmsd_angstrom":
            row = next(line for line in result["printed"].splitlines() if line.strip().startswith(words))
            assert f"{100 * model['measures'][name]['value']:.1f} %" in row.split(words)[1]


def test_what_counts_is_judged_after_relaxing(engine: None, samples: Path, tmp_path: Path) -> None:
    shares = {
        n: m["value"] * m["n"] for n, m in judged(samples, "-o", tmp_path / "e.json")["models"][0]["measures"].items()
    }
    counts = {name: round(value, 9) for name, value in shares.items()}
    # MoS2 is known; the two WSe2 are one layer; of MoS2 (0), WSe2 (-0.01, twice), MoSe2 (0.04), ZrS2 (0.09) and WS2 (0.3)
    assert counts["new"] == 5
    assert counts["unique"] == 5
    assert (counts["stable_0"], counts["stable_0.05"], counts["stable_0.1"]) == (3, 4, 5)
    assert (counts["sun_0"], counts["sun_0.05"], counts["sun_0.1"]) == (1, 2, 3)
    assert counts["phonon_stable"] == 2  # of the three: WSe2 and ZrS2
    assert counts["sun_phonon"] == 2
    assert counts["valid"] == counts["one_layer"] == 6


def test_shares_of_draws_count_what_was_passed_over(engine: None, samples: Path, tmp_path: Path) -> None:
    model = judged(samples, "-o", tmp_path / "e.json")["models"][0]
    assert (model["draws"], model["draws_said"]) == (11, True)  # the last one kept was draw 10
    found = model["per_1000_draws"]["sun_0.1"]
    assert found["value"] == pytest.approx(1000 * 3 / 11)
    wilson = stats.binomtest(3, 11).proportion_ci(method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((1000 * wilson.low, 1000 * wilson.high))
    # a share of some samples is none of draws
    assert "not_above_known" in model["measures"]
    assert not {"not_above_known", "phonon_stable", "rmsd_angstrom"} & model["per_1000_draws"].keys()


def test_the_lowest_known_polymorph_is_judged_by_the_same_energies(engine: None, samples: Path, tmp_path: Path) -> None:
    model = judged(samples, "-o", tmp_path / "e.json")["models"][0]
    first, *others = model["samples"]
    assert first["lowest_known_e_above_hull"] == 0.0
    assert first["verdicts"]["not_above_known"] is True
    assert all(s["verdicts"]["not_above_known"] is None for s in others)  # no known layer has their formulas


def sample_of(structure: Structure, **relaxed: Any) -> Judged:
    """A sample that relaxed to a stable layer, with changes."""
    good = RelaxedSample(True, True, 0.02, 78, 78, True, -1.0, 0.05, -0.01, False)
    return Judged(judge_sample(structure), replace(good, **relaxed), structure)


def test_what_is_never_stable() -> None:
    h = decode(MOS2)
    cases = [
        sample_of(h),
        sample_of(h, converged=False),
        sample_of(h, one_layer=False),
        sample_of(h, extrapolated=True),
        sample_of(h, e_above_hull=None, extrapolated=None, reason="no energy"),
        sample_of(h, e_above_hull=0.0),
    ]
    n = len(cases)
    found = verdicts(cases, [[]] * n, [[]] * n, [0] * n, [True] * n, {"MoS2": -0.02}, {}, PROTOCOL)
    assert [own["stable_0"] for own in found] == [True, False, False, False, False, True]
    assert [own["sun_0"] for own in found] == [True, False, False, False, False, False]  # all of one group
    # 0.005 eV/atom of play: -0.01 is above -0.02
    assert not any(own["not_above_known"] for own in found)
    (own,) = verdicts(cases[:1], [[]], [[]], [0], [True], {"MoS2": -0.014}, {}, PROTOCOL)
    assert own["not_above_known"] is True
    # a sample that failed is above every known layer, whether or not the known ones have an energy; one that did not
    # can only be compared with an energy, and not where no known layer has its formula
    failed = verdicts(cases, [[]] * n, [[]] * n, [0] * n, [True] * n, {}, {}, PROTOCOL)
    assert [own["not_above_known"] for own in failed] == [None, False, False, None, False, None]
    alone = verdicts(cases, [[]] * n, [[]] * n, [0] * n, [False] * n, {}, {}, PROTOCOL)
    assert {own["not_above_known"] for own in alone} == {None}


def test_of_equal_layers_the_first_that_is_stable_and_new_counts() -> None:
    h = decode(MOS2)
    cases = [sample_of(h, e_above_hull=0.3), sample_of(h), sample_of(h)]
    found = verdicts(cases, [[]] * 3, [[]] * 3, [0, 0, 0], [False] * 3, {}, {}, PROTOCOL)
    assert [own["sun_0.1"] for own in found] == [False, True, False]
    assert [own["unique"] for own in found] == [True, False, False]
    # what could not be compared is neither new nor unique
    (own,) = verdicts(cases[1:2], [None], [None], [None], [False], {}, {}, PROTOCOL)
    assert not any(own[name] for name in ("new", "new_sampled", "unique", "sun_0.1"))


def test_a_share_of_a_draw_has_the_doubt_of_both_counts() -> None:
    flags = [{"sun_0.1": k < 40, "phonon_stable": (k % 2 == 0) if k < 20 else None} for k in range(100)]
    found = measures(flags, [None] * 100, PROTOCOL, 0)
    assert found["sun_phonon"]["value"] == pytest.approx(0.4 * 0.5)
    whole = stats.binomtest(20, 100).proportion_ci(method="wilson")
    assert found["sun_phonon"]["high"] - found["sun_phonon"]["low"] > whole.high - whole.low
    # per draw it is scaled by the share of draws that was kept
    assert per_thousand_draws(found, 100, 400)["sun_phonon"]["value"] == pytest.approx(1000 * 0.4 * 0.5 / 4)


def test_product_interval_is_jeffreys_where_one_share_is_certain() -> None:
    # a share of 100,000 of 100,000 trials is 1 to 1e-5: what is left is Jeffreys' interval of the other
    found = product_interval((100_000, 100_000), (7, 20))
    expected = stats.beta.ppf([0.025, 0.975], 7.5, 13.5)
    assert (found.low, found.high) == pytest.approx(expected, abs=4e-3)
    assert product_interval((50, 100), (0, 20)).low == 0
    assert product_interval((50, 100), (0, 20)).high > 0
    assert product_interval((5, 9), (3, 4), 1) == product_interval((5, 9), (3, 4), 1)


def test_means_have_the_bootstrap_interval_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(0.05, 60)
    found = mean_interval(values.tolist(), 3)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, batch=100, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), theirs.low, theirs.high))


# --- runs that are killed


def test_a_killed_run_goes_on_and_ends_the_same(
    engine: None, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PART", 3)
    whole = judged(samples, "-o", tmp_path / "whole.json")
    calls: list[int] = []

    def dies(part: Sequence[tuple[Any, ...]], protocol: Any, engine: Any) -> list[dict[str, Any]]:
        calls.append(len(part))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cheap(part, protocol)

    out = tmp_path / "killed.json"
    arguments = [str(samples), "--protocol", "2d-1", "--processes", "1", "-o", str(out)]
    monkeypatch.setattr(run, "judge_part", dies)
    CliRunner().invoke(evaluate, arguments)
    assert len(calls) == 3
    assert not out.exists()
    part = tmp_path / "killed.json.part.jsonl"
    kept = part.read_text()
    assert kept.count('["judged"') == 6  # two parts of three
    part.write_text(kept + '[["judged", "scdm-te')  # a line that was cut off
    later: list[int] = []
    monkeypatch.setattr(run, "judge_part", lambda p, protocol, engine: later.append(len(p)) or cheap(p, protocol))
    went_on = judged(samples, "-o", out)
    assert "going on" in went_on.pop("printed")
    assert later[0] == 1  # the third part: of seven samples in threes one was left
    assert not part.exists()
    for result in (whole, went_on):
        result.pop("printed", None)
        for model in result["models"]:
            model.pop("seconds_per_sample")
    assert went_on == whole


def test_another_judge_judges_anew(
    engine: None, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = load_energy_model()
    other = replace(packaged, header=packaged.header | {"force_field": "SevenNet-0", "id": "judge"})
    other.save(tmp_path / "judge.npz")
    judges: list[ForceFieldEngineConfig] = []
    monkeypatch.setattr(run, "judge_part", lambda p, protocol, engine: judges.append(engine) or cheap(p, protocol))
    result = judged(samples, "-o", tmp_path / "e.json", "--energy-model", tmp_path / "judge.npz")
    assert {(one.force_field, one.energy_model) for one in judges} == {("SevenNet-0", str(tmp_path / "judge.npz"))}
    assert result["energies"]["force_field"] == "SevenNet-0"
    assert result["energies"]["energy_model"] == "judge"
    refused = CliRunner().invoke(evaluate, [str(samples), "--energy-model", str(tmp_path / "judge.npz")])
    assert refused.exit_code == 2
    assert "give it with --protocol" in refused.output


def test_other_input_starts_anew_and_says_so(engine: None, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    part = tmp_path / "e.json.part.jsonl"
    part.write_text(json.dumps({"header": {"protocol": {"name": "2d-0"}}}) + '\n[["judged", "scdm-test", "0"], {}]\n')
    assert "everything anew" in judged(samples, "-o", out)["printed"]


def test_a_part_is_done_whole_or_again(tmp_path: Path) -> None:
    parts = [[(("a", "0"), 1), (("a", "1"), 2)], [(("a", "2"), 3)]]
    asked: list[list[int]] = []

    def work(part: list[int]) -> list[int]:
        asked.append(part)
        return [10 * x for x in part]

    ledger = Ledger(tmp_path / "l.jsonl", {"of": 1})
    ledger.add([(("a", "0"), 10)])  # half of the first part
    assert list(carry_out(work, parts, ledger).values()) == [10, 20, 30]
    assert asked == [[1, 2], [3]]
    again = Ledger(tmp_path / "l.jsonl", {"of": 1})
    assert list(carry_out(work, parts, again).values()) == [10, 20, 30]
    assert asked == [[1, 2], [3]]
    assert Ledger(tmp_path / "l.jsonl", {"of": 2}).started_anew


def _exit(part: list[int]) -> list[int]:
    import os

    os._exit(1)


def test_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    from scdm_models.processes import pool

    with pytest.raises(EngineError, match="fewer --processes"), pool(1) as workers:
        carry_out(_exit, [[(("a",), 1)]], Ledger(tmp_path / "l.jsonl", {}), workers=workers)


# --- baselines


def model_set(*crystals: LayerCrystal) -> SampleSet:
    """A model's samples."""
    samples = tuple(Sample(str(k), decode(c), crystal=c) for k, c in enumerate(crystals))
    return SampleSet("scdm-test", samples, draws=3 * len(samples), draws_said=True, steps=8)


def coordinates(one: SampleSet) -> list[Any]:
    """What tells two sets apart."""
    return [s.structure and [s.structure.formula, np.round(s.structure.frac_coords, 9).tolist()] for s in one.samples]


@pytest.mark.slow
def test_baselines_are_seeded() -> None:
    model = model_set(
        MOS2, LayerCrystal(1, (4.0, 4.2, 95.0), tuple(Site(z, "a", (0.1 * z % 1, 0.2, 0.1 * z)) for z in (5, 7, 8)))
    )
    apart = Structure(
        Lattice.hexagonal(2.46, 25), ["C"] * 4, [[x, 2 * x, z] for z in (0.4, 0.6) for x in (1 / 3, 2 / 3)]
    )
    layers = [("m", "C2DB", decode(MOS2)), ("h", "C2DB", decode(HFS2)), ("two", "C2DB", apart)]
    makers: list[Callable[[int], SampleSet]] = [
        lambda seed: baselines.resampled(layers, 6, seed, PROTOCOL),
        lambda seed: baselines.unscdm(model, seed, 1),
        lambda seed: baselines.random_coordinates(model, seed),
    ]
    made = [[make(seed) for seed in (1, 1, 2)] for make in makers]
    for one, again, other in made:
        assert coordinates(one) == coordinates(again)
        assert coordinates(one) != coordinates(other)
    assert {s.id for s in made[0][0].samples} <= {"C2DB m", "C2DB h"}  # two sheets 5 angstrom apart are not one layer
    assert made[0][0].draws == 6


def test_random_coordinates_keep_the_skeleton() -> None:
    low = LayerCrystal(1, (3.5, 5.5, 90.0), (Site(32, "a", (0.1, 0.0, 0.6)), Site(34, "a", (0.6, 0.5, -0.6))))
    one, other = baselines.random_coordinates(model_set(MOS2, low), 0).samples
    for sample, of in ((one, MOS2), (other, low)):
        assert sample.crystal is not None
        assert sample.crystal.template == of.template
        assert sorted(s.element for s in sample.crystal.sites) == sorted(s.element for s in of.sites)
    assert one.structure is not None
    assert detect_layer_group(one.structure, 1e-3) == 78


def test_prototype_copies_replace_elements_and_scale() -> None:
    protos = baselines.prototypes([("m", "C2DB", decode(MOS2)), ("h", "C2DB", decode(HFS2))], PROTOCOL, None)
    assert sorted(protos) == sorted({MOS2.template, HFS2.template})
    graphene = LayerCrystal(80, (2.46, 2.46, 120.0), (Site(6, "b", (1 / 3, 2 / 3, 0.0)),))
    copies = baselines.prototype_copies(model_set(WSE2, graphene), protos)
    copy, failed = copies.samples
    # Cordero: W 1.62, Se 1.20, Mo 1.54, S 1.05 angstrom, so 1H-WSe2 is MoS2 scaled by (1.62 + 2.40) / (1.54 + 2.10)
    assert copy.crystal is not None
    assert copy.structure is not None
    assert copy.crystal.lattice[0] == pytest.approx(3.18 * 4.02 / 3.64, abs=1e-3)
    assert copy.structure.composition.reduced_formula == "WSe2"
    assert copy.id.endswith("on C2DB m")
    assert failed.structure is None
    assert "no known layer occupies" in str(failed.reason)
    assert copies.draws == 6  # the model's: four of its draws lent no skeleton, and a failed copy is a draw
    assert failed.crystal == graphene  # so that its formula is known, which it fails to have


def test_the_nearest_prototype_is_chemically_nearest() -> None:
    layers = [("m", "C2DB", decode(MOS2)), ("b", "C2DB", decode(trilayer(20, 9, 3.6, 1.3)))]
    protos = baselines.prototypes(layers, PROTOCOL, None)
    (copy,) = baselines.prototype_copies(model_set(WSE2), protos).samples
    assert copy.id.endswith("on C2DB m")  # columns 6 and 16 both times, not 2 and 17
    # letters of the two sites are of one kind each: the metal replaces the metal, never sulfur
    assert copy.crystal is not None
    assert {s.letter: s.element for s in copy.crystal.sites}[
        next(s.letter for s in WSE2.sites if s.element == 74)
    ] == 74


# --- files


def test_files_of_generate_and_of_others(tmp_path: Path) -> None:
    structures = [decode(MOS2), decode(HFS2)]
    lines = tmp_path / "peer.jsonl"
    lines.write_text("\n".join(json.dumps(compact(s)) for s in structures))
    archive = tmp_path / "cifs.zip"
    with zipfile.ZipFile(archive, "w") as z:
        for k, s in enumerate(structures):
            z.writestr(f"out/{k}.cif", s.to(fmt="cif"))
    folder = tmp_path / "poscars"
    folder.mkdir()
    for k, s in enumerate(structures):
        (folder / f"POSCAR_{k}").write_text(s.to(fmt="poscar"))
    frames = tmp_path / "frames.extxyz"
    write(frames, [AseAtomsAdaptor.get_atoms(s, msonable=False) for s in structures])
    for path, label in ((lines, "peer"), (archive, "cifs"), (folder, "poscars"), (frames, "frames")):
        one = read_samples(path)
        assert one.label == label
        assert [s.structure.composition.reduced_formula for s in one.samples if s.structure] == ["MoS2", "HfS2"]
        assert (one.draws, one.draws_said, one.seeds) == (2, False, ())
    # a zip of `scdm generate` says the draws in its table
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("0000000-MoS2.cif", structures[0].to(fmt="cif"))
        z.writestr("samples.csv", "file,seed,index,model_id,draw,mended\n0000000-MoS2.cif,3,0,scdm-1,4,False\n")
    one = read_samples(archive)
    assert (one.label, one.draws, one.draws_said, one.seeds) == ("scdm-1", 5, True, (3,))


def test_files_of_one_model_are_pooled_and_the_first_model_is_judged(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.jsonl" for k in range(4)]
    paths[0].write_text("\n".join(record(MOS2, draw=d, seed=0) for d in (0, 3)))
    paths[1].write_text("\n".join(record(HFS2, draw=d, seed=1) for d in (1, 5)))
    paths[2].write_text(json.dumps(compact(decode(HFS2))))
    paths[3].write_text("\n".join(record(MOS2, draw=d, seed=2) for d in (0, 1, 0)))  # two calls joined
    first, peer = read_models(paths[:3])
    assert (first.label, first.kind, first.seeds, first.draws) == ("scdm-test", "model", (0, 1), 10)
    assert (peer.label, peer.kind) == ("2", "peer")
    assert read_models([paths[0], paths[3]])[0].draws is None
    # files that do not say whose they are are never pooled, whatever they are called
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "out.jsonl").write_text(json.dumps(compact(decode(HFS2 if name == "a" else MOS2))))
    others = [tmp_path / name / "out.jsonl" for name in ("a", "b")]
    assert [one.label for one in read_models(others)] == [str(path) for path in others]
    with pytest.raises(DatasetError, match="same seed"):
        read_models([paths[0], paths[0]])


@pytest.mark.parametrize(
    ("name", "content"), [("a.zip", b"PK\x03\x04 broken"), ("b.jsonl", b"no JSON\n"), ("c.cif", b"data_x\n")]
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScdmError, match=name):
        read_samples(tmp_path / name)


def test_a_file_called_like_a_baseline_is_told_from_it(engine: None, samples: Path, tmp_path: Path) -> None:
    peer = tmp_path / "UnSCDM.jsonl"
    peer.write_text(json.dumps(compact(decode(HFS2))))
    found = judged(samples, peer, "-o", tmp_path / "e.json")["models"]
    assert [(m["label"], m["n"]) for m in found[1:4:2]] == [("UnSCDM (file)", 1), ("UnSCDM", 7)]


def test_the_command_asks_for_its_output(samples: Path) -> None:
    result = CliRunner().invoke(evaluate, [str(samples), "--protocol", "2d-1"])
    assert result.exit_code == 2
    assert "give it by -o" in result.output


def test_the_picture_shows_every_model(engine: None, samples: Path, tmp_path: Path) -> None:
    result = judged(samples, "-o", tmp_path / "e.json", "--pictures", tmp_path)
    assert (tmp_path / "2d-1.svg").read_text().startswith("<svg")
    labels = {text.get_text() for text in side_by_side(result["models"]).legends[0].get_texts()}
    assert labels == {f"{m['label']}, n = {m['n']}" for m in result["models"]}
    assert len(labels) == 5


def test_peers_of_the_real_data(shared_data: Path) -> None:
    one = read_samples(shared_data / "peers" / "diffcsp_pp_2d.jsonl.gz")
    assert (one.label, len(one.samples), one.draws) == ("diffcsp_pp_2d", 600, 600)
    assert sum(s.structure is not None for s in one.samples) == 600


# --- the engine itself


@pytest.mark.slow
def test_bad_and_turned_samples_among_good_ones() -> None:
    tilted = mx2("1H").copy()
    tilted = Structure(
        Lattice(np.array(tilted.lattice.matrix) + [[0, 0, 0], [0, 0, 0], [1.5, 0.7, 0]]), tilted.species, tilted.cart_coords, coords_are_cartesian=True
    )  # fmt: skip
    along_a = Structure(
        Lattice(mx2("1H").lattice.matrix[[2, 0, 1]]), mx2("1H").species, mx2("1H").frac_coords[:, [2, 0, 1]]
    )
    part = [(mx2("1H"), None, [0, 0]), (tilted, None, [0, 0]), (along_a, None, [0, 0]), (BULK, None, [0, 1]),
            (CLASH, None, [0, 2]), (None, "line 5 is not JSON", [0, 3])]  # fmt: skip
    good, turned, other_axis, bulk, clash, lost = [
        Judged.from_dict(d) for d in judge_part(part, PROTOCOL, ForceFieldEngineConfig())
    ]
    for one in (good, turned, other_axis):
        assert one.relaxed.converged
        assert one.relaxed.one_layer
        assert one.relaxed.group_kept
        assert one.relaxed.layer_group == one.relaxed.layer_group_sampled == 78
        assert one.relaxed.e_above_hull == pytest.approx(good.relaxed.e_above_hull, abs=2e-3)
        assert one.relaxed.rmsd_angstrom is not None
        assert one.relaxed.rmsd_angstrom < 0.1
    assert "this is a bulk crystal" in str(bulk.relaxed.reason)
    assert "0.200 angstrom apart" in str(clash.relaxed.reason)
    assert lost.relaxed.reason == "line 5 is not JSON"
    assert bulk.structure is clash.structure is lost.structure is None
    (phonon,) = phonon_part([good.structure], PROTOCOL, ForceFieldEngineConfig())  # type: ignore[list-item]
    assert phonon["stable"] is True


@pytest.mark.slow
def test_a_saddle_that_symmetry_holds_does_not_stay() -> None:
    # Flat silicene is a saddle: its layer is buckled, by 0.44 angstrom with DFT (S. Cahangirov et al., Phys. Rev. Lett.
    # 102, 236804 (2009)). Relaxed with its symmetry it stays flat.
    flat = Structure(Lattice.hexagonal(3.87, 20), ["Si", "Si"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
    held, free = (
        Judged.from_dict(judge_part([(flat, None, [0, 0])], protocol, ForceFieldEngineConfig())[0])
        for protocol in (replace(PROTOCOL, displacement_angstrom=1e-9), PROTOCOL)
    )
    assert held.structure is not None
    assert free.structure is not None
    assert np.ptp(held.structure.cart_coords[:, 2]) < 0.01
    assert np.ptp(free.structure.cart_coords[:, 2]) > 0.3
    assert held.relaxed.group_kept
    assert not free.relaxed.group_kept


def test_displacements_are_seeded_and_as_long_as_said() -> None:
    moved = displaced(decode(MOS2), 0.05, [3, 1])
    assert [a.distance(b) for a, b in zip(moved, decode(MOS2), strict=True)] == pytest.approx([0.05] * 3)
    assert moved == displaced(decode(MOS2), 0.05, [3, 1])
    assert moved != displaced(decode(MOS2), 0.05, [3, 2])
    assert detect_layer_group(moved, 1e-3) == 1
