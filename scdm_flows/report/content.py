"""What a report says: the funnel beside the paper's, E_hull bins, warnings, reasons. Pure: documents in,
values out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scdm_flows.analysis.bands import MAGNETIC_MOMENT
from scdm_flows.analysis.ranking import BINS, window_bin
from scdm_flows.documents import CampaignDoc, CampaignState, CandidateDoc, CandidateState, KnownAs, PhononDoc
from scdm_flows.documents.bands import GapKind
from scdm_flows.documents.hull import LOWER_BOUND_WORDS, missing_words
from scdm_flows.query.words import EXTRAPOLATED_WORDS, above_hull_in_full, number
from scdm_flows.report import paper

STEPS = {
    "generated": "generated",
    "valid": "valid",
    "unique": "no duplicates",
    "sample_novel": "of these new as sampled",
    "relaxed": "relaxed",
    "distinct": "different layers after relaxation",
    "novel": "of these new after relaxation",
    "in_window": "within the E_hull window",
    "phonon_done": "phonons computed",
    "dynamically_stable": "phonon-stable",
}
BESIDE = 3  # entries of data sets that are set beside a candidate
# A value beyond these is more often an artefact than a discovery.
BELOW_HULL_EV_PER_ATOM = -0.1
UNCERTAIN_EV_PER_ATOM = 0.25
MOVED_ANGSTROM = 0.5
HIGHEST_FREQUENCY_THZ = 50.0  # without hydrogen; the C=C and N=N stretches end near 50
ACOUSTIC_AT_GAMMA_THZ = 0.5
SAME_LEVEL_EV = 0.01  # vacuum levels that differ by less are those of a layer without a dipole
SUM_RULE_CHANGE = 0.02  # of 120 layers of C2DB one needs more; the median is 0.003


@dataclass(frozen=True)
class FunnelRow:
    """A step of the funnel: counts, and shares of what was generated in percent; None where the paper has
    no number.
    """

    step: str
    words: str
    count: int
    share: float
    paper: int | None
    paper_share: float | None


@dataclass(frozen=True)
class BinRow:
    """How many candidates lie in an E_hull bin (eV/atom)."""

    label: str
    count: int


def funnel_rows(campaign: CampaignDoc) -> list[FunnelRow]:
    """The steps of the campaign beside the paper's."""
    counts = campaign.funnel.model_dump()
    total = counts["generated"] or 1
    rows = []
    for step, words in STEPS.items():
        papers = paper.FUNNEL.get(step)
        share = None if papers is None else 100 * papers / paper.FUNNEL["generated"]
        rows.append(FunnelRow(step, words, counts[step], 100 * counts[step] / total, papers, share))
    return rows


def computed(candidates: Sequence[CandidateDoc]) -> list[CandidateDoc]:
    """Candidates that have an energy above hull and are nobody's duplicate."""
    return [c for c in candidates if c.e_above_hull is not None and c.duplicate_of is None]


def hull_bins(candidates: Sequence[CandidateDoc]) -> list[BinRow]:
    """Counts of the paper's bins and ours, from ``<= 0`` to beyond the window."""
    counts = Counter(window_bin(float(c.e_above_hull or 0)) for c in computed(candidates))
    keys = [window_bin(edge) for edge in BINS] + [window_bin(BINS[-1] + 1)]
    lower = [None, *BINS]
    rows = []
    for key, low, high in zip(keys, lower, [*BINS, None], strict=True):
        if low is None:
            label = f"≤ {high:g}"
        elif high is None:
            label = f"> {low:g}"
        else:
            label = f"{low:g}–{high:g}"
        rows.append(BinRow(label, counts[key]))
    return rows


def known_layers_of(candidate: CandidateDoc) -> list[KnownAs]:
    """Entries of data sets that equal the relaxed candidate, the nearest first."""
    return [known for known in candidate.known_as if known.of_campaign is None]


def novelty_words(candidate: CandidateDoc) -> str:
    """Whether a candidate is a known layer, and which: of the relaxed structure, else of the sample, which it says."""
    if known := known_layers_of(candidate):
        return f"known as {known[0]}, rediscovered"
    if candidate.novel is not None:
        return "new after relaxation" if candidate.novel else "known"
    why = candidate.novelty.reason if candidate.novelty is not None else None
    sample = {True: "the sample was new", False: f"the sample was known as {', '.join(candidate.sample_known_as)}"}
    said = [why, sample.get(candidate.sample_novel) if candidate.sample_novel is not None else None]
    return "novelty unknown" + "".join(f"; {text}" for text in said if text)


def beside_known(candidate: CandidateDoc) -> tuple[list[str], list[list[str]]] | None:
    """Columns and rows that set a rediscovered layer beside its known entries; None where it is not known.

    Each energy above hull is of its source's own hull.
    """
    known = known_layers_of(candidate)[:BESIDE]
    if not known:
        return None

    def answer(flag: bool | None) -> str:
        return "–" if flag is None else "yes" if flag else "no"

    surrogate = " (surrogate)" if candidate.surrogate else ""
    energy = above_hull_in_full(candidate)
    own = {
        "E_hull, eV/atom": energy + surrogate * (candidate.e_above_hull is not None),
        "phonon-stable": answer(candidate.dynamically_stable) + surrogate * (candidate.dynamically_stable is not None),
        "gap, eV": number(candidate.band_gap, 2),
        "layer group": str(candidate.layer_group or "–"),
        "distance of atoms, Å": "",
    }
    theirs = [
        (number(k.e_above_hull), answer(k.dynamically_stable), number(k.band_gap, 2), str(k.layer_group or "–"))
        + (number(k.displacement_angstrom, 2),)
        for k in known
    ]
    rows = [[name, value, *(one[i] for one in theirs)] for i, (name, value) in enumerate(own.items())]
    return ["", "here", *(f"{k.source} {k.id}" for k in known)], rows


def check_of(candidate: CandidateDoc) -> KnownAs:
    """The nearest known layer whose source says how stable it is, else the nearest one, of a rediscovered candidate."""
    known = known_layers_of(candidate)
    said = (k for k in known if k.e_above_hull is not None or k.dynamically_stable is not None)
    return next(said, known[0])


def rediscovered(candidates: Sequence[CandidateDoc]) -> list[CandidateDoc]:
    """Candidates that relaxed to a known layer, no duplicates, the lowest E_hull first."""
    known = [c for c in candidates if known_layers_of(c) and c.duplicate_of is None]
    return sorted(known, key=lambda c: (c.e_above_hull is None, c.e_above_hull, c.candidate_id))


def candidate_warnings(candidate: CandidateDoc, phonon: PhononDoc | None = None) -> list[str]:
    """What about a candidate looks implausible or uncertain, in sentences."""
    found = []
    e_hull, error = candidate.e_above_hull, candidate.e_above_hull_error
    if e_hull is not None and e_hull < BELOW_HULL_EV_PER_ATOM:
        found.append(
            f"{-e_hull:.2f} eV/atom below the hull of all known phases: layers rarely are, so check it with DFT first."
        )
    if candidate.e_above_hull_lower_bound:
        found.append(f"Its energy above hull is {LOWER_BOUND_WORDS} ({missing_words(candidate.missing_competitors)}).")
    if candidate.extrapolated:
        found.append(f"Its energy is extrapolated: {EXTRAPOLATED_WORDS}.")
    if error is not None and error > UNCERTAIN_EV_PER_ATOM:
        found.append(
            f"Expected error of E_hull {error:.2f} eV/atom: few layers like it are among those that the energy model "
            "was fitted on."
        )
    moved = candidate.rmsd_to_relaxed_angstrom
    if moved is not None and moved > MOVED_ANGSTROM:
        found.append(f"Atoms moved by {moved:.2f} Å in relaxing: this is another structure than the model drew.")
    above = candidate.antiferromagnetic_ev_per_atom
    if above is not None and above < 0:
        in_its_cell = abs(candidate.total_magnetization or 0.0) < MAGNETIC_MOMENT
        others = "its geometry is that" if in_its_cell else "geometry, bands and phonons are those"
        found.append(
            f"Its energy is that of an antiferromagnetic order, {-1000 * above:.1f} meV/atom below the ferromagnetic "
            f"one; {others} of the ferromagnetic one."
        )
    if phonon is not None:
        found += _phonon_warnings(candidate, phonon)
    return found


def gap_words(gap_ev: float | None, kind: GapKind | None) -> str:
    """Size and kind of a band gap, eV; one is missing where it is not known."""
    if gap_ev == 0 or kind is GapKind.METAL:
        return "metal"
    return f"{number(gap_ev, 2)} {'' if kind is None else kind.value}".strip()


def magnetic_words(candidate: CandidateDoc) -> str | None:
    """The magnetic order that was found, and how far the antiferromagnetic one lies from it; None where unknown."""
    if candidate.magnetic_order is None:
        return None
    words = candidate.magnetic_order.value
    above = candidate.antiferromagnetic_ev_per_atom
    found = words if above is None else f"{words}, E(AFM) - E(FM) = {1000 * above:.1f} meV/atom"
    return f"{found}; some orders have no energy" if candidate.magnetic_note else found


def exfoliation_words(candidate: CandidateDoc) -> str | None:
    """The exfoliation energy and whose layer it is; None where unknown."""
    if candidate.exfoliation_mev_per_angstrom2 is None:
        return None
    return f"{number(candidate.exfoliation_mev_per_angstrom2, 1)} meV/Å², from {candidate.bulk_parent}"


def vacuum_words(candidate: CandidateDoc) -> list[tuple[str, str]]:
    """Name and value of what is known against the vacuum, on each side where a dipole makes them differ."""
    found, apart = [], candidate.vacuum_level_difference or 0.0

    def on_sides(value: float) -> str:
        """value: against the mean of both levels, eV, larger where the level is higher."""
        if abs(apart) < SAME_LEVEL_EV:
            return f"{number(value, 2)} eV"
        return f"{number(value + apart / 2, 2)} eV above, {number(value - apart / 2, 2)} eV below"

    if candidate.work_function is not None:
        found.append(("work function", on_sides(candidate.work_function)))
    if candidate.vbm_vs_vacuum is not None and candidate.cbm_vs_vacuum is not None:
        found.append(("ionisation energy", on_sides(-candidate.vbm_vs_vacuum)))
        found.append(("electron affinity", on_sides(-candidate.cbm_vs_vacuum)))
    if found and abs(apart) >= SAME_LEVEL_EV:
        found.append(("vacuum level above minus below", f"{number(apart, 2)} eV"))
    return found


def competing_phases(candidate: CandidateDoc) -> list[tuple[str, float, str]]:
    """Phases that a candidate decomposes into, the largest share first: name, share of the atoms, whose energy."""
    mine = "predicted, as this one's" if candidate.surrogate else "computed, as this one's"
    computed = set(candidate.computed_competitors)
    shares = sorted((candidate.decomposition or {}).items(), key=lambda item: -item[1])
    return [(name, share, mine if name.rpartition(" ")[0] in computed else "reference table") for name, share in shares]


def _phonon_warnings(candidate: CandidateDoc, phonon: PhononDoc) -> list[str]:
    found = []
    frequencies = np.array(phonon.frequencies_thz)
    highest = float(frequencies.max())
    if highest > HIGHEST_FREQUENCY_THZ and "H" not in candidate.elements:
        found.append(f"A phonon of {highest:.0f} THz without hydrogen is implausibly stiff.")
    change = phonon.sum_rule_change
    if change is not None and change > SUM_RULE_CHANGE:
        found.append(
            f"The rotational sum rules changed the force constants by {100 * change:.1f} %: the forces are noisy or "
            "the supercell is too small."
        )
    by_hessian = phonon.dynamically_stable and phonon.min_hessian_ev_per_angstrom2 is not None
    if by_hessian and phonon.min_frequency_thz < -phonon.threshold_thz:
        found.append(
            f"Interpolated modes reach {number(phonon.min_frequency_thz, 2)} THz between the q-points that fit in the "
            "supercell, the only ones its criterion sees: a larger supercell (engine.phonon_repeats) settles it."
        )
    if phonon.thermal is not None and "H" in candidate.elements and candidate.e_above_hull is not None:
        zero_point = phonon.thermal.free_energy_ev_per_atom[0]
        found.append(
            f"E_hull is without zero-point energies. This layer's is {zero_point:.3f} eV/atom, as it holds hydrogen; "
            "that of its competing phases is not known here."
        )
    q_points = np.array(phonon.q_points)
    at_gamma = np.flatnonzero(np.abs(q_points - np.round(q_points)).max(axis=1) < 1e-6)
    if len(at_gamma):
        acoustic = np.sort(np.abs(frequencies[at_gamma[0]]))[:3]
        if acoustic.max() > ACOUSTIC_AT_GAMMA_THZ:
            found.append(
                f"Acoustic modes reach {acoustic.max():.1f} THz at Γ instead of 0: the forces are inconsistent."
            )
    return found


def campaign_warnings(campaign: CampaignDoc, candidates: Sequence[CandidateDoc]) -> list[str]:
    """What about the whole campaign looks implausible or unfinished, in sentences."""
    funnel, found = campaign.funnel, []
    if campaign.state is not CampaignState.COMPLETED or funnel.pending:
        waiting = f" ({funnel.pending} candidates are pending)" if funnel.pending else ""
        found.append(f"The campaign is not finished{waiting}: the numbers will change.")
    if funnel.generated and not funnel.valid:
        found.append("No sample is valid: the model, the checkpoint or the screen's rules are wrong.")
    started = funnel.relaxed + funnel.failed
    if started >= 5 and funnel.failed > started / 5:
        found.append(
            f"{funnel.failed} of {started} computed candidates failed, more than one in five; see the reasons below."
        )
    known = [float(c.e_above_hull or 0) for c in computed(candidates)]
    if len(known) >= 10 and max(known) <= 0:
        found.append("Every candidate lies on or below the hull: the reference phases are probably incomplete.")
    below = sorted({c.formula for c in computed(candidates) if (c.e_above_hull or 0) < BELOW_HULL_EV_PER_ATOM})
    if below:
        names = ", ".join(below[:8]) + (", …" if len(below) > 8 else "")
        found.append(f"More than {-BELOW_HULL_EV_PER_ATOM:g} eV/atom below the hull, which layers rarely are: {names}.")
    if funnel.phonon_done >= 10 and funnel.dynamically_stable == funnel.phonon_done:
        found.append("Every candidate with phonons is stable, which is rare; look at the bands.")
    return found


def reason_counts(candidates: Sequence[CandidateDoc], unreadable: int = 0) -> list[tuple[str, int]]:
    """Why candidates stopped, numbers and names taken out, the most frequent first."""
    stopped = (CandidateState.REJECTED, CandidateState.FAILED)
    counts = Counter(kind_of_reason(c.reason or "no reason recorded") for c in candidates if c.state in stopped)
    if unreadable:
        counts["unreadable"] = unreadable
    return counts.most_common()


def kind_of_reason(reason: str) -> str:
    """The reason without what is particular to one candidate.

    >>> kind_of_reason("atoms too close: 0.312 angstrom, at least 0.5 is required")
    'atoms too close'
    >>> kind_of_reason("E_hull 0.713 eV/atom is above the window of 0.6")
    'E_hull … eV/atom is above the window of …'
    """
    head = reason.splitlines()[0].partition(":")[0] if ":" in reason else reason
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "…", head).strip()[:80] or "no reason recorded"
