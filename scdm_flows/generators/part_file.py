"""Samples that are written as they come: a file beside the one that was asked for, from which the same command goes on.

``NAME.part`` is JSON lines: what was asked for, then for each sample the number of repetitions that were passed over
before it, which the sampler needs to go on, and the sample itself.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdm_flows.errors import OutputError
from scdm_flows.generators.sample_files import record_of, sample_writer

if TYPE_CHECKING:
    from scdm_models.sampling.sampler import GeneratedRecord, Position


class PartFile:
    """The finished samples of a command that writes ``out``.

    Parameters
    ----------
    out
        The file that the samples are meant for.
    """

    def __init__(self, out: Path, handle: Any, path: Path, position: Position) -> None:
        self.out, self.path, self.position, self._handle = out, path, position, handle

    def add(self, sample: GeneratedRecord) -> None:
        """Keep the sample that ``position`` is behind; a process that is killed after this has lost nothing."""
        self._handle.write(json.dumps([self.position.repeated, self.position.skeletons[-1], sample.to_dict()]) + "\n")
        self._handle.flush()

    def records(self) -> Iterator[GeneratedRecord]:
        """The samples, one after the other."""
        with self.path.open(encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                yield record_of(json.loads(line)[2])

    def finish(self) -> None:
        """Write ``out`` in the format of its name and remove the part."""
        temporary = self.out.with_name(f"{self.out.name}.part{self.out.suffix}")
        try:
            with sample_writer(temporary) as write:
                for record in self.records():
                    write(record)
            temporary.replace(self.out)
            self.path.unlink()
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def part_file(out: Path, asked: dict[str, Any], *, force: bool) -> Iterator[PartFile]:
    """The part of ``out``, locked; it is removed at the end where it holds no sample.

    Parameters
    ----------
    out
        The file that the samples are meant for.
    asked
        What decides the samples; those of a part that was asked for the same are kept.
    force
        Whether a part that was asked for something else is replaced.

    Raises
    ------
    OutputError
        If another process writes it, or its samples were asked for by another command (exit code 2).
    """
    path = out.with_name(f"{out.name}.part")
    first = json.dumps({"asked": asked}, sort_keys=True) + "\n"
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _refused(f"another process writes {path}; wait for its end, or give another name") from None
        handle.seek(0)
        there = handle.readline()
        if there.endswith("\n") and there != first and not force:
            raise _refused(
                f"{path} holds samples that another command has asked for; give that command to go on, another name, "
                "or --force to begin anew"
            )
        if there == first:
            position = _read(handle)
        else:
            from scdm_models.sampling.sampler import Position

            position = Position()
            handle.truncate(0)
            handle.write(first)
        part = PartFile(out, handle, path, position)
        try:
            yield part
        finally:
            if part.position.done == 0:
                with suppress(FileNotFoundError):
                    path.unlink()


def _refused(text: str) -> OutputError:
    error = OutputError(text)
    error.exit_code = 2
    return error


def _read(handle: Any) -> Position:
    """Where the samples in a part end; a line that was cut off, and what follows it, is removed."""
    from scdm_models.sampling.sampler import Position

    position, end = Position(), handle.tell()
    while line := handle.readline():
        try:
            repeated, skeleton, record = json.loads(line)
            if not line.endswith("\n") or record["index"] != position.done:
                break
        except (ValueError, KeyError, TypeError):
            break
        position.draws, position.repeated = record["draw"] + 1, repeated
        position.skeletons.append(skeleton)
        end = handle.tell()
    os.truncate(handle.fileno(), end)
    handle.seek(end)
    return position
