"""Reference phases, packaged or the user's, indexed by chemical system. One energy scheme a table; they never mix."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.hull import Phase, PhaseSystem

PACKAGED = "c2db-pbe.csv.gz"
SCHEME = "c2db-pbe"  # total energies on C2DB's scale: PBE of GPAW, no corrections, no +U
COLUMNS = ("source_id", "formula", "energy_per_atom", "kind")
KINDS = ("element", "bulk", "layer")
NAMED = 3  # entries left out that a message names
_SYMBOL = re.compile(r"[A-Z][a-z]?")  # of 31,000 formulas at each start: 0.1 s, with pymatgen's Composition 1.8 s


class LazyPhases(Mapping[str, tuple[Phase, ...]]):
    """Chemical system -> its phases, made when they are asked for.

    rows: chemical system -> (name, formula, eV/atom) of its phases.
    """

    def __init__(self, rows: Mapping[str, list[tuple[str, str, float]]]) -> None:
        self._rows = rows
        self._made: dict[str, tuple[Phase, ...]] = {}

    def __getitem__(self, system: str) -> tuple[Phase, ...]:
        if system not in self._made:
            self._made[system] = tuple(Phase.from_formula(*row) for row in self._rows[system])
        return self._made[system]

    def __contains__(self, system: object) -> bool:
        return system in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True)
class ReferenceTable:
    """Known phases and their energies.

    Parameters
    ----------
    scheme
        What the energies are, such as ``c2db-pbe``.
    surrogate
        Whether they come from a force field.
    sha256
        Of the file, so that a result can name the table it was judged by.
    header
        How the table was made.
    phases
        Chemical system -> elements, bulk phases and layers that compete, total energies in eV/atom.
    """

    scheme: str
    surrogate: bool
    sha256: str
    header: dict[str, Any]
    phases: Mapping[str, tuple[Phase, ...]]

    @classmethod
    def load(cls, path: str | Path | None = None) -> ReferenceTable:
        """The table of a file, the packaged one when no path is given.

        Computed entries of VASP are read by ``entries.load_references``.

        Raises
        ------
        ReferenceDataError
            If the file is missing or corrupt, or a table of another scheme than ``c2db-pbe``.
        """
        return _load(None if path is None else str(path))

    @property
    def elements(self) -> frozenset[str]:
        """Elements with a reference energy."""
        return frozenset(c for c in self.phases if "-" not in c)

    @property
    def titles(self) -> Mapping[str, str]:
        """Element -> TITEL of its PAW potential, where the entries say it."""
        return self.header.get("titles") or {}

    @property
    def parents(self) -> Mapping[str, str]:
        """Name of a layer -> name of the bulk crystal that it comes from, where the entries say it."""
        return self.header.get("parents") or {}

    def total_energy(self, fractions: Mapping[str, float], formation_energy: float) -> float:
        """Energy of a composition on the table's scale, eV/atom, from that relative to the elements.

        fractions: element -> atom fraction. ``ReferenceDataError`` where an element has no reference energy.
        """
        elemental = {e: min(p.energy_per_atom for p in self.entries([e])) for e in fractions}
        return formation_energy + sum(x * elemental[e] for e, x in fractions.items())

    def hull_energy(self, fractions: Mapping[str, float]) -> float:
        """Energy of the hull at a composition, eV/atom relative to the elements. fractions: element -> atom fraction.

        Raises
        ------
        ReferenceDataError
            If an element has no reference energy.
        """
        system = PhaseSystem(list(fractions), self.entries(list(fractions)))
        return system.decompose(system.target(fractions))[0]

    def entries(self, elements: list[str]) -> list[Phase]:
        """Phases of the chemical system and of all its subsystems.

        Raises
        ------
        ReferenceDataError
            If an element has no reference energy.
        """
        names = sorted(set(elements))
        missing = [e for e in names if e not in self.phases]
        if missing:
            left_out = self.header.get("left_out") or {}
            lost = [
                f"{name}: {reason}"
                for name, reason in left_out.items()
                if name.endswith(tuple(f"({e})" for e in missing))
            ]
            raise ReferenceDataError(
                f"no {self.scheme} reference energy for {', '.join(missing)}; a hull needs one for every element: "
                "exclude the element or supply a table that has it"
                + (f" (left out: {'; '.join(lost[:NAMED])})" if lost else "")
            )
        return [phase for system in subsystems(names, self.phases) for phase in self.phases.get(system, ())]


def subsystems(elements: Sequence[str], known: Collection[str]) -> list[str]:
    """The chemical systems among ``known`` that have no other elements, small ones first.

    elements: in alphabetical order. Of many elements the known systems are asked instead of the elements' subsets, as
    63 have 9e18 of these.
    """
    if 2 ** min(len(elements), 60) <= len(known):
        subsets = ("-".join(c) for n in range(1, len(elements) + 1) for c in combinations(elements, n))
        return [system for system in subsets if system in known]
    wanted = set(elements)
    inside = [parts for parts in (system.split("-") for system in known) if wanted.issuperset(parts)]
    return ["-".join(parts) for parts in sorted(inside, key=lambda parts: (len(parts), parts))]


@cache
def _load(path: str | None) -> ReferenceTable:
    source = files("scdm_flows.thermo").joinpath("data", PACKAGED) if path is None else Path(path)
    name = PACKAGED if path is None else path
    try:
        raw = source.read_bytes()
        lines = gzip.decompress(raw).decode().splitlines()
        header = json.loads(lines[0].removeprefix("# "))
        scheme, surrogate = str(header["scheme"]), bool(header["surrogate"])
        rows: dict[str, list[tuple[str, str, float]]] = {}
        if scheme == SCHEME:
            table = csv.reader(lines[1:])
            if tuple(next(table)) != COLUMNS:
                raise ValueError(f"its columns must be {', '.join(COLUMNS)}")
            for source_id, formula, energy, kind in table:
                if kind not in KINDS:
                    raise ValueError(f"kind {kind!r} of {source_id} must be one of {', '.join(KINDS)}")
                system = "-".join(sorted(set(_SYMBOL.findall(formula))))
                rows.setdefault(system, []).append((source_id, formula, float(energy)))
    except FileNotFoundError:
        raise ReferenceDataError(f"reference table {name} does not exist; make one with `scdm refs build`") from None
    except (OSError, EOFError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise ReferenceDataError(
            f"{name} is not a reference table ({error}); make it again with `scdm refs build`"
        ) from None
    if scheme != SCHEME:
        raise ReferenceDataError(
            f"{name} holds energies of scheme {scheme}, those of {SCHEME} are needed; make it again with "
            "`scdm refs build`"
        )
    return ReferenceTable(scheme, surrogate, hashlib.sha256(raw).hexdigest(), header, LazyPhases(rows))
