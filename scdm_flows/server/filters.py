"""OPTIMADE filters to MongoDB queries: optimade's own grammar and transformer, with what both of them lack.

What the transformer cannot say, such as a comparison of two properties or of zipped lists, is answered with 501.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import optimade.grammar
from lark import Lark, Token, Tree, v_args
from lark.exceptions import LarkError, UnexpectedInput, UnexpectedToken, VisitError
from lark.tree import Meta
from optimade.exceptions import BadRequest, NotImplementedResponse
from optimade.filtertransformers.mongo import MongoTransformer, recursive_postprocessing

MAX_CHARACTERS = 4000
_GRAMMAR = "v1.2.0.lark"
_LONGEST = 30  # digits of a whole number that is looked at as such


class Name(str):
    """A property, told from a text."""

    __slots__ = ()


@cache
def _lark() -> Lark:
    """optimade's grammar as LALR, whose time grows with the length alone, unlike that of optimade's own parser."""
    text = (Path(optimade.grammar.__file__).parent / _GRAMMAR).read_text()
    return Lark(text, parser="lalr", maybe_placeholders=False, propagate_positions=True)


class Parser:
    """Stands where optimade keeps its own parser, which requests that are answered at a time would share."""

    def parse(self, text: str) -> Tree[Token]:
        """The parsed filter.

        Raises
        ------
        BadRequest
            Where it does not follow the grammar, with the place, or is too long.
        """
        if len(text) > MAX_CHARACTERS:
            raise BadRequest(f"the filter has {len(text)} characters, {MAX_CHARACTERS} are allowed; ask in parts")
        try:
            tree = _lark().parse(text)
        except UnexpectedInput as error:
            ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
            where = "at its end" if ended else f"at character {error.column}"
            raise BadRequest(
                f'the filter cannot be read {where}; write it like elements HAS ALL "Mo","S" AND nsites<=6'
            ) from None
        except LarkError:
            raise BadRequest("the filter cannot be read; see the OPTIMADE specification for its grammar") from None
        if len(tree.children) != 1:  # optimade would answer the first alone
            raise BadRequest("the filter holds no expression, or several; join them with AND or OR")
        return tree


class Filters(MongoTransformer):  # type: ignore[misc] # optimade has no type information
    """optimade's transformer, with booleans, escaped characters, and texts that are no regular expressions.

    Properties are found where the mapper says; below ``inside`` (with its dot) is what has no place of its own there,
    the relationships.
    """

    def __init__(self, mapper: Any, inside: str = "") -> None:
        super().__init__(mapper)
        self._inside = inside

    def transform(self, tree: Tree[Token]) -> dict[str, Any]:
        """The query of a parsed filter.

        Raises
        ------
        BadRequest
            For an unknown property, and a value that cannot be one of the property.
        NotImplementedResponse
            For what MongoDB is not asked, with the reason.
        """
        try:
            query: dict[str, Any] = super().transform(tree)
        except VisitError as error:
            _refuse(error.orig_exc)
        except Exception as error:  # of what optimade does to a query as a whole
            _refuse(error)
        if "#" in "".join(_operators(query)):  # what optimade was about to replace, and did not
            raise NotImplementedResponse("NOT before HAS ONLY is not possible here; ask without NOT")
        return query

    def postprocess(self, query: dict[str, Any]) -> dict[str, Any]:
        """optimade's, for what is in lists of documents: stored where it is, and not known where the list is empty."""
        found: dict[str, Any] = recursive_postprocessing(
            super().postprocess(query), lambda name, _: self._in_documents(str(name)), self._stored
        )
        return found

    def _in_documents(self, name: str) -> bool:
        return "." in name.removeprefix(self._inside)

    def _stored(self, query: dict[str, Any], name: str, _: Any) -> dict[str, Any]:
        condition = query.pop(name)
        place = self._inside + name if name.startswith("relationships.") else name
        if condition == {"$ne": None}:  # how optimade says that it is known
            place, condition = f"{place.rpartition('.')[0]}.0", {"$exists": True}
        query[place] = condition
        return query

    @v_args(meta=True)
    def bool(self, meta: Meta, _: list[Any]) -> bool:
        """TRUE, or FALSE: the grammar drops which it was, not where it stood."""
        return meta.end_pos - meta.start_pos == len("TRUE")

    @v_args(inline=True)
    def string(self, token: Token) -> str:
        """The text, in which OPTIMADE escapes two characters."""
        if "\x00" in token:
            raise BadRequest("a text in a filter must not hold a NUL character; leave it out")
        return re.sub(r'\\(["\\])', r"\1", token[1:-1])

    @v_args(inline=True)
    def number(self, token: Token) -> int | float:
        """A number; a whole one that MongoDB has no type for is compared as a real one."""
        value = int(token) if token.type == "SIGNED_INT" and len(token) < _LONGEST else float(token)
        return value if -(2**63) <= value < 2**63 else float(token)

    signed_int = number

    def property(self, args: list[Token]) -> Name:
        """Where a property is stored."""
        try:
            return Name(super().property(args))
        except BadRequest:
            near = difflib.get_close_matches(args[0], self.quantities, n=1)
            hint = f"did you mean {near[0]}?" if near else "/info says which there are"
            raise BadRequest(f"{args[0][:100]} is not a known property; {hint}") from None

    @v_args(inline=True)
    def value(self, value: Any) -> Any:
        """A value; optimade would take the name of a property for a text."""
        if isinstance(value, Name):
            raise NotImplementedError("a property is compared with values here, not with another property")
        return value

    def fuzzy_string_op_rhs(self, arg: list[Any]) -> dict[str, Any]:
        """CONTAINS, STARTS, ENDS: what is looked for is a text, not a regular expression."""
        text = arg[-1]
        if not isinstance(text, str):
            raise BadRequest(f"{arg[0]} takes a text in quotes")
        pattern = re.escape(text)
        return {"$regex": {"CONTAINS": pattern, "STARTS": f"^{pattern}", "ENDS": f"{pattern}$"}[str(arg[0])]}

    @v_args(inline=True)
    def property_first_comparison(self, name: Any, query: dict[str, Any]) -> dict[str, Any]:
        """optimade's; of the LENGTH of a list whose length is not stored it asks one item too far."""
        if not isinstance(name, Name):
            raise BadRequest("a comparison needs a property on one side; write it like nsites=3")
        items = query.get("$all")
        if items and self._in_documents(name):  # in a list of documents the embedded server finds none
            each = [{str(name): {"$in": [item]}} for item in items]
            return {"$and": each} if len(each) > 1 else each[0]
        size = query.get("$size")
        found: dict[str, Any] = super().property_first_comparison(str(name), query)
        if size is None:
            return found
        ((field, asked),) = found.items()
        if field == name and (isinstance(size, dict) or self._in_documents(name)):
            raise NotImplementedError(f"this LENGTH of {self.mapper.get_optimade_field(name)} cannot be asked for here")
        return {field: asked if isinstance(asked, dict) else {"$eq": asked}}


def _refuse(error: Exception) -> NoReturn:
    """The error as the answer to a request."""
    if isinstance(error, BadRequest):
        raise error
    if isinstance(error, NotImplementedError):
        raise NotImplementedResponse(str(error))
    if isinstance(error, RecursionError):
        raise BadRequest("the filter is nested too deeply; use fewer parentheses")
    raise BadRequest(
        "the filter cannot be answered: a value is none that the property can have (times are written like "
        '"2026-01-31T12:00:00Z"), or optimade-python-tools has no query for it; ask in another way'
    )


def _operators(query: Any) -> list[str]:
    """Every key of a query."""
    if isinstance(query, dict):
        return [*query, *(name for value in query.values() for name in _operators(value))]
    return [name for one in query for name in _operators(one)] if isinstance(query, list) else []
