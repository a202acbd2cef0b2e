"""Reference phases, packaged or the user's, indexed by chemical system. One energy scheme a table; they never mix."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from scdm_flows.thermo.hull import Phase
from scdm_flows.errors import ReferenceDataError

PACKAGED = "chgnet-0.3.0.csv.gz"


@dataclass(frozen=True)
class ReferenceTable:
    """Known phases and their energies.

    Parameters
    ----------
    scheme
        What the energies are, such as ``chgnet-0.3.0``.
    surrogate
        Whether they come from a force field.
    sha256
        Of the file, so that a result can name the table it was judged by.
    header
        How the table was made.
    phases
        Chemical system -> bulk phases and elements, the candidates for the hull.
    layers
        Chemical system -> known layers (never part of the hull; for comparison).
    """

    scheme: str
    surrogate: bool
    sha256: str
    header: dict[str, Any]
    phases: dict[str, tuple[Phase, ...]]
    layers: dict[str, tuple[Phase, ...]]

    @classmethod
    def load(cls, path: str | Path | None = None) -> ReferenceTable:
        """The table of a file, the packaged one when no path is given; ``ReferenceDataError`` if missing or corrupt.

        A JSON file (``.json``, ``.json.gz``) holds computed entries of VASP, see ``entries``.
        """
        if path is not None and Path(path).name.endswith((".json", ".json.gz")):
            from scdm_flows.thermo.entries import load_entries

            return load_entries(path)
        return _load(None if path is None else str(path))

    @property
    def elements(self) -> frozenset[str]:
        """Elements with a reference energy."""
        return frozenset(c for c in self.phases if "-" not in c)

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
            raise ReferenceDataError(
                f"no {self.scheme} reference energy for {', '.join(missing)}; a hull needs one for every element: "
                "exclude the element or supply a table that has it"
            )
        found: list[Phase] = []
        for size in range(1, len(names) + 1):
            for subset in combinations(names, size):
                found += self.phases.get("-".join(subset), ())
        return found


@cache
def _load(path: str | None) -> ReferenceTable:
    source = files("scdm_flows.thermo").joinpath("data", PACKAGED) if path is None else Path(path)
    name = PACKAGED if path is None else path
    try:
        raw = source.read_bytes()
        lines = gzip.decompress(raw).decode().splitlines()
        header = json.loads(lines[0].removeprefix("# "))
        phases: dict[str, list[Phase]] = {}
        layers: dict[str, list[Phase]] = {}
        for row in csv.DictReader(lines[1:]):
            phase = Phase.from_formula(row["source_id"], row["formula"], float(row["energy_per_atom"]))
            target = layers if row["kind"] == "layer" else phases
            target.setdefault("-".join(sorted(phase.fractions)), []).append(phase)
        scheme, surrogate = str(header["scheme"]), bool(header["surrogate"])
    except FileNotFoundError:
        raise ReferenceDataError(f"reference table {name} does not exist; make one with `scdm refs build`") from None
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ReferenceDataError(
            f"{name} is not a reference table ({error}); make it again with `scdm refs build`"
        ) from None
    frozen = tuple({k: tuple(v) for k, v in d.items()} for d in (phases, layers))
    return ReferenceTable(scheme, surrogate, hashlib.sha256(raw).hexdigest(), header, frozen[0], frozen[1])
