"""The report's HTML page. Everything is inline: the file can be mailed."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pymatgen.core import Structure

from scdm_flows.analysis.calibration import load_calibration
from scdm_flows.analysis.ranking import window_bin
from scdm_flows.documents import CandidateDoc, Funnel, utc_now
from scdm_flows.query import CandidateDB
from scdm_flows.report import figures
from scdm_flows.stores.database import Database

BEST = 12
# Xu et al., J. Phys. Chem. C, doi:10.1021/acs.jpcc.4c08681, Section 3.2 (SCDM and UnSCDM together)
PAPER_FUNNEL = {"generated": 4000, "valid": 3378, "unique": 2140, "in_window": 1145, "dynamically_stable": 6}
STEPS = {
    "generated": "generated",
    "valid": "valid (distances, radii, one layer)",
    "unique": "unique",
    "novel": "not in the training data",
    "relaxed": "relaxed",
    "in_window": "within the E_hull window",
    "phonon_done": "phonons computed",
    "dynamically_stable": "dynamically stable",
}


def warnings_of(funnel: Funnel, candidates: list[CandidateDoc]) -> list[str]:
    """What looks implausible, in words."""
    found = []
    if funnel.generated and funnel.valid == 0:
        found.append("No sample is valid: the model or the screen is wrong.")
    known = [c for c in candidates if c.e_above_hull is not None]
    if len(known) >= 10 and all(c.e_above_hull is not None and c.e_above_hull <= 0 for c in known):
        found.append("Every candidate lies on or below the hull: the references are probably incomplete.")
    below = [c.formula for c in known if c.e_above_hull is not None and c.e_above_hull < -0.2]
    if below:
        found.append(f"E_hull below -0.2 eV/atom is implausible: {', '.join(sorted(set(below))[:8])}.")
    if funnel.phonon_done >= 10 and funnel.dynamically_stable == funnel.phonon_done:
        found.append("Every candidate with phonons is stable, which is rare; look at the bands.")
    if funnel.pending:
        found.append(f"{funnel.pending} candidates are not finished; the numbers below will change.")
    return found


def render(database: Database, name: str) -> str:
    """The HTML report of a campaign.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    """
    query = CandidateDB(database)
    campaign = query.campaign(name)
    candidates = query.find(campaign=name)
    energies = [c for c in candidates if c.e_above_hull is not None and c.e_above_hull_raw is not None]
    calibrated = [float(c.e_above_hull) for c in energies if c.e_above_hull is not None]
    raw = [float(c.e_above_hull_raw) for c in energies if c.e_above_hull_raw is not None]
    window = float(campaign.config["gate"]["max_e_above_hull"])
    counts = Counter(window_bin(x) for x in calibrated)
    raw_counts = Counter(window_bin(x) for x in raw)
    labels = [f"<= {edge:g}" for edge in figures.BIN_EDGES] + ["> 0.6"]
    funnel = campaign.funnel.model_dump()
    base = max(1, funnel["generated"])
    rows = []
    for step, text in STEPS.items():
        paper = PAPER_FUNNEL.get(step)
        share = None if paper is None else 100 * paper / PAPER_FUNNEL["generated"]
        rows.append({"text": text, "ours": funnel[step], "share": 100 * funnel[step] / base, "paper": paper, "paper_share": share})
    best = []
    for candidate in [c for c in candidates if c.rank is not None][:BEST]:
        structure = Structure.from_dict(candidate.relaxed_structure or candidate.structure)
        phonon = query.phonon(candidate.candidate_id)
        best.append(
            {
                "doc": candidate,
                "formula": _subscripts(candidate.formula),
                "picture": figures.structure_plot(structure),
                "legend": figures.element_legend(structure),
                "phonon": None if phonon is None else figures.phonon_plot(phonon),
                "phonon_reason": phonon.reason if phonon is not None else candidate.stages["phonon"].reason if "phonon" in candidate.stages else None,
            }
        )
    reasons = Counter(_kind(c.reason) for c in candidates if c.state in ("rejected", "failed") and c.reason)
    surrogate = any(c.surrogate for c in candidates)
    environment = Environment(loader=PackageLoader("scdm_flows.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html").render(
        campaign=campaign,
        written=utc_now().strftime("%Y-%m-%d %H:%M UTC"),
        surrogate=surrogate,
        calibration=load_calibration().header if surrogate else None,
        warnings=warnings_of(campaign.funnel, candidates),
        rows=rows,
        histogram=figures.hull_histogram(calibrated, raw, window) if calibrated else None,
        bins=[(label, counts[label], raw_counts[label]) for label in labels],
        best=best,
        ranked=[c for c in candidates if c.rank is not None][:50],
        n_ranked=sum(c.rank is not None for c in candidates),
        reasons=reasons.most_common(),
        failures=[c for c in candidates if c.state == "failed"][:50],
        config=_flat(campaign.config),
        provenance=campaign.provenance,
        subscripts=_subscripts,
    )


def _kind(reason: str) -> str:
    """The reason without its numbers: the part before the first colon, or the sentence's start."""
    head = reason.partition(":")[0]
    return " ".join(word for word in head.split() if not any(ch.isdigit() for ch in word))[:60]


def _subscripts(formula: str) -> Any:
    from markupsafe import Markup

    return Markup("".join(f"<sub>{c}</sub>" if c.isdigit() else escape(c) for c in formula))  # noqa: S704 (escaped)


def _flat(data: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(data, dict):
        return [row for key, value in data.items() for row in _flat(value, f"{path}.{key}" if path else str(key))]
    return [(path, data)]
