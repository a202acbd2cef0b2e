"""The results page: the paper's study beside this one, as Markdown with its figures. Pure: a ``Study`` in, text out.

Every number of the page is read from the study; what no number says is a definition or the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from scdm_flows.analysis.stability import GAMMA_THRESHOLD_THZ, THRESHOLD_THZ
from scdm_flows.documents import CandidateDoc, StageName
from scdm_flows.documents.hull import at_least
from scdm_flows.evaluation.reconstruction import DEFINITIONS
from scdm_flows.query.candidate_files import structure_of
from scdm_flows.query.words import EXTRAPOLATED_MARK, EXTRAPOLATED_WORDS, above_hull, duration, number, percent, share
from scdm_flows.report import (
    bands,
    content,
    crystals,
    paper,
    recount,
    results_figures,
    results_protocol,
    results_surrogate,
)
from scdm_flows.report.cards import energy_models
from scdm_flows.report.compounds import compound_results, compounds_section, group_of
from scdm_flows.report.evaluation import DISTANCES
from scdm_flows.report.figures import published
from scdm_flows.report.markdown import formula, picture, table
from scdm_flows.report.recount import Counts
from scdm_flows.report.study import BEST, Study
from scdm_models.metrics.intervals import ratio_interval
from scdm_models.symmetry import layer_group

DEFINED = {
    "published": "as the paper's definition has it: atoms are compared where they lie in the cell",
    "periodic": "periodic: the same for every choice of cell",
}
STAGE_WORDS = {
    "generate": "generate",
    "screen": "screen",
    "relax": "relax",
    "static": "static energy",
    "gate": "hull and gate",
    "phonon": "phonons",
    "bands": "electronic bands",
}


@dataclass(frozen=True)
class MarkdownReport:
    """Markdown and its pictures: file name -> SVG text."""

    text: str
    pictures: dict[str, str]


def render(study: Study, folder: str = "results") -> MarkdownReport:
    """The report; folder: where its pictures will lie, from its file."""
    pictures: dict[str, str] = {}

    def show(name: str, svg: str, title: str, width: int = 860) -> str:
        pictures[name] = svg
        return picture(title, f"{folder}/{name}", width)

    sections = [
        _head(study),
        _funnel(study, show),
        _reconstruction(study, show),
        _energies(study, show),
        results_protocol.section(study, show),
        _best(study, show),
        compounds_section(study),
        results_surrogate.section(study),
        _time(study),
        commands_section(study.commands),
    ]
    return MarkdownReport("\n\n".join(part for section in sections for part in section) + "\n", pictures)


Show = Callable[..., str]


def _energy(study: Study) -> str:
    return "surrogate E_hull" if study.surrogate else "E_hull"


def _head(study: Study) -> Iterator[str]:
    campaign, counts, total = study.campaign, study.counts, study.total
    yield "# Results: the paper's study, run again"
    made = study.commands.get("page")
    how = f"Made by `{made}`" if made else "Made"
    yield (
        f"{how} from campaign `{campaign.name}` as stored on {campaign.last_updated:%Y-%m-%d} (configuration "
        f"`{campaign.config_hash[:12]}`, state {campaign.state.value}); nothing here is typed in, and the commands of "
        f"each part are at the [end](#commands). The paper is {paper.CITATION}; its energies and phonons are DFT's."
    )
    if study.surrogate:
        schemes = ", ".join(sorted({c.energy_scheme for c in study.candidates if c.energy_scheme}))
        models = ", ".join(f"`{name}`" for name in energy_models(study.candidates))
        whose = f"predicted by the energy model {models}" if models else "a machine-learned force field's"
        mark = any(c.extrapolated for c in [*study.candidates, *(study.compounds or [])])
        yield (
            f"> **Energies, relaxations and phonons here are surrogate ones**, not DFT: energies ({schemes}) are "
            f"{whose}, relaxations and phonons those of a force field. "
            + f"**{EXTRAPOLATED_MARK}** marks energies {EXTRAPOLATED_WORDS}. " * mark
            + "[How far they can be trusted](#what-the-surrogate-can-and-cannot-say) was measured."
        )
    made_by = sorted({c.model_id for c in study.candidates if c.model_id})
    if made_by:
        yield f"The samples were drawn by {', '.join(f'`{name}`' for name in made_by)}."
    rows = []
    for generator, found in counts.items():
        samples = found.funnel.generated
        papers = paper.BY_GENERATOR.get(generator)
        of_paper = share(papers["in_window"], papers["generated"]) if papers else "–"
        rows.append(
            [
                f"{results_figures.name(generator)}: {_energy(study)} ≤ {study.window:g}, of {samples:,} samples",
                of_paper,
                f"**{share(found.below[study.window], samples)}**",
            ]
        )
    if len(counts) > 1:
        rows.append(
            [
                f"together, of {total.funnel.generated:,}",
                share(paper.FUNNEL["in_window"], paper.FUNNEL["generated"]),
                f"**{share(total.below[study.window], total.funnel.generated)}**",
            ]
        )
    rows.append(
        [
            "phonon-stable, of the layers whose phonons were computed",
            "6 of 6 chosen",
            f"**{total.funnel.dynamically_stable} of {total.funnel.phonon_done}**",
        ]
    )
    rows.append(["of these new", "6", f"**{total.new_stable} of {total.new_phonon_done}**"])
    if study.compounds is not None:
        landed = compound_results(study.compounds)
        stable = sum(v.stable_in_window for v in landed)
        rows.append(
            [
                "the paper's six compounds: phonon-stable in the window, in some prototype",
                f"{len(paper.COMPOUNDS)} of {len(paper.COMPOUNDS)}",
                f"**{stable} of {len(landed)}**",
            ]
        )
    ended = len(study.candidates) - len(recount.without_end(study.candidates))
    rows.append(["samples with an end state", "–", f"**{ended:,} of {len(study.candidates):,}**"])
    yield table(["", "paper (DFT)", "here"], rows)
    yield from _symmetry_pays(study)


def _symmetry_pays(study: Study) -> Iterator[str]:
    """The paper's main result, and what comes of it here: SCDM's shares over UnSCDM's."""
    counts = study.counts
    if not paper.NAMES.keys() <= counts.keys():
        return
    both = [counts[name] for name in paper.NAMES]

    def times(some: Sequence[int]) -> str:
        found = ratio_interval(*zip(some, (one.funnel.generated for one in both), strict=True))
        return "–" if found is None else f"**{found.value:.2f}** ({found.low:.2f} to {found.high:.2f})"

    published = [own["in_window"] / own["generated"] for own in map(paper.BY_GENERATOR.__getitem__, paper.NAMES)]
    ratio, near = f"{published[0] / published[1]:.2f}", [one.below[study.window] for one in both]
    rows = [[f"{_energy(study)} ≤ {study.window:g}", ratio, times(near)]]
    for level in (study.window, *sorted(recount.LEVELS, reverse=True)):
        rows.append([f"– and new, ≤ {level:g}", "–", times([one.new_below[level] for one in both])])
    yield (
        "**What symmetry brings**: SCDM's share over UnSCDM's (95 % interval). Above 1 SCDM is ahead, below 1 UnSCDM. "
        "The first row is the paper's main result, the others what counts for discovery."
    )
    yield table(["unique relaxed samples", "paper", "here"], rows)


def _funnel(study: Study, show: Show) -> Iterator[str]:
    counts, window = study.counts, study.window
    yield "## The funnel"
    yield show("funnel.svg", published(results_figures.funnel(counts, window)), "steps of the campaign by generator")
    rows = []

    def row(words: str, value: Callable[[Counts], int], step: str | None = None) -> None:
        cells = [words, _of_paper(paper.FUNNEL, step), share(value(study.total), study.total.funnel.generated)]
        for generator, found in counts.items():
            if generator in paper.BY_GENERATOR:
                cells.append(_of_paper(paper.BY_GENERATOR[generator], step))
            cells.append(share(value(found), found.funnel.generated))
        rows.append(cells)

    energy = _energy(study)
    row("generated", lambda c: c.funnel.generated, "generated")
    row("valid", lambda c: c.funnel.valid, "valid")
    row("no duplicates", lambda c: c.funnel.unique, "unique")
    row("– of these new as sampled", lambda c: c.funnel.sample_novel)
    row("relaxed, energy known", lambda c: c.funnel.relaxed)
    row("different layers after relaxation", lambda c: c.funnel.distinct)
    row("– of these new", lambda c: c.funnel.novel)
    row(f"**{energy} ≤ {window:g}**", lambda c: c.below[window], "in_window")
    row("– of these new", lambda c: c.new_below[window])
    row("in the window, relaxed to the end, still one layer", lambda c: c.funnel.in_window)
    row("– of these new", lambda c: c.new_in_window)
    row("phonons computed", lambda c: c.funnel.phonon_done, "dynamically_stable")
    row("**phonon-stable**", lambda c: c.funnel.dynamically_stable, "dynamically_stable")
    row("– of these new", lambda c: c.new_stable)
    row("failed", lambda c: c.funnel.failed)
    row("without an end state", lambda c: c.funnel.pending)
    head = ["step", "paper", "all"]
    for generator in counts:
        name = results_figures.name(generator)
        head += [f"paper, {name}", name] if generator in paper.BY_GENERATOR else [name]
    yield table(head, rows)
    yield (
        "Shares are of the samples of the column. *Valid*: no atoms too close, radii in order, one connected layer "
        "(the paper: no atoms within 0.5 Å). *No duplicates*: the first of equal samples stays. *New*: the relaxed "
        f"layer equals no known one, all atoms compared{_known_sets(study)}; *as sampled*: the sample, before it was "
        "relaxed, equals none. The paper says of its 843 that none is in existing data sets, and does not count "
        "novelty as a step. The paper's *window* is by energy alone, and so is the row in bold; the row below it also "
        "asks that the relaxation ended and left one layer that no earlier sample relaxed to, which is what goes on"
        f"{_above_since(study)}. The paper chose six layers for phonons; here they were computed for the best that "
        "the campaign's budget and gate let on."
    )
    copies = {results_figures.name(g): c.copies_of_other_generators for g, c in counts.items()}
    if any(copies.values()):
        words = ", ".join(f"{n:,} of {g}" for g, n in copies.items() if n)
        yield f"Duplicates are looked for among all samples: {words} equal an earlier sample of the other generator."
    if notes := _draws(study):
        yield notes


def _above_since(study: Study) -> str:
    if not (above := study.total.above_since):
        return ""
    lie = "one of them lies" if above == 1 else f"{above:,} of them lie"
    return f"; it is judged by the known phases alone, and {lie} above the window beside the other candidates"


def _known_sets(study: Study) -> str:
    """The data sets that the candidates were compared with, with their sizes."""
    against = next((c.novelty.against for c in study.candidates if c.novelty and c.novelty.against), {})
    return f" ({', '.join(f'{source}: {n:,}' for source, n in against.items())} layers)" if against else ""


def _of_paper(counts: dict[str, int], step: str | None) -> str:
    if step is None or step not in counts:
        return "–"
    return share(counts[step], counts["generated"]) if step != "generated" else f"{counts[step]:,}"


def _draws(study: Study) -> str | None:
    """What share of its draws a model keeps, where it passes over some."""
    config = study.campaign.config.get("generator", {})
    configs = [g for g in config.get("generators", [config]) if g.get("guidance")]
    if not configs:
        return None
    text = (
        "With `guidance`, as here, a model passes over draws that are no bonded layer or repeat a sample's skeleton "
        "before they count as generated; the paper counts every draw."
    )
    kept = []
    for config in configs:
        for model in (study.models or {}).get("quick", {}).values():
            if str(model["label"]).startswith(f"{config['kind']}-") and "kept_draws" in model["measures"]:
                value = model["measures"]["kept_draws"]["value"]
                kept.append(f"{100 * value:.0f} % by `{model['label']}`")
    if kept:
        text += (
            f" Kept are {' and '.join(kept)} (`models/cards/results.json`). That is of a few hundred samples: the more "
            "are drawn, the more repeat a skeleton, and the share falls. UnSCDM's skeleton is the content of its cell "
            "alone: no two samples of a call have the same one, while SCDM's may, in other groups or positions."
        )
    return text


def _reconstruction(study: Study, show: Show) -> Iterator[str]:
    yield "## Reconstruction of held-out layers (paper, Fig. 4)"
    found = study.reconstruction
    if found is None:
        yield "Not measured: `scdm reconstruct` does it, and `--reconstruction FILE` shows it here."
        return
    by = f" Denoised by {', '.join(f'`{model}`' for model in found.models)}." if found.models else ""
    yield (
        f"{found.n} layers that no model was trained on, noised to t\\*, denoised, and compared with the original by "
        "six distances; smaller is better. SCDM keeps the layer group, UnSCDM is the same network without symmetry; "
        "the baseline is the original with its coordinates perturbed by 15 %. Boxes hold the middle half, whiskers "
        f"reach to the last value within 1.5 boxes. Energies are surrogate ones.{by}"
    )
    for definition in DEFINITIONS:
        boxes = found.boxes[definition]
        if definition == DEFINITIONS[0]:
            title = "six distances of reconstructed layers"
            yield show(f"reconstruction-{definition}.svg", published(results_figures.distances(boxes)), title)
        yield f"Medians, {DEFINED[definition]}:"
        rows = [[kind.replace("*", "\\*"), *(number(v[key][2]) for key in DISTANCES)] for kind, v in boxes.items()]
        yield table(["", *DISTANCES.values()], rows)
        if definition == DEFINITIONS[-1]:
            title = "the same distances, periodic"
            svg = published(results_figures.distances(boxes))
            shown = show(f"reconstruction-{definition}.svg", svg, title)
            yield f"<details><summary>{title}</summary>\n\n{shown}\n\n</details>"


def _energies(study: Study, show: Show) -> Iterator[str]:
    yield "## Energy above hull by generator (paper, Fig. 5)"
    if not content.computed(study.candidates):
        yield "No candidate has an energy yet."
        return
    figure = results_figures.energies(study.candidates, study.window, surrogate=study.surrogate)
    yield show("e-hull.svg", published(figure), "distribution of the energy above hull by generator")
    rows = []
    counts = study.counts
    for level in (*recount.LEVELS, study.window):
        cells = [f"≤ {level:g}"]
        for found in counts.values():
            cells += [share(found.below[level], found.funnel.generated), f"{found.new_below[level]:,}"]
        rows.append(cells)
    cells = ["phonon-stable"]
    for found in counts.values():
        cells += [f"{found.funnel.dynamically_stable:,} of {found.funnel.phonon_done:,}"]
        cells += [f"{found.new_stable:,}"]
    rows.append(cells)
    head = [f"{_energy(study)}, eV/atom"]
    for generator in counts:
        name = results_figures.name(generator)
        head += [name, "new"]
    yield table(head, rows)
    yield (
        "Unique relaxed samples; shares are of all samples of the generator, *new* are those of the column before it "
        "that relaxed to no known layer. "
        "Three meanings of stable: *on the hull*, E_hull ≤ 0 with all known phases and the other candidates; *near "
        f"it*, E_hull ≤ 0.05 eV/atom; *phonon-stable*, no mode below −{THRESHOLD_THZ:g} THz (−{GAMMA_THRESHOLD_THZ:g} "
        "THz near Γ) on the path and a mesh in the plane. Phonons were not computed for all."
    )


def _best(study: Study, show: Show) -> Iterator[str]:
    yield f"## The {BEST} best new layers (paper, Fig. 6)"
    best = study.best
    if not best:
        yield "No candidate is new and phonon-stable, so there is nothing to show."
        return
    titled = [(c, study.phonons[c.candidate_id], _title(c)) for c in best]
    yield (
        "The best by the ranking (`objective` of the campaign) of those that relaxed to no known layer and whose "
        f"phonons have no imaginary mode{' by the surrogate' * study.surrogate}: top view with the cell, side view "
        "along b, phonon bands."
    )
    yield show("best.svg", published(results_figures.best_layers(titled)), "structures and phonons of the best layers")
    rows = []
    for k, c in enumerate(best, 1):
        files = []
        for word, figure in (
            ("layer", crystals.layer_picture(structure_of(c))),
            ("phonons", bands.draw(bands.phonon_plot(study.phonons[c.candidate_id]))),
        ):
            name = f"best-{k}-{word}.svg"
            files.append(f"[{word}]({show(name, published(figure), word).split(chr(34))[1]})")
        rows.append(
            [
                f"({'abcdef'[k - 1]}) {formula(c.formula)}",
                results_figures.name(c.generator),
                group_of(c),
                above_hull(c),
                number(c.min_frequency_thz, 2),
                str(c.rank),
                f"`{c.candidate_id}`",
                ", ".join(files),
            ]
        )
    head = ["", "generator", "layer group", f"{_energy(study)}, eV/atom", "lowest mode, THz", "rank", "id", ""]
    yield table(head, rows, left=3)
    doubts = []
    for letter, c in zip("abcdef", best, strict=False):
        if warnings := content.candidate_warnings(c, study.phonons[c.candidate_id]):
            doubts.append(f"- ({letter}) {formula(c.formula)}: {' '.join(warnings)}")
    if doubts:
        yield "What is doubtful about them:\n\n" + "\n".join(doubts)


def _title(candidate: CandidateDoc) -> str:
    subscripts = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    energy = at_least(f"{number(candidate.e_above_hull, 2)} eV/atom", candidate.e_above_hull_lower_bound)
    group = "" if candidate.layer_group is None else f"{layer_group(candidate.layer_group).symbol}, "
    return f"{candidate.formula.translate(subscripts)}, {group}{energy}"


def _time(study: Study) -> Iterator[str]:
    yield "## Where the time went, and whether the counts agree"
    times = recount.stage_times(study.candidates)
    if study.generation.jobs:
        times = {StageName.GENERATE.value: study.generation, **times}
    whole = sum(t.seconds for t in times.values())
    rows = [
        [
            STAGE_WORDS.get(stage, stage),
            f"{t.jobs:,}",
            duration(t.seconds),
            percent(t.seconds, whole),
            duration(t.middle),
        ]
        for stage, t in times.items()
    ]
    if rows:
        jobs = sum(t.jobs for t in times.values())
        rows.append(["**all**", f"{jobs:,}", f"**{duration(whole)}**", "", ""])
        yield table(["stage", "jobs", "wall time, added up", "share", "median job"], rows)
        text = "Wall time of the jobs as they noted it; jobs that ran beside each other count each."
        span = recount.span(study.candidates)
        if span is not None:
            first, last = span
            text += f" From the first stage's end to the last one's: {duration((last - first).total_seconds())}."
        yield text
    else:
        yield "No stage noted its time."
    states = recount.states(study.candidates)
    lost = recount.without_end(study.candidates)
    named = f" ({', '.join(f'`{i}`' for i in lost[:5])}{', …' * (len(lost) > 5)})" if lost else ""
    yield (
        f"Of {len(study.candidates):,} samples "
        + ", ".join(f"{n:,} are {state}" for state, n in states.items())
        + f": **{len(lost)} without an end state**{named}."
    )
    status, report = study.campaign.funnel.model_dump(), study.total.funnel.model_dump()
    words = {
        "generated": "generated",
        "in_window": "in the window, goes on",
        "phonon_done": "phonons computed",
        "dynamically_stable": "phonon-stable",
    }
    steps = recount.JOB_STEPS
    agree = all(status[s] == report[s] == study.jobs[s] for s in steps) and status == report
    rows = [[words[s], f"{report[s]:,}", f"{status[s]:,}", f"{study.jobs[s]:,}"] for s in steps]
    yield table(["", "report (this page)", "`scdm campaign status`", "recount of the jobs' outputs"], rows)
    yield (
        "The page counts the candidates' documents, `status` is what the builder stored, the last column counts the "
        f"outputs of screens, gates and phonon jobs. **They {'agree' if agree else 'do not agree'}.**"
    )


def commands_section(commands: Mapping[str, str]) -> Iterator[str]:
    """What made a page, in order. commands: words -> command; "page" makes the page itself."""
    yield "## Commands"
    lines = [f"{command:<72}  # {words}" for words, command in commands.items() if words != "page"]
    if page := commands.get("page"):
        lines.append(f"{page:<72}  # this page")
    yield "```sh\n" + "\n".join(lines) + "\n```"
