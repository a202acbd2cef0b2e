"""The report of a campaign: one HTML file with everything inside, so that it can be mailed and opened anywhere."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from scdm_flows.analysis.ranking import Objective
from scdm_flows.config import WINDOW_EV
from scdm_flows.documents import CampaignDoc, CandidateDoc, CandidateState, PhononDoc, StageFailure, utc_now
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_db import FLAT, known_words
from scdm_flows.query.candidate_files import structure_of
from scdm_flows.query.words import EXTRAPOLATED_MARK, EXTRAPOLATED_WORDS, number
from scdm_flows.report import bands, content, crystals, figures, markdown
from scdm_flows.report.cards import energy_model_card, energy_models
from scdm_flows.report.fidelities import promoted_section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scdm_flows.stores.database import Database

LISTED = 200  # rows of the ranking
FAILURES = 50  # rows of the failures
REDISCOVERED = 30  # rows of the known layers
TEMPLATE = "campaign.html"


def render(
    database: Database,
    name: str,
    *,
    top: int = 12,
    limits: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The HTML report of a campaign in a connected database.

    Parameters
    ----------
    database, name
        The campaign's.
    top
        How many of the best candidates are shown with pictures.
    limits
        What the campaign's budget does, in sentences.
    progress
        Called with (done, total) pictures.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    """
    query, campaign, candidates = _read(database, name)
    best = [c for c in candidates if c.rank is not None][:top]
    phonons = {c.candidate_id: p for c in best if (p := query.phonon(c.candidate_id)) is not None}
    failures = [
        StageFailure.model_validate({k: v for k, v in d.items() if k != "_id"})
        for d in database.failures.query({"campaign": name}, sort={"failure_id": 1})
    ]
    return render_documents(
        campaign,
        candidates,
        phonons,
        failures,
        energy_model=energy_model_card(candidates),
        top=top,
        limits=limits,
        progress=progress,
    )


def render_documents(
    campaign: CampaignDoc,
    candidates: Sequence[CandidateDoc],
    phonons: Mapping[str, PhononDoc],
    failures: Sequence[StageFailure] = (),
    *,
    energy_model: Mapping[str, Any] | None = None,
    top: int = 12,
    limits: Sequence[str] = (),
    written: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The HTML report of some documents. Pure but for the time of writing.

    Parameters
    ----------
    campaign, candidates, failures
        Of one campaign, in any order.
    phonons
        candidate_id -> phonon document.
    energy_model
        What was measured of the energy model that the energies come from; None where that is not known.
    top, limits, progress
        As in ``render``.
    written
        Time that the page names; now when None.
    """
    ranked = sorted((c for c in candidates if c.rank is not None), key=lambda c: (c.rank, c.candidate_id))
    surrogate = any(c.surrogate for c in candidates)
    cards = []
    for done, candidate in enumerate(ranked[:top], 1):
        cards.append(_card(candidate, phonons.get(candidate.candidate_id)))
        if progress is not None:
            progress(done, len(ranked[:top]))
    bins, known = content.hull_bins(candidates), content.rediscovered(candidates)
    schemes = sorted({c.energy_scheme for c in candidates if c.energy_scheme})
    environment = Environment(
        loader=PackageLoader("scdm_flows.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"formula": formula, "number": number, "image": image, "percent": percent}
    environment.filters["competing_phases"] = content.competing_phases
    return environment.get_template(TEMPLATE).render(
        campaign=campaign,
        written=(written or utc_now()).strftime("%Y-%m-%d %H:%M UTC"),
        surrogate=surrogate,
        schemes=schemes,
        models=sorted({c.model_id for c in candidates if c.model_id}),
        energy_model=energy_model,
        energy_models=energy_models(candidates),
        extrapolated=sum(bool(c.extrapolated) for c in candidates),
        mark=EXTRAPOLATED_MARK,
        mark_words=EXTRAPOLATED_WORDS,
        limits=list(limits),
        warnings=content.campaign_warnings(campaign, candidates),
        funnel=content.funnel_rows(campaign),
        window=campaign.config.get("gate", {}).get("max_e_above_hull"),
        bins=bins,
        n_computed=sum(b.count for b in bins),
        histogram=figures.svg(figures.hull_histogram(bins, surrogate)),
        cards=cards,
        ranked=ranked[:LISTED],
        n_ranked=len(ranked),
        rediscovered=[(c, content.check_of(c)) for c in known[:REDISCOVERED]],
        n_rediscovered=len(known),
        novelty_words=content.novelty_words,
        promoted=promoted_section(candidates),
        reasons=content.reason_counts(candidates, max(0, campaign.funnel.generated - len(candidates))),
        failures=[*failures][:FAILURES],
        n_failures=len(failures),
        n_failed=sum(c.state is CandidateState.FAILED for c in candidates),
        config=yaml.safe_dump(
            {key: part for key, part in campaign.config.items() if key != "registered"},
            sort_keys=False,
            allow_unicode=True,
        ),
        objective=Objective.of(campaign.config),
        ranking_window=WINDOW_EV,
        data={
            "campaign": campaign.model_dump(mode="json"),
            "e_above_hull_bins": [vars(b) for b in bins],
            "candidates": [_flat(c) for c in ranked[:LISTED]],
        },
    )


def paper_figures(database: Database, name: str, *, top: int = 6) -> Iterator[tuple[str, Figure]]:
    """(name, figure) for a paper: the funnel, the energies above hull, structures and phonons of the best.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    """
    query, campaign, candidates = _read(database, name)
    surrogate = any(c.surrogate for c in candidates)
    yield "funnel", figures.funnel(content.funnel_rows(campaign), surrogate)
    yield "e_above_hull", figures.hull_histogram(content.hull_bins(candidates), surrogate)
    for candidate in [c for c in candidates if c.rank is not None][:top]:
        title = f"{candidate.rank}-{candidate.formula}"
        yield f"{title}-structure", crystals.layer_picture(structure_of(candidate))
        phonon, electrons = query.phonon(candidate.candidate_id), query.bands(candidate.candidate_id)
        if phonon is not None:
            yield f"{title}-phonons", bands.draw(bands.phonon_plot(phonon))
        if electrons is not None:
            yield f"{title}-bands", bands.draw(bands.electronic_plot(electrons))


def _read(database: Database, name: str) -> tuple[CandidateDB, CampaignDoc, list[CandidateDoc]]:
    """The campaign and its candidates, the best first."""
    query = CandidateDB(database)
    return query, query.campaign(name), query.find(campaign=name, sort="rank")


def _flat(candidate: CandidateDoc) -> dict[str, Any]:
    """The fields of ``FLAT`` as JSON has them."""
    fields = candidate.model_dump(mode="json", include=set(FLAT))
    return {name: fields[name] for name in FLAT} | {"known_as": known_words(candidate.known_as)}


def _card(candidate: CandidateDoc, phonon: PhononDoc | None) -> dict[str, Any]:
    """What a candidate's card shows."""
    structure = structure_of(candidate)
    stage = candidate.stages.get("phonon")
    return {
        "doc": candidate,
        "picture": figures.svg(crystals.layer_picture(structure)),
        "legend": crystals.legend(structure),
        "lattice": [structure.lattice.a, structure.lattice.b, structure.lattice.gamma],
        "bands": None if phonon is None else bands.phonon_bands(phonon),
        "phonon": phonon,
        "no_phonons": None if phonon is not None or stage is None else stage.reason,
        "warnings": content.candidate_warnings(candidate, phonon),
    }


def formula(text: str) -> Markup:
    """A chemical formula with its numbers as subscripts."""
    return Markup(markdown.formula(str(escape(text))))  # noqa: S704 (escaped)


def percent(value: float | None) -> str:
    """A share in percent, with as many digits as tell small ones apart."""
    if value is None:
        return "–"
    return f"{value:.2f} %" if 0 < value < 1 else f"{value:.0f} %" if value in (0, 100) else f"{value:.1f} %"


def image(svg_text: str) -> str:
    """SVG text as the address of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_text.encode()).decode()
