"""``scdm evaluate`` counts what is in the files, names lines it cannot read, and never pools one seed twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure
from scipy.stats import binomtest

from scdm_flows.cli.evaluate import evaluate
from scdm_flows.cli.reconstruct import reconstruct
from scdm_flows.report.evaluation import quality_against_steps
from scdm_models.datasets.records import CuratedLayer, write_curated
from scdm_models.errors import ScdmError
from scdm_models.model.checkpoint import load_checkpoint
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode
from scdm_models.training.data_split import held_out

MOS2 = LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0.0, 0.0, 0.0)), Site(16, "e", (1 / 3, 2 / 3, 1.56))))


def record(structure: Structure, *, seed: int, detected: int, crystal: LayerCrystal = MOS2, steps: int = 8) -> str:
    return json.dumps(
        {
            "steps": steps,
            "structure": structure.as_dict(),
            "crystal": crystal.to_dict(),
            "layer_group_requested": 78,
            "layer_group_detected": detected,
            "model_id": "scdm-test",
            "seed": seed,
        }
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    good = decode(MOS2)
    clash = Structure(Lattice.hexagonal(3.2, 20), ["Mo", "Mo"], [[0, 0, 0.5], [0, 0, 0.51]])  # 0.2 angstrom apart
    first, second = tmp_path / "0.jsonl", tmp_path / "1.jsonl"
    lines = [record(good, seed=0, detected=78), record(good, seed=0, detected=78)]
    first.write_text("\n".join([*lines, record(clash, seed=0, detected=1), "not json"]))
    second.write_text("\n".join(record(good, seed=1, detected=78) for _ in range(4)))
    return [first, second]


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(evaluate, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_shares_of_one_file(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    result = run(files[0], "-o", out)
    (model,) = result["models"]
    shares = {name: m["value"] for name, m in model["measures"].items()}
    # four lines: MoS2 twice, two atoms at 0.2 angstrom, and one that is no sample and counts as not valid
    assert model["n"] == 4
    assert list(model["unreadable"]) == ["0.jsonl:4"]
    assert shares["valid_distance"] == shares["valid_radii"] == 0.5
    assert shares["group_exact"] == 0.5
    assert shares["p1"] == 0.25
    assert shares["new_sampled"] == 0.25  # 1H-MoS2 is known, two atoms on one another are not, and no sample is not new
    assert shares["novel_templates"] == 0.0  # 1H-MoS2's template is in every data set
    assert json.loads(out.read_text()) == result


def test_the_share_of_draws_is_that_of_one_call(files: list[Path]) -> None:
    # draws 0, 1 and 4 of five were kept, the last one mended
    lines = [json.loads(line) for line in files[1].read_text().splitlines()[:3]]
    call = [{**line, "draw": draw, "mended": draw == 4} for line, draw in zip(lines, (0, 1, 4), strict=True)]
    files[1].write_text("\n".join(map(json.dumps, call)))
    (model,) = run(files[1])["models"]
    assert model["measures"]["kept_draws"]["value"] == pytest.approx(0.6)
    assert model["measures"]["mended"]["value"] == pytest.approx(1 / 3)
    # two calls joined, more samples than the last one's draw: their share is not known, all else is
    files[1].write_text("\n".join(map(json.dumps, [*call, *call])))
    (model,) = run(files[1])["models"]
    assert "kept_draws" not in model["measures"]
    assert "valid_radii" in model["measures"]
    files[1].write_text("\n".join(map(json.dumps, call)))
    (model,) = run(*files)["models"]  # the other file does not say
    assert "kept_draws" not in model["measures"]


def test_files_of_one_model_are_pooled(files: list[Path]) -> None:
    (model,) = run(*files)["models"]
    assert model["seeds"] == [0, 1]
    valid, wilson = model["measures"]["valid_radii"], binomtest(6, 8).proportion_ci(method="wilson")
    assert (valid["value"], valid["n"]) == (0.75, 8)  # 2 of 4 and 4 of 4
    assert (valid["low"], valid["high"]) == pytest.approx((wilson.low, wilson.high))


def test_one_seed_twice_is_refused(files: list[Path]) -> None:
    with pytest.raises(ScdmError, match="same seed"):
        CliRunner().invoke(evaluate, [str(files[0]), str(files[0])], catch_exceptions=False)


def test_numbers_of_steps_are_never_pooled(files: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "long.jsonl"
    other.write_text(record(decode(MOS2), seed=1, detected=1, steps=1000))
    found = run(*files, other, "--pictures", tmp_path / "pictures")["models"]
    assert [(m["label"], len(m["files"])) for m in found] == [
        ("scdm-test, 8 steps", 2),
        ("scdm-test, 1000 steps", 1),
    ]
    assert [m["measures"]["group_exact"]["value"] for m in found] == [0.75, 0.0]  # 2 of 4 and 4 of 4; 0 of 1
    # kept_draws needs draws in the records, and the energies a relaxation: nothing to draw against steps, no picture
    assert not (tmp_path / "pictures" / "steps-scdm-test.svg").exists()


def test_quality_against_steps_is_drawn_with_its_intervals() -> None:
    shares = {8: (0.5, 0.4, 0.6), 1000: (0.7, 0.6, 0.8)}
    measured = {s: {"stable_0.1": dict(zip(("value", "low", "high"), v, strict=True))} for s, v in shares.items()}
    (axis,) = quality_against_steps(measured).axes
    line = axis.lines[0]
    assert line.get_xdata().tolist() == [8, 1000]
    assert line.get_ydata().tolist() == [0.5, 0.7]
    (bars,) = axis.collections
    ends = [[float(y) for _, y in segment] for segment in bars.get_segments()]
    assert ends == pytest.approx(np.array([[0.4, 0.6], [0.6, 0.8]]))


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("no sample\n")
    with pytest.raises(ScdmError, match="empty.jsonl"):
        CliRunner().invoke(evaluate, [str(empty)], catch_exceptions=False)


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    """Forty layers of as many chemical systems, of which the packaged models' splits hold some out."""
    metals = (22, 23, 24, 40, 41, 42, 44, 46, 50, 72, 73, 74, 78, 82)
    pairs = [(metal, other) for metal in metals for other in (16, 34, 52)][:40]
    layers = []
    for k, (metal, other) in enumerate(pairs):
        sites = (Site(metal, "a", (0.0, 0.0, 0.0)), Site(other, "e", (1 / 3, 2 / 3, 1.6)))
        crystal = LayerCrystal(78, (3.2, 3.2, 120.0), sites)
        layers.append(CuratedLayer(f"c{k}", "test", (), crystal, 0.1, 0.0, 78, None, None, one_layer=True))
    crystals, ids = [layer.crystal for layer in layers], [layer.id for layer in layers]
    assert held_out(load_checkpoint(), crystals, ids)[1]
    write_curated(tmp_path / "curated.jsonl.gz", layers)
    return tmp_path / "curated.jsonl.gz"


def test_reconstruction_of_held_out_layers(curated: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "r.svg"
    arguments = ["--data", curated, "-n", 2, "--time", 0.3, "-o", out, "--picture", picture, "--processes", 1]
    result = CliRunner().invoke(reconstruct, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert list(found["distances"]) == ["SCDM, t* = 0.3", "UnSCDM, t* = 0.3", "15 % perturbed"]
    assert found["surrogate_energies"] is True
    for rows in found["distances"].values():
        assert len(rows) == found["n"] > 0
        for row in rows:
            for definition in ("published", "periodic"):
                assert row[definition]["failures"] == {}
                assert all(row[definition][name] >= 0 for name in ("energy", "sinkhorn", "superpose", "xrd", "ofm"))
    assert picture.read_text().startswith("<svg")


def test_distributions_beside_held_out_layers(tmp_path: Path, curated: Path) -> None:
    samples = tmp_path / "s.jsonl"
    samples.write_text("\n".join([record(decode(MOS2), seed=0, detected=78)] * 2))
    result = run(samples, "--held-out", curated, "--pictures", tmp_path / "p")
    (model,) = result["models"]
    found = model["distances_to_held_out"]
    assert found["samples"]["n_samples"] == 2
    assert 0 < found["training"]["elements_total_variation"] < found["samples"]["elements_total_variation"]
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"distributions.svg"}
    again = model["rediscovered"]
    # MoS2 is held out, as its chemical system is, and found; both samples have one group, so shuffling finds as much
    assert (again["n"], again["found"], again["ratio"]["value"]) == (2, 1, 1.0)
