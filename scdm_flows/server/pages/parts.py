"""Pieces that several pages are made of: headings, notices, tables of a few rows, graphs, numbers. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from scdm_flows.documents.migrations import NewerDocumentError
from scdm_flows.errors import ScdmError, StoreError
from scdm_flows.query.words import EXTRAPOLATED_MARK, EXTRAPOLATED_WORDS
from scdm_flows.server.security import UNAVAILABLE

logger = logging.getLogger(__name__)

GRAPH: Any = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
LONG = 28  # characters of a cell that stay in a line
SURROGATE = "surrogate energies"


def aria(**attributes: str) -> dict[str, Any]:
    """``label="x"`` as the attribute ``aria-label``, and so on."""
    return {f"aria-{name}": value for name, value in attributes.items()}


def formula(text: str) -> list[Any]:
    """A chemical formula with its numbers as subscripts."""
    return [html.Sub(part) if part[0].isdigit() else part for part in re.split(r"(\d+(?:\.\d+)?)", text) if part]


def yes_no(value: bool | None) -> str:
    """yes, no, or a dash for what is not known."""
    return "–" if value is None else "yes" if value else "no"


def tag(text: str, kind: str = "", title: str | None = None) -> html.Span:
    """A small label; kind: good, bad or warn; title: what a pointer that rests on it is told."""
    kinds = f"tag {kind}".strip()
    return html.Span(text, className=kinds) if title is None else html.Span(text, className=kinds, title=title)


def extrapolated() -> html.Span:
    """The label of an energy outside what its model has learned from."""
    return tag(f"{EXTRAPOLATED_MARK} extrapolated", "warn", EXTRAPOLATED_WORDS)


def notice(title: str, *lines: Any, kind: str = "warn") -> html.Div:
    """A box that tells something; screen readers read it at once."""
    return html.Div(
        [html.P(html.Strong(title)), *(html.P(line) for line in lines)], className=f"note {kind}", role="alert"
    )


def error_notice(error: ScdmError) -> html.Div:
    """What is wrong, as a notice; where the database is stays in the log."""
    if isinstance(error, StoreError):
        return notice("The database cannot be read now.", words(error), "This page works again as soon as it can be.")
    return notice("This cannot be shown.", str(error))


def words(error: ScdmError) -> str:
    """What a visitor may know of an error: all, but for the address of the database."""
    if isinstance(error, StoreError) and not isinstance(error, NewerDocumentError):
        logger.warning("%s", error)
        return UNAVAILABLE
    return str(error)


def section(title: str, *children: Any, wide: bool = False) -> html.Section:
    """A part of a page with its heading."""
    return html.Section([html.H2(title), *children], className="card wide" if wide else "card")


def columns(*sections: html.Section | None) -> html.Div:
    """Sections in two columns of about the same height, one column where the screen is narrow."""
    return html.Div([one for one in sections if one is not None], className="columns wide")


def facts(rows: Iterable[tuple[str, Any]]) -> html.Dl:
    """Names and values; those without a value left out."""
    found = []
    for name, value in rows:
        if value not in (None, "", "–", [], {}):
            found += [html.Dt(name), html.Dd(value)]
    return html.Dl(found, className="facts")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> html.Div:
    """A table of a few rows; it scrolls sideways where the screen is narrow."""
    head = html.Thead(html.Tr([html.Th(c, scope="col") for c in columns]))
    body = html.Tbody([html.Tr([html.Td(_cell(v)) for v in row]) for row in rows])
    children = [html.Caption(caption)] if caption else []
    return html.Div(html.Table([*children, head, body]), className="scroll", tabIndex="0")


def _cell(value: Any) -> Any:
    """What a cell shows: a dash for None; long text may break into lines."""
    if isinstance(value, str) and len(value) > LONG:
        return html.Span(value, className="long")
    return "–" if value is None else value


def graph(figure: Any, label: str, height: int = 380) -> html.Div:
    """A figure with a name for screen readers; height in pixels."""
    clear = "rgba(0,0,0,0)"
    figure.update_layout(height=height, autosize=True, paper_bgcolor=clear, modebar={"bgcolor": clear})
    drawn = dcc.Graph(figure=figure, config=GRAPH, style={"height": f"{height}px"})
    return html.Div(drawn, role="img", className="graph", **aria(label=label))


def candidate_path(candidate_id: str) -> str:
    """Address of a candidate's page."""
    return f"/candidates/{quote(candidate_id, safe='')}"


def loop_path(name: str) -> str:
    """Address of a loop's page."""
    return f"/loops/{quote(name, safe='')}"


def campaign_path(name: str) -> str:
    """Address of a campaign's page."""
    return f"/campaigns/{quote(name, safe='')}"
