"""Results of the packaged models: parts made of files that are kept, and tables that say what the numbers are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from scdm_flows.cli import cards as command
from scdm_flows.cli.assemble import assemble
from scdm_flows.errors import DatasetError, OutputError
from scdm_flows.evaluation.model_cards import PARTS, Making, markdown, results
from scdm_flows.evaluation.reconstruction import DISTANCES, boxes, by_size, medians
from scdm_flows.report import cards as packaged
from scdm_models.datasets.records import CuratedLayer, write_curated
from scdm_models.symmetry.encoding import LayerCrystal, Site


def share(value: float, n: int = 100) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


def model(label: str, **measures: float) -> dict[str, Any]:
    """An entry of `scdm evaluate -o`, with what only the file itself needs."""
    found = {name: share(value) for name, value in measures.items()}
    return {
        "label": label,
        "model_id": label,
        "steps": 8,
        "n": 100,
        "measures": found,
        "per_1000_draws": {name: {k: 1000 * v for k, v in m.items()} for name, m in found.items() if name == "valid"},
        "populations": {},
        "groups": [],
        "unreadable": {},
        "samples": [{"id": "0"}],
        "files": {f"home/of/someone/{label}.jsonl": "0c46"},
    }


DISTANCE_ROWS = [
    {d: dict.fromkeys(DISTANCES, value) | {"failures": {}} for d in ("published", "periodic")}
    for value in (0.0, 1.0, 2.0, 3.0, 40.0, None)
]
ASSEMBLY = {
    "n": 4,
    "models": ["scdm-3"],
    "ids": ["a", "b", "c", "d"],
    "matches": {"SCDM": by_size([True, True, False, True], [1, 4, 5, 20])},
    "bonded": {"SCDM": by_size([True] * 4, [1, 4, 5, 20])},
}
WHOLE = {
    "protocol": {"name": "2d-1"},
    "energies": {"force_field": "Some-FF", "energy_model": "some-model"},
    "known_layers": {"version": "x", "C2DB": 4030, "other": 7},
    "models": [model("scdm-1", valid=0.873, rmsd_angstrom=0.25), model("peer")],
}


class Commands:
    """Stands for the `scdm` commands: writes what each would write, and keeps their words."""

    def __init__(self) -> None:
        self.called: list[list[str]] = []

    def __call__(self, words: Sequence[str]) -> None:
        self.called.append(list(words))
        out = Path(words[words.index("-o") + 1])
        if words[0] == "generate":
            out.write_text("{}\n" * int(words[words.index("-n") + 1]))
        elif words[0] == "assemble":
            out.write_text(json.dumps(ASSEMBLY))
        elif words[0] == "reconstruct":
            out.write_text(
                json.dumps({"n": 6, "models": ["scdm-3", "unscdm-3"], "distances": {"SCDM, t* = 0.3": DISTANCE_ROWS}})
            )
        elif "--protocol" in words:
            out.write_text(json.dumps(WHOLE))
        else:
            out.write_text(json.dumps({"models": [model(out.stem, kept_draws=0.5)]}))


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def making(tmp_path: Path, commands: Commands) -> Making:
    return Making(Path("curated.jsonl.gz"), tmp_path, 10, [Path("peer.jsonl")], commands)


def test_what_is_there_is_not_made_again(making: Making, commands: Commands) -> None:
    first = results(making, list(PARTS), {})
    # three files of samples for SCDM, UnSCDM, any stability, the paper and both thousands, six of steps, one large one
    made = [words for words in commands.called if words[0] == "generate"]
    assert len(made) == 3 * 6 + 6 + 1
    assert len({words[words.index("-o") + 1] for words in commands.called}) == len(commands.called)
    (making.work / "quick-unscdm.json").unlink()
    commands.called.clear()
    assert results(making, list(PARTS), {}) == first
    assert [words[0] for words in commands.called] == ["evaluate"]
    assert commands.called[0][1:4] == [str(making.work / f"unscdm-{seed}.jsonl") for seed in (0, 1, 2)]


def test_seeds_and_peers_are_judged_together_and_single_samples_left_out(making: Making, commands: Commands) -> None:
    (whole,) = results(making, ["protocol"], {}).values()
    judged = commands.called[-1]
    assert judged[1:5] == [*(str(making.work / f"scdm-{seed}.jsonl") for seed in (0, 1, 2)), "peer.jsonl"]
    assert all("samples" not in model for model in whole["models"])
    assert [model["files"] for model in whole["models"]] == [{"scdm-1.jsonl": "0c46"}, {"peer.jsonl": "0c46"}]
    assert [model["label"] for model in whole["models"]] == ["scdm-1", "peer"]
    assert whole["commands"][0] == "scdm generate -n 10 --seed S -o scdm-S.jsonl"


def test_other_parts_stay_as_they_are_and_unknown_ones_go(making: Making) -> None:
    kept = {"draws": 1, "large": {"n": 5}, "quick": {"old": 1}}
    found = results(making, ["paper", "quick"], kept)
    assert list(found) == ["quick", "paper", "large"]  # the order of the parts
    assert found["large"] == {"n": 5}
    assert list(found["quick"]) == ["SCDM", "UnSCDM"]
    assert found["paper"]["measures"] == {"kept_draws": share(0.5)}
    assert not {"populations", "groups", "unreadable"} & found["paper"].keys()


def test_samples_of_another_number_are_refused(making: Making) -> None:
    (making.work / "scdm-1.jsonl").write_text("{}\n" * 9)
    with pytest.raises(DatasetError, match=r"scdm-1.jsonl holds 9 samples, 10 are asked for; give another folder"):
        results(making, ["protocol"], {})


def row(text: str, start: str) -> list[str]:
    """Cells of the first row of a table that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_say_the_numbers_with_their_intervals(making: Making) -> None:
    text = markdown(results(making, list(PARTS), {}))
    assert row(text, "of all samples")[1:] == ["scdm-1, n = 100", "peer, n = 100"]
    assert row(text, "valid: all four")[1:] == ["87.3 % (82.3-92.3)", ""]  # the peer has none
    assert row(text, "RMSD to relaxed, Å")[1] == "0.250 (0.200-0.300)"  # a length is no share
    assert "| valid: all four | 873 (823-923) |  |" in text
    assert "known layers: 4,030 of C2DB, 7 of other." in text
    assert [row(text, f"{count} steps")[1:3] for count in (4, 1000)] == [[f"`steps-{n}`", "100"] for n in (4, 1000)]
    assert row(text, "10,000 samples")[1:] == ["`large`", "100", "50.0 % (45.0-55.0)"]
    assert "of the primitive cell. Made by `scdm-3`." in text
    assert "Made by `scdm-3`, `unscdm-3`." in text
    assert row(text, "come out as they are")[1:] == ["all", "1-4", "5-9", "15+"]
    assert row(text, "SCDM")[1] == "75.0 % (30.1-95.4)"  # Wilson, 3 of 4
    assert "## Reconstruction of 6 held-out layers (medians)" in text
    assert row(text, "SCDM, t* = 0.3")[1:] == ["2.000"] * 6
    assert "an earlier model" not in markdown(results(making, ["protocol"], {}), "scdm-1")
    later = markdown(results(making, ["protocol"], {}), "scdm-2")
    assert "**The protocol's tables are of `scdm-1`, an earlier model; packaged now is `scdm-2`.**" in later
    every = [line for line in text.splitlines() if line.startswith("|")]
    heads = [k for k, line in enumerate(every) if set(line) <= set("| -")]
    for begin, end in zip(heads, [*(k - 1 for k in heads[1:]), len(every)], strict=True):  # as wide as their heads
        assert {line.count("|") for line in every[begin - 1 : end]} == {every[begin].count("|")}


def test_a_part_that_is_missing_has_no_table(making: Making) -> None:
    text = markdown(results(making, ["steps"], {}))
    assert "Protocol" not in text
    assert "Reconstruction" not in text
    assert row(text, "8 steps")[2] == "100"


def test_medians_and_boxes_of_distances() -> None:
    rows = {"SCDM, t* = 0.3": DISTANCE_ROWS}
    # quartiles of 0, 1, 2, 3, 40: 1, 2 and 3; the whiskers end at the last value within 1.5 * (3 - 1) of the box
    assert boxes(rows)["periodic"]["SCDM, t* = 0.3"]["xrd"] == [0.0, 1.0, 2.0, 3.0, 3.0]
    assert medians(rows)["published"]["SCDM, t* = 0.3"]["ofm"] == 2.0
    nothing = {"SCDM, t* = 0.3": DISTANCE_ROWS[-1:]}
    assert medians(nothing)["published"]["SCDM, t* = 0.3"]["ofm"] is None


def test_shares_by_size() -> None:
    right = [k < 81 for k in range(263)]
    found = by_size(right, [4] * 100 + [15] * 163)
    assert list(found) == ["all", "1-4", "15+"]  # of other sizes there is no layer
    # Wilson's interval of 81 of 263 as in ``share_interval``
    assert [round(found["all"][k], 4) for k in ("low", "high")] == [0.2553, 0.3662]
    assert (found["1-4"]["value"], found["1-4"]["n"], found["15+"]["value"]) == (0.81, 100, 0.0)


# --- the command


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    """Forty layers of as many chemical systems, of which the packaged models' splits hold some out."""
    metals = (22, 23, 24, 40, 41, 42, 44, 46, 50, 72, 73, 74, 78, 82)
    layers = []
    for k, (metal, other) in enumerate([(metal, other) for metal in metals for other in (16, 34, 52)][:40]):
        sites = (Site(metal, "a", (0.0, 0.0, 0.0)), Site(other, "e", (1 / 3, 2 / 3, 1.6)))
        crystal = LayerCrystal(78, (3.2, 3.2, 120.0), sites)
        layers.append(CuratedLayer(f"c{k}", "test", (), crystal, 0.1, 0.0, 78, None, None, one_layer=True))
    write_curated(tmp_path / "curated.jsonl.gz", layers)
    return tmp_path / "curated.jsonl.gz"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(command.results, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.slow
def test_the_command_makes_samples_judges_them_and_writes_the_card(
    tmp_path: Path, curated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scdm_flows.evaluation.model_cards.SEEDS", (0, 1))
    monkeypatch.setattr("scdm_flows.evaluation.model_cards.STEPS", (2, 4))
    card = tmp_path / "cards"
    arguments = ["--data", curated, "--work", tmp_path / "work", "-n", 2, "--output", card]
    done = run(*arguments, "--parts", "quick", "--parts", "steps")
    found = json.loads((card / "results.json").read_text())
    assert list(found) == ["quick", "steps"]
    # two seeds of two samples; the steps are those that were asked for
    assert [(m["n"], m["seeds"]) for m in found["quick"].values()] == [(4, [0, 1])] * 2
    assert {name: (m["n"], m["steps"]) for name, m in found["steps"].items()} == {"2": (2, 2), "4": (2, 4)}
    assert found["quick"]["SCDM"]["distances_to_held_out"]["samples"]["n_samples"] == 4
    assert (card / "results.md").read_text() == markdown(found)
    assert (card / "steps.svg").read_text().startswith("<svg")
    assert "(steps.svg)" in (card / "results.md").read_text()
    # one line on standard output; what the commands say goes to standard error
    assert done.stdout == f"wrote {card / 'results.md'}: quick, steps\n"
    assert f"$ scdm generate --model unscdm -n 2 --seed 1 -o {tmp_path}/work/unscdm-1.jsonl" in done.stderr
    # a second time nothing is made, and the other part stays
    before = (tmp_path / "work" / "quick-scdm.json").stat().st_mtime_ns
    again = run(*arguments, "--parts", "quick", "--json")
    assert json.loads(again.stdout) == found
    assert "$ scdm" not in again.stderr
    assert (tmp_path / "work" / "quick-scdm.json").stat().st_mtime_ns == before


def test_held_out_skeletons_alone(tmp_path: Path, curated: Path) -> None:
    out = tmp_path / "found.json"
    done = CliRunner().invoke(
        assemble, ["--data", str(curated), "-n", "2", "--json", "-o", str(out)], catch_exceptions=False
    )
    found = json.loads(done.stdout)
    assert found == json.loads(out.read_text())
    assert found["n"] == len(found["ids"]) == 2
    assert list(found["matches"]) == list(found["bonded"])
    assert len(found["matches"]) == 6  # each model as it samples, by copying, and from noise
    assert {row["1-4"]["n"] for row in found["matches"].values()} == {2}


def test_pictures_of_the_judgements_lie_beside_the_numbers(
    tmp_path: Path, curated: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_scdm", commands)
    (tmp_path / "work" / "pictures").mkdir(parents=True)
    (tmp_path / "work" / "pictures" / "2d-1.svg").write_text("<svg/>")
    arguments = ["--data", curated, "--peers", curated, "--work", tmp_path / "work", "--output", tmp_path / "cards"]
    run(*arguments, "--parts", "protocol")
    assert {path.name for path in (tmp_path / "cards").iterdir()} == {"results.json", "results.md", "2d-1.svg"}
    assert "(2d-1.svg)" in (tmp_path / "cards" / "results.md").read_text()


def test_every_command_that_a_part_calls_is_one_of_scdm(making: Making, commands: Commands) -> None:
    results(making, list(PARTS), {})
    for name in sorted({words[0] for words in commands.called}):
        command._scdm([name, "--help"])  # a name that scdm has not would end here
    with pytest.raises(click.UsageError, match="no such command 'assmble'"):
        command._scdm(["assmble", "--help"])


def test_what_is_finished_is_written_before_the_next_part_begins(
    tmp_path: Path, curated: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(words: Sequence[str]) -> None:
        if words[0] == "assemble":
            raise DatasetError("stopped")
        commands(words)

    monkeypatch.setattr(command, "_scdm", ends)
    arguments = ["--data", curated, "--work", tmp_path / "work", "--output", tmp_path / "cards"]
    with pytest.raises(DatasetError, match="stopped"):
        run(*arguments, "--parts", "paper", "--parts", "assembly")
    assert list(json.loads((tmp_path / "cards" / "results.json").read_text())) == ["paper"]


def test_nothing_is_begun_without_a_folder_to_write_into_or_data(
    tmp_path: Path, curated: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_scdm", commands)
    work = ["--work", tmp_path / "work"]
    monkeypatch.setattr(packaged, "CHECKOUT", tmp_path / "site-packages" / "models" / "cards")  # not in a checkout
    with pytest.raises(click.UsageError, match="no checkout .* give a folder by --output"):
        command.results.main(["--data", str(curated), *map(str, work)], standalone_mode=False)
    with pytest.raises(DatasetError, match=r"peer.jsonl does not exist"):
        run("--data", curated, *work, "--peers", tmp_path / "peer.jsonl", "--output", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        run("--data", curated, *work, "--output", tmp_path / "file" / "cards")
    assert not commands.called
