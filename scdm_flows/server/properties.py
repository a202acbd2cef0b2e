"""Which properties OPTIMADE structures have here, beyond its own, and where all of them are stored.

OPTIMADE's own properties are in the candidate's ``optimade``, as the candidate builder made them; those with our prefix
are the queryable fields of ``CandidateDoc``.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from optimade.models import StructureResource, StructureResourceAttributes
from optimade.server.config import ServerConfig
from optimade.server.mappers import StructureMapper

from scdm_flows import __version__
from scdm_flows.documents import CandidateDoc
from scdm_flows.documents.candidate import queryable_fields, sort_fields

PREFIX = "scdm"
PAGE_LIMIT, PAGE_LIMIT_MAX = 20, 500
INSIDE = "optimade."
_OWN_NAMES = {"candidate_id", "elements", "nelements", "nsites"}  # OPTIMADE has names for these
_UNITS = (  # what descriptions call them -> (unit as OPTIMADE writes it)
    (r"eV/atom", "eV/atom"),
    (r"meV/angstrom\^2", "meV/angstrom^2"),
    (r"\beV\b", "eV"),
    (r"angstrom\^2", "angstrom^2"),
    (r"angstrom", "angstrom"),
    (r"THz", "THz"),
    (r"Bohr magnetons", "bohr_magneton"),
)
_SORTABLE = {
    "id",
    "last_modified",
    "nelements",
    "nsites",
    "nperiodic_dimensions",
    "chemical_formula_reduced",
    "chemical_formula_anonymous",
    "chemical_formula_descriptive",
    "chemical_formula_hill",
}


@cache
def provider_fields() -> dict[str, dict[str, Any]]:
    """Field -> description, unit and type of its property, as optimade's configuration takes them."""
    types = {int: "integer", float: "float", bool: "boolean", list: "list"}
    found = {}
    for field, kind in queryable_fields().items():
        if field in _OWN_NAMES:
            continue
        description = str(CandidateDoc.model_fields[field].description)
        words = f"ids of {description}" if kind is list else description
        entry: dict[str, Any] = {
            "description": words,
            "type": types.get(kind, "string"),
            "sortable": field in sort_fields(),
        }
        if kind is float:
            entry["unit"] = _unit(description)
        found[field] = entry
    return found


def _unit(description: str) -> str:
    return next((unit for pattern, unit in _UNITS if re.search(pattern, description)), "dimensionless")


def sortable() -> set[str]:
    """Properties that can be sorted by."""
    return _SORTABLE | {f"_{PREFIX}_{field}" for field, entry in provider_fields().items() if entry["sortable"]}


def optimade_config() -> ServerConfig:
    """The configuration of optimade's mappers, models and routes."""
    return ServerConfig(
        debug=False,
        insert_test_data=False,
        insert_from_jsonl=None,
        page_limit=PAGE_LIMIT,
        page_limit_max=PAGE_LIMIT_MAX,
        is_index=False,
        license=None,
        index_base_url=None,
        request_delay=None,
        base_url=None,
        custom_landing_page=None,
        aliases={},
        length_aliases={},
        validate_api_response=True,
        implementation={"name": "scdm-flows", "version": __version__},
        provider={
            "prefix": PREFIX,
            "name": "scdm-flows",
            "description": "Generated two-dimensional crystals: relaxed, screened and ranked candidates",
            "homepage": None,
        },
        provider_fields={"structures": [{"name": name, **entry} for name, entry in provider_fields().items()]},
    )


class CandidateMapper(StructureMapper):  # type: ignore[misc] # optimade has no type information
    """Where a candidate's document holds the properties of a structure."""

    ALIASES = (
        ("id", "candidate_id"),
        ("last_modified", "last_updated"),
        (f"_{PREFIX}_known_as", "known_as.id"),
        *((name, INSIDE + name) for name in ("type", "relationships")),
        *((name, INSIDE + name) for name in StructureResourceAttributes.model_fields if name != "last_modified"),
    )
    LENGTH_ALIASES = (*StructureMapper.LENGTH_ALIASES, ("species", "nelements"))
    ENTRY_RESOURCE_CLASS = StructureResource

    def map_back(self, doc: dict[str, Any]) -> dict[str, Any]:
        """The entry of a stored candidate, of which the fields of ``all_aliases`` were read."""
        known_as = [known["id"] for known in doc.get("known_as") or ()] or None
        entry: dict[str, Any] = super().map_back({**doc.get("optimade", {}), **doc, "known_as": known_as})
        entry["attributes"].pop("optimade", None)
        return entry
