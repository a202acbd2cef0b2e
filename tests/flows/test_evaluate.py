"""``scdm evaluate`` counts what is in the files, names lines it cannot read, and never averages one seed twice."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure

from scdm_flows.cli.evaluate import evaluate
from scdm_flows.cli.reconstruct import reconstruct
from scdm_flows.report.evaluation import quality_against_steps
from scdm_flows.sample_energies import move_atoms
from scdm_models.datasets.records import CuratedLayer, write_curated
from scdm_models.encoding import LayerCrystal, Site, decode
from scdm_models.errors import ScdmError
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.train import TrainConfig, split

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
    assert list(result["files"][0]["unreadable"]) == ["4"]
    assert shares["valid_distance"] == shares["valid_radii"] == 0.5
    assert shares["group_exact"] == 0.5
    assert shares["p1"] == 0.25
    assert shares["novel_templates"] == 0.0  # 1H-MoS2's template is in every data set
    assert model["interval_over"] == "samples"
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
    for given in ([files[1]], files):
        (model,) = run(*given)["models"]
        assert "kept_draws" not in model["measures"]
        assert "valid_radii" in model["measures"]
    files[1].write_text("\n".join(map(json.dumps, call)))
    (model,) = run(*files)["models"]  # the other file is of no call at all
    assert "kept_draws" not in model["measures"]


def test_files_of_one_model_are_seeds(files: list[Path]) -> None:
    (model,) = run(*files)["models"]
    valid = model["measures"]["valid_radii"]
    assert model["interval_over"] == "seeds"
    assert valid["value"] == pytest.approx(0.75)  # mean of 0.5 and 1
    assert 0.0 <= valid["low"] <= valid["value"] <= valid["high"] <= 1.0


def test_one_seed_twice_is_refused(files: list[Path]) -> None:
    result = CliRunner().invoke(evaluate, [str(files[0]), str(files[0])])
    assert result.exit_code == 2
    assert "same seed" in result.output


def test_numbers_of_steps_are_never_averaged(files: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "long.jsonl"
    other.write_text(record(decode(MOS2), seed=1, detected=1, steps=1000))
    found = run(*files, other, "--pictures", tmp_path / "pictures")["models"]
    assert [(m["label"], m["files"]) for m in found] == [
        ("scdm-test, 8 steps", 2),
        ("scdm-test, 1000 steps", 1),
    ]
    assert [m["measures"]["group_exact"]["value"] for m in found] == [0.75, 0.0]  # 2 of 4 and 4 of 4; 0 of 1
    # kept_draws needs draws in the records, and the energies a relaxation: nothing to draw against steps, no picture
    assert not (tmp_path / "pictures" / "steps-scdm-test.svg").exists()


def test_quality_against_steps_is_drawn_with_its_intervals() -> None:
    shares = {8: (0.5, 0.4, 0.6), 1000: (0.7, 0.6, 0.8)}
    measured = {s: {"e_hull_0.6": dict(zip(("value", "low", "high"), v, strict=True))} for s, v in shares.items()}
    (axis,) = quality_against_steps(measured).axes
    line = axis.lines[0]
    assert line.get_xdata().tolist() == [8, 1000]
    assert line.get_ydata().tolist() == [0.5, 0.7]
    (bars,) = axis.collections
    ends = [[float(y) for _, y in segment] for segment in bars.get_segments()]
    assert ends == pytest.approx(np.array([[0.4, 0.6], [0.6, 0.8]]))


def test_displaced_atoms_have_no_symmetry_to_hold_them(files: list[Path]) -> None:
    with pytest.raises(click.UsageError, match="together with --relax"):
        CliRunner().invoke(
            evaluate, [str(files[1]), "--displace", "0.1"], catch_exceptions=False, standalone_mode=False
        )
    (moved,) = move_atoms([decode(MOS2)], 0.1, 0)
    distances = [a.distance(b) for a, b in zip(moved, decode(MOS2), strict=True)]
    assert distances == pytest.approx([0.1] * 3)
    assert detect_layer_group(moved, 1e-3) == 1


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("no sample\n")
    with pytest.raises(ScdmError, match="holds no sample"):
        CliRunner().invoke(evaluate, [str(empty)], catch_exceptions=False)


HFS2 = LayerCrystal(72, (3.62, 3.62, 120.0), (Site(72, "a", (0.0, 0.0, 0.0)), Site(16, "c", (1 / 3, 2 / 3, 1.44))))


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    """Forty layers, of which the hash of the ids holds some out."""
    layers = [
        CuratedLayer(f"c{k}", "test", (), crystal, 0.1, 0.0, crystal.layer_group, None, None, one_layer=True)
        for k in range(40)
        for crystal in ((MOS2, HFS2)[k % 2],)
    ]
    assert split([layer.id for layer in layers], TrainConfig().validation_fraction)[1]
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


def test_energies_of_samples_are_counted_over_all_samples(tmp_path: Path, curated: Path) -> None:
    # four samples: MoS2, which the surrogate puts within 0.6 eV/atom; HfS2; MoS2 again; a line that is none
    lines = [
        record(decode(MOS2), seed=0, detected=78),
        record(decode(HFS2), seed=0, detected=72, crystal=HFS2),
        record(decode(MOS2), seed=0, detected=78),
        "not json",
    ]
    samples, out = tmp_path / "s.jsonl", tmp_path / "e.json"
    samples.write_text("\n".join(lines))
    arguments = [
        samples,
        "--relax",
        "--phonons",
        1,
        "--processes",
        1,
        "-o",
        out,
        "--held-out",
        curated,
        "--pictures",
        tmp_path / "p",
    ]
    result = CliRunner().invoke(evaluate, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "surrogate E_hull <= 0.6 eV/atom" in result.output
    found = json.loads(out.read_text())
    shares = {name: m["value"] for name, m in found["models"][0]["measures"].items()}
    assert shares["relax_converged"] == shares["one_layer_relaxed"] == shares["group_kept"] == 0.75
    assert shares["e_hull_0.6"] == shares["e_hull_0.6_one_layer"] == 0.75
    assert shares["extrapolated"] == 0.0  # MoS2 and HfS2 are layers that energy models learn from
    assert shares["sun"] == 0.0  # both are known layers
    assert shares["e_hull_0"] <= shares["e_hull_0.2"] <= shares["e_hull_0.6"]
    assert 0 < shares["rmsd_angstrom"] < 0.1
    assert found["models"][0]["measures"]["phonon_stable"] == {
        "value": 1.0,
        "low": pytest.approx(0.207, abs=1e-3),
        "high": 1.0,
        "n": 1,
    }
    assert found["energies"]["surrogate"] is True
    assert found["energies"]["energy_model"]["error_coverage_claimed"] == 0.9
    assert found["files"][0]["extrapolated"] == [False] * 3
    assert found["files"][0]["distances_to_held_out"]["samples"]["n_samples"] == 3
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"distributions.svg", "e_hull.svg"}
