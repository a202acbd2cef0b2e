"""Where a relaxation goes on that an earlier attempt began: its last geometry, its wave functions if they are whole."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from monty.io import zopen
from monty.os.path import zpath

from scdm_flows.engines.attempts import Attempts
from scdm_flows.errors import EngineError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

logger = logging.getLogger(__name__)
STALLED = 3  # attempts in a row without a finished ionic step, after which a relaxation is given up; of those that had
FAIR_SECONDS = 600.0  # at least so long for it: a worker whose time is nearly over gives none its fair try
MOST = 3  # times the most ionic steps of one run, in all attempts together
SAME_C_ANGSTROM = 1e-3


@dataclass(frozen=True)
class Beginning:
    """Where a relaxation begins.

    structure: the layer; folder: of the attempt that left it, None where none did; steps: ionic steps that attempt
    finished.
    """

    structure: Structure
    folder: Path | None = None
    steps: int = 0


def beginning(
    structure: Structure,
    known: Attempts,
    most_steps: int,
    fair_seconds: float = FAIR_SECONDS,
    *,
    holds_c: bool = True,
) -> Beginning:
    """The last geometry of earlier attempts, else the structure itself.

    Parameters
    ----------
    structure
        The layer as it was given; sites in the order of the POSCAR, or to be sorted as pymatgen sorts them.
    known
        Earlier attempts.
    most_steps
        Of one run (NSW).
    fair_seconds
        An attempt without a finished step that took less time does not count.

    Raises
    ------
    EngineError
        If of the attempts that count the last ``STALLED`` finished no ionic step, or all of them together ``MOST``
        times ``most_steps``.
    """
    begun = [folder for folder in known.folders if Path(zpath(str(folder / "INCAR"))).exists()]
    steps = [ionic_steps(folder) for folder in begun]
    free = set(known.folders[: len(known.folders) - known.counted])
    counted = [
        done
        for folder, done in zip(begun, steps, strict=True)
        if folder not in free and (done or _seconds(folder) >= fair_seconds)
    ]
    if len(counted) >= STALLED and not any(counted[-STALLED:]):
        raise EngineError(
            f"the last {STALLED} of {len(steps)} attempts finished no ionic step, the last in {begun[-1]}; give a step "
            "more time (walltime of worker and queue, engine.walltime_s), more cores, or leave out so large a layer"
        )
    if sum(counted) >= MOST * most_steps:
        raise EngineError(
            f"the relaxation did not converge in {sum(counted)} ionic steps of {len(counted)} attempts, the last in "
            f"{begun[-1]}; raise max_relax_steps ({most_steps} in one run) if its energy still falls, or leave it out"
        )
    for folder, done in zip(reversed(begun), reversed(steps), strict=True):
        left = _left(structure, folder, holds_c) if done else None
        if left is not None:
            return Beginning(left, folder, done)
    return Beginning(structure)


def ionic_steps(folder: Path) -> int:
    """Ionic steps that a run has finished: lines of OSZICAR with a free energy."""
    try:
        with zopen(zpath(str(folder / "OSZICAR")), "rt", encoding="utf-8", errors="replace") as file:
            return sum(" F= " in str(line) for line in file)
    except OSError:
        return 0


def _seconds(folder: Path) -> float:
    """How long a run was at work: from its input to the last change of a file."""
    times = [path.stat().st_mtime for path in folder.iterdir()]
    return max(times) - min(times)


def _left(structure: Structure, folder: Path, holds_c: bool) -> Structure | None:
    """The geometry that a run left, with the site properties of the structure it began from; None where none is whole.

    VASP writes CONTCAR after each ionic step; a kill while it does leaves half of it, and custodian's handlers begin it
    anew from POSCAR.
    """
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.vasp.inputs import Poscar

    for name in ("CONTCAR", "POSCAR"):
        try:
            found = Poscar.from_file(zpath(str(folder / name)), check_for_potcar=False).structure
        except Exception as error:  # half a file can break its parser in ways nobody lists
            logger.info("%s of %s is not whole: %s", name, folder, error)
            continue
        for like in (structure, structure.get_sorted_structure()):
            moved = np.abs(found.lattice.matrix[2] - like.lattice.matrix[2]).max()
            if found.species != like.species or (holds_c and moved > SAME_C_ANGSTROM):
                continue
            matrix = np.array(found.lattice.matrix)
            if holds_c:
                matrix[2] = like.lattice.matrix[2]
            left = Structure(Lattice(matrix), like.species, found.frac_coords, site_properties=like.site_properties)
            left.properties = dict(like.properties)
            return left
    return None
