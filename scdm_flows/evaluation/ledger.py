"""What is finished of a long judgement, as JSON lines beside its output: a killed run goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from scdm_flows.errors import EngineError, OutputError

Key = tuple[str, ...]


class Ledger:
    """Finished pieces of work by their keys.

    Parameters
    ----------
    path
        The file; made where it is missing.
    header
        What the work depends on. A file of another header is of other work: it is replaced, and ``started_anew`` says
        so.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.started_anew = path, False
        self._found: dict[Key, Any] = {}
        first = json.dumps({"header": header}, sort_keys=True)
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        if lines and lines[0] == first:
            for line in lines[1:]:
                try:
                    key, value = json.loads(line)
                except ValueError:  # cut off when a run was killed
                    continue
                self._found[tuple(key)] = value
            if lines[-1]:
                self._write([""], "a")  # ends the line that was cut off
        else:
            self.started_anew = bool(lines and lines[0])
            self._write([first], "w")

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def __getitem__(self, key: Key) -> Any:
        return self._found[key]

    def add(self, pieces: Iterable[tuple[Key, Any]]) -> None:
        """Keep finished pieces, one line each, on the disk when this returns."""
        pieces = list(pieces)
        self._write([json.dumps([list(key), value]) for key, value in pieces], "a")
        # as they would be read again, so that a run which goes on has the same values
        self._found.update((key, json.loads(json.dumps(value))) for key, value in pieces)

    def _write(self, lines: Sequence[str], mode: str) -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as handle:
                handle.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise OutputError(f"{self.path} was not written ({error}); free some space and run it again") from error


def carry_out(
    work: Callable[..., list[Any]],
    parts: Sequence[Sequence[tuple[Key, Any]]],
    ledger: Ledger,
    *arguments: Any,
    workers: ProcessPoolExecutor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Key, Any]:
    """The result of every piece of every part; parts that the ledger has are not done again.

    A part is done as a whole or not at all, so its results do not depend on what was finished before.

    Parameters
    ----------
    work
        ``work(inputs, *arguments)`` gives one JSON-able result for each input of a part.
    parts
        (key, input) of the pieces of each part.
    ledger
        Where results are kept.
    workers
        Processes that take parts; this one where there are none.
    progress
        Called with finished pieces and all.

    Raises
    ------
    EngineError
        If a worker process died.
    """
    total = sum(map(len, parts))
    open_ = [part for part in parts if not all(key in ledger for key, _ in part)]
    done = total - sum(map(len, open_))

    def take(part: Sequence[tuple[Key, Any]], results: list[Any]) -> None:
        nonlocal done
        ledger.add(zip([key for key, _ in part], results, strict=True))
        done += len(part)
        if progress is not None:
            progress(done, total)

    if progress is not None:
        progress(done, total)
    if workers is None:
        for part in open_:
            take(part, work([piece for _, piece in part], *arguments))
    else:
        under_way = {workers.submit(work, [piece for _, piece in part], *arguments): part for part in open_}
        try:
            for future in as_completed(under_way):
                take(under_way[future], future.result())
        except BrokenProcessPool:
            raise EngineError(
                "a worker process ended early (often for lack of memory); the same command goes on from what is "
                "finished, with fewer --processes where it happens again"
            ) from None
    return {key: ledger[key] for part in parts for key, _ in part}
