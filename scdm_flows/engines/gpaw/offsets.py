"""Measures what a preset's cut-off does to the energy of each element: ``scdm refs offsets``.

A one-atom fcc crystal whose neighbours touch (covalent radii of ASE, Cordero et al., doi:10.1039/b801115j), at the
preset's cut-off and at C2DB's 800 eV. The difference belongs to the atom's core and hardly to its surroundings.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scdm_flows.config import GpawEngineConfig
from scdm_flows.engines.gpaw import process
from scdm_flows.engines.gpaw.inputs import CONVERGENCE
from scdm_flows.engines.gpaw.presets import FULL_CUTOFF_EV, HARD_ELEMENTS, PRESETS
from scdm_flows.errors import ReferenceDataError
from scdm_models.errors import ScdmError

KPOINT_DENSITY = 3.0  # per 1/angstrom: cut-off and k-points hardly know of each other
SMEARING_EV = 0.1
SHORTEST_ANGSTROM = 1.0  # half of the cubic cell's edge: that of H would have fewer plane waves than GPAW can do with


def crystal_task(element: str, cutoff: float) -> dict[str, Any]:
    """The runner's input for an element's fcc crystal at ``cutoff`` (eV), and at C2DB's as ``extra``."""
    from ase.data import atomic_numbers, covalent_radii

    number = atomic_numbers[element]
    half = max(SHORTEST_ANGSTROM, np.sqrt(2.0) * float(covalent_radii[number]))  # of the cubic cell's edge
    return {
        "task": "static",
        "numbers": [number],
        "positions": [[0.0, 0.0, 0.0]],
        "cell": [[0.0, half, half], [half, 0.0, half], [half, half, 0.0]],
        "periodic": [True, True, True],
        "moments": None,
        "cutoff": cutoff,
        "kpoint_density": KPOINT_DENSITY,
        "smearing": SMEARING_EV,
        "convergence": CONVERGENCE,
        "max_scf_steps": GpawEngineConfig().max_scf_steps,
        "dipole": False,
        "extra": [[FULL_CUTOFF_EV, KPOINT_DENSITY]],
    }


def measure(
    elements: Sequence[str],
    path: Path,
    preset: str = "fast",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Add the offsets of elements to a file such as the packaged one; what it has is not computed again.

    Parameters
    ----------
    elements
        Symbols; N, O and F need no offset and are left out.
    path
        JSON; written anew after each element, made where it does not exist.
    preset
        Whose cut-off is measured.
    progress
        Called with (done, total).

    Returns
    -------
    dict
        Element -> why it has no offset.

    Raises
    ------
    ReferenceDataError
        If the file is there and is not one of offsets.
    """
    table = _read(path)
    mine = table["offsets"].setdefault(preset, {})
    wanted = [e for e in dict.fromkeys(elements) if e not in mine and e not in HARD_ELEMENTS]
    failed: dict[str, str] = {}
    for number, element in enumerate(wanted):
        if progress is not None:
            progress(number, len(wanted))
        try:
            with tempfile.TemporaryDirectory(prefix="scdm-gpaw-") as folder:
                found = process.run(crystal_task(element, PRESETS[preset].cutoff_ev), Path(folder))
        except ScdmError as error:  # no setup, no convergence: the others are still wanted
            failed[element] = str(error).partition("; the run is in ")[0]
            continue
        mine[element] = round(found["energy"] - found["extra"][0], 5)
        table["gpaw"], table["scdm-flows"] = found["version"], version("scdm-flows")
        table["offsets"][preset] = mine = dict(sorted(mine.items()))
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(table, indent=1) + "\n")
        part.replace(path)
    return failed


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {
            "what": "E(cut-off of the preset) - E(800 eV) of an element's one-atom fcc crystal, eV/atom",
            "command": "scdm refs offsets ELEMENTS -o FILE",
            "offsets": {},
        }
    try:
        table: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        table = None
    if not isinstance(table, dict) or not isinstance(table.get("offsets"), dict):
        raise ReferenceDataError(f"{path} is no file of offsets; give another name, or take it away")
    return table
