"""The DFT page: the paper's compounds by DFT, and how the surrogate did beside it. Pure: a ``DftStudy`` in, text out.

Every number of the page is read from the study; what no number says is a definition, the paper's or C2DB's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from scdm_flows.analysis.fidelity import beside_c2db, compare, fidelity
from scdm_flows.config import WINDOW_EV
from scdm_flows.documents import CandidateDoc, CandidateState, PhononDoc
from scdm_flows.documents.bands import GapKind
from scdm_flows.query.words import above_hull, number
from scdm_flows.report import bands, paper
from scdm_flows.report.compounds import compound_results, group_of, parts
from scdm_flows.report.content import candidate_warnings, competing_phases, gap_words, magnetic_words
from scdm_flows.report.dft_study import DftStudy
from scdm_flows.report.fidelities import measured
from scdm_flows.report.figures import OURS, SOFT, STYLE, published
from scdm_flows.report.markdown import formula, picture, table
from scdm_flows.report.results import MarkdownReport, commands_section
from scdm_flows.report.results_figures import name as generator_name

GPAW = "gpaw"
FITTED_ON = "C2DB"  # source of the layers that the energy model learned from
RECORDS = "candidates.jsonl"
RECORDED = (
    "candidate_id",
    "campaign",
    "source_id",
    "generator",
    "formula",
    "state",
    "reason",
    "energy_scheme",
    "engine_version",
    "energy_per_atom",
    "formation_energy_per_atom",
    "e_above_hull",
    "decomposition",
    "computed_competitors",
    "band_gap",
    "magnetic_order",
    "antiferromagnetic_ev_per_atom",
    "total_magnetization",
    "dynamically_stable",
    "structure",
    "relaxed_structure",
    "known_as",
    "parent",
)


def render(study: DftStudy, folder: str = "results-dft") -> MarkdownReport:
    """The page; folder: where its pictures and records will lie, from its file."""
    files: dict[str, str] = {}

    def show(name: str, svg: str, title: str, width: int = 420) -> str:
        files[name] = svg
        return picture(title, f"{folder}/{name}", width)

    compounds = _compounds(study, show) if study.compounds else iter(())
    sections = [_head(study), compounds, _drawn(study, show)]
    if study.campaign.config.get("engine", {}).get("kind") == GPAW:
        sections.append(_validation(study))
    files[RECORDS] = records([*study.compounds, *study.stability, *study.all_drawn])
    text = [part for section in sections for part in section]
    text += [*_inputs(folder), *commands_section(study.commands)]
    return MarkdownReport("\n\n".join(text) + "\n", files)


def records(candidates: Sequence[CandidateDoc]) -> str:
    """JSON lines: what each candidate started from, what became of it, and its energies."""
    lines = []
    for candidate in candidates:
        document = candidate.model_dump(mode="json")
        lines.append(json.dumps({name: document[name] for name in RECORDED}, sort_keys=True))
    return "\n".join(lines) + "\n"


def _head(study: DftStudy) -> Iterator[str]:
    campaign = study.campaign
    engine: Any = campaign.config.get("engine", {})
    made = study.commands.get("page")
    computed = [*study.compounds, *study.all_drawn]
    versions = sorted({c.engine_version for c in computed if c.engine_version})
    also = "the paper's compounds, and " if study.compounds else ""
    yield f"# DFT: {also}how far the surrogate is right"
    yield (
        (f"Made by `{made}`" if made else "Made")
        + f" from what is stored of campaign `{campaign.name}` (configuration `{campaign.config_hash[:12]}`, state "
        f"{campaign.state.value}) and the campaigns named below; nothing here is typed in. The paper is "
        f"{paper.CITATION}."
    )
    schemes = ", ".join(f"`{s}`" for s in sorted({c.energy_scheme for c in computed if c.energy_scheme}))
    if engine.get("kind") == GPAW:
        yield (
            f"Energies, geometries, moments, bands and phonons are PBE's ({schemes}, preset `{engine['preset']}`, GPAW "
            f"{', '.join(versions) or 'not run yet'}), brought to C2DB's scale. Each E_hull is above the hull of the "
            "packaged reference phases, whose energies are the Materials Project's, converted to that scale "
            "([how well](energies.md)), and of the layers computed here; the tables say where one of the latter "
            "competes. How far the preset is from C2DB's own settings is measured [below](#the-preset-beside-c2db)."
        )
    else:
        yield f"Energies here are {_fidelities(computed)} ({schemes}; {', '.join(versions) or 'not run yet'})."
    failed = [c for c in [*study.compounds, *study.stability, *study.all_drawn] if c.state is CandidateState.FAILED]
    if failed:
        lines = [f"- {formula(c.formula)} (`{c.candidate_id}`): {c.reason}" for c in failed]
        yield "What could not be computed:\n\n" + "\n".join(lines)


def _fidelities(candidates: Sequence[CandidateDoc]) -> str:
    return " and ".join(sorted({fidelity(c) for c in candidates})) or "not there yet"


def _compounds(study: DftStudy, show: Any) -> Iterator[str]:
    found = compound_results(study.compounds)
    yield "## The paper's six compounds"
    generator: Any = study.campaign.config["generator"]
    within = generator.get("within")
    chosen = f"promoted from campaign `{generator['parent']}`, however far above the lowest of their compound"
    if within is not None:
        chosen = f"those within {within:g} eV/atom of the lowest of their compound by the surrogate"
    yield (
        f"{len(study.compounds)} prototypes, {chosen}. The paper gives no coordinates, so which prototype is the "
        "paper's is not known."
    )
    pending = sum(c.state is CandidateState.PENDING for c in study.compounds)
    if pending:
        yield (
            f"**{pending} of them are not computed yet**, so the lowest of a compound may be another; the page is "
            "made anew by the same command."
        )
    rows = []
    for one in found:
        if not one.relaxed:
            waiting = any(c.state is CandidateState.PENDING for c in one.others)
            rows.append([formula(one.compound), "not computed yet" if waiting else "none", *["–"] * 8])
            continue
        lowest = one.relaxed[0]
        rows.append([formula(one.compound), *_cells(study, lowest), paper.CHARACTER.get(one.compound, "–")])
    head = ["compound", "lowest prototype", "layer group", "E_hull by DFT, eV/atom", "by the surrogate", "magnetism"]
    head += ["gap with spin-orbit, eV", "dynamically stable", "smallest Hessian, eV/Å²", "the paper says"]
    yield table(head, rows, left=3)
    lowest_of = [one.relaxed[0] for one in found if one.relaxed]
    inside = [c for c in lowest_of if c.e_above_hull is not None and c.e_above_hull <= WINDOW_EV]
    judged = [v for c in lowest_of if (v := study.verdict(c)) is not None]
    stable = sum(p.dynamically_stable for _, p in judged)
    yield (
        f"**{len(inside)} of {len(found)} have a prototype with E_hull ≤ {WINDOW_EV:g} eV/atom by DFT; of the lowest "
        f"ones {stable} of {len(judged)} computed are dynamically stable** by C2DB's criteria (the Hessian of the "
        f"{_supercells(study, [p for _, p in judged])}supercell has no eigenvalue below −0.01 eV/Å², the stiffness "
        "tensor is positive definite)."
    )
    agreed = [(one.compound, said, paper.CHARACTER[one.compound]) for one in found if (said := _character(study, one))]
    if agreed:
        right = sum(said == theirs for _, said, theirs in agreed)
        others = [f"{formula(c)} ({said} here, {theirs} there)" for c, said, theirs in agreed if said != theirs]
        yield f"The paper's word for the bands holds for {right} of {len(agreed)}" + (
            f"; not for {', '.join(others)}." if others else "."
        )
    doubts = [
        f"- {formula(c.formula)}: {' '.join(words)}"
        for c in lowest_of
        if (words := candidate_warnings(c, (study.verdict(c) or (c, None))[1]))
    ]
    if doubts:
        yield "\n".join(doubts)
    unstable = [f"- {formula(c.formula)}: {p.reason}" for c, p in judged if not p.dynamically_stable]
    if unstable:
        yield "Why layers are not stable:\n\n" + "\n".join(unstable)
    pictures = []
    for one in found:
        document = study.bands.get(one.relaxed[0].candidate_id) if one.relaxed else None
        if document is not None:
            title = f"bands of {one.compound} with spin-orbit coupling and its density of states"
            drawn = bands.draw(bands.electronic_plot(document, one.compound), 4.6, 3.0)
            pictures.append(show(f"bands-{one.compound}.svg", published(drawn), title))
    if pictures:
        yield "Bands with spin-orbit coupling and density of states, as in the paper's Fig. 7:"
        yield "\n".join(pictures)
    yield from _every_prototype(study, found)
    yield from _entries(study, found)


def _supercells(study: DftStudy, phonons: Sequence[PhononDoc]) -> str:
    """Their supercells in the plane, those of the engine's settings where there are no phonons yet; or nothing."""
    repeats = study.campaign.config.get("engine", {}).get("phonon_repeats")
    asked = set() if repeats is None else {f"{repeats} × {repeats}"}
    sizes = {f"{p.supercell[0][0]} × {p.supercell[1][1]}" for p in phonons} or asked
    return " or ".join(sorted(sizes)) + " " * bool(sizes)


def _character(study: DftStudy, one: Any) -> str | None:
    """``semiconducting`` or ``metallic``, of the lowest prototype; None without bands or a word of the paper."""
    document = study.bands.get(one.relaxed[0].candidate_id) if one.relaxed else None
    if document is None or one.compound not in paper.CHARACTER:
        return None
    return "metallic" if document.gap_kind is GapKind.METAL else "semiconducting"


def _cells(study: DftStudy, candidate: CandidateDoc) -> list[str]:
    """Prototype to smallest eigenvalue, as in the table of the compounds."""
    document, judged = study.bands.get(candidate.candidate_id), study.verdict(candidate)
    before = candidate.parent
    gap = "–" if document is None else gap_words(document.band_gap_ev, document.gap_kind)
    return [
        parts(candidate)[1],
        group_of(candidate),
        number(candidate.e_above_hull),
        above_hull(before),
        magnetic_words(candidate) or "–",
        gap,
        "–" if judged is None else "yes" if judged[1].dynamically_stable else "no",
        "–" if judged is None else number(judged[1].min_hessian_ev_per_angstrom2),
    ]


def _every_prototype(study: DftStudy, found: Sequence[Any]) -> Iterator[str]:
    rows = []
    for one in found:
        for c in [*one.relaxed, *one.others]:
            rivals = "; ".join(f"{100 * share:.0f} % {name} ({whose})" for name, share, whose in competing_phases(c))
            rows.append([one.compound, *_cells(study, c)[:5], rivals or "–"])
    head = ["compound", "from prototype", "layer group", "E_hull by DFT, eV/atom", "by the surrogate", "magnetism"]
    listed = table([*head, "competing phases, and whose energy"], rows, left=3)
    yield f"<details><summary>all {len(rows)} prototypes</summary>\n\n{listed}\n\n</details>"


def _entries(study: DftStudy, found: Sequence[Any]) -> Iterator[str]:
    """The known layers of the same compositions."""
    rows = []
    for one in found:
        if not one.relaxed:
            continue
        mine = one.relaxed[0]
        own = [k for k in study.known.get(mine.formula, []) if k.source == "C2DB" and k.e_above_hull is not None]
        own.sort(key=lambda k: k.e_above_hull or 0.0)
        if not own:
            rows.append([formula(one.compound), "none", *["–"] * 4, number(mine.e_above_hull)])
            continue
        best = own[0]
        stable = best.dynamically_stable
        gap = "–" if best.band_gap is None else "metal" if best.band_gap <= 0 else number(best.band_gap, 2)
        rows.append(
            [
                formula(one.compound),
                f"{len(own)}, lowest `{best.id}`",
                str(best.layer_group or "–"),
                number(best.e_above_hull),
                gap,
                "–" if stable is None else "yes" if stable else "no",
                number(mine.e_above_hull),
            ]
        )
    head = ["compound", "C2DB's entries", "layer group", "E_hull in C2DB, eV/atom", "gap, eV", "stable"]
    yield "C2DB's own layers of these compositions, and the lowest one here beside them:"
    yield table([*head, "lowest here, eV/atom"], rows, left=2)


def _drawn(study: DftStudy, show: Any) -> Iterator[str]:
    yield "## The surrogate beside DFT, on candidates drawn by lot"
    if not study.drawn:
        yield "Not computed: `scdm campaign promote NAME --top 20 --draw SEED --engine gpaw`, then give `--drawn`."
        return
    named = ", ".join(
        f"`{name}` ({len(own)} of {generator_name(own[0].generator) if own else 'nothing'})"
        for name, own in study.drawn.items()
    )
    yield (
        f"Generated, relaxed layers of the window, drawn by seed and not by rank: {named}. Each began from the "
        "surrogate's relaxed geometry and was relaxed and computed by DFT. Differences are surrogate minus DFT."
    )
    columns: list[tuple[str, list[CandidateDoc]]] = [("all", study.all_drawn)]
    if len(study.drawn) > 1:
        columns += [(generator_name(own[0].generator), own) for own in study.drawn.values() if own]
    fitted = [c for c in study.all_drawn if any(known.source == FITTED_ON for known in c.known_as)]
    if fitted:
        others = [c for c in study.all_drawn if c not in fitted and c.e_above_hull is not None]
        columns += [(f"layers of {FITTED_ON}", fitted), ("others", others)]
        yield (
            f"The energy model was fitted on {FITTED_ON}'s layers, so of those that relaxed to one of them it knows "
            "the answer; what counts for new layers is the column of the others."
        )
    missing = sum(c.e_above_hull is None for c in study.all_drawn)
    if missing:
        yield (
            f"**{missing} of {len(study.all_drawn)} are not computed.** Those that are, are no random part of the "
            "draw: small layers of high symmetry end first."
        )
    compared = {words: compare(own) for words, own in columns}
    lines: dict[str, dict[str, str]] = {}
    for words, comparison in compared.items():
        for measure in comparison.measures if comparison else ():
            value, interval = measured(measure)
            lines.setdefault(measure.words, {})[words] = f"{value} ({interval}; {measure.found.n})"
    names = [words for words, _ in columns]
    rows = [[text, *(cells.get(words, "–") for words in names)] for text, cells in lines.items()]
    yield table(["value (95 % interval; how many)", *names], rows)
    both = [c for c in study.all_drawn if c.parent is not None and None not in (c.e_above_hull, c.parent.e_above_hull)]
    if both:
        yield show("surrogate-dft.svg", published(_scatter(both)), "E_hull by the surrogate and by DFT", 460)
    rows = [_pair(c) for c in sorted(study.all_drawn, key=lambda c: (c.campaign, c.formula))]
    head = ["layer", "generator", "surrogate E_hull, eV/atom", "DFT", "difference", "atoms moved, Å", "magnetism", "id"]
    yield f"<details><summary>all {len(rows)}</summary>\n\n{table(head, rows, left=2)}\n\n</details>"


def _pair(candidate: CandidateDoc) -> list[str]:
    before = candidate.parent
    surrogate = None if before is None else before.e_above_hull
    both = surrogate is not None and candidate.e_above_hull is not None
    failed = candidate.e_above_hull is None and candidate.state is CandidateState.FAILED
    return [
        formula(candidate.formula),
        generator_name(candidate.generator),
        above_hull(before),
        "failed" if failed else number(candidate.e_above_hull),
        number((surrogate or 0.0) - (candidate.e_above_hull or 0.0)) if both else "–",
        number(candidate.rmsd_to_relaxed_angstrom, 2),
        magnetic_words(candidate) or "–",
        f"`{candidate.candidate_id}`",
    ]


def _scatter(candidates: Sequence[CandidateDoc]) -> Figure:
    """E_hull of the surrogate, with its error, over that of DFT."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        colours = [OURS, "#d08a2e", SOFT]
        values: list[float] = []
        for colour, generator in zip(colours, sorted({c.generator for c in candidates}), strict=False):
            own = [c for c in candidates if c.generator == generator]
            x = np.array([c.e_above_hull for c in own], dtype=float)
            y = np.array([c.parent.e_above_hull for c in own if c.parent is not None], dtype=float)
            error = [c.parent.e_above_hull_error or 0.0 for c in own if c.parent is not None]
            axes.errorbar(
                x, y, error, fmt="o", color=colour, markersize=3.5, linewidth=0.7, label=generator_name(generator)
            )
            values += [*x, *y]
        ends = (min(values) - 0.05, max(values) + 0.05)
        axes.plot(ends, ends, color=SOFT, linewidth=0.7, zorder=0)
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_xlabel("E_hull by DFT (eV/atom)")
        axes.set_ylabel("surrogate E_hull (eV/atom)")
        axes.legend(frameon=False, fontsize=8)
        return figure


def _validation(study: DftStudy) -> Iterator[str]:
    yield "## The preset beside C2DB"
    if not study.validation:
        yield "Not measured here: `scdm refs gpaw -o ROWS.jsonl`, then give `--validation ROWS.jsonl`."
        return
    for preset in sorted({str(row["preset"]) for row in study.validation}, reverse=True):
        rows = [dict(row) for row in study.validation if row["preset"] == preset]
        said = beside_c2db(rows)
        yield (
            f"Preset `{preset}`, {said['n']} layers of C2DB at C2DB's geometries, drawn by seed: formation energy "
            f"within 0.02 eV/atom for **{said['within_0.02']} of {said['n']}** (mean absolute difference "
            f"{number(said['mae'])}, bias {number(said['bias'])}), gap with spin-orbit coupling within 0.05 eV for "
            f"**{said['gaps_within_0.05']} of {said['n_gaps']}** semiconductors (mean absolute difference "
            f"{number(said['gap_mae'])}); {said['failed']} failed."
        )
        cells = [
            [
                f"`{row['id']}`",
                str(row.get("magstate") or "–"),
                number(row.get("formation_energy")),
                number(row.get("c2db")),
                number(row["formation_energy"] - row["c2db"]) if "formation_energy" in row else row["failed"],
                number(row.get("gap"), 2),
                number(row.get("gap_c2db"), 2),
            ]
            for row in rows
        ]
        head = ["layer", "magnetism in C2DB", "formation energy, eV/atom", "C2DB", "difference", "gap, eV", "C2DB"]
        yield f"<details><summary>all {len(rows)}</summary>\n\n{table(head, cells, left=2)}\n\n</details>"


def _inputs(folder: str) -> Iterator[str]:
    yield "## Inputs"
    yield (
        f"[{RECORDS}]({folder}/{RECORDS}) holds, for every layer of this page, the structure that it began with, the "
        "relaxed one, its energies, competing phases and the candidate that it was promoted from. The input of each "
        "run of GPAW follows from structure and settings: `scdm campaign inputs ID -o FOLDER` writes them."
    )
