"""The pages of loops: a list, and for each what its rounds chose, why, what came of it, and who chose and generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import Dash, dcc, html

from scdm_flows.config.loop import round_of
from scdm_flows.documents import CandidateDoc, LoopDoc
from scdm_flows.documents.hull import at_least
from scdm_flows.query import CandidateDB
from scdm_flows.query.words import number
from scdm_flows.server.pages import parts
from scdm_flows.server.pages.live import follow, followed
from scdm_flows.server.pages.parts import facts, section, table


def overview(query: CandidateDB) -> list[Any]:
    """All loops."""
    from scdm_flows.report.loops import FOUND_WORDS, LOOP_HEAD, loop_cells, state

    loops = query.loops()
    if not loops:
        steps = "`scdm campaign loop FILE` runs one: rounds that choose what to compute, and learn from it."
        return [html.H1("Loops"), parts.notice("There is no loop yet.", steps, kind="")]
    rows = []
    for one in loops:
        name, *cells = loop_cells(one)
        rows.append([dcc.Link(name, href=parts.loop_path(name)), *cells, state(one), one.description])
    words = html.P(FOUND_WORDS, className="soft small")
    return [html.H1("Loops"), table([*LOOP_HEAD, "state", ""], rows), words]


def page(query: CandidateDB, name: str) -> list[Any]:
    """A loop's page, whose contents ``register`` keeps up to date; ``CampaignError`` where there is none."""
    query.loop(name)
    return [
        html.P(dcc.Link("← all loops", href="/loops"), className="small"),
        html.H1(name),
        *followed("loop", name),
    ]


def register(app: Dash, query: CandidateDB) -> None:
    """Let the page keep up with the loop and its campaigns."""

    def version(name: str) -> str:
        loop = query.loop(name)
        return " ".join(one.last_updated.isoformat() for one in (loop, *query.campaigns_of(loop)))

    follow(app, "loop", version, lambda name: _contents(query, name))


def _contents(query: CandidateDB, name: str) -> html.Div:
    loop = query.loop(name)
    campaigns = [one.name for one in query.campaigns_of(loop)]
    cards = [_yields(loop), _facts(loop), _rounds(loop), _chosen(query, loop), _models(loop, campaigns)]
    return html.Div(cards, className="cards")


def _facts(loop: LoopDoc) -> html.Section:
    from scdm_flows.report.loops import LOOP_HEAD, loop_cells, state

    _, *cells = zip(LOOP_HEAD, loop_cells(loop), strict=True)
    engine = ((loop.config.get("compute") or {}).get("engine") or {}).get("kind")
    rows = [
        ("state", state(loop)),
        ("about", loop.description),
        ("computed by", engine or "nobody: the generator alone learns"),
        *cells,
        ("written", f"{loop.last_updated:%Y-%m-%d %H:%M} UTC"),
        ("commit", loop.provenance.git_commit),
    ]
    return section("All rounds", facts(rows))


def _yields(loop: LoopDoc) -> html.Section:
    from scdm_flows.report.campaign import image
    from scdm_flows.report.figures import svg
    from scdm_flows.report.loops import FOUND_WORDS, YIELDS_TITLE, yields

    if not any(one.core_hours is not None for one in loop.rounds):
        return section(YIELDS_TITLE, html.P("No round has been counted yet.", className="soft"))
    words = f"{FOUND_WORDS} The pale line is what the energy models of the rounds expected."
    picture = html.Img(src=image(svg(yields([loop]))), alt=YIELDS_TITLE.lower(), className="layer")
    return section(YIELDS_TITLE, picture, html.P(words, className="soft small"))


def _rounds(loop: LoopDoc) -> html.Section:
    from scdm_flows.report.loops import EXPECTED_WORDS, ROUND_HEAD, round_cells

    if not loop.rounds:
        return section("Rounds", html.P("No round has chosen yet.", className="soft"))
    rows = [round_cells(one) for one in loop.rounds]
    return section("Rounds", table(ROUND_HEAD, rows), html.P(EXPECTED_WORDS, className="soft small"), wide=True)


def _chosen(query: CandidateDB, loop: LoopDoc) -> html.Section | None:
    from scdm_flows.report.loops import came_of

    rows = []
    for one in loop.rounds:
        computed = {} if one.computed is None else {c.promoted_from: c for c in query.find(campaign=one.computed)}
        for choice in one.chosen:
            known = computed.get(choice.candidate_id)
            link = dcc.Link(parts.formula(choice.formula), href=parts.candidate_path(choice.candidate_id))
            words = came_of(one, known)
            came = parts.tag(words, "good") if words == "found" else words
            rows.append([str(one.number), link, choice.why, None if known is None else _energy(known), came])
    if not rows:
        return None
    head = ["round", "chosen", "why", "E_hull computed, eV/atom", "what came of it"]
    return section("What was chosen, and what came of it", table(head, rows), wide=True)


def _energy(computed: CandidateDoc) -> dcc.Link:
    words = computed.state.value
    if computed.e_above_hull is not None:
        words = at_least(number(computed.e_above_hull), computed.e_above_hull_lower_bound)
        words += " (surrogate)" if computed.surrogate else ""
    return dcc.Link(words, href=parts.candidate_path(computed.candidate_id))


def _models(loop: LoopDoc, campaigns: Sequence[str]) -> html.Section:
    """Campaigns and models of every round. campaigns: those of the loop that are there."""

    def link(name: str | None) -> Any:
        return name if name not in campaigns else dcc.Link(name, href=parts.campaign_path(str(name)))

    start = "that of the start"
    learned = {one.number: one.model_id or f"{start}: {one.why_not}" for one in loop.taught}
    rows = []
    for one in loop.rounds:
        generator = None if one.surrogate is None else learned.get(one.number, start)
        rows.append([str(one.number), link(one.surrogate), link(one.computed), one.energy_model, generator])
    coming = len(loop.rounds) + 1
    begun = next((name for name in campaigns if round_of(name) == (loop.name, coming)), None)
    if begun is not None or coming in learned:  # it has chosen nothing yet
        rows.append([str(coming), link(begun), None, None, learned.get(coming, start)])
    if not rows:
        return section("Campaigns and models", html.P("No round has begun yet.", className="soft"))
    head = ["round", "generated and relaxed in", "computed in", "chosen by the energy model", "generator model"]
    return section("Campaigns and models", table(head, rows), wide=True)
