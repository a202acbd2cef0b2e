"""What may be asked of candidates: filters, checked against the fields that ``CandidateDoc`` declares queryable, as
queries of MongoDB's.

A condition that cannot be met as written is refused with the nearest that can: value, rule and remedy.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scdm_flows.documents import StageName
from scdm_flows.documents.candidate import queryable_fields, sort_fields
from scdm_flows.errors import ConfigError
from scdm_flows.stores.indexes import passed_field

Criteria = dict[str, Any]  # a query: field -> operator -> value, and $and where a field has two of one operator
KNOWN_AS = "known_as"
RANGES = {"max": "$lte", "min": "$gte"}
GROUPS = {"layer_group": 80, "space_group": 230}
# first and last layer group of each
CRYSTAL_SYSTEMS = {
    "triclinic": (1, 2),
    "monoclinic": (3, 18),
    "orthorhombic": (19, 48),
    "tetragonal": (49, 64),
    "trigonal": (65, 72),
    "hexagonal": (73, 80),
}
SPECIAL = ("crystal_system", "text")  # filters that are no fields


def criteria_of(filters: Mapping[str, Any]) -> Criteria:
    """The filters as a query of stored candidates; ConfigError for what cannot be asked."""
    criteria: Criteria = {}
    for key, value in filters.items():
        if value is not None:
            for field, condition in _conditions(key, value):
                criteria = both(criteria, field, condition)
    for field, condition in criteria.items():
        if field != "$and" and condition.get("$gte", -math.inf) > condition.get("$lte", math.inf):
            low, high = condition["$gte"], condition["$lte"]
            raise ConfigError(f"min_{field}={low:g} is above max_{field}={high:g}, so nothing can match; exchange them")
    return criteria


def both(criteria: Criteria, field: str, condition: Mapping[str, Any]) -> Criteria:
    """The query with one condition more."""
    before = criteria.get(field, {})
    if before.keys() & condition.keys():
        return {**criteria, "$and": [*criteria.get("$and", []), {field: dict(condition)}]}
    return {**criteria, field: {**before, **condition}}


def _conditions(key: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The field and condition of a filter; of one that speaks of two fields both."""
    prefix, _, rest = key.partition("_")
    if prefix in RANGES and key not in queryable_fields() and rest in queryable_fields():
        return [(rest, {RANGES[prefix]: _number(key, rest, value)})]
    if key == "elements":
        return [(key, {"$all": element_symbols(value)})]
    if key == "crystal_system":
        return [("layer_group", crystal_system(value))]
    if key == "passed":
        return [(passed_field(_stage(value)), {"$eq": "passed"})]
    if key == KNOWN_AS:
        if not isinstance(value, str):
            raise ConfigError(f"{key}={value!r} must be the id of a known layer, such as MoS2-165798ab5e33")
        return [(f"{key}.id", {"$eq": value})]
    if key == "text":
        return [("candidate_id", {"$regex": re.escape(str(value))})]
    if key == "chemsys" and isinstance(value, str) and "*" in value:
        known, n = _wild_chemsys(value)
        return [("nelements", {"$eq": n})] + ([("elements", {"$all": known})] if known else [])
    known_field(key)
    if isinstance(value, list | tuple | set | frozenset):
        return [(key, {"$in": [_checked(key, v) for v in value]})]
    return [(key, {"$eq": _checked(key, value)})]


def sort_field(sort: str) -> tuple[str, bool]:
    """The field that ``field`` or ``-field`` sorts by, and whether descending."""
    name = sort.removeprefix("-")
    one_value(name, f"sort={sort!r}", "sort by")
    if name not in sort_fields():
        raise ConfigError(f"sort={sort!r}: {name} has no index to sort by; filter by it and sort by another field")
    return name, sort.startswith("-")


def one_value(field: str, asked: str, use: str = "take") -> None:
    """Nothing, or ``ConfigError`` if the field is none or holds several values. asked, use: what for, in words."""
    known_field(field)
    if queryable_fields()[field] is list:
        raise ConfigError(f"{asked}: {field} holds several values; {use} chemsys or formula instead")


def known_field(field: str) -> None:
    """Nothing, or ``ConfigError`` with the nearest queryable field."""
    names = list(queryable_fields())
    if field not in names:
        bare = field.partition("_")[2] if field.partition("_")[0] in RANGES else field
        near = difflib.get_close_matches(bare, [*names, *SPECIAL], n=1)
        prefix = field.removesuffix(bare)
        hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"unknown field {field!r}; {hint}")


def _number(key: str, field: str, value: Any) -> float:
    if queryable_fields()[field] not in (int, float):
        raise ConfigError(f"{key}={value!r}: {field} has no order to compare by; use {field}=value")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ConfigError(f"{key}={value!r} must be a number")
    return value


def _checked(field: str, value: Any) -> Any:
    """The value as it is stored, if it fits the field."""
    kind = queryable_fields()[field]
    if isinstance(kind, type) and issubclass(kind, Enum):
        names = [str(member.value) for member in kind]
        if value not in names:
            near = difflib.get_close_matches(str(value), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{field}={value!r} must be one of {', '.join(names)}{hint}")
        return str(kind(value).value)
    if isinstance(value, bool) and kind is not bool:
        raise ConfigError(f"{field}={value!r} must be {_words(kind)}")
    try:
        value = TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        raise ConfigError(f"{field}={value!r} must be {_words(kind)}") from None
    if field in GROUPS and not 1 <= value <= GROUPS[field]:
        raise ConfigError(f"{field}={value} must be between 1 and {GROUPS[field]}")
    if field == "formula":
        return _formula(value)
    return chemical_system(value) if field == "chemsys" else value


def crystal_system(name: Any) -> dict[str, int]:
    """The layer groups of a crystal system, as bounds (International Tables E, 2010)."""
    if name not in CRYSTAL_SYSTEMS:
        near = difflib.get_close_matches(str(name), CRYSTAL_SYSTEMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"crystal_system={name!r} must be one of {', '.join(CRYSTAL_SYSTEMS)}{hint}")
    low, high = CRYSTAL_SYSTEMS[name]
    return {"$gte": low, "$lte": high}


def _stage(name: Any) -> str:
    names = [stage.value for stage in StageName]
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"passed={name!r} must be one of {', '.join(names)}{hint}")
    return str(name)


def _wild_chemsys(value: str) -> tuple[list[str], int]:
    """The elements that a chemical system such as Mo-*-* names, and how many it has in all."""
    parts = [part.strip() for part in value.split("-")]
    named = [part for part in parts if part != "*"]
    known = element_symbols(named) if named else []
    if len(known) < len(named):
        raise ConfigError(f"chemsys={value!r} names an element twice; write each once, and * for any other")
    return known, len(parts)


def _words(kind: Any) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(kind, str(kind))


def _formula(value: str) -> str:
    """The reduced formula as it is stored, so that S2Mo finds MoS2."""
    from pymatgen.core import Composition, Element

    try:
        composition = Composition(value)
        if not composition or not all(isinstance(e, Element) for e in composition):
            raise ValueError(value)
        return str(composition.reduced_formula)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"formula={value!r} is not a chemical formula; write it like MoS2") from None


def chemical_system(value: str) -> str:
    return "-".join(sorted(element_symbols(value.split("-"))))


def element_symbols(value: Iterable[str] | str) -> list[str]:
    """Checked element symbols, from a list or from text with commas, hyphens or spaces between them."""
    from pymatgen.core import Element

    names = value.replace(",", " ").replace("-", " ").split() if isinstance(value, str) else list(value)
    if not names:
        raise ConfigError("elements must name at least one element, such as Mo,S")
    symbols = [e.value for e in Element if e.value not in ("D", "T")]
    for name in names:
        if name not in symbols:
            near = difflib.get_close_matches(str(name).capitalize(), symbols, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; write symbols such as Mo"
            raise ConfigError(f"{name!r} is not an element{hint}")
    return sorted(set(names))
