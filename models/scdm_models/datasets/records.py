"""What readers and curation hand on, and the curated file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from scdm_models.encoding import LayerCrystal
from scdm_models.errors import DatasetError


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
        Asymmetric unit after symmetrisation.
    symprec
        Tolerance of the symmetrisation, angstrom.
    max_displacement
        Largest distance an atom moved, angstrom.
    layer_group_fine
        Layer group at symprec 0.01 angstrom of the entry as given (None where detection failed).
    layer_group_spglib
        Layer group by the second tool at ``symprec``.
    space_group
        Space group of the symmetrised three-periodic cell.
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

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["crystal"], data["merged"] = self.crystal.to_dict(), list(self.merged)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CuratedLayer:
        """The layer of ``to_dict``."""
        values = dict(data)
        values["crystal"] = LayerCrystal.from_dict(data["crystal"])
        values["merged"] = tuple(data["merged"])
        return cls(**values)


def write_curated(path: str | Path, layers: Iterable[CuratedLayer]) -> None:
    """Write a curated set as gzip'ed JSON lines, atomically."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with gzip.GzipFile(temporary, "wb", mtime=0) as handle:
        for layer in layers:
            handle.write((json.dumps(layer.to_dict()) + "\n").encode())
    temporary.replace(path)


def read_curated(path: str | Path) -> list[CuratedLayer]:
    """The curated set of a file; ``DatasetError`` when it is missing, damaged or something else."""
    path = Path(path)
    try:
        with gzip.open(path, "rt") as handle:
            layers = [CuratedLayer.from_dict(json.loads(line)) for line in handle]
    except FileNotFoundError:
        raise DatasetError(f"curated set {path} does not exist; make it with `scdm data curate`") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a curated set ({error}); make it with `scdm data curate`") from None
    if not layers:
        raise DatasetError(f"curated set {path} is empty; curate at least one structure")
    return layers
