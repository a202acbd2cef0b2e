"""``CandidateDB``: the read side of shell, pages and notebooks. Loads neither torch, atomate2 nor fireworks.

What may be asked is what ``CandidateDoc`` declares queryable: a field declared there is a filter here. Values
are checked against the field's type before they reach the database.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from scdm_flows.documents import BandsDoc, CampaignDoc, CandidateDoc, PhononDoc, StageFailure
from scdm_flows.documents.hull import HullDoc
from scdm_flows.errors import CampaignError, ConfigError
from scdm_flows.stores.database import Database, strip
from scdm_flows.stores.trouble import store_errors

FLAT = (
    "candidate_id",
    "campaign",
    "rank",
    "formula",
    "layer_group",
    "space_group",
    "nsites",
    "e_above_hull",
    "e_above_hull_error",
    "e_above_hull_raw",
    "energy_scheme",
    "surrogate",
    "dynamically_stable",
    "min_frequency_thz",
    "band_gap",
    "gap_kind",
    "magnetic",
    "novel",
    "state",
    "reason",
    "score",
)
RANGES = {"max": "$lte", "min": "$gte"}
GROUPS = {"layer_group": 80, "space_group": 230}
Model = TypeVar("Model", bound=BaseModel)


@cache
def _fields() -> dict[str, Any]:
    """Queryable field -> its type without None."""
    found = {}
    for name, field in CandidateDoc.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("queryable"):
            kind: Any = field.annotation
            if get_origin(kind) in (Union, types.UnionType):
                kind = next(k for k in get_args(kind) if k is not type(None))
            found[name] = kind
    return found


def queryable_fields() -> list[str]:
    """Fields of ``CandidateDoc`` that may be filtered and sorted by."""
    return list(_fields())


class CandidateDB:
    """Typed queries over a connected database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, *, sort: str = "rank", limit: int | None = None, **filters: Any) -> list[CandidateDoc]:
        """Candidates that match every filter.

        Parameters
        ----------
        sort
            Field to sort by, ascending, or descending as ``-field``; candidates without it come last.
        limit
            Most candidates to return, >= 1.
        filters
            ``field=value``, ``min_field=value`` and ``max_field=value`` with a queryable field; a list of
            values asks for any of them; ``elements=["Mo", "S"]`` asks for candidates that hold all of them. A
            filter that is None does not count.

        Raises
        ------
        ConfigError
            For an unknown field (with the nearest known one) or a value that does not fit it.
        """
        return [CandidateDoc.model_validate(d) for d in self._documents(None, sort, limit, filters)]

    def count(self, **filters: Any) -> int:
        """How many candidates match; filters as for ``find``."""
        criteria = self._criteria(filters)
        with store_errors(self._database.uri):
            return int(self._database.candidates._collection.count_documents(criteria))

    def get(self, candidate_id: str) -> CandidateDoc:
        """The candidate with this id; ``CampaignError`` with the nearest id where there is none."""
        with store_errors(self._database.uri):
            found = self._database.candidates.query_one({"candidate_id": str(candidate_id)})
            if found is None:
                ids = self._database.candidates.distinct("candidate_id")
                near = difflib.get_close_matches(str(candidate_id), ids, n=1)
                hint = f"did you mean {near[0]}?" if near else "`scdm candidates list` shows what there is"
                raise CampaignError(f"no candidate has the id {candidate_id!r}; {hint}")
        return CandidateDoc.model_validate(strip(found))

    def flat_records(self, *, sort: str = "rank", limit: int | None = None, **filters: Any) -> list[dict[str, Any]]:
        """``find`` as flat dictionaries of the fields in ``FLAT``, unknown ones None; ready for JSON."""
        found = self._documents(list(FLAT), sort, limit, filters)
        return [{name: d.get(name) for name in FLAT} for d in found]

    def phonon(self, candidate_id: str) -> PhononDoc | None:
        """The candidate's phonon bands; None where there are none."""
        return self._one(PhononDoc, self._database.phonons, {"candidate_id": str(candidate_id)})

    def bands(self, candidate_id: str) -> BandsDoc | None:
        """The candidate's electronic bands; None where there are none."""
        return self._one(BandsDoc, self._database.bands, {"candidate_id": str(candidate_id)})

    def hull(self, chemsys: str, energy_scheme: str | None = None) -> HullDoc | None:
        """The hull of a chemical system such as ``Mo-S`` (in any order); None where no candidate is in it.

        energy_scheme: of which energies; of any when absent.
        """
        scheme = {} if energy_scheme is None else {"energy_scheme": energy_scheme}
        return self._one(HullDoc, self._database.hulls, {"chemsys": _chemsys(chemsys), **scheme})

    def failures(self, campaign: str) -> list[StageFailure]:
        """Stages that failed, of candidates and of whole shards."""
        with store_errors(self._database.uri):
            found = list(self._database.failures.query({"campaign": str(campaign)}, sort={"failure_id": 1}))
        return [StageFailure.model_validate(strip(d)) for d in found]

    def campaigns(self) -> list[CampaignDoc]:
        """All campaigns by name."""
        with store_errors(self._database.uri):
            found = list(self._database.campaigns.query({}, sort={"name": 1}))
        return [CampaignDoc.model_validate(strip(d)) for d in found]

    def campaign(self, name: str) -> CampaignDoc:
        """The campaign; ``CampaignError`` with the nearest name where there is none."""
        found = self._one(CampaignDoc, self._database.campaigns, {"name": str(name)})
        if found is None:
            near = difflib.get_close_matches(str(name), [c.name for c in self.campaigns()], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`scdm campaign list` shows what there is"
            raise CampaignError(f"no campaign is called {name!r}; {hint}")
        return found

    def _one(self, model: type[Model], store: Any, criteria: dict[str, Any]) -> Model | None:
        with store_errors(self._database.uri):
            found = store.query_one(criteria)
        return None if found is None else model.model_validate(strip(found))

    def _documents(
        self, fields: list[str] | None, sort: str, limit: int | None, filters: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Stored documents in order: those with the sort field by its value, then those without, by id."""
        criteria = self._criteria(filters)
        name, descending = sort.removeprefix("-"), sort.startswith("-")
        known_field(name)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ConfigError(f"limit={limit!r} must be a whole number >= 1")
        order: Any = {name: -1 if descending else 1} | ({} if name == "candidate_id" else {"candidate_id": 1})
        store = self._database.candidates
        with store_errors(self._database.uri):
            having = {"$and": [criteria, {name: {"$ne": None}}]}
            found = list(store.query(having, properties=fields, sort=order, limit=limit or 0))
            if limit is None or len(found) < limit:
                lacking = {"$and": [criteria, {name: None}]}
                rest = 0 if limit is None else limit - len(found)
                found += store.query(lacking, properties=fields, sort={"candidate_id": 1}, limit=rest)
        return [strip(d) for d in found]

    @staticmethod
    def _criteria(filters: dict[str, Any]) -> dict[str, Any]:
        criteria: dict[str, Any] = {}
        for key, value in filters.items():
            if value is None:
                continue
            prefix, _, rest = key.partition("_")
            if prefix in RANGES and key not in _fields() and rest in _fields():
                criteria.setdefault(rest, {})[RANGES[prefix]] = _number(key, rest, value)
            elif key == "elements":
                criteria.setdefault(key, {})["$all"] = element_symbols(value)
            else:
                known_field(key)
                several = isinstance(value, list | tuple | set | frozenset)
                values = [_checked(key, v) for v in value] if several else [_checked(key, value)]
                criteria.setdefault(key, {}).update({"$in": values} if several else {"$eq": values[0]})
        return criteria


def known_field(field: str) -> None:
    """Nothing, or ``ConfigError`` with the nearest queryable field."""
    names = queryable_fields()
    if field not in names:
        bare = field.partition("_")[2] if field.partition("_")[0] in RANGES else field
        near = difflib.get_close_matches(bare, names, n=1)
        prefix = field.removesuffix(bare)
        hint = f"did you mean {prefix + near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"unknown field {field!r}; {hint}")


def _number(key: str, field: str, value: Any) -> float:
    if _fields()[field] not in (int, float):
        raise ConfigError(f"{key}={value!r}: {field} has no order to compare by; use {field}=value")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ConfigError(f"{key}={value!r} must be a number")
    return value


def _checked(field: str, value: Any) -> Any:
    """The value as it is stored, if it fits the field."""
    kind = _fields()[field]
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
    return _chemsys(value) if field == "chemsys" else value


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


def _chemsys(value: str) -> str:
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
