"""OPTIMADE filters to masks: a parsed filter is evaluated on columns, so nothing of it reaches a database.

A comparison with a value that is not known is neither true nor false, also under NOT; a row is chosen where the whole
filter is true (OPTIMADE 1.2, "Handling unknown property names" and "Type handling and conversions in comparisons").
"""

from __future__ import annotations

import difflib
import math
import operator
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import optimade.grammar
from lark import Lark, Token, Transformer, Tree
from lark.exceptions import LarkError, UnexpectedInput, UnexpectedToken, VisitError
from optimade.exceptions import BadRequest
from optimade.warnings import UnknownProviderProperty

from scdm_flows.errors import ScdmError
from scdm_flows.server.columns import Column, Columns, Kind, Lists, Mask, Scalar, Unknown, Zipped

MAX_CHARACTERS = 4000
SECONDS = 10.0  # to evaluate one filter
_GRAMMAR = "v1.2.0.lark"
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_WORDS = {"text": "a text in quotes", "number": "a number", "bool": "TRUE or FALSE", "time": "a time in quotes"}
Condition = tuple[str, Any]  # operator, value


class Name(str):
    """A property, with its parts joined by dots."""

    __slots__ = ()


@dataclass(frozen=True)
class Truth:
    """(n,) where a part of a filter is true, and where it is false; elsewhere it is not known."""

    true: Mask
    false: Mask

    @classmethod
    def of(cls, fits: Any, known: Mask) -> Truth:
        """From where it fits, if it is known at all."""
        fits = np.asarray(fits, dtype=bool)
        return cls(fits & known, ~fits & known)


@cache
def _parser() -> Lark:
    """optimade's grammar as LALR, whose time grows with the length alone, and with TRUE and FALSE told apart."""
    text = (Path(optimade.grammar.__file__).parent / _GRAMMAR).read_text()
    return Lark(text.replace("\nbool:", "\n!bool:"), parser="lalr", maybe_placeholders=False)


def parse(text: str) -> Tree[Token]:
    """The parsed filter.

    Raises
    ------
    BadRequest
        Where it does not follow the grammar, with the place, or is too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(f"the filter has {len(text)} characters, {MAX_CHARACTERS} are allowed; ask in several parts")
    try:
        return _parser().parse(text)
    except UnexpectedInput as error:
        ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        where = "at its end" if ended else f"at character {error.column}"
        raise BadRequest(
            f'the filter cannot be read {where}; write it like elements HAS ALL "Mo","S" AND nsites<=6'
        ) from None
    except LarkError:
        raise BadRequest("the filter cannot be read; see the OPTIMADE specification for its grammar") from None


def evaluate(tree: Tree[Token], columns: Columns, prefix: str, seconds: float = SECONDS) -> Mask:
    """(n,) rows for which the filter is true. prefix: of our own properties, without underscores.

    Raises
    ------
    BadRequest
        For an unknown property, a value of another type, and a filter that takes too long or is nested too deeply.
    """
    try:
        found = _Masks(columns, prefix, time.monotonic() + seconds).transform(tree)
    except VisitError as error:
        if isinstance(error.orig_exc, BadRequest | ScdmError):
            raise error.orig_exc from None
        if isinstance(error.orig_exc, RecursionError):
            raise BadRequest("the filter is nested too deeply; use fewer parentheses") from None
        raise
    except RecursionError:
        raise BadRequest("the filter is nested too deeply; use fewer parentheses") from None
    assert isinstance(found, Truth)
    return found.true


class _Masks(Transformer[Token, Any]):
    """Evaluates a filter from its leaves; a rule's method is called with what its parts have become."""

    def __init__(self, columns: Columns, prefix: str, deadline: float) -> None:
        super().__init__(visit_tokens=False)
        self._columns, self._prefix, self._deadline = columns, prefix, deadline

    # values
    def string(self, parts: list[Token]) -> str:
        inner = str(parts[0])[1:-1]
        if "\x00" in inner:
            raise BadRequest("a text in a filter must not hold a NUL character; leave it out")
        return re.sub(r'\\(["\\])', r"\1", inner)

    def number(self, parts: list[Token]) -> float:
        try:
            return float(int(parts[0])) if parts[0].type == "SIGNED_INT" else float(parts[0])
        except OverflowError:
            return math.inf if not parts[0].startswith("-") else -math.inf

    def signed_int(self, parts: list[Token]) -> float:
        return self.number(parts)

    def bool(self, parts: list[Token]) -> bool:
        return str(parts[0]) == "TRUE"

    def property(self, parts: list[Token]) -> Name:
        return Name(".".join(parts))

    def _only(self, parts: list[Any]) -> Any:
        return parts[0]

    constant = value = non_string_value = not_implemented_string = comparison = _only

    def value_list(self, parts: list[Any]) -> list[Condition]:
        """Conditions of values with an operator before them or not."""
        conditions, sign = [], "="
        for part in parts:
            if isinstance(part, Token):
                sign = str(part)
            else:
                conditions.append((sign, part))
                sign = "="
        return conditions

    value_zip = value_list

    def value_zip_list(self, parts: list[list[Condition]]) -> list[list[Condition]]:
        return parts

    def property_zip_addon(self, parts: list[Name]) -> list[Name]:
        return parts

    # logic
    def filter(self, parts: list[Truth]) -> Truth:
        if len(parts) != 1:
            raise BadRequest("the filter holds several expressions; join them with AND or OR")
        return parts[0]

    def expression(self, parts: list[Truth]) -> Truth:
        return reduce(lambda a, b: Truth(a.true | b.true, a.false & b.false), parts)

    def expression_clause(self, parts: list[Truth]) -> Truth:
        return reduce(lambda a, b: Truth(a.true & b.true, a.false | b.false), parts)

    def expression_phrase(self, parts: list[Any]) -> Truth:
        found: Truth = parts[-1]
        return found if len(parts) == 1 else Truth(found.false, found.true)

    # comparisons: what stands on the right becomes a function of the property
    def property_first_comparison(self, parts: list[Any]) -> Truth:
        name, compare = parts
        found: Truth = compare(name)
        return found

    def constant_first_comparison(self, parts: list[Any]) -> Truth:
        value, sign, name = parts
        if not isinstance(name, Name):
            raise BadRequest("a comparison needs a property on one side; write it like nsites=3")
        return self._compare(name, _TURNED.get(str(sign), str(sign)), value)

    def value_op_rhs(self, parts: list[Any]) -> Callable[[Name], Truth]:
        sign, value = parts
        return lambda name: self._compare(name, str(sign), value)

    def known_op_rhs(self, parts: list[Token]) -> Callable[[Name], Truth]:
        def compare(name: Name) -> Truth:
            known = self._column(name).known
            return Truth(known, ~known) if parts[1] == "KNOWN" else Truth(~known, known)

        return compare

    def fuzzy_string_op_rhs(self, parts: list[Any]) -> Callable[[Name], Truth]:
        return lambda name: self._holds(name, str(parts[0]), parts[-1])

    def length_op_rhs(self, parts: list[Any]) -> Callable[[Name], Truth]:
        sign = str(parts[1]) if len(parts) == 3 else "="
        return lambda name: self._length(name, sign, parts[-1])

    def set_op_rhs(self, parts: list[Any]) -> Callable[[Name], Truth]:
        word = str(parts[1]) if isinstance(parts[-1], list) else "ALL"
        conditions = parts[-1] if isinstance(parts[-1], list) else self.value_list(parts[1:])
        return lambda name: self._has([name], word, [[c] for c in conditions])

    def set_zip_op_rhs(self, parts: list[Any]) -> Callable[[Name], Truth]:
        several = isinstance(parts[2], Token)
        word, tuples = (str(parts[2]), parts[3]) if several else ("ALL", [parts[2]])
        return lambda name: self._has([name, *parts[0]], word, tuples)

    # evaluation
    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise BadRequest("the filter takes too long to evaluate; ask in several parts")

    def _column(self, name: Name) -> Column:
        self._in_time()
        column = self._columns.get(name)
        if column is not None:
            return column
        prefix = name.split("_")[1] if name.startswith("_") and name.count("_") > 1 else None
        if prefix is not None and prefix != self._prefix:  # of another provider: never known here
            warnings.warn(UnknownProviderProperty(f"{name} is of another provider: it is not known here"), stacklevel=2)
            return Unknown(len(self._columns))
        near = difflib.get_close_matches(name, self._columns.names(), n=1)
        hint = f"did you mean {near[0]}?" if near else "/info says which there are"
        raise BadRequest(f"{name[:100]} is not a known property; {hint}")

    def _scalar(self, name: Name) -> Scalar | Unknown:
        column = self._column(name)
        if isinstance(column, Lists):
            raise BadRequest(f"{name} is a list; ask for its items with HAS, or for its LENGTH")
        return column

    def _compare(self, name: Name, sign: str, value: Any) -> Truth:
        column = self._scalar(name)
        if isinstance(value, Name):
            return self._compare_two(name, sign, value)
        if isinstance(column, Unknown):
            return _nowhere(len(self._columns))
        value = _typed(name, column.kind, value)
        if column.kind == "bool" and sign not in ("=", "!="):
            raise BadRequest(f"{name} is TRUE or FALSE and has no order; compare with = or !=")
        return Truth.of(_COMPARE[sign](column.values, value), column.known)

    def _compare_two(self, name: Name, sign: str, other: Name) -> Truth:
        one, two = self._scalar(name), self._scalar(other)
        if isinstance(one, Unknown) or isinstance(two, Unknown):
            return _nowhere(len(self._columns))
        if one.kind != two.kind:
            raise BadRequest(f"{name} and {other} are of different types; compare properties of the same type")
        return Truth.of(_COMPARE[sign](one.values, two.values), one.known & two.known)

    def _holds(self, name: Name, word: str, value: Any) -> Truth:
        """CONTAINS, STARTS, ENDS."""
        column = self._scalar(name)
        if isinstance(column, Unknown):
            return _nowhere(len(self._columns))
        if column.kind != "text" or isinstance(value, Name):
            raise BadRequest(f"{word} compares the text of a property with a text in quotes; {name} {word} is not that")
        part = _typed(name, "text", value)
        if word == "CONTAINS":
            return Truth.of(np.strings.find(column.values, part) >= 0, column.known)
        if word == "STARTS":
            return Truth.of(np.strings.startswith(column.values, part), column.known)
        return Truth.of(np.strings.endswith(column.values, part), column.known)

    def _length(self, name: Name, sign: str, value: float) -> Truth:
        column = self._column(name)
        if isinstance(column, Scalar):
            raise BadRequest(f"{name} is not a list and has no LENGTH; compare its value")
        if isinstance(column, Unknown):
            return _nowhere(len(self._columns))
        return Truth.of(_COMPARE[sign](column.length, value), column.known)

    def _has(self, names: Sequence[Name], word: str, tuples: Sequence[Sequence[Condition]]) -> Truth:
        """HAS of one list, or of several zipped; each different combination of lists is looked at once."""
        columns = [self._column(name) for name in names]
        for name, column in zip(names, columns, strict=True):
            if isinstance(column, Scalar):
                raise BadRequest(f"{name} is not a list; compare its value with =")
            if isinstance(column, Lists) and column.kind is None:
                raise BadRequest(f"{name} cannot be searched by its items; its LENGTH can")
        if any(len(conditions) != len(names) for conditions in tuples):
            raise BadRequest(f"{':'.join(names)} needs {len(names)} values joined by : each time")
        lists = [column for column in columns if isinstance(column, Lists)]
        if len(lists) != len(columns):
            return _nowhere(len(self._columns))
        zipped = Zipped.of(lists)
        if word == "ONLY":
            one_of = np.zeros(zipped.n_items, dtype=bool)
            for conditions in tuples:
                one_of |= self._meets(names, lists, conditions, zipped)
            found = zipped.every(one_of)
        else:
            found = np.full(len(zipped.known), word == "ALL")
            for conditions in tuples:
                holds = zipped.some(self._meets(names, lists, conditions, zipped))
                found = found & holds if word == "ALL" else found | holds
        return Truth.of(found[zipped.rows], zipped.known[zipped.rows])

    def _meets(
        self, names: Sequence[Name], lists: Sequence[Lists], conditions: Sequence[Condition], zipped: Zipped
    ) -> Mask:
        """Items of all different lists that meet a condition, or all conditions of zipped lists."""
        self._in_time()
        met = np.ones(zipped.n_items, dtype=bool)
        for name, column, items, (sign, value) in zip(names, lists, zipped.items, conditions, strict=True):
            if isinstance(value, Name):
                raise BadRequest(f"{name} HAS compares with values, not with the property {value}")
            assert column.kind is not None
            met &= np.asarray(_COMPARE[sign](items, _typed(name, column.kind, value)), dtype=bool)
        return met


def _nowhere(n: int) -> Truth:
    nothing = np.zeros(n, dtype=bool)
    return Truth(nothing, nothing)


def _typed(name: str, kind: Kind, value: Any) -> Any:
    """The value as the column's values are, if it is of their type."""
    if kind == "text" and isinstance(value, str):
        return value.encode("utf-8", "replace")
    if kind == "bool" and isinstance(value, bool):
        return float(value)
    if kind == "number" and isinstance(value, float):
        return value
    if kind == "time" and isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise BadRequest(f"{name}: {value[:50]!r} is not a time; write it like 2026-01-31T12:00:00Z") from None
    raise BadRequest(f"{name} is compared with a value of another type; it takes {_WORDS[kind]}")
