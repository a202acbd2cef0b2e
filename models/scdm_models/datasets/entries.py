"""One entry of a data set as JSON, in any of the forms that the known sources write: its record, or why it has none.

Only the forms of an entry are here; ``readers`` and ``optimade`` find the entries in files and databases.
"""

from __future__ import annotations

import re
from typing import Any

from pymatgen.core import Structure

from scdm_models.datasets.records import Dropped
from scdm_models.datasets.structure_files import UNREADABLE, Item, checked, structure_of_atoms

_NOT_PROPERTIES = frozenset(
    (
        "id",
        "source",
        "structure",
        "lattice",
        "species",
        "frac_coords",
        "atoms",
        "formula",
        "cell_formula",
        "natoms",
        "lattice_vectors",
        "cartesian_site_positions",
        "species_at_sites",
    )
)
_PREFIX = re.compile(r"^_[a-z0-9]+_")  # of a provider's own columns in OPTIMADE, such as _alexandria_band_gap


def _source(entry: dict[str, Any], fallback: str) -> str:
    if "source" in entry:
        return str(entry["source"])
    if str(entry.get("material_id", "")).startswith("2dm-"):
        return "2dMatPedia"
    if "jid" in entry:
        return "JARVIS"
    if str(entry.get("mat_id", "")).startswith("agm"):
        return "Alexandria"
    return "C2DB" if "uid" in entry else fallback


def read_entry(entry: Any, fallback: str, source: str) -> Item:
    """The record of an entry, or why it holds no structure; never raises.

    Known forms: ``structure`` as pymatgen's dict (2dMatPedia's db.json, generated records); ``lattice``, ``species``,
    ``frac_coords`` (compact JSON lines, curated sets); ``atoms`` as jarvis-tools' dict; a bare pymatgen structure;
    pymatgen's computed structure entry; a structure of OPTIMADE.

    Parameters
    ----------
    entry
        What JSON gives.
    fallback, source
        Id and source of an entry that names none of its own.
    """
    try:
        return _read(entry, fallback, source)
    except Exception as error:  # of ids that are no texts, of deep nesting
        return Dropped(fallback, source, UNREADABLE, f"it cannot be read ({error}); correct or remove it")


def _read(entry: Any, fallback: str, source: str) -> Item:
    if not isinstance(entry, dict):
        reason = f"an entry must be a JSON object, found {type(entry).__name__}; correct or remove it"
        return Dropped(fallback, source, UNREADABLE, reason)
    # OPTIMADE keeps an entry's columns under attributes, pymatgen's computed entries under data
    aside = "data" if str(entry.get("@class", "")).startswith("Computed") else "attributes"
    columns = entry[aside] if isinstance(entry.get(aside), dict) else entry
    entry = {**columns, **entry}
    names = (entry.get(key) for key in ("id", "candidate_id", "material_id", "mat_id", "jid", "uid", "entry_id"))
    identifier = next((str(name) for name in names if isinstance(name, str | int | float) and name != ""), fallback)
    source = _source(entry, source)
    properties = {_PREFIX.sub("", key): value for key, value in columns.items() if key not in _NOT_PROPERTIES}
    if isinstance(entry.get("structure"), dict):
        return checked(identifier, source, lambda: Structure.from_dict(entry["structure"]), properties)
    if {"lattice", "species", "frac_coords"} <= entry.keys():
        return checked(
            identifier,
            source,
            lambda: Structure(entry["lattice"], entry["species"], entry["frac_coords"]),
            properties,
        )
    if isinstance(entry.get("attributes"), dict):
        return checked(identifier, source, lambda: _optimade_structure(entry), properties)
    if isinstance(entry.get("atoms"), dict):
        return checked(identifier, source, lambda: _jarvis_structure(entry["atoms"]), properties)
    if {"lattice", "sites"} <= entry.keys():
        return checked(identifier, source, lambda: Structure.from_dict(entry), {})
    keys = ", ".join(list(entry)[:6]) or "none"
    forms = "'structure', 'atoms' or 'lattice', 'species', 'frac_coords'"
    reason = f"it holds no structure (keys: {keys}); give {forms}"
    return Dropped(identifier, source, UNREADABLE, reason)


def _jarvis_structure(atoms: dict[str, Any]) -> Structure:
    return Structure(
        atoms["lattice_mat"],
        [str(symbol).strip() for symbol in atoms["elements"]],
        atoms["coords"],
        coords_are_cartesian=bool(atoms.get("cartesian", False)),
    )


def _optimade_structure(attributes: dict[str, Any]) -> Structure:
    """The structure of OPTIMADE's attributes; vectors along which it is not periodic may be null there."""
    from ase import Atoms

    missing = [key for key in ("lattice_vectors", "cartesian_site_positions", "species") if not attributes.get(key)]
    if missing:
        raise ValueError(f"it holds no structure ({', '.join(missing)} empty)")
    kinds = {kind["name"]: kind for kind in attributes["species"]}
    symbols = []
    for name in attributes["species_at_sites"]:
        found, shares = kinds[name]["chemical_symbols"], kinds[name]["concentration"]
        if len(found) != 1 or abs(shares[0] - 1) > 1e-3:
            raise ValueError(f"the site {name} is partially occupied, only full ones are allowed")
        symbols += found
    cell = [[x or 0.0 for x in vector] for vector in attributes["lattice_vectors"]]
    return structure_of_atoms(Atoms(symbols, positions=attributes["cartesian_site_positions"], cell=cell, pbc=True))
