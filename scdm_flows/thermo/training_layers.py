"""The layers that an energy model learns from: as DFT gives them, and as a force field relaxed them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_flows.errors import ReferenceDataError, ScdmError
from scdm_flows.thermo.energy_model import Seen
from scdm_flows.thermo.sources import read_lines
from scdm_models.datasets.matching import LayerMatcher
from scdm_models.symmetry.lattice import is_one_layer

Array = NDArray[np.float64]
SAME_AREA = 0.1  # relative change of the cell's area beyond which a relaxed layer is another one
LEAST = 100  # layers without which a model says nothing
ELEMENTS = "mp_elemental_refs.json.gz"
VERDICTS = {"high": 1.0, "low": 0.0}  # C2DB's dyn_stab_phonons
SOURCES = {"c2db": "c2db.jsonl.gz", "2dmatpedia": "2dmatpedia.jsonl.gz"}


def elemental_energies(data_dir: Path) -> dict[str, float]:
    """Energy of each element's ground state, eV/atom, as the Materials Project computed it.

    Force fields trained on its energies are near them; what remains is linear in the composition, which is learned.
    """
    with gzip.open(data_dir / ELEMENTS, "rt") as handle:
        return {symbol: float(entry["energy_per_atom"]) for symbol, entry in json.load(handle).items()}


def has_energy(source: str, record: Mapping[str, Any]) -> bool:
    """Whether a record of a source can be compared with."""
    return record.get("e_hull" if source == "c2db" else "decomposition_energy") is not None


def cell_area(lattice: Any) -> float:
    """Of the plane of the first two of (3, 3) lattice vectors, angstrom^2."""
    return float(np.linalg.norm(np.cross(*np.array(lattice)[:2])))


def records_of(data_dir: Path) -> list[dict[str, Any]]:
    """Records of C2DB, and of 2DMatPedia in chemical systems that C2DB has not, with an energy each."""
    found = [r | {"of": "c2db"} for r in read_lines(data_dir / SOURCES["c2db"]) if has_energy("c2db", r)]
    systems, elements = {system_of(r) for r in found}, {e for r in found for e in r["species"]}
    for record in read_lines(data_dir / SOURCES["2dmatpedia"]):
        new = system_of(record) not in systems and set(record["species"]) <= elements
        if new and has_energy("2dmatpedia", record):
            found.append(record | {"of": "2dmatpedia"})
    return found


def system_of(record: Mapping[str, Any]) -> str:
    """The chemical system of a record."""
    return "-".join(sorted(set(record["species"])))


def in_other_half(system: str) -> bool:
    """Whether a chemical system is in the half of the judge and not in that of the guide; a hash decides."""
    return bool(hashlib.sha256(system.encode()).digest()[0] % 2)


@dataclass(frozen=True)
class Measured:
    """Layers as the force fields see them, and what DFT says.

    ids, compositions, systems: (n,); seen, given: for each force field (n,) what it says of the relaxed layer and of
    the layer as the source gives it; area_change: (n,) of the cell by the relaxation, relative;
    same_layer: (n,) one connected layer in the end, its area changed by less than ``SAME_AREA``; formation,
    e_above_hull: (n,) DFT's, eV/atom (formation is NaN where the source does not say it); stable: (n,) 1 where DFT's
    phonons are, 0 where not, NaN where the source does not say; band_gap: (n,) by PBE without spin-orbit, eV, 0 for a
    metal; magnetic: (n,) 1 where PBE gives magnetic moments, 0 where not, NaN where the source does not say;
    direct: (n,) 1 where the gap is direct, 0 where it is indirect, NaN where there is none or it is not known;
    left_out: id -> why it has no value.
    """

    ids: list[str]
    compositions: list[dict[str, float]]
    systems: list[str]
    seen: list[list[Seen]]
    given: list[list[Seen]]
    area_change: Array
    same_layer: NDArray[np.bool_]
    formation: Array
    e_above_hull: Array
    stable: Array
    band_gap: Array
    magnetic: Array
    direct: Array
    left_out: dict[str, str]

    def half(self, other: bool) -> Measured:
        """The layers of one half of the chemical systems, or of the other (``in_other_half``)."""
        rows = np.flatnonzero([in_other_half(system) is other for system in self.systems])

        def some(values: Sequence[Any]) -> list[Any]:
            return [values[int(k)] for k in rows]

        return Measured(
            some(self.ids),
            some(self.compositions),
            some(self.systems),
            [some(own) for own in self.seen],
            [some(own) for own in self.given],
            self.area_change[rows],
            self.same_layer[rows],
            self.formation[rows],
            self.e_above_hull[rows],
            self.stable[rows],
            self.band_gap[rows],
            self.magnetic[rows],
            self.direct[rows],
            self.left_out,
        )


def measured(data_dir: Path, known: Mapping[str, Mapping[str, Any]], force_fields: Sequence[str], of: str) -> Measured:
    """The layers of a source (``c2db``, ``2dmatpedia``) out of what ``relax_known`` found.

    Raises
    ------
    ReferenceDataError
        If fewer than 100 layers have both energies.
    """
    none = np.zeros(0)
    seen: list[list[Seen]] = [[] for _ in force_fields]
    given: list[list[Seen]] = [[] for _ in force_fields]
    found = Measured([], [], [], seen, given, none, none.astype(bool), none, none, none, none, none, none, {})
    formation, hull, stable, gap, magnetic, change, same = [], [], [], [], [], [], []
    kept = []
    for record in records_of(data_dir):
        if record["of"] != of:
            continue
        row = known.get(record["id"]) or {}
        if not all(row.get(key) and set(force_fields) <= set(row[key]) for key in ("seen", "given")):
            found.left_out[record["id"]] = str(row.get("error") or "not relaxed")
            continue
        species = record["species"]
        kept.append(record)
        found.ids.append(record["id"])
        found.compositions.append({e: species.count(e) / len(species) for e in sorted(set(species))})
        found.systems.append(system_of(record))
        for key, said in (("seen", found.seen), ("given", found.given)):
            for own, name in zip(said, force_fields, strict=True):
                energy, features = row[key][name]
                own.append(Seen(energy, np.array(features)))
        change.append(cell_area(row["lattice"]) / cell_area(record["lattice"]) - 1)
        relaxed = Structure(Lattice(row["lattice"]), row["species"], row["frac_coords"])
        same.append(abs(change[-1]) < SAME_AREA and is_one_layer(relaxed))
        formation.append(record.get("formation_energy_per_atom") if of == "c2db" else np.nan)
        stable.append(VERDICTS.get(record.get("dyn_stab_phonons", ""), np.nan))
        gap.append(np.nan if record.get("band_gap") is None else record["band_gap"])
        magnetic.append(np.nan if record.get("magstate") is None else record["magstate"] != "NM")
        hull.append(record["e_hull"] if of == "c2db" else record["decomposition_energy"])
    if len(found.ids) < LEAST:
        raise ReferenceDataError(
            f"{len(found.ids)} layers of {of} in {data_dir} have both energies; an energy model needs at least {LEAST}"
        )
    return replace(
        found,
        area_change=np.array(change),
        same_layer=np.array(same),
        formation=np.array(formation, dtype=float),
        e_above_hull=np.array(hull, dtype=float),
        stable=np.array(stable, dtype=float),
        band_gap=np.array(gap, dtype=float),
        magnetic=np.array(magnetic, dtype=float),
        direct=direct_gaps(kept, list(read_lines(data_dir / SOURCES["2dmatpedia"]))),
    )


def direct_gaps(records: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> Array:
    """(n,) 1 where PBE's gap is direct, 0 where it is indirect, NaN where there is none or it is not known.

    C2DB's table does not say it: ``others``, of 2DMatPedia, do, and a layer of theirs that equals the record's by
    ``LayerMatcher`` speaks for it.
    """
    by_formula: dict[str, list[Mapping[str, Any]]] = {}
    for other in others:
        if other["band_gap"] > 0 and other.get("gap_direct") is not None:
            by_formula.setdefault(other["formula"], []).append(other)
    matcher, found = LayerMatcher(), np.full(len(records), np.nan)
    for k, record in enumerate(records):
        if not record.get("band_gap"):
            continue
        for other in by_formula.get(record["formula"], ()):
            if other["id"] == record["id"] or _same(matcher, record, other):
                found[k] = float(other["gap_direct"])
                break
    return found


def _same(matcher: LayerMatcher, *records: Mapping[str, Any]) -> bool:
    first, second = (Structure(Lattice(r["lattice"]), r["species"], r["frac_coords"]) for r in records)
    try:
        return matcher.fit(first, second)
    except ScdmError:  # one of them is no layer
        return False
