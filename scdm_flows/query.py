"""``CandidateDB``: the read side that shell, pages and notebooks share. Loads neither torch, atomate2 nor fireworks."""

from __future__ import annotations

import difflib
from typing import Any

from scdm_flows.documents import CampaignDoc, CandidateDoc, PhononDoc
from scdm_flows.errors import CampaignError, ConfigError
from scdm_flows.stores.database import Database, strip

FLAT = ("candidate_id", "campaign", "rank", "formula", "layer_group", "space_group", "nsites", "e_above_hull",
        "e_above_hull_error", "e_above_hull_raw", "energy_scheme", "surrogate", "dynamically_stable",
        "min_frequency_thz", "novel", "state", "reason", "score")  # fmt: skip
RANGES = {"max": "$lte", "min": "$gte"}


def queryable_fields() -> list[str]:
    """Fields of ``CandidateDoc`` that may be filtered and sorted by."""
    names = []
    for name, field in CandidateDoc.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("queryable"):
            names.append(name)
    return names


class CandidateDB:
    """Typed queries over a connected database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, *, sort: str = "rank", limit: int | None = None, **filters: Any) -> list[CandidateDoc]:
        """Candidates that match every filter.

        Parameters
        ----------
        sort
            Field to sort by, ascending; candidates without it come last.
        limit
            Most candidates to return, >= 1.
        filters
            ``field=value``, ``min_field=value``, ``max_field=value`` with a queryable field; ``elements=[...]`` asks
            for all of them.

        Raises
        ------
        ConfigError
            For an unknown field, with the nearest known one.
        """
        criteria = self._criteria(filters)
        self._known(sort)
        if limit is not None and limit < 1:
            raise ConfigError(f"limit={limit} must be >= 1")
        with_value = {"$and": [criteria, {sort: {"$ne": None}}]}
        without = {"$and": [criteria, {sort: None}]}
        order = {sort: 1, "candidate_id": 1}
        found = [strip(d) for d in self._database.candidates.query(with_value, sort=order, limit=limit or 0)]
        if limit is None or len(found) < limit:
            rest = 0 if limit is None else limit - len(found)
            found += [strip(d) for d in self._database.candidates.query(without, sort={"candidate_id": 1}, limit=rest)]
        return [CandidateDoc.model_validate(d) for d in found]

    def get(self, candidate_id: str) -> CandidateDoc:
        """The candidate with this id; ``CampaignError`` with the nearest id where there is none."""
        found = self._database.candidates.query_one({"candidate_id": candidate_id})
        if found is None:
            ids = [d["candidate_id"] for d in self._database.candidates.query({}, properties=["candidate_id"])]
            near = difflib.get_close_matches(candidate_id, ids, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `scdm candidates list` shows what there is"
            raise CampaignError(f"no candidate has the id {candidate_id!r}{hint}")
        return CandidateDoc.model_validate(strip(found))

    def flat_records(self, **query: Any) -> list[dict[str, Any]]:
        """``find`` as flat dictionaries of the fields in ``FLAT``."""
        return [{name: _value(getattr(c, name)) for name in FLAT} for c in self.find(**query)]

    def phonon(self, candidate_id: str) -> PhononDoc | None:
        """The candidate's phonon bands; None where there are none."""
        found = self._database.phonons.query_one({"candidate_id": candidate_id})
        return None if found is None else PhononDoc.model_validate(strip(found))

    def campaigns(self) -> list[CampaignDoc]:
        """All campaigns by name."""
        return [CampaignDoc.model_validate(strip(d)) for d in self._database.campaigns.query({}, sort={"name": 1})]

    def campaign(self, name: str) -> CampaignDoc:
        """The campaign; ``CampaignError`` with the nearest name where there is none."""
        found = self._database.campaign(name)
        if found is None:
            near = difflib.get_close_matches(name, [c.name for c in self.campaigns()], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; `scdm campaign list` shows what there is"
            raise CampaignError(f"no campaign is called {name!r}{hint}")
        return found

    def _known(self, field: str) -> None:
        fields = queryable_fields()
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1)
            raise ConfigError(
                f"unknown field {field!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}")
            )

    def _criteria(self, filters: dict[str, Any]) -> dict[str, Any]:
        criteria: dict[str, Any] = {}
        for key, value in filters.items():
            if value is None:
                continue
            prefix, _, rest = key.partition("_")
            if key == "elements":
                criteria["elements"] = {"$all": [str(v) for v in value]}
            elif prefix in RANGES and rest in queryable_fields():
                criteria.setdefault(rest, {})[RANGES[prefix]] = float(value)
            else:
                self._known(key)
                if isinstance(value, dict):
                    raise ConfigError(f"{key}={value!r} must be a plain value")
                criteria[key] = {"$eq": _value(value)}
        return criteria


def _value(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value
