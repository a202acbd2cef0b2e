"""The browse page: a periodic table, ranges and choices above a table of all candidates that match.

The address is the truth: controls write it, and what it says is shown, so a copied link asks the same. The grid asks
for rows as it is scrolled (dash-ag-grid's infinite row model); the order of its columns is the server's.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash_ag_grid import AgGrid

from scdm_flows.analysis import tolerances
from scdm_flows.documents import CandidateState
from scdm_flows.documents.candidate import sort_fields
from scdm_flows.documents.hull import LOWER_BOUND_MARK, LOWER_BOUND_WORDS
from scdm_flows.errors import ScdmError
from scdm_flows.query import CandidateDB
from scdm_flows.query.absent import nobody_has
from scdm_flows.query.candidate_db import MOST_COUNTED, count_words
from scdm_flows.query.conditions import element_symbols
from scdm_flows.query.words import EXTRAPOLATED_MARK, EXTRAPOLATED_WORDS, number, with_error
from scdm_flows.server.pages import elements, parts
from scdm_flows.server.pages.address import Question

BLOCK = 50  # rows that the grid asks for at a time; reading their documents is most of the work
MOST_ROWS = 500  # rows of one answer, whatever is asked
COLUMNS: dict[str, tuple[str, int]] = {  # field -> heading, width in pixels; together the width of a desk's page
    "formula": ("formula", 112),
    "rank": ("rank", 72),
    "e_above_hull": ("E_hull (eV/atom)", 122),
    "surrogate": ("energies", 98),
    "layer_group": ("layer group", 66),
    "nsites": ("atoms", 76),
    "dynamically_stable": ("phonon-stable", 82),
    "band_gap": ("gap (eV)", 58),
    "novel": ("new", 64),
    "known_as": ("known as", 100),
    "score": ("score", 76),
    "state": ("state", 92),
    "campaign": ("campaign", 96),
    "candidate_id": ("id", 186),
}
GROWING = {"known_as": 3, "campaign": 1, "candidate_id": 1}  # shares of the width that the screen has left
TEXTS = {"formula": ("Formula", "MoS2"), "chemsys": ("Chemical system", "Mo-S"), "elements": ("Holds", "Mo,S")}
RANGES = {
    "e_above_hull": ("E_hull, eV/atom", 0.01),
    "band_gap": ("Band gap, eV", 0.1),
    "nsites": ("Atoms in the cell", 1),
}
CHOICES = {"layer_group": "Layer group", "campaign": "Campaign", "state": "State"}
YES_NO = {"dynamically_stable": "Phonon-stable", "novel": "New after relaxation", "extrapolated": "Energy extrapolated"}
NUMBERS = [f"{edge}_{name}" for name in RANGES for edge in ("min", "max")]
CONTROLS = [*TEXTS, *NUMBERS, *CHOICES, *YES_NO]
ANY = ""


def page(query: CandidateDB, search: str | None) -> list[Any]:
    """The page, its grid sorted as the address says; the callbacks of ``register`` fill it."""
    try:
        sort = Question.of(search).sort
    except ScdmError:
        sort = Question().sort
    campaigns = [c.name for c in query.campaigns()]
    return [
        dcc.Location(id="browse-url", refresh=False),
        html.H1("Candidates"),
        html.Details(
            [
                html.Summary("Elements"),
                elements.periodic_table(()),
                html.P("Candidates hold all that are chosen.", className="soft small"),
            ],
            open=True,
        ),
        html.Div([*_texts(), *_ranges(), *_choices(campaigns)], className="filters", role="search"),
        html.Div(id="browse-extra", className="soft small"),
        html.Div(id="browse-notice"),
        html.Div(
            [
                html.Output("…", id="browse-count", **parts.aria(live="polite")),
                dcc.Link("clear all", href="/", id="browse-clear"),
                html.A("download CSV", href="/candidates.csv", id="browse-csv", download="candidates.csv"),
            ],
            className="actions",
        ),
        _grid(sort),
        html.P(
            "A heading sorts, Enter on a row opens the candidate. Energies marked surrogate are not DFT's; ± holds "
            f"nine in ten. {EXTRAPOLATED_MARK} marks energies {EXTRAPOLATED_WORDS}, "
            f"{LOWER_BOUND_MARK} {LOWER_BOUND_WORDS}. {tolerances.WORDS}",
            className="soft small",
        ),
        dcc.Store(id="browse-asked"),
    ]


def _labelled(text: str, control: Any, name: str) -> html.Div:
    return html.Div([html.Label(text, htmlFor=name), control], className="field")


def _texts() -> list[Any]:
    return [
        _labelled(
            label,
            dcc.Input(id=f"browse-{name}", type="text", debounce=True, placeholder=f"such as {example}"),
            f"browse-{name}",
        )
        for name, (label, example) in TEXTS.items()
    ]


def _ranges() -> list[Any]:
    found: list[Any] = []
    for name, (label, step) in RANGES.items():
        inputs = [
            dcc.Input(
                id=f"browse-{edge}_{name}",
                type="number",
                step=step if name == "nsites" else "any",
                debounce=True,
                placeholder=words,
            )
            for edge, words in (("min", "least"), ("max", "most"))
        ]
        legend = html.Legend(label)
        found.append(html.Fieldset([legend, html.Div(inputs, className="range")], className="field"))
    return found


def _choices(campaigns: list[str]) -> list[Any]:
    from scdm_models.symmetry import layer_group

    options: dict[str, list[Any]] = {
        "layer_group": [{"label": f"{n}  {layer_group(n).symbol}", "value": n} for n in range(1, 81)],
        "campaign": campaigns,
        "state": [s.value for s in CandidateState],
    }
    found: list[Any] = [
        _labelled(
            label,
            dcc.Dropdown(id=f"browse-{name}", options=options[name], multi=True, placeholder="any"),
            f"browse-{name}",
        )
        for name, label in CHOICES.items()
    ]
    answers = [{"label": "any", "value": ANY}, {"label": "yes", "value": "true"}, {"label": "no", "value": "false"}]
    for name, label in YES_NO.items():
        radio = dcc.RadioItems(id=f"browse-{name}", options=answers, value=ANY, inline=True)
        found.append(html.Fieldset([html.Legend(label), radio], className="field"))
    return found


def _grid(sort: str) -> AgGrid:
    columns: list[dict[str, Any]] = []
    for field, (heading, width) in COLUMNS.items():
        column: dict[str, Any] = {"field": field, "headerName": heading, "width": width}
        column["sortable"] = field in sort_fields()
        if sort.removeprefix("-") == field:
            column["sort"] = "desc" if sort.startswith("-") else "asc"
        if field == "formula":
            column |= {"cellRenderer": "CandidateLink", "pinned": "left"}
        if field in GROWING:  # what does not fit is told where a pointer rests
            column |= {"minWidth": width, "flex": GROWING[field], "tooltipField": field}
        if field == "e_above_hull":
            column["tooltipField"] = "doubt"
        columns.append(column)
    return AgGrid(
        id="browse-grid",
        columnDefs=columns,
        defaultColDef={
            "resizable": True,
            "suppressMovable": True,
            "sortingOrder": ["asc", "desc"],
            "wrapHeaderText": True,
            "autoHeaderHeight": True,
        },
        rowModelType="infinite",
        dashGridOptions={
            "cacheBlockSize": BLOCK,
            "maxBlocksInCache": 20,
            "rowBuffer": 10,
            "blockLoadDebounceMillis": 50,
            "infiniteInitialRowCount": 1,
            "ensureDomOrder": True,
        },
        eventListeners={"cellKeyDown": ["openCandidate(params)"], "sortChanged": ["sortAddress(params)"]},
        getRowId="params.data.candidate_id",
        style={"height": "min(70vh, 40rem)", "width": "100%"},
    )


def register(app: Dash, query: CandidateDB) -> None:
    """Let the page answer."""
    app.clientside_callback(
        ClientsideFunction("pages", "refresh"),
        Output("browse-asked", "data"),
        Input("browse-url", "search"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("browse-url", "search"),
        *(Output(f"browse-{name}", "value") for name in CONTROLS),
        Output({elements.KIND: ALL}, "className"),
        Output({elements.KIND: ALL}, "aria-pressed"),
        Output("browse-csv", "href"),
        Output("browse-extra", "children"),
        Input("browse-url", "search"),
        *(Input(f"browse-{name}", "value") for name in CONTROLS),
        Input({elements.KIND: ALL}, "n_clicks"),
        State({elements.KIND: ALL}, "id"),
    )
    def follow(search: str | None, *values: Any) -> list[Any]:
        """Controls into the address, or the address into the controls."""
        *controls, _, buttons = values
        symbols = [button[elements.KIND] for button in buttons]
        try:
            asked = Question.of(search)
            question = _changed(asked, ctx.triggered_id, dict(zip(CONTROLS, controls, strict=True)))
        except ScdmError:  # the grid's answer says so
            return [no_update, *[no_update] * len(CONTROLS), [no_update] * len(symbols), [no_update] * len(symbols)] + [
                no_update,
                no_update,
            ]
        chosen = question.filters.get("elements", [])
        shown = [no_update if v == was else v for v, was in zip(_controls(question), controls, strict=True)]
        text = question.search()
        return [
            no_update if question == asked else text,
            *shown,
            [elements.class_name(s, chosen) for s in symbols],
            [str(s in chosen).lower() for s in symbols],
            f"/candidates.csv{text}",
            _extra(question),
        ]

    @app.callback(
        Output("browse-grid", "getRowsResponse"),
        Output("browse-count", "children"),
        Output("browse-notice", "children"),
        Input("browse-grid", "getRowsRequest"),
        State("browse-url", "search"),
    )
    def fill(request: dict[str, Any] | None, search: str | None) -> tuple[Any, Any, Any]:
        """The rows that the grid asks for."""
        if request is None:
            return no_update, no_update, no_update
        try:
            question = _sorted(Question.of(search), request)
            start = max(0, int(request["startRow"]))
            stop = min(int(request["endRow"]), start + MOST_ROWS)
            records, total = query.window(start, stop, sort=question.sort, **question.filters)
        except ScdmError as error:
            return {"rowData": [], "rowCount": 0}, "no answer", parts.error_notice(error)
        note: Any = ""
        if not total:
            why = nobody_has(query, question.filters)
            if not question.filters:
                note = parts.notice("No candidate is stored yet.", _first_steps(), kind="")
            elif why is not None:
                note = parts.notice("Nothing can match.", f"{why[0].upper()}{why[1:]}.", kind="")
        words = f"{count_words(total)} candidate{'' if total == 1 else 's'}"
        rows: int | None = total
        if total > MOST_COUNTED:  # without a number of rows the grid asks on as it is scrolled
            rows = None if len(records) == stop - start else start + len(records)
        return {"rowData": [shown(r) for r in records], "rowCount": rows}, words, note


def _first_steps() -> str:
    return "`scdm campaign run` computes some and `scdm build` brings them here."


def _changed(question: Question, trigger: Any, controls: dict[str, Any]) -> Question:
    """The question after what was touched."""
    if isinstance(trigger, dict):
        symbol, chosen = trigger[elements.KIND], list(question.filters.get("elements", []))
        chosen = [s for s in chosen if s != symbol] if symbol in chosen else [*chosen, symbol]
        return replace(
            question, filters={**question.filters, "elements": chosen} if chosen else _without(question, "elements")
        )
    name = str(trigger or "").removeprefix("browse-")
    if name not in CONTROLS:
        return question
    value = controls[name]
    if name == "elements":
        value = str(value or "").replace(",", " ").split()
        with contextlib.suppress(ScdmError):  # stays in the address as written, and the answer says what is wrong
            value = element_symbols(value) if value else value
    elif name in YES_NO:
        value = {"true": True, "false": False}.get(value)
    elif isinstance(value, list):
        value = value[0] if len(value) == 1 else value
    elif isinstance(value, str):
        value = value.strip()
    if value in (None, "", []):
        return replace(question, filters=_without(question, name))
    return replace(question, filters={**question.filters, name: value})


def _without(question: Question, name: str) -> dict[str, Any]:
    return {k: v for k, v in question.filters.items() if k != name}


def _sorted(question: Question, request: dict[str, Any]) -> Question:
    """The question with the sort of the grid, where it has one of its own columns."""
    model = request.get("sortModel") or []
    if not model:
        return question
    return replace(question, sort=("-" if model[0]["sort"] == "desc" else "") + str(model[0]["colId"]))


def _controls(question: Question) -> list[Any]:
    """The value of each control for a question."""
    found: list[Any] = []
    for name in CONTROLS:
        value = question.filters.get(name)
        if name == "elements":
            value = ",".join(value) if value else ""
        elif name in YES_NO:
            value = {True: "true", False: "false"}.get(value, ANY) if isinstance(value, bool) else ANY
        elif name in CHOICES:
            value = value if isinstance(value, list) else [] if value is None else [value]
        elif name in NUMBERS:
            value = "" if value is None else value
        elif name in TEXTS:
            value = ",".join(value) if isinstance(value, list) else value or ""
        found.append(value)
    return found


def _extra(question: Question) -> list[Any]:
    """Links that take away filters which no control shows."""
    found: list[Any] = []
    for name, value in question.filters.items():
        if name not in CONTROLS:
            rest = replace(question, filters=_without(question, name))
            found += [f"also {name} = {value} ", dcc.Link("(remove)", href="/" + rest.search()), " "]
    return found


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """A flat record as the grid shows it."""
    energy, error = record["e_above_hull"], record["e_above_hull_error"]
    doubt = EXTRAPOLATED_WORDS if record["extrapolated"] else ""
    energies = {None: "–", True: "surrogate", False: "DFT"}[record["surrogate"]]
    row = {name: record[name] for name in COLUMNS if name in record}
    for name in ("dynamically_stable", "novel"):
        row[name] = parts.yes_no(record[name])
    for name in ("band_gap", "score"):
        row[name] = number(record[name], 2)
    row |= {
        "e_above_hull": with_error(energy, error, record["extrapolated"], record["e_above_hull_lower_bound"]),
        "doubt": doubt,
        "surrogate": energies,
        "path": parts.candidate_path(record["candidate_id"]),
    }
    return {name: "–" if value is None else value for name, value in row.items()}
