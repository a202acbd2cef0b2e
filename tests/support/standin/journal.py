"""What the stand-in computed, and when: a line of JSON for each event in the file ``STANDIN_VASP_JOURNAL``, if it is set.

``what`` is ``begun`` or ``computed``, of an ionic step (``folder``, ``geometry``: cell and Cartesian positions, angstrom),
and ``at`` the time (``time.time``).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

FILE = "STANDIN_VASP_JOURNAL"


@dataclass(frozen=True)
class Event:
    """One line."""

    what: str
    at: float
    folder: Path
    geometry: tuple[float, ...]


def note(what: str, folder: Path, structure: Structure) -> None:
    """Write a line; whole or not at all, whoever else writes."""
    if path := os.environ.get(FILE):
        numbers = [*structure.lattice.matrix.ravel(), *structure.cart_coords.ravel()]
        event = {"what": what, "at": time.time(), "folder": str(folder), "geometry": [round(x, 9) for x in numbers]}
        with Path(path).open("ab", buffering=0) as file:
            file.write(json.dumps(event).encode() + b"\n")


def read(path: Path) -> list[Event]:
    """All events, oldest first."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [Event(d["what"], d["at"], Path(d["folder"]), tuple(d["geometry"])) for d in lines]
