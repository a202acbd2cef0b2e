"""The page of loops: sums that follow from the rounds, and what is said of a loop that has found nothing yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.documents import candidate, energies
from support.layers import mx2

from scdm_flows.cli import cli
from scdm_flows.config.loop import parse_loop
from scdm_flows.documents import CandidateDoc, CandidateState, Choice, KnownAs, LoopDoc, LoopRound
from scdm_flows.report.loops import came_of, cumulated, render


def this(number: int, found: int | None, hours: float | None, **more: Any) -> LoopRound:
    choice = Choice(
        candidate_id=f"l-r{number:02d}-{number:012x}", formula="MoS2", value=1.0, chance=0.8, e_above_hull=0.02,
        e_above_hull_error=0.05, why="likely",
    )  # fmt: skip
    return LoopRound(
        number=number, energy_model="m", learned_from=0, samples=100, promising=7, pool=40, expected=1.6,
        expected_by_rank=1.2, expected_at_random=0.4, chosen=[choice], finished=True, ended=None if found is None else 2,
        found=found, found_ids=[f"l-r{number:02d}-gpaw-{number:012x}"] * bool(found), core_hours=hours, **more,
    )  # fmt: skip


def loop(*rounds: LoopRound, name: str = "l", by: str = "chance") -> LoopDoc:
    config = parse_loop({"name": name, "compute": {"engine": {"kind": "gpaw"}}, "choose": {"by": by}})
    return LoopDoc(
        name=name, config=config.model_dump(mode="json"), config_hash=config.config_hash, rounds=rounds,
        ended="all 3 rounds are done" if rounds else None,
    )  # fmt: skip


def test_sums_of_the_rounds() -> None:
    rounds = [this(1, 2, 0.5), this(2, 1, 0.25), this(3, None, None)]
    assert cumulated(rounds) == ([0.5, 0.75, 0.75], [2, 3, 3])
    page = render([loop(*rounds), loop(this(1, 0, 1.0), name="other", by="random")], "loop")
    # 3 found in 0.75 core hours; 3 of 4: Wilson's interval is 30 to 95 %
    assert "| l | chance | 3 | 4 | 3 | 75 % (30 to 95) | 0.75 | 4.00 |" in page.text
    assert "| other | random | 1 | 2 | 0 | 0 % (0 to 66) | 1.00 | 0.00 |" in page.text
    assert "| 1 | 7 of 100 | 40 | 0 | 1.6 | 1.2 | 0.4 | 2 of 2 | 0.50 |" in page.text
    assert "`l-r02-gpaw-000000000002`" in page.text
    assert set(page.pictures) == {"yields.svg"}
    assert page.pictures["yields.svg"].startswith("<svg")


def test_a_loop_without_rounds() -> None:
    text = render([loop()], "loop").text
    assert "| l | chance | 0 | 0 | 0 | – | 0.00 | – |" in text
    assert "not at its end yet" in text


def test_what_came_of_a_choice() -> None:
    done, begun = this(1, 1, 0.5), this(1, None, None).model_copy(update={"finished": False})

    def one(e_above_hull: float = 0.01, **fields: Any) -> CandidateDoc:
        return candidate(9, mx2("1H"), **energies(e_above_hull, **fields))

    found = one().model_copy(update={"candidate_id": done.found_ids[0]})
    assert came_of(done, found) == "found"
    assert came_of(done, one(0.4)) == "not what is looked for"
    assert came_of(begun, one()) == "not counted yet"
    assert came_of(begun, None) == "not computed yet"
    assert came_of(done, None) == "left out: the loop's budget was used up"
    assert came_of(begun, one(state=CandidateState.PENDING)) == "pending"
    assert came_of(done, one(state=CandidateState.PENDING)) == "left out: the loop's budget was used up"
    failed = candidate(9, mx2("1H"), state=CandidateState.FAILED, reason="relax: no end")
    assert came_of(done, failed) == "relax: no end"
    assert came_of(done, one(duplicate_of="demo-1")) == "the same layer as demo-1"
    known = KnownAs(id="MoS2-165798ab5e33", source="C2DB", formula="MoS2", displacement_angstrom=0.031)
    assert came_of(done, one(novel=False, known_as=[known])) == "not new: MoS2 (C2DB MoS2-165798ab5e33, 0.03 Å)"


def test_the_command_reads_files_of_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("l.json").write_text(json.dumps(loop(this(1, 2, 0.5)).model_dump(mode="json") | {"waits_for": None}))
    run = CliRunner()
    made = run.invoke(cli, ["campaign", "yields", "l.json", "-o", "page.md"])
    assert made.exit_code == 0, made.output
    assert Path("page/yields.svg").is_file()
    assert "**" not in Path("page.md").read_text().splitlines()[0]
    assert run.invoke(cli, ["campaign", "yields", "l.json", "-o", "page.md"]).exit_code != 0  # it exists
    Path("no.json").write_text("{}")
    wrong = run.invoke(cli, ["campaign", "yields", "no.json", "-o", "other.md"])
    assert "no.json is no loop" in str(wrong.exception)
    assert run.invoke(cli, ["campaign", "yields", "l.json", "-o", "page.html"]).exit_code == 2
