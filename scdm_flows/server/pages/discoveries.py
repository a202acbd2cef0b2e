"""The page of the discoveries: new layers that DFT finds stable, with their files, and what the others lack."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from dash import dcc, html

from scdm_flows.analysis.discovery import BELOW_EV, Demand, demands, fell, is_discovery
from scdm_flows.documents import CandidateDoc
from scdm_flows.query import CandidateDB
from scdm_flows.query.words import number
from scdm_flows.server.pages import parts
from scdm_flows.server.pages.parts import section, table

MOST_OTHERS = 100


def page(query: CandidateDB) -> list[Any]:
    """The page."""
    # what the database can be asked for; ``demands`` has the last word
    met: dict[str, Any] = {"surrogate": False, "novel": True, "bulk_compound": False, "dynamically_stable": True}
    likely = query.find(sort="e_above_hull", max_e_above_hull=BELOW_EV, **met)
    found: list[CandidateDoc] = []
    for one in likely:  # one layer of several campaigns is one discovery
        equal = {known.id for known in one.known_as if known.of_campaign is not None}
        if is_discovery(demands(one)) and equal.isdisjoint(other.candidate_id for other in found):
            found.append(one)
    first = query.page(sort="e_above_hull", limit=MOST_OTHERS, surrogate=False).documents
    others = [(one, lacks) for one in first if (lacks := fell(demands(one))) is not None]
    return [
        html.H1("Discoveries"),
        html.P("Layers that DFT finds new and stable. A surrogate is never asked."),
        html.Div([_found(found), *([_others(others)] if others else [])], className="cards"),
    ]


def _link(document: CandidateDoc) -> Any:
    return dcc.Link(parts.formula(document.formula), href=parts.candidate_path(document.candidate_id))


def _found(found: list[CandidateDoc]) -> html.Section:
    from scdm_flows.report.content import gap_words

    if not found:
        return section(
            "None yet",
            html.P(
                "A discovery is computed by DFT, new after its relaxation, of a formula that no bulk crystal has, at "
                f"most {BELOW_EV:g} eV/atom above the hull and dynamically stable. `scdm campaign promote` computes "
                "the best candidates of a campaign by DFT."
            ),
            wide=True,
        )
    rows = []
    for one in found:
        base = f"/files/{quote(one.candidate_id, safe='')}"
        files: list[Any] = [html.A("CIF", href=f"{base}.cif"), " ", html.A("JSON", href=f"{base}.json")]
        energy, gap = number(one.e_above_hull), gap_words(one.band_gap, one.gap_kind)
        rows.append([_link(one), one.layer_group, energy, one.energy_scheme, gap, html.Span(files)])
    head = ["layer", "layer group", "E_hull, eV/atom", "by", "gap, eV", "files"]
    return section(f"{len(found)} discoveries", table(head, rows), wide=True)


def _others(others: list[tuple[CandidateDoc, Demand]]) -> html.Section:
    rows = [[_link(one), number(one.e_above_hull), lacks.asked, lacks.said] for one, lacks in others]
    head = ["layer", "E_hull, eV/atom", "does not meet", ""]
    return section("What the others lack", table(head, rows, "computed by DFT, the lowest first"), wide=True)
