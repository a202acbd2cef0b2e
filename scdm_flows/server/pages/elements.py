"""The periodic table as buttons. Pure."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from dash import html

from scdm_flows.server.pages.parts import aria

KIND = "element"


@cache
def places() -> dict[str, tuple[int, int, str]]:
    """Symbol -> row (lanthanides 8, actinides 9), column and name."""
    from pymatgen.core import Element

    found = {}
    for element in Element:
        if element.value not in ("D", "T"):
            series = 8 if element.is_lanthanoid else 9 if element.is_actinoid else None
            column = element.Z - (57 if series == 8 else 89) + 3 if series else element.group
            found[element.value] = (series or element.row, column, element.long_name)
    return found


def class_name(symbol: str, chosen: Collection[str]) -> str:
    """The look of a button."""
    return "element on" if symbol in chosen else "element"


def periodic_table(chosen: Collection[str]) -> html.Div:
    """A button for each element, with the identifier ``{"element": symbol}``."""
    buttons: list[Any] = []
    for symbol, (row, column, name) in places().items():
        buttons.append(
            html.Button(
                symbol,
                id={KIND: symbol},
                className=class_name(symbol, chosen),
                title=name,
                type="button",
                style={"gridRow": row, "gridColumn": column},
                **aria(pressed=str(symbol in chosen).lower(), label=name),
            )
        )
    return html.Div(buttons, className="periodic", role="group", **aria(label="elements that candidates hold"))
