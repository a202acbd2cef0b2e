"""Sorted pages from a server that sorts before it limits.

MongoDB stops reading an index when a page is full. The embedded server does not: it reads every document that one
index range holds, then sorts, then cuts (about 0.07 ms a document). So its pages are read in windows: narrow ranges
of the sort field, in order, until the page is full. How wide a window may be is estimated from a sample. A wrong
estimate costs time; what comes back is read from the database, so it is right whatever the sample says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from scdm_flows.stores.indexes import fields_that_are

logger = logging.getLogger(__name__)

Criteria = dict[str, Any]  # field -> value, None, or a mapping of operators
# criteria, sort field, descending, limit (0: none), only these fields (None: those of the page)
Find = Callable[[Criteria, str, bool, int, list[str] | None], list[dict[str, Any]]]

KEY = "candidate_id"
FEW = 250  # documents that one request may read without a thought
WINDOW = 60  # documents of the first window, where the page does not need more
SAMPLE = 1000  # documents of the sample
DIGITS = 12  # hexadecimal digits at the end of a candidate_id: as good as random numbers
MAX_CAMPAIGNS = 12  # that the sample is taken from
MOST = 1e8  # more candidates than this are an estimate gone wrong
IDS: int = 16**DIGITS  # that a campaign may have
STEP = 40  # documents between two ids that a window may begin at


@dataclass(frozen=True)
class Range:
    """Values between two bounds; a bound that is None is open."""

    low: Any = None
    high: Any = None
    low_inclusive: bool = True
    high_inclusive: bool = True

    def operators(self) -> dict[str, Any]:
        """As MongoDB's operators."""
        found = {}
        if self.low is not None:
            found["$gte" if self.low_inclusive else "$gt"] = self.low
        if self.high is not None:
            found["$lte" if self.high_inclusive else "$lt"] = self.high
        return found

    def holds(self, value: Any) -> bool:
        """Whether a value lies within."""
        if self.low is not None and (value < self.low or (value == self.low and not self.low_inclusive)):
            return False
        return not (self.high is not None and (value > self.high or (value == self.high and not self.high_inclusive)))


@dataclass(frozen=True)
class Sample:
    """Some candidates, each standing for others of its campaign.

    rows: campaign -> some of its candidates' fields, those with the lowest ids; counts: campaign -> candidates,
    estimated.
    """

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    counts: Mapping[str, float]

    @property
    def total(self) -> float:
        """How many candidates there are, estimated."""
        return float(sum(self.counts.values()))

    def rows_of(self, criteria: Criteria) -> float:
        """How many candidates match, estimated; at least half of what one row stands for."""
        inside = criteria.get(KEY)
        others = {f: c for f, c in criteria.items() if f != KEY}
        found = 0.0
        for campaign, weight, n in self._matching(others):
            # the sample's own ids are the lowest ones: what a range of ids holds follows from its width
            found += weight * n * (1.0 if inside is None else _share(campaign, inside))
        return float(max(found, self.total / (2 * max(sum(map(len, self.rows.values())), 1))))

    def _matching(self, criteria: Criteria) -> Iterator[tuple[str, float, int]]:
        """(campaign, what one row stands for, rows that match)."""
        for campaign, rows in self.rows.items():
            if rows:
                n = sum(matches(row, criteria) for row in rows) if criteria else len(rows)
                yield campaign, self.counts[campaign] / len(rows), n

    def cuts(self, field: str, criteria: Criteria, inside: Range, descending: bool) -> Iterable[tuple[Any, float]]:
        """(value, candidates it stands for), in order, of the candidates that match."""
        if field == KEY:
            return self._ids(criteria, inside, descending)
        values: list[tuple[Any, float]] = [
            (row[field], self.counts[campaign] / len(rows))
            for campaign, rows in self.rows.items()
            for row in rows
            if row.get(field) is not None and inside.holds(row[field]) and matches(row, criteria)
        ]
        values.sort(reverse=descending)
        return [(value, sum(w for _, w in group)) for value, group in groupby(values, key=lambda pair: pair[0])]

    def _ids(self, criteria: Criteria, inside: Range, descending: bool) -> Iterator[tuple[str, float]]:
        matching = {campaign: weight * n for campaign, weight, n in self._matching(criteria)}
        average = sum(matching.values()) / max(len(matching), 1)  # of campaigns that the sample leaves out
        for campaign in sorted(self.counts, reverse=descending):
            steps = max(1, round(matching.get(campaign, average) / STEP))
            for step in range(steps, 0, -1) if descending else range(steps):
                value = f"{campaign}-{min(step * IDS // steps, IDS - 1):0{DIGITS}x}"
                if inside.holds(value):
                    yield value, matching.get(campaign, average) / steps


def _share(campaign: str, condition: Any) -> float:
    """The part of a campaign's ids that fit a condition on the id."""
    if not isinstance(condition, Mapping):
        return float(str(condition).startswith(f"{campaign}-")) / IDS
    low, high = 0.0, 1.0
    for operator, bound in condition.items():
        if operator in ("$gte", "$gt"):
            low = _place(campaign, bound)
        elif operator in ("$lte", "$lt"):
            high = _place(campaign, bound)
    return max(0.0, high - low)


def _place(campaign: str, candidate_id: str) -> float:
    """Where an id lies among those of a campaign, from 0 to 1."""
    start, digits = f"{campaign}-", candidate_id[len(campaign) + 1 :]
    if not candidate_id.startswith(start):
        return float(candidate_id > start)
    try:
        return min(1.0, int(digits[:DIGITS].ljust(DIGITS, "0") or "0", 16) / IDS)
    except ValueError:
        return float(digits > "8")


def take_sample(collection: Any, campaigns: Sequence[str]) -> Sample | None:
    """A sample by ranges of the id, whose digits are as good as random; None where that does not work.

    Ranges grow from a few ids on, so that no more is read than needed, whatever the ids look like.
    """
    if not campaigns:
        return None
    fields = dict.fromkeys([*fields_that_are("queryable"), KEY], 1)
    rows: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, float] = {}
    chosen = list(campaigns)[:: -(-len(campaigns) // MAX_CAMPAIGNS)]
    wanted = SAMPLE / len(chosen)
    for campaign in chosen:
        found: list[dict[str, Any]] = []
        scale = 1.0
        for digits in range(2, DIGITS + 1):
            found, scale = _first(collection, campaign, 16**digits, fields)
            if len(found) > wanted / 16:  # the next would be sixteen times as many: widen by less
                if len(found) < wanted / 2 and digits < DIGITS:
                    steps = min(16, int(wanted / len(found)))
                    found, scale = _first(collection, campaign, steps * 16**digits, fields)
                break
        counts[campaign], rows[campaign] = len(found) * scale, found
    average = sum(counts.values()) / len(chosen)
    sample = Sample(rows, dict.fromkeys(campaigns, average) | counts)
    # ids of another kind: nothing can be concluded from their digits
    return sample if any(rows.values()) and sample.total < MOST else None


def _first(collection: Any, campaign: str, width: int, fields: Mapping[str, int]) -> tuple[list[dict[str, Any]], float]:
    """The campaign's candidates whose digits are below ``width``, and how many each stands for."""
    inside = Range(f"{campaign}-{0:0{DIGITS}x}", f"{campaign}-{width - 1:0{DIGITS}x}")
    return list(collection.find({KEY: inside.operators()}, fields)), IDS / width


def matches(row: Mapping[str, Any], criteria: Criteria) -> bool:
    """Whether a document matches criteria of the kinds that ``CandidateDB`` writes."""
    return all(_matches(row.get(field), condition) for field, condition in criteria.items())


def _matches(value: Any, condition: Any) -> bool:
    if not isinstance(condition, Mapping):
        return bool(condition in value) if isinstance(value, list) else bool(value == condition)
    for operator, bound in condition.items():
        if operator == "$in":
            fits = value in bound
        elif operator == "$all":
            fits = value is not None and set(bound) <= set(value)
        elif operator == "$eq":
            fits = _matches(value, bound)
        elif value is None:
            fits = False
        else:
            fits = {"$gte": value >= bound, "$gt": value > bound, "$lte": value <= bound, "$lt": value < bound}[
                operator
            ]
        if not fits:
            return False
    return True


class WindowedReader:
    """Reads sorted pages in windows. sample: of the collection; indexes: the fields of each."""

    def __init__(self, sample: Sample, indexes: Sequence[tuple[str, ...]]) -> None:
        self._sample, self._indexes = sample, indexes
        self._leading = {fields[0] for fields in self._indexes}

    def read(
        self, find: Find, criteria: Criteria, field: str, inside: Range, descending: bool, limit: int
    ) -> list[dict[str, Any]]:
        """Documents that match, sorted by field and id, whose field lies inside; at most ``limit``.

        find: makes one request.
        """
        if "$all" in (criteria.get("elements") or ()):
            rarest = sorted(criteria["elements"]["$all"], key=lambda e: self._sample.rows_of({"elements": e}))
            criteria = {**criteria, "elements": {"$all": rarest}}
        bounded = {**criteria, field: inside.operators()}
        clause, direct = self._cheapest(bounded)
        if field not in self._leading or direct <= FEW:
            return _request(find, bounded, clause, field, descending, limit)
        used = self._walk(criteria, field, inside)
        cost = self._cost(criteria, used, field, inside, descending, limit)
        if direct <= cost:
            return _request(find, bounded, clause, field, descending, limit)
        found: list[dict[str, Any]] = []
        spent = 0.0
        for window, rows in self._windows(used, field, inside, descending, cost):
            if spent > max(2 * direct, 2 * FEW):  # the estimate was wrong: all that is left, at a known price
                rest = replace(inside, high=window.high, high_inclusive=window.high_inclusive)
                if not descending:
                    rest = replace(inside, low=window.low, low_inclusive=window.low_inclusive)
                bounded = {**criteria, field: rest.operators()}
                return found + _request(find, bounded, clause, field, descending, limit - len(found))
            spent += rows
            wanted = limit - len(found)
            if window.low is not None and window.low == window.high and rows > FEW and field != KEY:
                found += self.read(find, {**criteria, field: window.low}, KEY, Range(""), descending, wanted)
            elif used in (criteria, {}):
                bounded = {**criteria, field: window.operators()}
                found += _request(find, bounded, field, field, descending, wanted)
            else:  # the server takes an index for exactly these conditions, or none: the others are looked at here
                heads = find(for_an_index({**used, field: window.operators()}), field, descending, 0, [KEY, *criteria])
                ids = [head[KEY] for head in heads if matches(head, criteria)][:wanted]
                found += find({KEY: {"$in": ids}}, field, descending, 0, None) if ids else []
            if len(found) >= limit:
                break
        return found

    def _windows(
        self, criteria: Criteria, field: str, inside: Range, descending: bool, cost: float
    ) -> Iterator[tuple[Range, float]]:
        """Ranges that together make up ``inside``, in order, with the documents each holds, estimated."""
        size = min(max(cost, WINDOW), 2 * FEW)
        left, rows = inside, 0.0
        for value, weight in self._sample.cuts(field, criteria, inside, descending):
            heavy = weight > FEW and field != KEY
            if not heavy and rows + weight < size:
                rows += weight
                continue
            # a value that very many share is a window of its own
            window, left = _split(left, value, descending, with_value=not heavy)
            yield window, rows + (0.0 if heavy else weight)
            rows = 0.0
            if heavy:
                yield Range(value, value), weight
                _, left = _split(left, value, descending, with_value=True)
        yield left, rows

    def _cheapest(self, criteria: Criteria) -> tuple[str, float]:
        """The condition whose index range holds the fewest documents, and how many."""
        asked = for_an_index(criteria)
        prices = {}
        for name in criteria:
            condition = {"$all": criteria[name]["$all"][:1]} if "$all" in _keys(criteria[name]) else criteria[name]
            if name in self._leading and condition != {} and "$all" not in _keys(asked[name]):
                prices[name] = self._sample.rows_of({name: condition})
        clause = min(prices, key=lambda f: prices[f], default="")
        return clause, prices.get(clause, self._sample.total)

    def _walk(self, criteria: Criteria, field: str, inside: Range) -> Criteria:
        """The index to walk in order, as the criteria that are in it: that whose range holds the fewest documents.

        It holds equal values of some of the criteria, then the sort field.
        """
        plain = {f: c for f, c in criteria.items() if not isinstance(for_an_index({f: c})[f], Mapping)}
        if len(criteria.get("elements", {}).get("$all", ())) > 1:
            plain["elements"] = {"$all": criteria["elements"]["$all"][:1]}
        fewest, best = self._sample.rows_of({field: inside.operators()}), Criteria()
        # ids begin with the campaign: in their order, all matches of one campaign come together, maybe late
        by_campaign = field == KEY and "campaign" in plain
        for index in self._indexes:
            n = index.index(field) if field in index else 0
            if n and set(index[:n]) <= set(plain) and ("campaign" in index or not by_campaign):
                used = {f: plain[f] for f in index[:n]}
                rows = self._sample.rows_of({**used, field: inside.operators()})
                if rows < fewest or (by_campaign and not best):
                    fewest, best = rows, used
        return best

    def _cost(
        self, criteria: Criteria, used: Criteria, field: str, inside: Range, descending: bool, limit: int
    ) -> float:
        """How many documents a walk reads until ``limit`` match, estimated."""
        bounded = {**criteria, field: inside.operators()}
        if field == KEY:
            walked = self._sample.rows_of({**used, field: inside.operators()})
            return walked * min(1.0, limit / self._sample.rows_of(bounded))
        # values may go together with the criteria: count along the walk, in twenty steps, not on average
        matching = dict(self._sample.cuts(field, criteria, inside, descending))
        cuts = list(self._sample.cuts(field, used, inside, descending))
        step = sum(weight for _, weight in cuts) / 20
        walked = found = rows = hits = 0.0
        for value, weight in cuts:
            rows, hits = rows + weight, hits + matching.get(value, 0.0)
            if rows < step:
                continue
            if found + hits >= limit:
                return float(walked + rows * (limit - found) / hits)
            walked, found, rows, hits = walked + rows, found + hits, 0.0, 0.0
        return walked + rows


def _keys(condition: Any) -> set[str]:
    return set(condition) if isinstance(condition, Mapping) else set()


def _request(
    find: Find, criteria: Criteria, first: str, field: str, descending: bool, limit: int
) -> list[dict[str, Any]]:
    """One request; the server takes the index of the first condition that has one."""
    ordered = dict(sorted(criteria.items(), key=lambda item: item[0] != first))
    return find(for_an_index(ordered), field, descending, limit, None)


def _split(whole: Range, value: Any, descending: bool, *, with_value: bool) -> tuple[Range, Range]:
    """The part up to a value, in reading order, and the rest; with_value: the value belongs to the first."""
    below = replace(whole, high=value, high_inclusive=with_value != descending)
    above = replace(whole, low=value, low_inclusive=with_value == descending)
    return (above, below) if descending else (below, above)


def for_an_index(criteria: Criteria) -> Criteria:
    """The same question, put so that the embedded server finds an index for it.

    It has none for ``$all``: the first element becomes an equality, the others a pattern of the chemical system.
    """
    asked = dict(criteria)
    condition = asked.get("elements")
    if isinstance(condition, Mapping) and set(condition) == {"$all"}:
        first, *others = condition["$all"]
        if not others:
            asked["elements"] = first
        elif "chemsys" not in asked:
            asked["elements"] = first
            asked["chemsys"] = {"$regex": "^" + "".join(rf"(?=.*(^|-){e}(-|$))" for e in others)}
    return {f: _from_the_first_number(c["$eq"] if _keys(c) == {"$eq"} else c) for f, c in asked.items()}


def _from_the_first_number(condition: Any) -> Any:
    """Below a number lie those without a value: the embedded server would read them all, to leave them out."""
    highest = next((condition[o] for o in ("$lte", "$lt") if o in _keys(condition)), None)
    if isinstance(highest, int | float) and not isinstance(highest, bool) and not {"$gte", "$gt"} & _keys(condition):
        return {"$gte": float("-inf"), **condition}
    return condition
