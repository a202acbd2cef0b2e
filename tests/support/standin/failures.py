"""Fails on command as VASP does.

``STANDIN_VASP_FAIL="MODE:TIMES@WORD@WORD, ..."``: the first TIMES runs (1 where not said) that match every WORD fail by
MODE; a word is the kind of the run (relax, static, uniform, line) or its reduced formula. Files in the folder
``STANDIN_VASP_STATE`` (else the folder of the run) count, so that any number of processes may.

========================  ============================================================================================
``unconverged_scf``       all NELM electronic steps are used, and the energy is off by 0.1 eV
``unconverged_ionic``     all NSW ionic steps are used
``killed``                SIGKILL after the first ionic step
``truncated``             vasprun.xml ends in the middle; the exit status is 0
``walltime``              slow (``STANDIN_VASP_STEP_SECONDS``, 0.5, an ionic step) until STOPCAR asks it to stop;
                          SIGKILL after ``STANDIN_VASP_WALLTIME`` (60) seconds, as a queue does
``slow``                  the same, but it converges
``disk_full``             "No space left on device" after the first ionic step, half a vasprun.xml, exit status 38
``zbrent``, ``brmix``     VASP's messages of that name after the first ionic step
========================  ============================================================================================
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NoReturn

MODES = (
    *("unconverged_scf", "unconverged_ionic", "killed", "truncated", "walltime", "disk_full"),
    *("slow", "zbrent", "brmix"),
)
MESSAGES = {
    "zbrent": "ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR\n"
    "     to POSCAR and continue",
    "brmix": "BRMIX: very serious problems\n the old and the new charge density differ",
    "disk_full": "forrtl: No space left on device\nforrtl: severe (38): error during write, unit 12, file vasprun.xml",
}


def claim(kind: str, formula: str) -> str | None:
    """The failure that this run has to suffer, counted; None for none."""
    state = Path(os.environ.get("STANDIN_VASP_STATE", "."))
    for order in filter(None, os.environ.get("STANDIN_VASP_FAIL", "").replace(" ", "").split(",")):
        head, *words = order.split("@")
        mode, _, times = head.partition(":")
        if mode not in MODES:
            raise ValueError(f"STANDIN_VASP_FAIL={order!r}: the modes are {', '.join(MODES)}")
        if not {*words} <= {kind, formula}:
            continue
        for number in range(int(times or 1)):
            try:
                (state / f"standin.{order.replace(':', '-')}.{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return mode
    return None


def after_first_step(mode: str | None, vasprun: Path) -> None:
    """Ends the run where its failure strikes in the middle."""
    if mode == "killed":
        kill()
    if mode == "disk_full":
        cut(vasprun)
    if mode in MESSAGES:
        print(MESSAGES[mode], flush=True)
        raise SystemExit(38 if mode == "disk_full" else 1)


def stop_requested(folder: Path, kind: str) -> bool:
    """Whether STOPCAR asks to stop: LSTOP after this ionic step, which a single point ends with anyhow, or LABORT."""
    stop = folder / "STOPCAR"
    if not stop.is_file() or (kind != "relax" and "LABORT" not in stop.read_text()):
        return False
    stop.unlink()
    return True


class Slow:
    """A run that takes longer than the queue gives it, unless STOPCAR ends it before."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.pause = float(os.environ.get("STANDIN_VASP_STEP_SECONDS", "0.5"))
        self.killed_at = time.monotonic() + float(os.environ.get("STANDIN_VASP_WALLTIME", "60"))

    def stopped(self) -> bool:
        """Whether STOPCAR asks to stop after this ionic step; a single point lasts until it does."""
        while True:
            if stop_requested(self.folder, self.kind):
                return True
            if time.monotonic() > self.killed_at:
                kill()
            if self.kind == "relax":
                return False
            time.sleep(self.pause)


def cut(vasprun: Path) -> None:
    """Takes the second half of a file away."""
    os.truncate(vasprun, vasprun.stat().st_size // 2)


def kill() -> NoReturn:
    """Dies as under ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived SIGKILL")
