"""Fetches reference phases from the Materials Project into a file for ``engine.references``.

Needs the package mp-api (extra ``mp``), a key in ``MP_API_KEY`` and a network. Plain GGA entries are kept under
``entries``. Others (+U, r2SCAN) are of other schemes: they stand under ``left_out``, with their crystals, which ``scdm
refs compute`` takes. Of each composition the lowest phase keeps its crystal.

Chemical systems are asked for in batches, those that are in the file already are not, so an interrupted fetch goes on
where it was, and one file grows with the campaigns that need it. Several processes may add to it at once: each reads
it again before it writes, while the others wait.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from math import comb
from pathlib import Path
from typing import IO, Any

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.bulk_compounds import reduced_formula
from scdm_flows.thermo.entries import PLAIN_GGA, SCHEME, load_entries, read_document

logger = logging.getLogger(__name__)

KEY = "MP_API_KEY"
# hulls that hold GGA entries; the third of its thermo types is R2SCAN (emmet.core.types.enums.ThermoType). Materials
# computed since the second exists may be in that alone.
THERMO_TYPES = ["GGA_GGA+U", "GGA_GGA+U_R2SCAN"]
LARGEST = 4  # elements of a system that is asked for, where nobody says more
AT_ONCE = 50  # systems in one request: they stand in its address
WRITE_EVERY = 10  # requests
MOST_SYSTEMS = 20_000
Progress = Callable[[int, int], None]


def needed_systems(layers: Iterable[Sequence[str]], largest: int = LARGEST) -> list[str]:
    """The chemical systems whose phases compete with layers of these elements, small ones first.

    Parameters
    ----------
    layers
        Elements of each.
    largest
        Elements of the largest system.

    Raises
    ------
    ReferenceDataError
        If there are more than ``MOST_SYSTEMS``.
    """
    found: set[tuple[str, ...]] = set()
    for elements in {tuple(sorted(set(layer))) for layer in layers}:
        number = sum(comb(len(elements), size) for size in range(1, largest + 1))
        if number <= MOST_SYSTEMS:
            found.update(subset for size in range(1, largest + 1) for subset in combinations(elements, size))
        if max(number, len(found)) > MOST_SYSTEMS:
            raise ReferenceDataError(
                f"{max(number, len(found)):,} chemical systems of up to {largest} elements are more than the "
                f"{MOST_SYSTEMS:,} that are fetched into one file; name a campaign, so that only the systems of its "
                "candidates are asked for, or give --largest 2"
            )
    return ["-".join(system) for system in sorted(found, key=lambda system: (len(system), system))]


def fetch(systems: Sequence[str], out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Write the phases of chemical systems beside those that the file has; counts, and what was left out and why.

    Parameters
    ----------
    systems
        Such as ``Mo-S``; subsystems are not implied (``needed_systems``).
    out
        JSON file to write (may end in .gz); what it has is kept.
    progress
        Called with systems done and their number.

    Raises
    ------
    ReferenceDataError
        If mp-api or the key is missing, the Materials Project does not answer, or an element has no entry left; what
        was fetched until then is in the file.
    """
    key = os.environ.get(KEY)
    if not key:
        raise ReferenceDataError(f"{KEY} is not set; set it to your key of materialsproject.org/api")
    try:
        from mp_api.client import MPRester
    except ImportError:
        raise ReferenceDataError('mp-api is not installed; pip install "scdm-flows[mp]"') from None
    file = _File(out)
    wanted = [system for system in systems if system not in file.systems]
    report = progress or (lambda done, total: None)
    report(len(systems) - len(wanted), len(systems))
    try:
        with MPRester(key) as rester:
            for number, start in enumerate(range(0, len(wanted), AT_ONCE), 1):
                batch = wanted[start : start + AT_ONCE]
                found = rester.get_entries(
                    batch, compatible_only=False, additional_criteria={"thermo_types": THERMO_TYPES}
                )
                file.take(batch, found)
                if number % WRITE_EVERY == 0:
                    file.write()
                report(len(systems) - len(wanted) + min(number * AT_ONCE, len(wanted)), len(systems))
    except Exception as error:  # the client has no errors of its own
        text = str(error).replace(key, "***").splitlines() or [type(error).__name__]
        raise ReferenceDataError(
            f"the Materials Project did not answer ({text[0][:200]}); the same command goes on from there"
        ) from None
    finally:
        if wanted:
            file.write()
    alone = {str(e) for row in file.entries.values() for e in row["composition"] if len(row["composition"]) == 1}
    missing = sorted({e for system in systems for e in system.split("-")} - alone)
    if missing:
        raise ReferenceDataError(f"no plain GGA entry of {', '.join(missing)} was found; check the symbols")
    other = load_entries(out, SCHEME).header["left_out"]
    left_out = [f"{name} ({row['why']})" for name, row in file.left_out.items()]
    return {"entries": len(file.entries), "systems": len(file.systems), "left_out": left_out, "other_potentials": other}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A block in which no other process is that adds to the file; whoever comes meanwhile waits.

    The lock is a file beside, which goes at the end.
    """
    beside = path.with_name(f".{path.name}.lock")
    while True:
        with beside.open("w") as handle:
            with suppress(OSError):  # there are file systems that know no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is(handle, beside):
                continue  # whoever had it took it away in this moment
            try:
                yield
            finally:
                beside.unlink(missing_ok=True)
            return


def _is(handle: IO[str], path: Path) -> bool:
    """Whether an open file is still what its path names."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


class _File:
    """What was fetched: systems, entries and what is left out, by entry id; of the file and of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new: tuple[dict[str, None], dict[str, Any], dict[str, Any]] = {}, {}, {}
        self._read()

    def _read(self) -> None:
        """Read the file, and add what this process has fetched."""
        path = self.path
        self.document = read_document(path) if path.exists() else {}
        said = self.document.get("scheme", SCHEME if not self.document else None)
        if said != SCHEME or (self.document and "systems" not in self.document):
            raise ReferenceDataError(
                f"{path} is no file that `scdm refs fetch` made, so nothing is added to it; give another name"
            )
        systems, entries, left_out = self._new
        self.systems = dict.fromkeys(self.document.get("systems") or []) | systems
        self.entries = {str(row["entry_id"]): row for row in self.document.get("entries") or []} | entries
        self.left_out = {str(row["entry_id"]): row for row in self.document.get("left_out") or []} | left_out

    def take(self, systems: Iterable[str], found: Iterable[Any]) -> None:
        """Add the entries of some systems."""
        new_systems, entries, left_out = self._new
        for entry in sorted(found, key=lambda entry: str(entry.entry_id)):
            run_type = entry.parameters.get("run_type")
            run_type = str(getattr(run_type, "value", run_type))
            row = entry.as_dict()
            if run_type in PLAIN_GGA and not entry.parameters.get("is_hubbard"):
                entries[str(entry.entry_id)] = row
            else:
                left_out[str(entry.entry_id)] = row | {"why": f"{entry.composition.reduced_formula}, {run_type}"}
        new_systems.update(dict.fromkeys(systems))

    def write(self) -> None:
        """Replace the file, if anything was fetched, by what it has by now and that."""
        if not self._new[0]:
            return
        with locked(self.path):
            self._read()
            self._replace()

    def _replace(self) -> None:
        for rows in (self.entries, self.left_out):
            _keep_lowest_crystals(list(rows.values()))
        document = {
            **self.document,
            "scheme": SCHEME,
            "source": "Materials Project",
            "thermo_types": THERMO_TYPES,
            "systems": list(self.systems),
            "entries": list(self.entries.values()),
            "left_out": list(self.left_out.values()),
        }
        text = (json.dumps(document) + "\n").encode()
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        try:
            temporary.write_bytes(gzip.compress(text, 6) if self.path.name.endswith(".gz") else text)
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)


def _keep_lowest_crystals(rows: Sequence[dict[str, Any]]) -> None:
    """Take the crystals out of all entries but the lowest of each composition, which makes files ten times smaller."""
    lowest: dict[str, tuple[float, dict[str, Any]]] = {}
    for row in rows:
        if not row.get("structure"):
            continue
        formula = reduced_formula("".join(f"{e}{n:g}" for e, n in row["composition"].items()))
        energy = float(row["energy"]) / sum(row["composition"].values())
        if formula in lowest and lowest[formula][0] <= energy:
            row.pop("structure")
            continue
        if formula in lowest:
            lowest[formula][1].pop("structure")
        lowest[formula] = energy, row
