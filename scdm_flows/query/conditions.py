"""What may be asked of candidates: filters, checked against the fields that ``CandidateDoc`` declares queryable.

A condition that cannot be met as written is refused with the nearest that can: value, rule and remedy.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scdm_flows.documents import StageName
from scdm_flows.documents.candidate import queryable_fields
from scdm_flows.errors import ConfigError
from scdm_flows.stores.listing import Order
from scdm_flows.stores.table import KNOWN_AS

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


def criteria_of(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters as a query of stored candidates; ConfigError for what cannot be asked."""
    criteria: dict[str, Any] = {}
    for key, value in filters.items():
        if value is None:
            continue
        prefix, _, rest = key.partition("_")
        if prefix in RANGES and key not in queryable_fields() and rest in queryable_fields():
            criteria.setdefault(rest, {})[RANGES[prefix]] = _number(key, rest, value)
        elif key == "elements":
            criteria.setdefault(key, {})["$all"] = element_symbols(value)
        elif key == "crystal_system":
            criteria.setdefault("layer_group", {}).update(crystal_system(value))
        elif key == "passed":
            criteria.setdefault(key, {})["$has"] = _stage(value)
        elif key == KNOWN_AS:
            if not isinstance(value, str):
                raise ConfigError(f"{key}={value!r} must be the id of a known layer, such as MoS2-165798ab5e33")
            criteria.setdefault(key, {})["$has"] = f"\n{value}\n"
        elif key == "text":
            criteria.setdefault("candidate_id", {})["$has"] = str(value)
        elif key == "chemsys" and isinstance(value, str) and "*" in value:
            known, n = _wild_chemsys(value)
            criteria.setdefault("nelements", {})["$eq"] = n
            if known:
                criteria.setdefault("elements", {})["$all"] = known
        else:
            known_field(key)
            several = isinstance(value, list | tuple | set | frozenset)
            values = [_checked(key, v) for v in value] if several else [_checked(key, value)]
            criteria.setdefault(key, {}).update({"$in": values} if several else {"$eq": values[0]})
    for field, condition in criteria.items():
        low, high = condition.get("$gte"), condition.get("$lte")
        if low is not None and high is not None and low > high:
            raise ConfigError(f"min_{field}={low:g} is above max_{field}={high:g}, so nothing can match; exchange them")
    return criteria


def order_of(sort: str) -> Order:
    """The order that ``field`` or ``-field`` asks for."""
    name = sort.removeprefix("-")
    known_field(name)
    if queryable_fields()[name] is list:
        raise ConfigError(f"sort={sort!r}: {name} holds several values; sort by chemsys or formula instead")
    return Order(name, sort.startswith("-"))


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
