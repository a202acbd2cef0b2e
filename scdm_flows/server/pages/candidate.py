"""The page of one candidate: structure, energies, hull, phonons, bands, ranking, provenance, downloads."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dash import dcc, html

from scdm_flows.documents import CandidateDoc, PhononDoc
from scdm_flows.documents.hull import missing_words
from scdm_flows.query import CandidateDB
from scdm_flows.query.absent import why_not
from scdm_flows.query.words import above_hull_in_full, number
from scdm_flows.server.pages import figures, parts
from scdm_flows.server.pages.parts import facts, section, table, tag, yes_no

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from scdm_flows.documents import BandsDoc
    from scdm_flows.documents.hull import HullDoc

logger = logging.getLogger(__name__)
STATES = {"completed": "good", "failed": "bad", "rejected": "bad"}


def page(query: CandidateDB, candidate_id: str) -> list[Any]:
    """The page; ``CampaignError`` with the nearest id where there is no such candidate."""
    from pymatgen.core import Structure

    from scdm_flows.report.content import beside_known, candidate_warnings

    document = query.get(candidate_id)
    phonon, bands = query.phonon(candidate_id), query.bands(candidate_id)
    hull = query.hull_of(document)
    stored = document.relaxed_structure or document.structure
    layer = Structure.from_dict(stored) if stored else None
    warnings = candidate_warnings(document, phonon)
    beside = beside_known(document)
    novelty = _novelty(document, beside)
    return [
        html.P(dcc.Link("← all candidates", href="/"), className="small"),
        html.H1(parts.formula(document.formula)),
        html.Div(_tags(document), className="tags"),
        html.P(html.Code(document.candidate_id)),
        _downloads(document),
        parts.notice("Look twice:", *warnings) if warnings else None,
        html.Div(
            [
                _structure(document, layer),
                novelty if beside else None,
                _fidelities(query, document),
                parts.columns(
                    None if beside else novelty,
                    _energies(document),
                    _hull(document, hull),
                    _phonons(document, phonon),
                    _bands(document, bands),
                    _ranking(query, document),
                ),
                _provenance(document),
            ],
            className="cards",
        ),
    ]


def _tags(document: CandidateDoc) -> list[Any]:
    from scdm_flows.analysis.tolerances import group_tolerance

    found: list[Any] = [tag(document.state.value, STATES.get(document.state.value, ""))]
    if document.rank is not None:
        found.append(tag(f"rank {document.rank}"))
    if document.surrogate:
        found.append(tag(parts.SURROGATE, "warn"))
    if document.extrapolated:
        found.append(parts.extrapolated())
    if document.dynamically_stable is not None:
        found.append(tag("phonon-stable", "good") if document.dynamically_stable else tag("phonon-unstable", "bad"))
    if document.novel is not None:
        found.append(tag("new", "good") if document.novel else tag("rediscovered"))
    if document.duplicate_of is not None:
        found.append(tag("duplicate", "bad"))
    if document.layer_group is not None:
        found.append(tag(f"layer group {document.layer_group} ({group_tolerance(document):g} Å)"))
    found.append(dcc.Link(document.campaign, href=parts.campaign_path(document.campaign), className="tag"))
    return found


def _downloads(document: CandidateDoc) -> html.Div:
    base = f"/files/{quote(document.candidate_id, safe='')}"
    names = {"cif": "CIF", "vasp": "POSCAR", "json": "JSON"}
    links = [
        html.A(name, href=f"{base}.{suffix}", download=f"{document.candidate_id}.{suffix}")
        for suffix, name in names.items()
    ]
    return html.Div([html.Span("download"), *links], className="actions")


def _missing(document: CandidateDoc, stage: str, what: str) -> html.P:
    """Why something is not there."""
    reason = why_not(document, stage)
    return html.P(f"No {what}{f': {reason}' if reason else ' yet'}.", className="soft")


def _structure(document: CandidateDoc, layer: Structure | None) -> html.Section:
    from scdm_flows.analysis.tolerances import group_tolerance
    from scdm_flows.report.campaign import image
    from scdm_flows.report.crystals import layer_picture
    from scdm_flows.report.figures import svg

    if layer is None:
        return section("Structure", html.P("No structure is stored.", className="soft"))
    what = "after relaxation" if document.relaxed_structure else "as generated; not relaxed"
    within = f"({group_tolerance(document):g} Å)"
    a, b, _ = layer.lattice.abc
    rows = [
        ("structure", what),
        ("cell", f"a = {a:.3f} Å, b = {b:.3f} Å, γ = {layer.lattice.gamma:.1f}°, {len(layer)} atoms"),
        (f"layer group {within}", document.layer_group),
        (f"space group {within}", document.space_group),
        ("thickness", number(document.thickness_angstrom, 2, "Å")),
        ("area per atom", number(document.area_per_atom_angstrom2, 2, "Å²")),
        ("moved by relaxing", number(document.rmsd_to_relaxed_angstrom, 3, "Å")),
    ]
    try:
        drawn: list[Any] = [
            parts.graph(figures.structure(layer), f"structure of {document.formula}, to be turned", 420),
            html.Img(
                src=image(svg(layer_picture(layer))),
                alt=f"{document.formula} seen from above, and below that from the side",
                className="layer",
            ),
        ]
    except (ValueError, ArithmeticError, LookupError) as error:  # a sample may be no crystal at all
        logger.warning("%s cannot be drawn: %s", document.candidate_id, error)
        drawn = [html.P("This structure cannot be drawn; its files can be downloaded.", className="soft")]
    return section("Structure", html.Div([*drawn, facts(rows)], className="views"), wide=True)


def _novelty(document: CandidateDoc, beside: tuple[list[str], list[list[str]]] | None) -> html.Section:
    """beside: columns and rows of the table that sets known layers beside this one."""
    from scdm_flows.report.content import novelty_words

    against = {} if document.novelty is None else document.novelty.against
    known = [str(k) for k in document.known_as if k.of_campaign is None]
    elsewhere: list[Any] = []
    for equal in document.known_as:
        if equal.of_campaign is not None:
            elsewhere += [dcc.Link(f"{equal.of_campaign}: {equal.id}", href=parts.candidate_path(equal.id)), " "]
    first = document.duplicate_of
    sampled = {True: "new", False: f"known as {', '.join(document.sample_known_as)}", None: None}[document.sample_novel]
    bulk = f"{'' if document.bulk_compound else 'not '}in the Materials Project"
    rows = [
        ("also known as", ", ".join(known[1:])),
        ("as sampled", sampled),
        ("compared with", ", ".join(f"{n:,} layers of {source}" for source, n in against.items())),
        ("bulk compound of this composition", None if document.bulk_compound is None else bulk),
        ("the same layer as", None if first is None else dcc.Link(first, href=parts.candidate_path(first))),
        ("in other campaigns", elsewhere),
    ]
    words = novelty_words(document)
    shown: list[Any] = [html.P(f"{words[0].upper()}{words[1:]}.")]
    if first is not None:
        shown.append(html.P("A duplicate, so it is not ranked; its results are its own."))
    if beside is not None:
        columns, values = beside
        shown.append(table(columns, values))
        shown.append(html.P("Each energy above hull is of its source's own hull.", className="soft small"))
    return section("Known layers", *shown, facts(rows), wide=beside is not None)


def _fidelities(query: CandidateDB, document: CandidateDoc) -> html.Section | None:
    """The material as surrogate and DFT know it; None where it was neither promoted nor is."""
    from scdm_flows.report.fidelities import by_fidelity

    family = query.family(document)
    found = by_fidelity(family)
    if found is None:
        return None
    (_, *names), (*rows, (last, *ids)) = found
    stored = [isinstance(one, CandidateDoc) for one in family]
    links = [
        "this one"
        if i == document.candidate_id
        else dcc.Link(i, href=parts.candidate_path(i))
        if there
        else f"{i} (removed)"
        for i, there in zip(ids, stored, strict=True)
    ]
    note = "Each energy above hull is of its own hull; energies are comparable within a scheme only."
    return section(
        "This material by fidelity",
        table(["", *names], [*rows, [last, *links]]),
        html.P(note, className="soft small"),
        wide=True,
    )


def _energies(document: CandidateDoc) -> html.Section:
    from scdm_flows.report.content import competing_phases, exfoliation_words, magnetic_words

    if document.energy_per_atom is None and document.e_above_hull is None:
        return section("Energy", _missing(document, "static", "energy"))
    kind = parts.SURROGATE if document.surrogate else "DFT"
    predicted = ", predicted by the energy model" if document.energy_model else ""
    shown: list[Any] = [f"{above_hull_in_full(document)} eV/atom ({kind}{predicted})"]
    if document.extrapolated:
        shown += [" ", parts.extrapolated()]
    rows = [
        ("energy above hull", shown if document.e_above_hull is not None else None),
        ("missing on its hull", missing_words(document.missing_competitors) or None),
        ("above same composition", number(document.e_above_same_composition, 3, "eV/atom")),
        ("formation energy", number(document.formation_energy_per_atom, 3, f"eV/atom ({kind})")),
        ("energy", number(document.energy_per_atom, 4, f"eV/atom ({kind})")),
        ("scheme", document.energy_scheme),
        ("energy model", document.energy_model),
        ("magnetic order", magnetic_words(document)),
        ("exfoliation energy", exfoliation_words(document)),
    ]
    found: list[Any] = [facts(rows)]
    if document.decomposition:
        phases = [(name, f"{100 * share:.1f} %", whose) for name, share, whose in competing_phases(document)]
        found.append(table(["decomposes into", "share of atoms", "its energy"], phases))
    return section("Energy", *found)


def _hull(document: CandidateDoc, hull: HullDoc | None) -> html.Section:
    title = f"Hull of {document.chemsys}"
    if hull is None:
        return section(title, _missing(document, "gate", "hull of this system"))
    kind = f"{parts.SURROGATE}, {hull.energy_scheme}" if hull.surrogate else hull.energy_scheme
    note = f"{hull.n_reference_phases} reference phases, {hull.n_candidates} candidates of this system; {kind}."
    if hull.missing_competitors:
        note += f" Energies above it are lower bounds: {missing_words(hull.missing_competitors)} are missing."
    try:
        figure = figures.hull(hull, document)
    except (ValueError, ArithmeticError, LookupError) as error:
        logger.warning("hull %s cannot be drawn: %s", hull.hull_id, error)
        figure = None
    if figure is None:
        points = sorted(hull.points, key=lambda p: p.formation_energy_per_atom)[:20]
        rows = [(p.formula, p.name, number(p.formation_energy_per_atom)) for p in points]
        return section(title, html.P(note, className="soft small"), table(["phase", "id", "formation, eV/atom"], rows))
    return section(
        title, parts.graph(figure, f"convex hull of {document.chemsys}", 440), html.P(note, className="soft small")
    )


def _phonons(document: CandidateDoc, phonon: PhononDoc | None) -> html.Section:
    from scdm_flows.report.bands import phonon_plot
    from scdm_flows.report.interactive import figure

    likely = document.stable_probability
    said = (
        []
        if likely is None
        else [html.P(f"The energy model: stable by DFT's phonons with a probability of {likely:.2f}.")]
    )
    if phonon is None:
        return section("Phonons", _missing(document, "phonon", "phonons"), *said)
    n, m = phonon.supercell[0][0], phonon.supercell[1][1]
    kind = parts.SURROGATE if phonon.surrogate else "DFT"
    note = f"{n}×{m} supercell, {phonon.n_displacements} displacements, {phonon.energy_scheme} ({kind}). "
    verdict = "Stable." if phonon.dynamically_stable else f"Unstable: {phonon.reason or 'imaginary modes'}."
    stiff = phonon.stiffness_n_per_m
    of_voigt = {} if stiff is None else {"xx": stiff[0][0], "yy": stiff[1][1], "xx,yy": stiff[0][1], "xy": stiff[2][2]}
    rows = [
        ("stiffness (N/m)", ", ".join(f"{name} {value:.0f}" for name, value in of_voigt.items())),
        ("no stiffness", phonon.stiffness_note),
    ]
    return section(
        "Phonons",
        parts.graph(figure(phonon_plot(phonon)), f"phonon bands and density of states; {verdict}", 400),
        html.P(note + verdict, className="soft small"),
        facts(rows),
        *said,
    )


def _bands(document: CandidateDoc, bands: BandsDoc | None) -> html.Section:
    from scdm_flows.report.bands import electronic_plot
    from scdm_flows.report.content import vacuum_words
    from scdm_flows.report.interactive import figure

    said, against_vacuum = _said_of_electrons(document), vacuum_words(document)
    if bands is None:
        missing = _missing(document, "bands", "electronic bands")
        return section("Electronic bands", missing, facts(against_vacuum), *said)
    heavy = [f"{m.carrier} {m.direction} {m.mass:.2f}" for m in bands.masses if m.mass is not None]
    rows = [
        ("gap", f"{bands.band_gap_ev:.3f} eV, {bands.gap_kind.value}"),
        ("effective masses (mₑ)", ", ".join(heavy)),
        *against_vacuum,
        ("magnetic", yes_no(bands.magnetic)),
        ("from", " ".join(filter(None, [bands.energy_scheme, bands.engine_version]))),
    ]
    drawn = parts.graph(
        figure(electronic_plot(bands)), f"electronic bands and density of states; gap {rows[0][1]}", 420
    )
    return section("Electronic bands", drawn, facts(rows), *said)


def _said_of_electrons(document: CandidateDoc) -> list[html.P]:
    """What the energy model says of the electrons of PBE."""
    gap, likely, magnetic = (
        document.predicted_band_gap,
        document.nonmetal_probability,
        document.magnetic_probability,
    )
    if gap is None or likely is None:
        return []
    error = document.predicted_band_gap_error
    of = "metal" if error is None else f"band gap {gap:.2f} ± {error:.2f} eV"
    if error is not None and document.direct_gap_probability is not None:
        of += f", direct with a probability of {document.direct_gap_probability:.2f}"
    moments = "" if magnetic is None else f", magnetic with a probability of {magnetic:.2f}"
    return [html.P(f"The energy model (surrogate): {of}, a band gap with a probability of {likely:.2f}{moments}.")]


def _ranking(query: CandidateDB, document: CandidateDoc) -> html.Section:
    from scdm_flows.analysis.ranking import why

    before = None
    if document.rank is not None and document.rank > 1:
        found = query.find(campaign=document.campaign, rank=document.rank - 1, limit=1)
        before = found[0] if found else None
    lines = why(_standing(document), None if before is None else _standing(before))
    children: list[Any] = [html.P(line) for line in lines]
    if document.score_terms:
        height = 110 + 34 * len(document.score_terms)
        children.append(parts.graph(figures.score(document.score_terms), "parts of the score", height))
    if before is not None:
        children.append(html.P(dcc.Link("the one before", href=parts.candidate_path(before.candidate_id))))
    return section("Why this rank", *children)


def _standing(document: CandidateDoc) -> Any:
    from scdm_flows.analysis.ranking import RankResult

    terms, unknown = document.score_terms, tuple(document.score_unknown)
    return RankResult(document.candidate_id, document.rank, document.score, terms, unknown, document.pareto_front)


def _link(candidate_id: str | None) -> Any:
    return None if candidate_id is None else dcc.Link(candidate_id, href=parts.candidate_path(candidate_id))


def _provenance(document: CandidateDoc) -> html.Section:
    from scdm_flows.analysis.screening import SYMPREC

    source = document.provenance
    rows = [
        ("generator", document.generator),
        ("model", document.model_id),
        ("seed and index", None if document.seed is None else f"{document.seed}, {document.index}"),
        ("source", document.source_id),
        ("promoted from", _link(document.promoted_from)),
        ("layer group asked", document.layer_group_requested),
        (f"layer group of the sample ({SYMPREC:g} Å)", document.layer_group_generated),
        ("engine", source.engine),
        ("engine version", document.engine_version),
        ("configuration", html.Code(source.config_hash) if source.config_hash else None),
        ("commit", html.Code(source.git_commit) if source.git_commit else None),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(source.versions.items()))),
        ("reason", document.reason),
    ]
    stages = [
        (
            name,
            record.status,
            record.reason,
            None if record.completed_at is None else f"{record.completed_at:%Y-%m-%d %H:%M}",
            None if record.seconds is None else f"{record.seconds:.1f}",
            html.Code(record.job_uuid) if record.job_uuid else None,
        )
        for name, record in document.stages.items()
    ]
    columns = ["stage", "status", "why", "ended (UTC)", "seconds", "job"]
    shown = [table(columns, stages)] if stages else [html.P("No stage is recorded yet.", className="soft")]
    return section("From sample to result", *shown, facts(rows), wide=True)
