"""Structures of single files: CIF, POSCAR/CONTCAR and extxyz; and the check that every structure read must
pass.

These are the formats of single structures; ``readers`` reads data sets.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import DummySpecies, Structure

from scdm_models.datasets.records import Dropped, LayerRecord
from scdm_models.errors import DatasetError

Item = LayerRecord | Dropped
STRUCTURE_SUFFIXES = {".cif", ".vasp", ".poscar", ".extxyz", ".xyz"}
UNREADABLE = "unreadable"
LARGEST_FILE = 1 << 30  # characters of a file of structures, which is read as a whole
DEEPEST = 100  # levels of lists and objects in each other


def is_structure_file(path: Path) -> bool:
    """Whether the name is one of a CIF, POSCAR/CONTCAR or extxyz file."""
    return path.suffix.lower() in STRUCTURE_SUFFIXES or path.name.upper().startswith(("POSCAR", "CONTCAR"))


def open_error(path: Path, error: Exception) -> DatasetError:
    """What to say of a file that cannot be opened or unpacked."""
    if isinstance(error, FileNotFoundError):
        return DatasetError(f"{path} does not exist; check the path")
    if isinstance(error, PermissionError):
        return DatasetError(f"{path} may not be read (no permission); change its mode or owner")
    return DatasetError(f"{path} cannot be read ({error}): it is damaged or of another kind; fetch it again")


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises
    ------
    ValueError
        If it is no JSON (``JSONDecodeError``), or nested deeper or with longer integers than Python reads.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None
    except ValueError:
        raise ValueError("it has an integer of thousands of digits") from None


def _plain(value: Any, levels: int = DEEPEST) -> Any:
    """The value as JSON can hold it: numpy scalars as numbers, NaN as None, what is unknown as text.

    ``ValueError`` where it is nested deeper than so many levels.
    """
    if not levels:
        raise ValueError(f"a property is nested deeper than {DEEPEST} levels")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v, levels - 1) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v, levels - 1) for v in value]
    return str(value)


def checked(identifier: str, source: str, make: Callable[[], Structure], properties: dict[str, Any]) -> Item:
    """The record of what ``make`` returns, or why it cannot be one; never raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = make()
        _refuse(structure)
        structure.remove_oxidation_states()
        plain = {key: _plain(value) for key, value in properties.items()}
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = text[0][:200] if text else type(error).__name__
        return Dropped(identifier, source, UNREADABLE, f"{reason}; correct the entry or leave it out")
    return LayerRecord(identifier, source, structure, plain)


def _refuse(structure: Structure) -> None:
    """``ValueError`` for a structure that is no ordered crystal of known elements."""
    if len(structure) == 0:
        raise ValueError("it has 0 atoms, at least 1 is needed")
    for site in structure:
        if not site.is_ordered:
            raise ValueError(f"the site {site.species_string} is partially occupied, only full ones are allowed")
        if isinstance(site.specie, DummySpecies):
            raise ValueError(f"{site.specie.symbol!r} is no chemical element")
    if not (np.isfinite(structure.frac_coords).all() and np.isfinite(structure.lattice.matrix).all()):
        raise ValueError("a coordinate or lattice vector is not a finite number (NaN)")
    if abs(structure.lattice.volume) < 1e-3:
        raise ValueError(f"the cell volume is {structure.lattice.volume:g} angstrom^3, it must be > 0")


def structure_of_atoms(atoms: Any) -> Structure:
    """The structure of an ``ase.Atoms``; a missing third vector of a layer is made with 20 angstrom of
    vacuum.

    Raises
    ------
    ValueError
        If the cell lacks an in-plane vector.
    """
    if len(atoms) == 0:
        raise ValueError("it has 0 atoms, at least 1 is needed")
    lengths = atoms.cell.lengths()
    if lengths[2] < 1e-8 < lengths[:2].min():
        atoms = atoms.copy()
        atoms.center(vacuum=10.0, axis=2)
        lengths = atoms.cell.lengths()
    if lengths.min() < 1e-8:
        raise ValueError("it has no lattice vectors (a molecule?), a layer needs them")
    return Structure(
        np.array(atoms.cell),
        atoms.get_chemical_symbols(),
        np.array(atoms.positions),
        coords_are_cartesian=True,
    )


def read_structure_file(path: str | Path, name: str | None = None) -> Iterator[Item]:
    """Structures of a CIF, POSCAR or extxyz file; the id is ``name`` (the file's name), with ``:2``, ``:3``
    ... for the further structures of one file.

    Raises
    ------
    DatasetError
        If the file is missing, empty, larger than ``LARGEST_FILE`` or cannot be opened. A structure that cannot be read
        is a ``Dropped``.
    """
    path = Path(path)
    name = name or path.name
    try:
        with path.open() as handle:
            text = handle.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise DatasetError(f"{path} is larger than {LARGEST_FILE >> 20} MiB; divide it into several files")
    except (OSError, UnicodeDecodeError) as error:
        raise open_error(path, error) from None
    if not text.strip():
        raise DatasetError(f"{path} is empty; give a file with at least one structure")
    kind = structure_kind(path, text)
    if kind == "extxyz":
        yield from _extxyz(path, name)
    elif kind == "cif":
        yield from _cif(text, name)
    else:
        yield checked(name, "file", lambda: _poscar(text), {})


def structure_kind(path: Path, text: str) -> str | None:
    """``cif``, ``poscar`` or ``extxyz`` by the name, else by the content; None if it is none of them."""
    suffix = path.suffix.lower()
    if suffix in (".extxyz", ".xyz"):
        return "extxyz"
    if suffix == ".cif":
        return "cif"
    if is_structure_file(path):
        return "poscar"
    lines = text.splitlines()
    if "_cell_length_a" in text:
        return "cif"
    if len(lines) > 1 and "Lattice=" in lines[1]:
        return "extxyz"
    try:
        vectors = [[float(x) for x in line.split()[:3]] for line in lines[2:5]]
        return "poscar" if float(lines[1].split()[0]) and [len(v) for v in vectors] == [3, 3, 3] else None
    except (ValueError, IndexError):
        return None


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}:{number}"


def _cif(text: str, name: str) -> Iterator[Item]:
    from pymatgen.io.cif import CifParser

    if "_atom_site_" not in text:
        yield Dropped(
            name,
            "file",
            UNREADABLE,
            "it has 0 atoms, at least 1 is needed; correct the entry or leave it out",
        )
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structures = CifParser.from_str(text).parse_structures(primitive=False, on_error="raise")
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        yield Dropped(name, "file", UNREADABLE, f"no structure can be made of it ({reason}); correct the file")
        return
    for number, structure in enumerate(structures, 1):
        yield checked(_numbered(name, number), "file", lambda structure=structure: structure, {})  # type: ignore[misc]


def _poscar(text: str) -> Structure:
    from pymatgen.io.vasp import Poscar

    poscar = Poscar.from_str(text, read_velocities=False)
    if not poscar.true_names:
        raise ValueError("the file names no elements (VASP 4 format), add the line of element symbols")
    structure: Structure = poscar.structure
    return structure


def _extxyz(path: Path, name: str) -> Iterator[Item]:
    from ase.io import iread

    frames = iread(str(path), index=":", format="extxyz")
    number = 0
    while True:
        number += 1
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:
            reason = f"frame {number} and those after it cannot be read ({error}); correct the file"
            yield Dropped(_numbered(name, number), "file", UNREADABLE, reason)
            return
        yield checked(
            _numbered(name, number),
            "file",
            lambda atoms=atoms: structure_of_atoms(atoms),  # type: ignore[misc]
            {
                key: value
                for key, value in atoms.info.items()
                if isinstance(value, str | int | float | bool | np.generic)
            },
        )
