"""The six compounds of the paper's Fig. 6, taken through the pipeline from prototypes. Pure: candidates in, text out.

An entry's ``source_id`` is ``<compound>-<prototype>``, as ``launchpad/structures/paper-compounds.jsonl`` has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scdm_flows.config import WINDOW_EV
from scdm_flows.documents import CandidateDoc, CandidateState
from scdm_flows.query.words import above_hull, number
from scdm_flows.report import paper
from scdm_flows.report.markdown import formula, table
from scdm_models.symmetry import layer_group

if TYPE_CHECKING:
    from scdm_flows.report.study import Study


@dataclass(frozen=True)
class CompoundResult:
    """A compound: its prototypes that relaxed to one layer, the lowest E_hull first, and those that did not."""

    compound: str
    relaxed: list[CandidateDoc]
    others: list[CandidateDoc]

    @property
    def lowest_stable(self) -> CandidateDoc | None:
        """The phonon-stable prototype of the lowest E_hull."""
        return next((c for c in self.relaxed if c.dynamically_stable), None)

    @property
    def stable_in_window(self) -> bool:
        """Whether that one lies in the paper's window."""
        return self.lowest_stable is not None and in_window(self.lowest_stable)


def in_window(candidate: CandidateDoc) -> bool:
    """Whether its E_hull is in the paper's window; the campaign's own gate is wider."""
    return candidate.e_above_hull is not None and candidate.e_above_hull <= WINDOW_EV


def parts(candidate: CandidateDoc) -> tuple[str, str]:
    """Compound and prototype."""
    compound, _, prototype = (candidate.source_id or candidate.formula).partition("-")
    return compound, prototype


def compound_results(candidates: Sequence[CandidateDoc]) -> list[CompoundResult]:
    """One for each compound, in the paper's order."""
    found = []
    names = {parts(c)[0] for c in candidates}
    for name in [*(c for c in paper.COMPOUNDS if c in names), *sorted(names - set(paper.COMPOUNDS))]:
        own = [c for c in candidates if parts(c)[0] == name]
        relaxed = [c for c in own if _relaxed(c)]
        relaxed.sort(key=lambda c: (c.e_above_hull, c.candidate_id))
        found.append(CompoundResult(name, relaxed, [c for c in own if not _relaxed(c)]))
    return found


def _relaxed(candidate: CandidateDoc) -> bool:
    """Whether it has an energy as one layer; that a later stage failed takes nothing from it."""
    return candidate.e_above_hull is not None and candidate.one_layer is not False


def compounds_section(study: Study) -> Iterator[str]:
    """The section of the results page."""
    yield "## The paper's six compounds"
    if study.compounds is None:
        yield (
            "Not computed: `scdm campaign run launchpad/campaigns/paper-compounds.yaml`, then give `--compounds "
            "paper-compounds`."
        )
        return
    found = compound_results(study.compounds)
    surrogate = any(c.surrogate for c in study.compounds)
    kind = "surrogate E_hull" if surrogate else "E_hull"
    yield (
        f"The paper names six layers, all in its window of {WINDOW_EV:g} eV/atom and phonon-stable, and "
        "gives no coordinates. So each composition was set up in the layer prototypes that it is plausible in "
        f"({len(study.compounds)} structures, `benchmarks/paper_compounds.py`) and went through the same stages, with "
        "the settings of `launchpad/campaigns/paper-compounds.yaml`. Which of them is the paper's is not known; shown "
        "is where the lowest one and the lowest phonon-stable one land. A prototype is what the relaxation began with; "
        "the layer group is that of its end."
    )
    rows = []
    for verdict in found:
        for words, c in (
            ("lowest", verdict.relaxed[0] if verdict.relaxed else None),
            ("lowest phonon-stable", verdict.lowest_stable),
        ):
            if c is None:
                rows.append([formula(verdict.compound), words, "none", *["–"] * 4])
            elif words == "lowest" or c is not verdict.relaxed[0]:
                both = "lowest, phonon-stable" if c is verdict.lowest_stable and c is verdict.relaxed[0] else words
                rows.append([formula(verdict.compound), both, *_cells(c)])
    head = [
        "compound",
        "",
        "from prototype",
        "layer group",
        f"{kind}, eV/atom",
        f"≤ {WINDOW_EV:g}",
        "phonons",
        "lowest mode, THz",
    ]
    rows = [row + [""] * (len(head) - len(row)) for row in rows]
    yield table(head, rows, left=4)
    window = [v.compound for v in found if v.relaxed and in_window(v.relaxed[0])]
    stable = [v.compound for v in found if v.stable_in_window]
    yield (
        f"**{len(window)} of {len(found)} have a prototype in the window, {len(stable)} of {len(found)} a "
        "phonon-stable "
        f"one there**{' by the surrogate' * surrogate}."
    )
    every = [[*parts(c), *_cells(c)[1:]] for v in found for c in [*v.relaxed, *v.others]]
    listed = table(["compound", "from prototype", *head[3:]], every, left=3)
    yield f"<details><summary>all {len(every)} prototypes</summary>\n\n{listed}\n\n</details>"


def group_of(candidate: CandidateDoc) -> str:
    """Symbol and number of the layer group after relaxation."""
    number_ = candidate.layer_group
    return "–" if number_ is None else f"{layer_group(number_).symbol} ({number_})"


def _cells(c: CandidateDoc) -> list[str]:
    """Prototype, layer group after relaxation, energy, window, phonons, lowest frequency."""
    stable = {True: "stable", False: "unstable", None: "–"}[c.dynamically_stable]
    if c.dynamically_stable is None and c.state is CandidateState.FAILED:
        stable = "failed"
    inside = "–" if c.e_above_hull is None else "yes" if in_window(c) else "no"
    return [
        parts(c)[1],
        group_of(c),
        above_hull(c),
        inside,
        stable,
        number(c.min_frequency_thz, 2),
    ]
