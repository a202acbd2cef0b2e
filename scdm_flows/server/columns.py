"""What a filter compares: one value or one list a row, known or not. Pure; knows no database.

Text is UTF-8 in numpy's ``S`` (its order is that of the code points), empty where not known; everything else is
float64, nan where not known: numbers, booleans as 0 and 1, times as seconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["text", "number", "bool", "time"]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scalar:
    """One value a row. values: (n,), as the module says."""

    kind: Kind
    values: NDArray[Any]

    @property
    def known(self) -> Mask:
        """(n,) where there is a value."""
        return np.asarray(self.values != b"" if self.kind == "text" else ~np.isnan(self.values), dtype=bool)


@dataclass(frozen=True)
class Lists:
    """One list a row, of few different ones.

    kind: of their items, None where items cannot be compared (lists and dictionaries); lists: the different ones, None
    where not known; rows: (n,) which one a row has; lengths: (n,) of the lists where it is not that of ``lists``.
    """

    kind: Kind | None
    lists: Sequence[Sequence[Any] | None]
    rows: NDArray[np.int64]
    lengths: NDArray[Any] | None = None

    @property
    def known(self) -> Mask:
        """(n,) where there is a list, also an empty one."""
        return np.array([one is not None for one in self.lists], dtype=bool)[self.rows]

    @cached_property
    def laid_out(self) -> Zipped:
        """Its lists end to end."""
        lists = [one or () for one in self.lists]
        owner = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
        known = np.array([one is not None for one in self.lists], dtype=bool)
        return Zipped([_flat(self.kind, lists)], owner, known, self.rows)

    @property
    def length(self) -> NDArray[Any]:
        """(n,) number of items, nan where not known."""
        if self.lengths is not None:
            return self.lengths
        return np.array([np.nan if one is None else len(one) for one in self.lists])[self.rows]


@dataclass(frozen=True)
class Zipped:
    """The different lists of one column, or combinations of lists of several columns item by item, laid end to end.

    items: for each column (n_items,) as in ``Scalar``; owner: (n_items,) which list an item is of; known: (n_lists,);
    rows: (n,) which list a row has.
    """

    items: Sequence[NDArray[Any]]
    owner: NDArray[np.int64]
    known: Mask
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, columns: Sequence[Lists]) -> Zipped:
        """Of columns whose items can be compared."""
        if len(columns) == 1:
            return columns[0].laid_out
        first, *others = [column.laid_out for column in columns]
        if all(o.rows is first.rows and np.array_equal(o.owner, first.owner) for o in others):
            known = np.logical_and.reduce([first.known, *(o.known for o in others)])
            return cls([first.items[0], *(o.items[0] for o in others)], first.owner, known, first.rows)
        which, rows = np.unique(np.stack([c.rows for c in columns]), axis=1, return_inverse=True)
        chosen = [[c.lists[i] for i in places] for c, places in zip(columns, which.tolist(), strict=True)]
        known = np.array([all(one is not None for one in ones) for ones in zip(*chosen, strict=True)], dtype=bool)
        sizes = [min(len(one or ()) for one in ones) for ones in zip(*chosen, strict=True)]
        items = [
            _flat(column.kind, [(one or ())[:size] for one, size in zip(ones, sizes, strict=True)])
            for column, ones in zip(columns, chosen, strict=True)
        ]
        return cls(items, np.repeat(np.arange(len(sizes)), sizes), known, rows.ravel())

    @property
    def n_items(self) -> int:
        """Items of all different lists."""
        return len(self.owner)

    def some(self, met: Mask) -> Mask:
        """(n_lists,) lists in which some item meets a condition. met: (n_items,)."""
        found = np.zeros(len(self.known), dtype=bool)
        found[self.owner[met]] = True
        return found

    def every(self, met: Mask) -> Mask:
        """(n_lists,) lists that hold something, all of which meets a condition."""
        return ~self.some(~met) & self.some(np.ones_like(met))


def _flat(kind: Kind | None, lists: Sequence[Sequence[Any]]) -> NDArray[Any]:
    items = [item for one in lists for item in one]
    return texts(items) if kind == "text" else np.array(items, dtype=float)


@dataclass(frozen=True)
class Unknown:
    """A property that no row has a value of, whatever its type."""

    n: int

    @property
    def known(self) -> Mask:
        """(n,) False."""
        return np.zeros(self.n, dtype=bool)


Column = Scalar | Lists | Unknown


class Columns(Protocol):
    """The rows that a filter chooses from."""

    def __len__(self) -> int:
        """Number of rows."""

    def names(self) -> Sequence[str]:
        """Properties there are, as OPTIMADE spells them."""

    def get(self, name: str) -> Column | None:
        """A property's column; None for a name that is none of ours."""


def same(items: Sequence[Any] | None, n: int, kind: Kind | None) -> Lists:
    """The same list in every row."""
    return Lists(kind, [items], np.zeros(n, dtype=np.int64))


def texts(values: Sequence[str | None]) -> NDArray[np.bytes_]:
    """(n,) UTF-8."""
    coded = [b"" if v is None else v.encode("utf-8", "replace") for v in values]
    return np.array(coded, dtype=bytes) if coded else np.zeros(0, "S1")


class Records:
    """Columns of a few plain dictionaries (property -> value); None and absent values are not known."""

    def __init__(self, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        self._records, self._names = records, list(names)

    def __len__(self) -> int:
        return len(self._records)

    def names(self) -> Sequence[str]:
        """Properties that a filter may name."""
        return self._names

    def get(self, name: str) -> Column | None:
        """The column of a property."""
        if name not in self._names:
            return None
        values = [record.get(name) for record in self._records]
        first = next((v for v in values if v is not None), None)
        if first is None:
            return Unknown(len(values))
        if isinstance(first, list):
            items = {type(item) for one in values if one is not None for item in one}
            kind: Kind | None = "text" if items == {str} else "number" if items and items <= {int, float} else None
            return Lists(kind, values, np.arange(len(values)))
        if isinstance(first, str):
            return Scalar("text", texts(values))
        if isinstance(first, datetime):
            return Scalar("time", np.array([np.nan if v is None else v.timestamp() for v in values]))
        kind = "bool" if isinstance(first, bool) else "number"
        if not isinstance(first, bool | int | float):
            return Lists(None, [None if v is None else [v] for v in values], np.arange(len(values)))
        return Scalar(kind, np.array([np.nan if v is None else float(v) for v in values]))
