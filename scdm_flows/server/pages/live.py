"""Contents of a page that keep up with the database while somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from scdm_flows.errors import ScdmError
from scdm_flows.server.pages import parts

REFRESH_SECONDS = 15


def followed(what: str, name: str) -> list[Any]:
    """The place of the contents of a page, which ``follow`` fills. what: "campaign", "loop"; name: of which one."""
    return [
        dcc.Store(id=f"{what}-name", data=name),
        dcc.Store(id=f"{what}-shown"),
        dcc.Interval(id=f"{what}-tick", interval=1000 * REFRESH_SECONDS),
        html.Div("…", id=f"{what}-content"),
    ]


def follow(app: Dash, what: str, version: Callable[[str], str], contents: Callable[[str], Any]) -> None:
    """Fill the pages of some things, and fill them anew whenever the version of the one that is shown has changed.

    version, contents: of the one of a name.
    """

    @app.callback(
        Output(f"{what}-content", "children"),
        Output(f"{what}-shown", "data"),
        Input(f"{what}-tick", "n_intervals"),
        State(f"{what}-name", "data"),
        State(f"{what}-shown", "data"),
    )
    def show(_: int | None, name: str, shown: str | None) -> tuple[Any, Any]:
        try:
            now = version(name)
            return (no_update, no_update) if now == shown else (contents(name), now)
        except ScdmError as error:
            return parts.error_notice(error), ""
