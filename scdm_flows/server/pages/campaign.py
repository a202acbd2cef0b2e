"""The pages of campaigns: a list, and for each the funnel beside the paper's, progress, failures, throughput."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from dash import Dash, dcc, html

from scdm_flows.documents import StageFailure
from scdm_flows.documents.hull import at_least
from scdm_flows.documents.states import StageName
from scdm_flows.query import CandidateDB
from scdm_flows.query.words import number
from scdm_flows.server.pages import figures, parts
from scdm_flows.server.pages.live import follow, followed
from scdm_flows.server.pages.parts import facts, section, table

FAILURES = 100  # rows
REDISCOVERED = 20  # rows
REASONS = 25  # rows
_KEPT = 20  # campaigns whose progress is remembered
STATUSES = ("passed", "rejected", "failed", "skipped")


@dataclass
class Progress:
    """What the stages of a campaign's candidates say.

    statuses: stage -> status -> candidates; hours: stage -> start of the hour (UTC) -> stages that ended;
    seconds: stage -> wall time of all, s; timed: stage -> how many of them have a time; reasons: kind -> candidates.
    """

    candidates: int = 0
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    hours: dict[str, Counter[datetime]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    timed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


def progress(query: CandidateDB, name: str) -> Progress:
    """The progress of a campaign, from all its candidates."""
    from scdm_flows.report.content import kind_of_reason

    found = Progress()
    for candidate in query.stages(name):
        found.candidates += 1
        if candidate["state"] in ("rejected", "failed"):
            found.reasons[kind_of_reason(candidate["reason"] or "no reason recorded")] += 1
        for stage, record in candidate["stages"].items():
            found.statuses.setdefault(stage, Counter())[str(record.get("status"))] += 1
            ended, seconds = record.get("completed_at"), record.get("seconds")
            if isinstance(ended, str):
                ended = datetime.fromisoformat(ended)
            if ended is not None:
                found.hours.setdefault(stage, Counter())[ended.replace(minute=0, second=0, microsecond=0)] += 1
            if seconds is not None:
                found.seconds[stage] += seconds
                found.timed[stage] += 1
    return found


class ProgressCache:
    """Progress of campaigns, counted anew only after a build has written the campaign; for several threads."""

    def __init__(self, query: CandidateDB) -> None:
        self._query = query
        self._known: OrderedDict[tuple[str, datetime], Progress] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, name: str, updated: datetime) -> Progress:
        """The progress as of a build."""
        with self._lock:
            key = (name, updated)
            if key not in self._known:
                self._known[key] = progress(self._query, name)
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
            return self._known[key]


def overview(query: CandidateDB) -> list[Any]:
    """All campaigns."""
    campaigns = query.campaigns()
    if not campaigns:
        steps = "`scdm quickstart` runs a small one; `scdm campaign run FILE` your own."
        return [html.H1("Campaigns"), parts.notice("There is no campaign yet.", steps, kind="")]
    rows = [
        (
            dcc.Link(c.name, href=parts.campaign_path(c.name)),
            c.state.value,
            f"{c.funnel.generated:,}",
            f"{c.funnel.unique:,}",
            f"{c.funnel.in_window:,}",
            f"{c.funnel.dynamically_stable:,}",
            f"{c.funnel.failed:,}",
            f"{c.last_updated:%Y-%m-%d %H:%M}",
            c.description,
        )
        for c in campaigns
    ]
    columns = [
        "campaign",
        "state",
        "generated",
        "unique",
        "in the window",
        "phonon-stable",
        "failed",
        "updated (UTC)",
        "",
    ]
    return [html.H1("Campaigns"), table(columns, rows)]


def page(query: CandidateDB, name: str) -> list[Any]:
    """A campaign's page, whose contents ``register`` keeps up to date; ``CampaignError`` where there is none."""
    query.campaign(name)
    return [
        html.P(dcc.Link("← all campaigns", href="/campaigns"), className="small"),
        html.H1(name),
        *followed("campaign", name),
    ]


def register(app: Dash, query: CandidateDB) -> None:
    """Let the page keep up with the campaign."""
    cache = ProgressCache(query)

    def version(name: str) -> str:
        return query.campaign(name).last_updated.isoformat()

    follow(app, "campaign", version, lambda name: contents(query, cache, name))


def _generators(config: dict[str, Any]) -> str | None:
    """Kinds of a campaign's generators."""
    kinds = [part.get("kind") for part in config.get("generators", [config])]
    return " and ".join(filter(None, kinds)) or None


def contents(query: CandidateDB, cache: ProgressCache, name: str) -> list[Any]:
    """What the page shows of a campaign now."""
    from scdm_flows.report.campaign import percent
    from scdm_flows.report.content import funnel_rows

    campaign = query.campaign(name)
    counts = campaign.funnel
    found = cache.of(name, campaign.last_updated)
    schemes = query.columns(["surrogate"], campaign=name)["surrogate"]
    surrogate = bool((schemes == 1).any())
    parent = (campaign.config.get("generator") or {}).get("parent")
    loop = query.loop_of(name)
    head = [
        ("state", campaign.state.value),
        ("about", campaign.description),
        ("asked for", None if campaign.n_requested is None else f"{campaign.n_requested:,} samples"),
        ("pending", f"{counts.pending:,}"),
        ("failed", f"{counts.failed:,}"),
        ("energies", parts.SURROGATE if surrogate else "DFT" if len(schemes[schemes == 0]) else "none yet"),
        ("counted", f"{campaign.last_updated:%Y-%m-%d %H:%M} UTC, at the last build"),
        ("generator", _generators(campaign.config.get("generator") or {})),
        ("promoted from", None if parent is None else dcc.Link(parent, href=parts.campaign_path(parent))),
        ("of the loop", None if loop is None else dcc.Link(loop.name, href=parts.loop_path(loop.name))),
        ("engine", (campaign.config.get("engine") or {}).get("kind")),
        ("commit", campaign.provenance.git_commit),
    ]
    failures = query.failures(name)
    broken = _failures(failures, counts.failed)
    rows = funnel_rows(campaign)
    numbers = table(
        ["step", "this campaign", "", "paper"],
        [
            (
                r.words,
                f"{r.count:,}",
                percent(r.share),
                "–" if r.paper is None else f"{r.paper:,} ({percent(r.paper_share)})",
            )
            for r in rows
        ],
    )
    note = (
        f"The campaign's E_hull are {parts.SURROGATE}; the paper's are from DFT, and its phonons were "
        "computed for six chosen candidates."
        if surrogate
        else "The paper's phonons were computed for six chosen candidates."
    )
    return [
        facts(head),
        dcc.Link("its candidates", href=f"/?campaign={quote(name, safe='')}"),
        html.Div(
            [
                section(
                    "Funnel",
                    parts.graph(figures.funnel(rows), "funnel beside the paper's", 560),
                    numbers,
                    html.P(note, className="soft small"),
                    wide=True,
                ),
                _rediscovered(query, name),
                parts.columns(_stages(found), _reasons(found), _throughput(found), None if failures else broken),
                broken if failures else None,
            ],
            className="cards",
        ),
    ]


def _rediscovered(query: CandidateDB, name: str) -> html.Section:
    from scdm_flows.report.content import check_of, rediscovered

    title = "Known layers, rediscovered"
    known = rediscovered(query.find(campaign=name, novel=False, sort="e_above_hull", limit=REDISCOVERED))
    if not known:
        return section(title, html.P("No candidate has relaxed to a layer of the data sets.", className="soft"))
    rows = [
        (
            dcc.Link(c.formula, href=parts.candidate_path(c.candidate_id)),
            str(check),
            at_least(number(c.e_above_hull), c.e_above_hull_lower_bound),
            number(check.e_above_hull),
            parts.yes_no(c.dynamically_stable),
            parts.yes_no(check.dynamically_stable),
        )
        for c, check in ((c, check_of(c)) for c in known)
    ]
    columns = ["formula", "known as", "E_hull here", "of the source", "phonon-stable here", "of the source"]
    more = dcc.Link("all of them", href=f"/?campaign={quote(name, safe='')}&novel=false")
    return section(title, table(columns, rows, "energies above hull in eV/atom, the lowest first"), more, wide=True)


def _stages(found: Progress) -> html.Section:
    order = [s.value for s in StageName if s.value in found.statuses]
    if not order:
        return section("Progress by stage", html.P("No stage has ended yet.", className="soft"))
    rows = [
        (
            stage,
            *(f"{found.statuses[stage][status]:,}" for status in STATUSES),
            f"{found.seconds[stage] / found.timed[stage]:.1f}" if found.timed[stage] else None,
        )
        for stage in order
    ]
    return section("Progress by stage", table(["stage", *STATUSES, "mean s"], rows))


def _throughput(found: Progress) -> html.Section:
    if not found.hours:
        return section("Throughput", html.P("No stage has recorded when it ended.", className="soft"))
    last = max(hour for hours in found.hours.values() for hour in hours)
    recent: dict[str, dict[datetime, int]] = {
        stage: {h: n for h, n in found.hours[stage].items() if h > last - timedelta(days=7)}
        for stage in (s.value for s in StageName)
        if stage in found.hours
    }
    return section("Throughput", parts.graph(figures.throughput(recent), "stages that ended in each hour", 320))


def _reasons(found: Progress) -> html.Section:
    if not found.reasons:
        return section("Why candidates stopped", html.P("None has stopped.", className="soft"))
    return section("Why candidates stopped", table(["reason", "candidates"], found.reasons.most_common(REASONS)))


def _failures(failures: list[StageFailure], failed: int) -> html.Section:
    """failed: candidates that count as failed, whether their jobs broke off or ended without a usable result."""
    if not failures:
        text = "No job has broken off."
        if failed:
            many = f"{failed:,} candidates count" if failed > 1 else "One candidate counts"
            text += f" {many} as failed for what a job found, such as a relaxation that did not converge: see “Why "
            text += "candidates stopped”."
        return section("Failures", html.P(text, className="soft"))
    kinds = Counter((f.stage, f.error_type) for f in failures).most_common()
    rows = [
        (dcc.Link(f.candidate_id, href=parts.candidate_path(f.candidate_id)), f.stage, f.error_type, f.message[:300])
        for f in failures[:FAILURES]
    ]
    more = f", the first {FAILURES} here" if len(failures) > FAILURES else ""
    return section(
        "Failures",
        table(["stage", "error", "how many"], [(s, e, n) for (s, e), n in kinds]),
        html.Details(
            [html.Summary(f"{len(failures)} in all{more}"), table(["candidate", "stage", "error", "message"], rows)]
        ),
        wide=True,
    )
