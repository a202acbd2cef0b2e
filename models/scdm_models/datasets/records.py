"""The records that readers and curation return, and the files of a curated set and of what was dropped."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from scdm_models.errors import DatasetError
from scdm_models.symmetry.encoding import LayerCrystal, decode


@dataclass(frozen=True)
class LayerRecord:
    """One entry of a source: its id, the source's name, the structure as given, other columns."""

    id: str
    source: str
    structure: Structure
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """An entry that was left out, and why. ``rule`` is a short name to count by, ``reason`` the sentence."""

    id: str
    source: str
    rule: str
    reason: str


@dataclass(frozen=True)
class CuratedLayer:
    """One layer of the curated set.

    Parameters
    ----------
    id, source
        Of the entry that was kept.
    merged
        Ids of the entries found equal to it.
    crystal
        Asymmetric unit after symmetrisation; its layer group is moyopy's at ``symprec``.
    symprec
        Tolerance of the symmetrisation, angstrom.
    max_displacement
        Largest distance an atom moved in becoming symmetric, angstrom.
    layer_group_fine
        Layer group at symprec 0.01 angstrom of the entry as given, by moyopy (None where detection failed).
    layer_group_spglib
        Layer group of the entry by the second tool at ``symprec``.
    space_group, space_group_spglib
        Space group of the symmetrised three-periodic cell by moyopy and by spglib.
    round_trip
        Largest distance between the symmetrised layer and what ``decode(encode(...))`` makes of it, angstrom.
    one_layer
        Whether it is one bonded component that extends in two dimensions.
    properties
        Other columns of the entry that was kept, as its source names them.
    """

    id: str
    source: str
    merged: tuple[str, ...]
    crystal: LayerCrystal
    symprec: float
    max_displacement: float
    layer_group_fine: int | None
    layer_group_spglib: int | None
    space_group: int | None
    space_group_spglib: int | None = None
    round_trip: float | None = None
    one_layer: bool | None = None
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def layer_group(self) -> int:
        """The layer group number (1-80)."""
        return self.crystal.layer_group

    @property
    def structure(self) -> Structure:
        """The symmetrised layer, made anew at each call."""
        return decode(self.crystal)

    @property
    def tools_agree(self) -> bool:
        """Whether both tools find the same layer group and the same space group."""
        return self.layer_group == self.layer_group_spglib and self.space_group in (
            self.space_group_spglib,
            None,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; it also holds the structure, for any reader of compact JSON lines."""
        structure = self.structure
        data: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        data["crystal"], data["merged"] = self.crystal.to_dict(), list(self.merged)
        data |= {
            "layer_group": self.layer_group,
            "formula": structure.composition.reduced_formula,
            "natoms": len(structure),
            "lattice": np.round(structure.lattice.matrix, 7).tolist(),
            "species": [site.specie.symbol for site in structure],
            "frac_coords": np.round(structure.frac_coords, 7).tolist(),
        }
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CuratedLayer:
        """The layer of ``to_dict``."""
        values = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        values["crystal"] = LayerCrystal.from_dict(data["crystal"])
        values["merged"] = tuple(data["merged"])
        return cls(**values)


def _write_lines(path: str | Path, lines: Iterable[dict[str, Any]], remedy: str) -> None:
    """JSON lines, gzip'ed where the name ends in .gz, atomically and byte for byte reproducible."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                    packed.writelines((json.dumps(line) + "\n").encode() for line in lines)
            else:
                raw.writelines((json.dumps(line) + "\n").encode() for line in lines)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise DatasetError(f"{path} cannot be written ({error.strerror}); {remedy}") from None


def write_curated(path: str | Path, layers: Iterable[CuratedLayer]) -> None:
    """Write a curated set as (gzip'ed) JSON lines, atomically; ``DatasetError`` if it cannot be written."""
    _write_lines(path, (layer.to_dict() for layer in layers), "free space or choose another path")


def write_dropped(path: str | Path, dropped: Iterable[Dropped]) -> None:
    """Write what was left out and why as JSON lines with id, source, rule, reason."""
    _write_lines(path, (vars(item) for item in dropped), "free space or choose another path")


def read_curated(path: str | Path) -> list[CuratedLayer]:
    """The curated set of a file; ``DatasetError`` when it is missing, damaged or something else."""
    path = Path(path)
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
            layers = [CuratedLayer.from_dict(json.loads(line)) for line in handle if line.strip()]
    except FileNotFoundError:
        raise DatasetError(f"curated set {path} does not exist; make it with `scdm data curate`") from None
    except KeyError as error:
        raise DatasetError(f"{path} is not a curated set (no key {error}); make it with `scdm data curate`") from None
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} is not a curated set ({error}); make it with `scdm data curate`") from None
    if not layers:
        raise DatasetError(f"curated set {path} is empty; curate at least one structure")
    return layers
