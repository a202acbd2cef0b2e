"""Sorted pages from a server that sorts before it limits.

MongoDB stops reading an index when a page is full. The embedded server does not: it reads every document that one
index range holds, then sorts, then cuts (about 0.07 ms a document). So its pages are read in windows: narrow ranges
of the sort field, in order, until the page is full. How wide a window may be is estimated from a sample. A wrong
estimate costs time; what comes back is read from the database, so it is right whatever the sample says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from scdm_flows.stores.indexes import Index, fields_that_are

logger = logging.getLogger(__name__)

Criteria = dict[str, Any]  # field -> value, None, or a mapping of operators
Find = Callable[[Criteria, str, bool, int], list[dict[str, Any]]]  # criteria, sort field, descending, limit

KEY = "candidate_id"
FEW = 250  # documents that one request may read without a thought
WINDOW = 120  # documents of the first window, where the page does not need more
SAMPLE = 1200  # documents of the sample
DIGITS = 12  # hexadecimal digits at the end of a candidate_id: as good as random numbers
MAX_CAMPAIGNS = 12  # that the sample is taken from
MOST = 1e8  # more candidates than this are an estimate gone wrong
GRID = 4096  # steps of the id within a campaign


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
    """Some candidates, each standing for ``weight`` others of its campaign.

    rows: (weight, the candidate's indexed fields); counts: campaign -> candidates, estimated.
    """

    rows: Sequence[tuple[float, Mapping[str, Any]]]
    counts: Mapping[str, float]

    @property
    def total(self) -> float:
        """How many candidates there are, estimated."""
        return sum(self.counts.values())

    def rows_of(self, criteria: Criteria) -> float:
        """How many candidates match, estimated; at least half of what one row stands for."""
        found = sum(weight for weight, row in self.rows if matches(row, criteria))
        return max(found, self.total / max(2 * len(self.rows), 1))

    def cuts(self, field: str, criteria: Criteria, inside: Range) -> list[tuple[Any, float]]:
        """(value, candidates it stands for) in ascending order, of the candidates that match."""
        if field == KEY:
            share = self.rows_of(criteria) / max(self.total, 1)
            grid = (
                (f"{campaign}-{step * 16**DIGITS // GRID:0{DIGITS}x}", n / GRID * share)
                for campaign, n in sorted(self.counts.items())
                for step in range(GRID)
            )
            return [(value, weight) for value, weight in grid if inside.holds(value)]
        values = sorted(
            (row[field], weight)
            for weight, row in self.rows
            if row.get(field) is not None and inside.holds(row[field]) and matches(row, criteria)
        )
        return [(value, sum(w for _, w in group)) for value, group in groupby(values, key=lambda pair: pair[0])]


def take_sample(collection: Any, campaigns: Sequence[str]) -> Sample | None:
    """A sample by ranges of the id, whose digits are as good as random; None where that does not work.

    Ranges grow from a few ids on, so that no more is read than needed, whatever the ids look like.
    """
    if not campaigns:
        return None
    fields = dict.fromkeys([*fields_that_are("queryable"), KEY], 1)
    rows: list[tuple[float, dict[str, Any]]] = []
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
        counts[campaign] = len(found) * scale
        rows += [(scale, row) for row in found]
    average, left_out = sum(counts.values()) / len(chosen), len(campaigns) / len(chosen)
    sample = Sample([(weight * left_out, row) for weight, row in rows], dict.fromkeys(campaigns, average) | counts)
    # ids of another kind: nothing can be concluded from their digits
    return sample if rows and sample.total < MOST else None


def _first(
    collection: Any, campaign: str, width: int, fields: Mapping[str, int]
) -> tuple[list[dict[str, Any]], float]:
    """The campaign's candidates whose digits are below ``width``, and how many each stands for."""
    inside = Range(f"{campaign}-{0:0{DIGITS}x}", f"{campaign}-{width - 1:0{DIGITS}x}")
    return list(collection.find({KEY: inside.operators()}, fields)), 16.0**DIGITS / width


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
    """Reads sorted pages in windows. sample, indexes: of the collection."""

    def __init__(self, sample: Sample, indexes: Sequence[Index]) -> None:
        self._sample = sample
        self._indexes = [i.fields for i in indexes]
        self._leading = {fields[0] for fields in self._indexes}

    def read(
        self, find: Find, criteria: Criteria, field: str, inside: Range, descending: bool, limit: int
    ) -> list[dict[str, Any]]:
        """Documents that match, sorted by field and id, whose field lies inside; at most ``limit``.

        find: makes one request.
        """
        bounded = {**criteria, field: inside.operators()}
        if field not in self._leading:
            return _request(find, bounded, self._cheapest(criteria)[0], field, descending, limit)
        expected = self._sample.rows_of(bounded)
        clause, direct = self._cheapest(bounded)
        covered = self._covered(criteria, field)
        walked = expected if covered else self._sample.rows_of({field: inside.operators()})
        cost = walked * min(1.0, limit / expected)
        if direct <= FEW or direct <= cost:
            return _request(find, bounded, clause, field, descending, limit)
        found: list[dict[str, Any]] = []
        spent = 0.0
        for window, rows in self._windows(criteria if covered else {}, field, inside, descending, cost):
            if spent > max(2 * direct, 2 * FEW):  # the estimate was wrong: all that is left, at a known price
                rest = replace(inside, high=window.high, high_inclusive=window.high_inclusive)
                if not descending:
                    rest = replace(inside, low=window.low, low_inclusive=window.low_inclusive)
                bounded = {**criteria, field: rest.operators()}
                return found + _request(find, bounded, clause, field, descending, limit - len(found))
            spent += rows
            if window.low is not None and window.low == window.high and rows > FEW and field != KEY:
                tied = {**criteria, field: window.low}
                found += self.read(find, tied, KEY, Range(""), descending, limit - len(found))
            else:
                bounded = {**criteria, field: window.operators()}
                found += _request(find, bounded, field, field, descending, limit - len(found))
            if len(found) >= limit:
                break
        return found

    def _windows(
        self, criteria: Criteria, field: str, inside: Range, descending: bool, cost: float
    ) -> Iterator[tuple[Range, float]]:
        """Ranges that together make up ``inside``, in order, with the documents each holds, estimated."""
        size = min(max(cost, WINDOW), 2 * FEW)
        cuts = self._sample.cuts(field, criteria, inside)
        left, rows = inside, 0.0
        for value, weight in reversed(cuts) if descending else cuts:
            heavy = weight > FEW
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
        """The indexed condition that the fewest documents match, and how many."""
        prices = {f: self._sample.rows_of({f: c}) for f, c in criteria.items() if f in self._leading and c != {}}
        clause = min(prices, key=lambda f: prices[f], default="")
        return clause, prices.get(clause, self._sample.total)

    def _covered(self, criteria: Criteria, field: str) -> bool:
        """Whether one index holds exactly the criteria's fields, then the sort field."""
        plain = {f: c for f, c in for_an_index(criteria).items() if not isinstance(c, Mapping)}
        n = len(plain)
        if n < len(criteria):
            return False
        return any(set(i[:n]) == set(plain) and i[n : n + 1] == (field,) for i in self._indexes)


def _request(
    find: Find, criteria: Criteria, first: str, field: str, descending: bool, limit: int
) -> list[dict[str, Any]]:
    """One request; the server takes the index of the first condition that has one."""
    ordered = dict(sorted(criteria.items(), key=lambda item: item[0] != first))
    return find(for_an_index(ordered), field, descending, limit)


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
    return {
        f: c["$eq"] if isinstance(c, Mapping) and set(c) == {"$eq"} else c for f, c in asked.items()
    }
