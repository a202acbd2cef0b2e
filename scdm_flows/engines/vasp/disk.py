"""What VASP runs leave on a disk, and for how long.

What people and parsers read of a run stays. Of the large files these stay, unless ``engine.keep_files`` says more:

WAVECAR  of a relaxation between its attempts, as the next one begins with it; gone when the relaxation has ended
CHGCAR   of the static run until the candidate's bands are done, or its gate leaves them out

LOCPOT of the static run is read when it ends, and gone then.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from monty.io import zopen
from monty.os.path import zpath

LARGE = ("WAVECAR", "CHGCAR", "CHG", "LOCPOT")
ENDED_WELL = "General timing and accounting"  # what OUTCAR says where VASP ended by itself
CONVERGED = "reached required accuracy - stopping structural energy minimisation"  # what it says before that
LAST_WORDS = 20_000  # bytes of OUTCAR that are looked at for it


def needed(incar: Mapping[str, Any]) -> set[str]:
    """Large files of an ended run that a later one reads: those that a run at fixed positions was told to write."""
    tags = {"WAVECAR": "LWAVE", "CHGCAR": "LCHARG"}
    return set() if incar.get("NSW", 0) > 0 else {name for name, tag in tags.items() if incar.get(tag)}


def tidy(folder: Path, stay: Collection[str] = ()) -> None:
    """Remove a run's large files, packed or not, but for those that stay; nothing in a folder that is not here."""
    for name in LARGE:
        for path in (folder / name, folder / f"{name}.gz"):
            if name not in stay:
                with suppress(OSError):
                    path.unlink()


def local_folder(named: str | Path) -> Path:
    """The folder that atomate2 names as host:path, whatever the host."""
    text = str(named)
    return Path(text.partition(":")[2] or text)


def take_wave_functions(folder: Path, into: Path) -> bool:
    """Copy WAVECAR where the earlier run ended by itself, as one that was cut off would stop VASP; whether it did."""
    source = Path(zpath(str(folder / "WAVECAR")))
    if not source.is_file() or not source.stat().st_size or not _ended_well(folder):
        return False
    with zopen(source, "rb") as packed, (into / "WAVECAR").open("wb") as file:
        shutil.copyfileobj(packed, file)
    return True


def converged_by_itself(folder: Path) -> bool:
    """Whether VASP ended a relaxation because its forces were small enough, whatever else it was told."""
    try:
        with zopen(zpath(str(folder / "OUTCAR")), "rt", encoding="utf-8", errors="replace") as file:
            return any(CONVERGED in str(line) for line in file)
    except OSError:
        return False


def _ended_well(folder: Path) -> bool:
    try:
        with zopen(zpath(str(folder / "OUTCAR")), "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LAST_WORDS))
            return ENDED_WELL in bytes(file.read()).decode(errors="replace")
    except OSError:
        return False
