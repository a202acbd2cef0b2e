"""Reads the published data that the reference table is made of. No energies are changed here.

``mp_compositions_ef_ed.csv.gz``: the Materials Project's ground states of 85,014 compositions (Bartel et al. 2020,
doi:10.1038/s41524-020-00362-y); ``c2db.jsonl.gz``: layers with total energy, formation energy and energy above hull
(Gjerding et al. 2021, doi:10.1088/2053-1583/ac1059).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.scales import HullEnergy, system_name

PHASES, LAYERS = "mp_compositions_ef_ed.csv.gz", "c2db.jsonl.gz"
# eV/atom above the published hull: phases further up are left out, as no conversion brings them down that far
PUBLISHED_WINDOW = 0.1
DIGITS = 5  # of an atom fraction that tell compositions apart


@dataclass(frozen=True)
class Layer:
    """A layer of C2DB; formula with all counts, energies in eV/atom."""

    id: str
    formula: str
    fractions: Mapping[str, float]
    energy_per_atom: float
    formation_energy_per_atom: float
    e_hull: float

    @property
    def system(self) -> str:
        """Chemical system, such as Mo-S."""
        return system_name(self.fractions)


def open_text(path: Path) -> Any:
    """The text of a gzipped file, line by line; ``ReferenceDataError`` where there is none."""
    if not path.is_file():
        raise ReferenceDataError(f"{path} does not exist; give the folder that holds the published data")
    return gzip.open(path, "rt")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of gzipped JSON lines; ``ReferenceDataError`` where there is no such file."""
    with open_text(path) as handle:
        for line in handle:
            yield json.loads(line)


def key(fractions: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """What two phases of one composition have in common."""
    return tuple(sorted((e, round(x, DIGITS)) for e, x in fractions.items()))


def published_phases(data_dir: Path, elements: set[str]) -> list[Phase]:
    """Phases made of ``elements`` alone, named by their formula, formation energies as published (eV/atom)."""
    found = []
    with open_text(data_dir / PHASES) as handle:
        for row in csv.DictReader(handle):
            if float(row["decomposition_energy_ev_per_atom"]) > PUBLISHED_WINDOW:
                continue
            phase = Phase.from_formula(row["formula"], row["formula"], float(row["formation_energy_ev_per_atom"]))
            if elements.issuperset(phase.fractions):
                found.append(phase)
    return found


def c2db_layers(data_dir: Path) -> list[Layer]:
    """C2DB's layers that have a place on its hull."""
    found = []
    for row in read_lines(data_dir / LAYERS):
        if row.get("e_hull") is None:
            continue
        counts = Counter(row["species"])
        found.append(
            Layer(
                id=row["id"],
                formula="".join(f"{e}{n}" for e, n in sorted(counts.items())),
                fractions={e: n / len(row["species"]) for e, n in sorted(counts.items())},
                energy_per_atom=row["energy_per_atom"],
                formation_energy_per_atom=row["formation_energy_per_atom"],
                e_hull=row["e_hull"],
            )
        )
    return found


def hull_energies(layers: Sequence[Layer]) -> list[HullEnergy]:
    """C2DB's hull at each of the layers' compositions: formation energy minus energy above hull, their median."""
    found: dict[tuple[tuple[str, float], ...], list[Layer]] = defaultdict(list)
    for layer in layers:
        found[key(layer.fractions)].append(layer)
    return [
        HullEnergy(
            rows[0].fractions, float(np.median([r.formation_energy_per_atom - r.e_hull for r in rows])), len(rows)
        )
        for rows in found.values()
    ]
