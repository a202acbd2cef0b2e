"""An interrupted generation keeps what is finished, leaves no process, and the same command makes the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from scdm_flows.cli.model import generate as command
from scdm_flows.errors import OutputError
from scdm_flows.generators.part_file import part_file
from scdm_flows.generators.sample_files import record_of
from scdm_models.sampling.composition import CompositionRequest
from scdm_models.sampling.sampler import GeneratedRecord, Position, SamplerOptions, generate
from scdm_models.sampling.skeletons import SkeletonRules

# a narrow request, whose draws repeat skeletons: what was passed over before must be known to go on
OPTIONS = SamplerOptions(
    steps=2, skeletons=SkeletonRules(composition=CompositionRequest.parse(formula="MoS2", n_atoms=3))
)
N = 24


@pytest.fixture(scope="module")
def whole() -> list[GeneratedRecord]:
    """What a call that nobody interrupts gives."""
    torch.set_num_threads(1)
    return list(generate(N, 3, options=OPTIONS))


def draw(part: Any, n: int = N) -> Any:
    return generate(n, 3, options=OPTIONS, position=part.position)


def same(made: GeneratedRecord, wanted: GeneratedRecord) -> bool:
    """Equal but for rounding, which differs with the batch that a draw is in."""
    return (
        (made.draw, made.index, made.mended, made.layer_group_detected)
        == (wanted.draw, wanted.index, wanted.mended, wanted.layer_group_detected)
        and made.structure.species == wanted.structure.species
        and abs(made.structure.frac_coords - wanted.structure.frac_coords).max() < 1e-3
    )


def test_a_stream_that_begins_where_another_stopped_gives_the_rest(
    tmp_path: Path, whole: list[GeneratedRecord]
) -> None:
    out, asked = tmp_path / "s.jsonl", {"n": N}
    assert whole[-1].draw >= N  # some draws were passed over
    for stop in (5, 6, 17, N):
        with part_file(out, asked, force=False) as part:
            for made in draw(part):
                part.add(made)
                if part.position.done == stop:
                    break
    with part_file(out, asked, force=False) as part:
        assert list(draw(part)) == []
        assert all(same(a, b) for a, b in zip(part.records(), whole, strict=True))
        part.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["s.jsonl"]
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == list(range(N))


def test_a_record_is_the_same_when_read_again(whole: list[GeneratedRecord]) -> None:
    for record in whole:
        assert record_of(json.loads(json.dumps(record.to_dict()))).to_dict() == record.to_dict()


def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path, whole: list[GeneratedRecord]) -> None:
    path = tmp_path / "s.zip.part"
    with part_file(tmp_path / "s.zip", {}, force=False) as part:
        for record in whole[:3]:
            part.position.skeletons.append(record.index)
            part.add(record)
    path.write_bytes(path.read_bytes()[:-20])
    with part_file(tmp_path / "s.zip", {}, force=False) as part:
        assert part.position == Position(whole[1].draw + 1, 0, [0, 1])
        part.position.skeletons.append(2)
        part.add(whole[2])
        assert [r.draw for r in part.records()] == [r.draw for r in whole[:3]]


def test_a_part_of_another_command_is_not_lost_and_of_none_is_not_left(
    tmp_path: Path, whole: list[GeneratedRecord]
) -> None:
    out = tmp_path / "s.jsonl"
    with part_file(out, {"seed": 1}, force=False):
        pass
    assert not list(tmp_path.iterdir())
    with part_file(out, {"seed": 1}, force=False) as part:
        part.position.skeletons.append(0)
        part.add(whole[0])
        with pytest.raises(OutputError, match="another process writes"), part_file(out, {"seed": 1}, force=False):
            pass
    kept = (tmp_path / "s.jsonl.part").read_text()
    with pytest.raises(OutputError, match="another command has asked for"), part_file(out, {"seed": 2}, force=False):
        pass
    assert (tmp_path / "s.jsonl.part").read_text() == kept
    with part_file(out, {"seed": 2}, force=True) as part:
        assert part.position.done == 0


@pytest.mark.parametrize(("option", "value"), [("--weight", "inf"), ("--stability", "nan"), ("--steps", "99999999")])
def test_numbers_out_of_range_are_refused_before_any_work(tmp_path: Path, option: str, value: str) -> None:
    result = CliRunner().invoke(command, ["-n", "1", "-o", str(tmp_path / "s.jsonl"), option, value])
    assert result.exit_code != 0
    assert "generator." in str(result.exception)
    assert not list(tmp_path.iterdir())


def watch_group(leader: int) -> None:
    """Raises ``ProcessLookupError`` as soon as nobody of the process group is left; waits four minutes."""
    for _ in range(2400):
        os.killpg(leader, 0)
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_and_what_is_finished_is_where_it_is_said(tmp_path: Path, how: signal.Signals) -> None:
    scdm, part = str(Path(sys.executable).with_name("scdm")), tmp_path / "s.jsonl.part"
    arguments = ["generate", "-n", "2000", "--steps", "1", "--processes", "2", "-o", "s.jsonl"]
    process = subprocess.Popen(
        [scdm, *arguments],
        cwd=tmp_path,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what it puts in the background with interrupts ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(1800):
        if part.exists() and part.read_text().count("\n") > 1:
            break
        time.sleep(0.1)
    if how is signal.SIGINT:  # the terminal sends it to every process of the group, the workers too
        os.killpg(process.pid, how)
    else:
        os.kill(process.pid, how)
    _, told = process.communicate(timeout=240)
    if how is not signal.SIGKILL:
        assert process.returncode == 130
        assert "of 2000 samples are in s.jsonl.part; the same command goes on from there" in told
    with pytest.raises(ProcessLookupError):
        watch_group(process.pid)
    assert [path.name for path in tmp_path.iterdir()] == ["s.jsonl.part"]
    assert part.read_text().count("\n") > 1
