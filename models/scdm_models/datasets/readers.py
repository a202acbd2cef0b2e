"""Readers of 2D data sets: 2dMatPedia, C2DB, JARVIS, folders of structure files, compact JSON lines.

Each yields ``LayerRecord`` for what it can read and ``Dropped`` for what it cannot: one bad entry is never fatal. A
file that is missing, empty or not what it says raises one ``DatasetError``.
"""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from scdm_models.datasets.records import Dropped, LayerRecord
from scdm_models.errors import DatasetError

Item = LayerRecord | Dropped
STRUCTURE_SUFFIXES = {".cif", ".vasp", ".poscar", ".extxyz", ".xyz"}
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


def _checked(identifier: str, source: str, make: Any, properties: dict[str, Any]) -> Item:
    """The record of ``make()``, or why it cannot be one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure: Structure = make()
        if len(structure) == 0:
            raise ValueError("no atoms")
        if not structure.is_ordered:
            raise ValueError("partially occupied sites")
        if not (np.isfinite(structure.frac_coords).all() and np.isfinite(structure.lattice.matrix).all()):
            raise ValueError("coordinates or lattice are not finite")
        if any(not hasattr(site.specie, "Z") or site.specie.symbol in ("X", "D0") for site in structure):
            raise ValueError("an unknown element")
        structure.remove_oxidation_states()
        return LayerRecord(identifier, source, structure, properties)
    except Exception as error:  # whatever a parser raises on a bad entry
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        return Dropped(identifier, source, "unreadable", f"cannot be read: {text}")


def _open_text(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt") as handle:
                return handle.read()
        return path.read_text()
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; check the path") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); fetch it again") from None


def read_json(path: str | Path) -> Iterator[Item]:
    """Entries of a JSON or JSON-lines file, each in one of the known forms.

    Known forms of an entry: ``structure`` as pymatgen's dict (2dMatPedia's db.json, our own generated records);
    ``lattice``, ``species``, ``frac_coords`` (compact JSON lines); ``atoms`` as jarvis-tools' dict; a bare pymatgen
    structure. A file that is one JSON object with integer keys is read as an ASE database.
    """
    path = Path(path)
    text = _open_text(path)
    stripped = text.lstrip()
    if not stripped:
        raise DatasetError(f"{path} is empty; fetch it again")
    try:
        whole = json.loads(stripped)
    except json.JSONDecodeError:
        lines = [line for line in text.splitlines() if line.strip()]
        parsed: list[Any] = []
        for number, line in enumerate(lines, 1):
            try:
                parsed.append(json.loads(line))
            except json.JSONDecodeError as error:
                parsed.append(Dropped(f"{path.name}:{number}", path.name, "unreadable", f"line {number} is not JSON ({error.msg})"))
        if all(isinstance(p, Dropped) for p in parsed):
            raise DatasetError(f"{path} is not JSON or JSON lines; give a file of structures") from None
        entries = parsed
    else:
        if isinstance(whole, dict) and "ids" in whole and "nextid" in whole:
            yield from read_ase_db(path)
            return
        entries = whole if isinstance(whole, list) else [whole]
    for number, entry in enumerate(entries, 1):
        yield entry if isinstance(entry, Dropped) else _json_entry(entry, f"{path.name}:{number}", path.name)


def _json_entry(entry: Any, fallback: str, source: str) -> Item:
    if not isinstance(entry, dict):
        return Dropped(fallback, source, "unreadable", f"an entry must be an object, found {type(entry).__name__}")
    identifier = str(entry.get("id") or entry.get("material_id") or entry.get("jid") or entry.get("uid") or fallback)
    source = str(entry.get("source", "2dMatPedia" if "material_id" in entry else "JARVIS" if "jid" in entry else source))
    skip = {"structure", "lattice", "species", "frac_coords", "atoms"}
    properties = {k: v for k, v in entry.items() if k not in skip}
    if isinstance(entry.get("structure"), dict):
        return _checked(identifier, source, lambda: Structure.from_dict(entry["structure"]), properties)
    if {"lattice", "species", "frac_coords"} <= entry.keys():
        return _checked(
            identifier, source, lambda: Structure(entry["lattice"], entry["species"], entry["frac_coords"]), properties
        )
    if isinstance(entry.get("atoms"), dict):
        return _checked(identifier, source, lambda: _jarvis_structure(entry["atoms"]), properties)
    if {"lattice", "sites"} <= entry.keys():
        return _checked(identifier, source, lambda: Structure.from_dict(entry), {})
    return Dropped(identifier, source, "unreadable", "holds no structure (keys: " + ", ".join(list(entry)[:6]) + ")")


def _jarvis_structure(atoms: dict[str, Any]) -> Structure:
    return Structure(
        atoms["lattice_mat"], atoms["elements"], atoms["coords"], coords_are_cartesian=bool(atoms.get("cartesian", False))
    )


def read_ase_db(path: str | Path) -> Iterator[Item]:
    """Rows of an ASE database (C2DB's ``c2db.db`` or its JSON form); ``uid`` is the id where there is one."""
    from ase.db import connect

    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; check the path")
    try:
        database = connect(str(path), type="db" if path.suffix == ".db" else "json")
        rows = list(database.select())
    except Exception as error:
        raise DatasetError(f"{path} is not an ASE database ({error}); fetch it again") from None
    for row in rows:
        properties = dict(row.key_value_pairs)
        identifier = str(properties.get("uid", f"{path.name}:{row.id}"))
        source = "C2DB" if "uid" in properties else path.name
        yield _checked(identifier, source, lambda row=row: AseAtomsAdaptor.get_structure(row.toatoms()), properties)


def read_jarvis(name: str = "dft_2d") -> Iterator[Item]:
    """JARVIS's 2D set through jarvis-tools' own loader (which downloads it once)."""
    try:
        from jarvis.db.figshare import data
    except ImportError:
        raise DatasetError('reading JARVIS needs jarvis-tools; install it with pip install "scdm-flows[jarvis]"') from None
    try:
        entries = data(name)
    except Exception as error:
        raise DatasetError(f"jarvis-tools could not load {name!r} ({error}); download it and give the JSON file") from None
    for number, entry in enumerate(entries, 1):
        yield _json_entry(entry, f"{name}:{number}", "JARVIS")


def read_structure_file(path: str | Path) -> Iterator[Item]:
    """Structures of a CIF, POSCAR or extxyz file."""
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; check the path")
    if path.suffix.lower() in (".extxyz", ".xyz"):
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
                yield Dropped(f"{path.name}:{number}", "file", "unreadable", f"cannot be read: {error}")
                return
            yield _checked(
                f"{path.name}:{number}", "file", lambda atoms=atoms: AseAtomsAdaptor.get_structure(atoms), {}
            )
    else:
        yield _checked(path.name, "file", lambda: _from_text(path), {})


def _from_text(path: Path) -> Structure:
    text = path.read_text()
    if path.suffix.lower() == ".cif":
        from pymatgen.io.cif import CifParser

        return CifParser.from_str(text).parse_structures(primitive=False)[0]
    return Structure.from_str(text, fmt="poscar")


def is_structure_file(path: Path) -> bool:
    """Whether the name is one of a CIF, POSCAR/CONTCAR or extxyz file."""
    return path.suffix.lower() in STRUCTURE_SUFFIXES or path.name.upper().startswith(("POSCAR", "CONTCAR"))


def read_any(path: str | Path) -> Iterator[Item]:
    """Entries of any file or folder that this project can read; ``jarvis`` reads JARVIS through its loader.

    Raises
    ------
    DatasetError
        If the path does not exist, is empty, or is of an unknown kind.
    """
    if str(path) == "jarvis":
        yield from read_jarvis()
        return
    path = Path(path)
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and (is_structure_file(f) or f.name.endswith(JSON_SUFFIXES)))
        if not files:
            raise DatasetError(f"folder {path} holds no structure files (CIF, POSCAR, extxyz, JSON); check the path")
        for file in files:
            yield from read_any(file)
    elif not path.exists():
        raise DatasetError(f"{path} does not exist; check the path")
    elif path.stat().st_size == 0:
        raise DatasetError(f"{path} is empty; fetch it again")
    elif path.suffix == ".db":
        yield from read_ase_db(path)
    elif path.name.endswith(JSON_SUFFIXES):
        yield from read_json(path)
    elif is_structure_file(path):
        yield from read_structure_file(path)
    else:
        raise DatasetError(f"{path} is of unknown kind; known are CIF, POSCAR, extxyz, JSON, JSON lines and ASE databases")
