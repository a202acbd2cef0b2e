"""Starts GPAW as a process, waits for it, and says in words what went wrong. Light: loads no atomate2.

GPAW may live in another environment than this package: ``SCDM_GPAW_PYTHON`` names its interpreter. A run that is told
to stop (Ctrl-C, a worker's end, a wall time) takes GPAW with it; GPAW ends by itself where its parent was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from scdm_flows.config.settings import get_settings
from scdm_flows.errors import EngineError, ProgramKilled, Unfinished

RUNNER = Path(__file__).with_name("runner.py")  # executed, never imported
INPUT, OUTPUT, LOG = "input.json", "output.json", "runner.log"
TESTED_VERSION = "25.7.0"
STOP_SECONDS = 10.0  # between being asked and being made to stop
DESCRIBE_SECONDS = 120.0
INSTALL = f"pip install gpaw=={TESTED_VERSION} here or into another environment, and name that by SCDM_GPAW_PYTHON"
COMPILER = "it is compiled there: apt-get install gcc python3-dev (on macOS: xcode-select --install) first"


def interpreter() -> str:
    """The Python that has GPAW."""
    return str(get_settings().gpaw_python or sys.executable)


def run(task: Mapping[str, Any], folder: Path, *, walltime: float | None = None) -> dict[str, Any]:
    """What the runner answers; see ``runner.py`` for both mappings.

    Parameters
    ----------
    task
        Its input.
    folder
        Where it works and leaves its files.
    walltime
        Seconds after which it is stopped; no limit when None.

    Raises
    ------
    EngineError
        If it could not be started or could not do the task; ``Unfinished`` if it was stopped and has got further (its
        history), ``ProgramKilled`` if it ended in the middle.
    """
    history = folder / str(task.get("history", ""))
    before = _lines(history)
    (folder / OUTPUT).unlink(missing_ok=True)
    (folder / INPUT).write_text(json.dumps(task))
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment.setdefault("OMP_NUM_THREADS", "1")
    command = [interpreter(), "-P", str(RUNNER), INPUT, OUTPUT]
    with (folder / LOG).open("ab") as log:
        try:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        except OSError as error:
            raise EngineError(f"SCDM_GPAW_PYTHON={command[0]} cannot be started ({error}); {INSTALL}") from None
        try:
            code = process.wait(walltime)
        except subprocess.TimeoutExpired:
            further = _lines(history) > before
            raise (Unfinished if further else EngineError)(
                f"GPAW was stopped after {walltime:g} s (engine.walltime_s); a relaxation that is run again goes on "
                f"from its last geometry; the run is in {folder}"
            ) from None
        finally:
            _stop(process)
    return _answer(task, folder, code)


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.is_file() else 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answer(task: Mapping[str, Any], folder: Path, code: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / OUTPUT).read_text())
    except (OSError, ValueError):
        words = _last_words(folder / LOG)
        killed = f"it was ended by signal {-code} (memory, or somebody)" if code < 0 else f"exit code {code}"
        raise ProgramKilled(
            f"GPAW ended in the middle: {killed}"
            + (f"; its last words: {words!r}" if words else "")
            + f"; a relaxation that is run again goes on from its last geometry; the run is in {folder}"
        ) from None
    if "error" in found and found["error"] != "missing":
        raise EngineError(f"{in_words(found, task)}; the run is in {folder}")
    if "error" in found:
        raise EngineError(in_words(found, task))
    return found


def in_words(found: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """Why the runner could not do a task, with the remedy. found: its answer, with ``error`` and ``message``."""
    message = " ".join(str(found["message"]).split())[:400]
    match found["error"]:
        case "missing":
            return f"{interpreter()} has no GPAW ({message}); {INSTALL}"
        case "setup":
            return f"GPAW has no PBE setup of an element ({message}); leave the element out (generator.elements)"
        case "relaxation":
            return f"{message} did not relax in {task.get('steps', 0)} steps (max_relax_steps)"
        case "scf":
            steps = task.get("max_scf_steps", 0)
            again = "" if task.get("once") else f", nor in {2 * steps} with softer mixing"
            remedy = "(max_scf_steps); other initial_moments may help"
            return f"the electrons did not converge in {steps} steps{again} {remedy}"
    return f"GPAW failed: {message}"


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if any(c.isalpha() for c in line)), "")


def describe() -> dict[str, Any]:
    """``version`` of GPAW and the ``elements`` that it has setups of; ``EngineError`` where there is no GPAW."""
    found = _described(interpreter())
    if isinstance(found, str):
        raise EngineError(found)
    return found


@cache
def _described(python: str) -> dict[str, Any] | str:
    """The same for one interpreter, or why not; asked once, as it takes a second. python: ``interpreter()``."""
    with tempfile.TemporaryDirectory(prefix="scdm-gpaw-") as folder:
        try:
            return run({"task": "describe"}, Path(folder), walltime=DESCRIBE_SECONDS)
        except EngineError as error:
            words = str(error).partition("; a relaxation that is run again")[0]
            return words if INSTALL in words else f"{python} has no GPAW ({words}); {INSTALL}"


def problem() -> str | None:
    """Why GPAW cannot be run here, with the remedy; None where it can."""
    try:
        describe()
    except EngineError as error:
        compiles = shutil.which("cc") or shutil.which("gcc")
        return str(error) if compiles else f"{error}; {COMPILER}"
    return None
