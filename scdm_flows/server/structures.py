"""Candidates as OPTIMADE structures: the columns that filters and sorts see, and the resource that is sent.

A candidate is served as it was relaxed, else as it was sampled. Its properties beyond OPTIMADE's own are the queryable
fields of ``CandidateDoc`` with our prefix.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimade.models import StructureResourceAttributes

from scdm_flows.documents import CandidateDoc
from scdm_flows.documents.candidate import queryable_fields
from scdm_flows.server.columns import Column, Lists, Scalar, Unknown, same, texts
from scdm_flows.server.composition import Composition, composition
from scdm_flows.stores.table import KEY, KNOWN_AS, Table

PREFIX = "scdm"
DIMENSIONS = [1, 1, 0]  # periodic along a and b; c is the vacuum
# what OPTIMADE has its own names for
_OWN_NAMES = {KEY, "elements", "nelements", "nsites"}
FORCE_FIELDS = ("chgnet", "sevennet")  # as the names of schemes and energy models hold them; ids of references
_UNITS = (  # what descriptions call them -> (unit as OPTIMADE writes it)
    (r"eV/atom", "eV/atom"),
    (r"\beV\b", "eV"),
    (r"angstrom\^2", "angstrom^2"),
    (r"angstrom", "angstrom"),
    (r"THz", "THz"),
    (r"Bohr magnetons", "bohr_magneton"),
)
SORTABLE = (
    "id",
    "last_modified",
    "nelements",
    "nsites",
    "nperiodic_dimensions",
    "chemical_formula_reduced",
    "chemical_formula_anonymous",
    "chemical_formula_descriptive",
    "chemical_formula_hill",
)


class UnreadableError(ValueError):
    """A stored structure that is none: no atoms, no cell, or sites shared by several elements."""


@cache
def provider_fields() -> dict[str, dict[str, Any]]:
    """Property with prefix -> field, description, unit and type, of every queryable field."""
    found = {}
    for field, kind in queryable_fields().items():
        if field in _OWN_NAMES:
            continue
        description = str(CandidateDoc.model_fields[field].description)
        types = {int: "integer", float: "float", bool: "boolean", list: "list"}
        words = f"ids of {description}" if kind is list else description
        entry: dict[str, Any] = {"field": field, "description": words, "type": types.get(kind, "string")}
        entry["sortable"] = kind is not list
        if kind is float:
            entry["unit"] = _unit(description)
        found[f"_{PREFIX}_{field}"] = entry
    return found


def _unit(description: str) -> str:
    return next((unit for pattern, unit in _UNITS if re.search(pattern, description)), "dimensionless")


@cache
def _absent() -> frozenset[str]:
    """OPTIMADE's properties of structures that no candidate has."""
    return frozenset(StructureResourceAttributes.model_fields) - _BUILD.keys()


def references_of(generator: str, energy_scheme: str, energy_model: str) -> list[str]:
    """Ids of the references that a candidate owes itself to; energy_model: its id, which names its force fields."""
    made = ["scdm"] if generator in ("scdm", "unscdm") else []
    used = f"{energy_scheme} {energy_model}".lower()
    return made + [name for name in FORCE_FIELDS if name in used]


def _number(kind: type) -> bool:
    return kind in (int, float)


class StructureColumns:
    """Columns of a table of candidates. modified: gives (n,) seconds since 1970 of the rows' last change."""

    def __init__(self, table: Table, modified: Callable[[Table], NDArray[np.float64]]) -> None:
        self.table, self._modified = table, modified
        self._found: dict[str, Column] = {}
        self._orders: dict[tuple[tuple[str, bool], ...], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return len(self.table)

    def names(self) -> Sequence[str]:
        """Properties that a filter may name."""
        return [*_BUILD, *_absent(), *provider_fields()]

    def get(self, name: str) -> Column | None:
        """The column of a property; kept, except for the time of the last change."""
        if name in self._found:
            return self._found[name]
        column: Column
        if name in provider_fields():
            column = self._provided(provider_fields()[name]["field"])
        elif name in _absent():
            column = Unknown(len(self))
        elif name in _BUILD:
            column = _BUILD[name](self)
        else:
            return None
        self._found[name] = column
        return column

    def order(self, sort: tuple[tuple[str, bool], ...]) -> NDArray[np.int64]:
        """All rows in order. sort: property and whether descending, the first one decides; unknown values last, ties
        by id.
        """
        if sort not in self._orders:
            keys: list[NDArray[Any]] = [np.arange(len(self))]
            for name, descending in reversed(sort):
                column = self.get(name)
                assert isinstance(column, Scalar)
                places = np.unique(column.values, return_inverse=True)[1].ravel()
                keys += [-places if descending else places, ~column.known]
            if len(self._orders) >= _ORDERS:
                self._orders.clear()
            self._orders[sort] = np.lexsort(keys)
        return self._orders[sort]

    def _provided(self, field: str) -> Column:
        values = self.table.columns.get(field)
        if values is None:
            return Unknown(len(self))
        if field == KNOWN_AS:
            return self._known_as(values)
        kind = queryable_fields()[field]
        return Scalar("bool" if kind is bool else "number" if _number(kind) else "text", values)

    def _known_as(self, values: NDArray[np.bytes_]) -> Lists:
        """Ids of known layers; not known where that has not been judged."""
        judged = ~np.isnan(self.table.columns["novel"])
        found, rows = np.unique(np.where((values == b"") & judged, b"\n", values), return_inverse=True)
        ids = [[name for name in text.decode().split("\n") if name] if text else None for text in found.tolist()]
        return Lists("text", ids, rows.ravel())

    @cached_property
    def _formulas(self) -> tuple[list[Composition | None], NDArray[np.int64]]:
        """The different compositions, and which one each row has."""
        names, rows = np.unique(self.table.columns["formula"], return_inverse=True)
        return [composition(name.decode()) for name in names.tolist()], rows.ravel()

    def _text(self, spell: Callable[[Composition], str]) -> Scalar:
        found, rows = self._formulas
        spelled = texts([None if one is None else spell(one) for one in found])
        return Scalar("text", spelled[rows])

    def _hill(self) -> Scalar:
        found, rows = self._formulas
        sites = self.table.columns["nsites"]
        pairs, which = np.unique(np.stack([rows, np.nan_to_num(sites)]), axis=1, return_inverse=True)
        spelled = []
        for number, nsites in pairs.T.tolist():
            one = found[int(number)]
            spelled.append(None if one is None or not nsites else one.hill(int(nsites)))
        return Scalar("text", texts(spelled)[which.ravel()])

    def _lists(self, kind: Any, items: Callable[[Composition], Sequence[Any]], length: Any = None) -> Lists:
        found, rows = self._formulas
        return Lists(kind, [None if one is None else items(one) for one in found], rows, length)

    def _references(self) -> Lists:
        columns = [self.table.columns[name] for name in ("generator", "energy_scheme", "energy_model")]
        values, places = zip(*(np.unique(column, return_inverse=True) for column in columns), strict=True)
        lists = [references_of(*(name.decode() for name in names)) for names in product(*(v.tolist() for v in values))]
        rows = np.ravel_multi_index([place.ravel() for place in places], [len(v) for v in values])
        return Lists("text", lists, np.asarray(rows, dtype=np.int64))

    def _sites(self) -> NDArray[np.float64]:
        return self.table.columns["nsites"]


_ORDERS = 16  # sorts that are kept of a table; each takes 8 bytes a row

_BUILD: dict[str, Callable[[StructureColumns], Column]] = {
    "id": lambda c: Scalar("text", c.table.ids),
    "type": lambda c: Scalar("text", np.full(len(c), b"structures")),
    "last_modified": lambda c: Scalar("time", c._modified(c.table)),
    "elements": lambda c: c._lists("text", lambda one: one.elements),
    "nelements": lambda c: Scalar("number", c.table.columns["nelements"]),
    "elements_ratios": lambda c: c._lists("number", lambda one: one.ratios),
    "chemical_formula_descriptive": lambda c: Scalar("text", c.table.columns["formula"]),
    "chemical_formula_reduced": lambda c: c._text(lambda one: one.reduced),
    "chemical_formula_hill": StructureColumns._hill,
    "chemical_formula_anonymous": lambda c: c._text(lambda one: one.anonymous),
    "dimension_types": lambda c: same(DIMENSIONS, len(c), "number"),
    "nperiodic_dimensions": lambda c: Scalar("number", np.full(len(c), float(sum(DIMENSIONS)))),
    "lattice_vectors": lambda c: same([None] * 3, len(c), None),
    "cartesian_site_positions": lambda c: Lists(None, [[]], np.zeros(len(c), dtype=np.int64), c._sites()),
    "nsites": lambda c: Scalar("number", c._sites()),
    "species": lambda c: c._lists(None, lambda one: one.elements),
    "species.name": lambda c: c._lists("text", lambda one: one.elements),
    "species_at_sites": lambda c: c._lists("text", lambda one: one.elements, c._sites()),
    "structure_features": lambda c: same([], len(c), "text"),
    "references.id": StructureColumns._references,
    "structures.id": lambda c: Unknown(len(c)),
}


def resource(document: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a stored candidate (with its rank fields) as OPTIMADE names them.

    Raises
    ------
    UnreadableError
        If its structure is none.
    """
    try:
        structure = document.get("relaxed_structure") or document["structure"]
        lattice = [[float(x) for x in row] for row in structure["lattice"]["matrix"]]
        symbols, positions = [], []
        for site in structure["sites"]:
            (species,) = site["species"]
            if float(species["occu"]) != 1:
                raise UnreadableError("a site is not fully occupied")
            symbols.append(str(species["element"]))
            positions.append([float(x) for x in site["xyz"]])
        if not symbols or [len(row) for row in (*lattice, *positions)] != [3] * (3 + len(symbols)):
            raise UnreadableError("no atoms, or vectors that have not three components")
        made = Composition.of(Counter(symbols))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"{document.get(KEY)!r} has no structure that can be read: {error}") from None
    if not all(math.isfinite(x) for row in (*lattice, *positions) for x in row):
        raise UnreadableError(f"{document.get(KEY)!r} has positions that are no numbers")
    modified = document.get("last_updated")
    cited = references_of(*(str(document.get(name) or "") for name in ("generator", "energy_scheme", "energy_model")))
    found = {
        "id": document[KEY],
        "last_modified": modified if isinstance(modified, datetime) else None,
        "elements": list(made.elements),
        "nelements": len(made.elements),
        "elements_ratios": made.ratios,
        "chemical_formula_descriptive": document.get("formula") or made.reduced,
        "chemical_formula_reduced": made.reduced,
        "chemical_formula_hill": made.hill(len(symbols)),
        "chemical_formula_anonymous": made.anonymous,
        "dimension_types": DIMENSIONS,
        "nperiodic_dimensions": sum(DIMENSIONS),
        "lattice_vectors": lattice,
        "cartesian_site_positions": positions,
        "nsites": len(symbols),
        "species": [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in made.elements],
        "species_at_sites": symbols,
        "structure_features": [],
    }
    if cited:
        found["relationships"] = {"references": {"data": [{"type": "references", "id": name} for name in cited]}}
    own = {name: _plain(document.get(entry["field"])) for name, entry in provider_fields().items()}
    known_as = document.get(KNOWN_AS)
    judged = document.get("novel") is not None or known_as
    return found | own | {f"_{PREFIX}_{KNOWN_AS}": [known["id"] for known in known_as or ()] if judged else None}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
