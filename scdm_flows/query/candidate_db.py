"""``CandidateDB``: the read side of shell, pages and notebooks. Loads neither torch, atomate2 nor fireworks.

What may be asked is what ``CandidateDoc`` declares queryable: a field declared there is a filter here. Values
are checked against the field's type before they reach the database.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from scdm_flows.config.loop import round_of
from scdm_flows.documents import (
    BandsDoc,
    CampaignDoc,
    CandidateDoc,
    LoopDoc,
    ParentRecord,
    PhononDoc,
    StageFailure,
)
from scdm_flows.documents.candidate import queryable_fields
from scdm_flows.documents.hull import HullDoc
from scdm_flows.documents.migrations import NewerDocumentError, migrate
from scdm_flows.documents.novelty import KnownAs
from scdm_flows.errors import CampaignError, ConfigError
from scdm_flows.query.conditions import KNOWN_AS, chemical_system, criteria_of, one_value, sort_field
from scdm_flows.query.listing import KEY, Listing, Order, read_cursor, write_cursor
from scdm_flows.query.loops import is_of_loop
from scdm_flows.stores.database import Database, strip
from scdm_flows.stores.driver_errors import store_errors

logger = logging.getLogger(__name__)

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
    "e_above_hull_lower_bound",
    "extrapolated",
    "energy_scheme",
    "surrogate",
    "energy_model",
    "dynamically_stable",
    "min_frequency_thz",
    "band_gap",
    "gap_kind",
    "magnetic",
    "novel",
    "known_as",
    "duplicate_of",
    "state",
    "reason",
    "score",
)
_FLAT_FIELDS = [*FLAT, "schema_version", "provenance.versions"]
MOST_COUNTED = 10_000  # candidates that are counted; beyond that there are "more than" these
_MOST_RELATIVES = 20  # of a candidate that are shown beside it
_NEAR = 50  # ids that are compared with one that does not exist
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Page:
    """Some candidates in order, and where the next ones begin.

    next: cursor of the page after this one, None where this is the last; skipped: documents of a later
    version, which are left out.
    """

    documents: list[CandidateDoc]
    next: str | None
    skipped: int = 0


class CandidateDB:
    """Typed queries over a connected database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self, *, sort: str = "rank", limit: int | None = None, after: str | None = None, **filters: Any
    ) -> list[CandidateDoc]:
        """Candidates that match every filter.

        Documents that a later scdm-flows wrote are left out, with a warning.

        Parameters
        ----------
        sort
            Field to sort by, ascending, or descending as ``-field``; equal ones by id, in the same direction;
            candidates without the field come last.
        limit
            Most candidates to return, >= 1.
        after
            Cursor of a ``Page`` of the same sort and filters: what comes after it.
        filters
            ``field=value``, ``min_field=value`` and ``max_field=value`` with a queryable field; a list of
            values asks for any of them; ``elements=["Mo", "S"]`` asks for candidates that hold all of them,
            ``chemsys="Mo-*"`` for those of Mo and one other element, ``crystal_system="hexagonal"`` for layer
            groups of that system, ``passed="phonon"`` for those that passed a stage, ``text="4f2a"`` for ids that
            hold it, ``known_as="MoS2-165798ab5e33"`` for those that relaxed to that known layer. A filter that is None
            does not count.

        Raises
        ------
        ConfigError
            For an unknown field (with the nearest known one), a value that does not fit it, or a cursor that
            is damaged or of another listing.
        """
        return list(self.stream(sort=sort, limit=limit, after=after, **filters))

    def stream(
        self, *, sort: str = "rank", limit: int | None = None, after: str | None = None, **filters: Any
    ) -> Iterator[CandidateDoc]:
        """As ``find``, one by one: any number of candidates in bounded memory. Arguments are checked at once."""
        rows = self._rows(sort, limit, after, filters)

        def documents() -> Iterator[CandidateDoc]:
            skipped = 0
            for row in rows:
                try:
                    yield _candidate(row)
                except NewerDocumentError:
                    skipped += 1
            _warn_of(skipped)

        return documents()

    def page(self, *, sort: str = "rank", limit: int = 20, after: str | None = None, **filters: Any) -> Page:
        """A page of candidates and the cursor of the next; arguments as for ``find``.

        Pages that follow one another hold every candidate once, also where others are added or removed
        meanwhile; one whose sort field changes may be on two pages or on none.
        """
        rows, following = self._page(sort, limit, after, filters)
        documents, skipped = [], 0
        for row in rows:
            try:
                documents.append(_candidate(row))
            except NewerDocumentError:
                skipped += 1
        _warn_of(skipped)
        return Page(documents, following, skipped)

    def count(self, **filters: Any) -> int:
        """How many candidates match, ``MOST_COUNTED + 1`` where there are more; filters as for ``find``.

        ``count_words`` says it in words.
        """
        return Listing(self._database, criteria_of(filters), Order(KEY)).count(MOST_COUNTED + 1)

    def get(self, candidate_id: str) -> CandidateDoc:
        """The candidate with this id.

        Raises
        ------
        CampaignError
            Where there is none; names the nearest id.
        StoreError
            If a later scdm-flows wrote it.
        """
        found = self._one(CandidateDoc, self._database.candidates, {"candidate_id": str(candidate_id)})
        if found is None:
            near = difflib.get_close_matches(str(candidate_id), self._ids_like(str(candidate_id)), n=1)
            hint = f"did you mean {near[0]}?" if near else "`scdm candidates list` shows what there is"
            raise CampaignError(f"no candidate has the id {candidate_id!r}; {hint}")
        return found

    def family(self, document: CandidateDoc) -> list[CandidateDoc | ParentRecord]:
        """The candidate, those that it was promoted from, and what was promoted from any of them; parents first.

        A parent that is gone is there as its child remembers it. The candidate alone where nothing was promoted.
        """
        members: list[CandidateDoc | ParentRecord] = [document]
        while isinstance(first := members[0], CandidateDoc) and first.promoted_from is not None:
            stored = self._all(CandidateDoc, self._database.candidates, {"candidate_id": first.promoted_from})
            parent = stored[0] if stored else first.parent
            if parent is None or parent.candidate_id in {one.candidate_id for one in members}:
                break
            members.insert(0, parent)
        for one in members:  # which grows meanwhile
            children = self._all(CandidateDoc, self._database.candidates, {"promoted_from": one.candidate_id})
            known = {member.candidate_id for member in members}
            new = [child for child in children if child.candidate_id not in known]
            members += new[: _MOST_RELATIVES - len(members)] if len(members) < _MOST_RELATIVES else []
        return members

    def _ids_like(self, candidate_id: str) -> list[str]:
        """Ids that begin alike; of the last six characters as few as need be may differ."""
        with store_errors(self._database.uri):
            for length in range(len(candidate_id) - 1, max(0, len(candidate_id) - 7), -1):
                start = candidate_id[:length]
                criteria = {"candidate_id": {"$gte": start, "$lt": start + "\U0010ffff"}}
                found = self._database.candidates.query(criteria, properties=["candidate_id"], limit=_NEAR)
                ids = [d["candidate_id"] for d in found]
                if ids:
                    return ids
        return []

    def flat_records(
        self, *, sort: str = "rank", limit: int | None = None, after: str | None = None, **filters: Any
    ) -> list[dict[str, Any]]:
        """``find`` as flat dictionaries of the fields in ``FLAT``, unknown ones None; ready for JSON."""
        return self.flat_page(sort=sort, limit=limit, after=after, **filters)[0]

    def flat_page(
        self, *, sort: str = "rank", limit: int | None = None, after: str | None = None, **filters: Any
    ) -> tuple[list[dict[str, Any]], str | None]:
        """``flat_records``, and the cursor of what comes after them; None where nothing does."""
        rows, following = self._page(sort, limit, after, filters, _FLAT_FIELDS)
        return _flat(rows), following

    def window(self, start: int, stop: int, *, sort: str = "rank", **filters: Any) -> tuple[list[dict[str, Any]], int]:
        """``flat_records`` at places ``start`` to ``stop`` (not included) of a listing, and how many match in all, as
        ``count`` says.

        For tables that are scrolled. Places move when candidates are added meanwhile; ``page`` goes by key.
        """
        if not 0 <= start < stop:
            raise ConfigError(f"rows {start} to {stop} are no part of a listing; it begins with row 0")
        listing = Listing(self._database, criteria_of(filters), Order(*sort_field(sort)), _FLAT_FIELDS)
        rows = listing.window(start, stop)
        return _flat(rows), listing.count(MOST_COUNTED + 1)

    def columns(self, fields: Iterable[str], **filters: Any) -> dict[str, NDArray[Any]]:
        """Queryable field -> its values in every candidate that matches, in the order of their ids.

        Numbers are float64 (nan: not known; booleans are 0 and 1), texts str (empty: not known).
        """
        kinds = queryable_fields()
        values: dict[str, list[Any]] = {}
        for name in fields:
            one_value(name, "columns")
            values[name] = []
        listing = Listing(self._database, criteria_of(filters), Order(KEY), list(values))
        for document in listing.read():
            for name, column in values.items():
                value = document.get(name)
                if issubclass(kinds[name], str):
                    column.append("" if value is None else str(value))
                else:
                    column.append(float(value) if isinstance(value, int | float) else np.nan)
        return {
            name: np.array(column, dtype=str if issubclass(kinds[name], str) else float)
            for name, column in values.items()
        }

    def check(self, *, sort: str = "rank", **filters: Any) -> None:
        """Nothing, or what ``find`` raises for these filters; asks no database."""
        criteria_of(filters)
        sort_field(sort)

    def stages(self, campaign: str) -> Iterator[dict[str, Any]]:
        """State, reason and stages (name -> record, as stored) of each candidate of a campaign, one by one."""
        fields = ["state", "reason", "stages"]
        with store_errors(self._database.uri):
            for found in self._database.candidates.query({"campaign": str(campaign)}, properties=fields):
                yield {"state": found.get("state"), "reason": found.get("reason"), "stages": found.get("stages") or {}}

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
        return self._one(HullDoc, self._database.hulls, {"chemsys": chemical_system(chemsys), **scheme})

    def hull_of(self, candidate: CandidateDoc) -> HullDoc | None:
        """The hull that a candidate's energy above hull comes from; None where it is on none.

        Where the candidate names none, the hull that names it: it may have no place there.
        """
        if candidate.hull_id is not None:
            return self._one(HullDoc, self._database.hulls, {"hull_id": candidate.hull_id})
        same = {"chemsys": candidate.chemsys, "energy_scheme": candidate.energy_scheme}
        found = self._all(HullDoc, self._database.hulls, same)
        name = candidate.candidate_id
        return next((hull for hull in found if name in hull.candidates or name in hull.errors), None)

    def failures(self, campaign: str) -> list[StageFailure]:
        """Stages that failed, of candidates and of whole shards."""
        return self._all(StageFailure, self._database.failures, {"campaign": str(campaign)})

    def campaigns(self) -> list[CampaignDoc]:
        """All campaigns by name; those of a later version are left out, with a warning."""
        return self._all(CampaignDoc, self._database.campaigns, {})

    def campaign(self, name: str) -> CampaignDoc:
        """The campaign; ``CampaignError`` with the nearest name where there is none."""
        return self._named(CampaignDoc, self._database.campaigns, name, "campaign", "scdm campaign list")

    def loops(self) -> list[LoopDoc]:
        """All loops by name; those of a later version are left out, with a warning."""
        return self._all(LoopDoc, self._database.loops, {})

    def loop(self, name: str) -> LoopDoc:
        """The loop; ``CampaignError`` with the nearest name where there is none."""
        return self._named(LoopDoc, self._database.loops, name, "loop", "scdm campaign list --loops")

    def campaigns_of(self, loop: LoopDoc) -> list[CampaignDoc]:
        """The campaigns of a loop's rounds, that of a round under way among them, by name."""
        return [one for one in self.campaigns() if is_of_loop(one, loop)]

    def loop_of(self, campaign: str) -> LoopDoc | None:
        """The loop that a campaign is of; None where it is of none."""
        named = round_of(campaign)
        found = None if named is None else self._database.loop(named[0])
        known = None if found is None else self._database.campaign(campaign)
        return found if found is not None and known is not None and is_of_loop(known, found) else None

    def _named(self, model: type[Model], store: Any, name: str, kind: str, listing: str) -> Model:
        found = self._one(model, store, {"name": str(name)})
        if found is None:
            with store_errors(self._database.uri):
                names = [str(one) for one in store.distinct("name")]
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"`{listing}` shows what there is"
            raise CampaignError(f"no {kind} is called {name!r}; {hint}")
        return found

    def _one(self, model: type[Model], store: Any, criteria: dict[str, Any]) -> Model | None:
        with store_errors(self._database.uri):
            found = store.query_one(criteria)
        if found is None:
            return None
        name = f"{store.collection_name} {found.get(store.key)!r}"
        return model.model_validate(migrate(model, strip(found), name))

    def _all(self, model: type[Model], store: Any, criteria: dict[str, Any]) -> list[Model]:
        documents, skipped = [], 0
        with store_errors(self._database.uri):
            found = list(store.query(criteria, sort={store.key: 1}))
        for document in found:
            try:
                documents.append(model.model_validate(migrate(model, strip(document))))
            except NewerDocumentError:
                skipped += 1
        _warn_of(skipped)
        return documents

    def _page(
        self, sort: str, limit: int | None, after: str | None, filters: dict[str, Any], fields: list[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Stored documents in order, and the cursor of those after them."""
        _check_limit(limit)
        rows = list(self._rows(sort, limit and limit + 1, after, filters, fields))
        if limit is None or len(rows) <= limit:
            return rows, None
        return rows[:limit], write_cursor(Order(*sort_field(sort)), criteria_of(filters), rows[limit - 1])

    def _rows(
        self, sort: str, limit: int | None, after: str | None, filters: dict[str, Any], fields: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Stored documents in order, one by one. Arguments are checked before the first is asked for."""
        criteria, order = criteria_of(filters), Order(*sort_field(sort))
        _check_limit(limit)
        start = None if after is None else read_cursor(after, order, criteria)
        return Listing(self._database, criteria, order, fields).read(limit, start)


def _candidate(row: dict[str, Any]) -> CandidateDoc:
    return CandidateDoc.model_validate(migrate(CandidateDoc, row, f"candidate {row.get('candidate_id')!r}"))


def count_words(n: int) -> str:
    """What ``CandidateDB.count`` says, in words."""
    return f"more than {MOST_COUNTED:,}" if n > MOST_COUNTED else f"{n:,}"


def known_words(known: Iterable[KnownAs | dict[str, Any]] | None) -> str | None:
    """What a candidate is known as, in words, the nearest first; None where it is not."""
    return "; ".join(str(KnownAs.model_validate(one)) for one in known or ()) or None


def _flat(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """``FLAT`` of stored documents, without those of a later version."""
    records, skipped = [], 0
    for row in rows:
        try:
            current = migrate(CandidateDoc, row)
        except NewerDocumentError:
            skipped += 1
            continue
        flat = {name: current.get(name) for name in FLAT}
        records.append(flat | {KNOWN_AS: known_words(current.get(KNOWN_AS))})
    _warn_of(skipped)
    return records


def _warn_of(skipped: int) -> None:
    if skipped:
        logger.warning(
            "%d document%s left out: a later scdm-flows wrote %s; upgrade to read %s",
            skipped,
            "" if skipped == 1 else "s",
            *(["it"] * 2 if skipped == 1 else ["them"] * 2),
        )


def _check_limit(limit: Any) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"limit={limit!r} must be a whole number >= 1")
