"""``scdm candidates show``: everything known of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.chosen import chosen, filters
from scdm_flows.cli.common import JSON, database, echo_json, table

if TYPE_CHECKING:
    from scdm_flows.analysis.ranking import RankResult
    from scdm_flows.documents import BandsDoc, CandidateDoc, ParentRecord, PhononDoc
    from scdm_flows.query import CandidateDB

HIDDEN = {
    "structure",
    "relaxed_structure",
    "provenance",
    "stages",
    "score_terms",
    "schema_version",
    "novelty",
    "parent",
}


@click.command()
@click.argument("names", nargs=-1)
@filters
@JSON
def show(names: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Everything known of candidates.

    NAMES are ids; the end of an id without its campaign, or the beginning of that end, is enough. A formula means the
    best candidate of it, and filters without a name the best that they let through. With --json one candidate is an
    object, several are a list.
    """
    from scdm_flows.query import CandidateDB

    with database(create=False) as connected:
        query = CandidateDB(connected)
        found = [
            (d, query.phonon(d.candidate_id), query.bands(d.candidate_id), _why(query, d), query.family(d))
            for d in chosen(query, names, asked)
        ]
    if as_json:
        parts = [
            document.model_dump(mode="json")
            | {k: None if d is None else d.model_dump(mode="json") for k, d in (("phonon", phonon), ("bands", bands))}
            | {"promoted_to": [one.candidate_id for one in family if _parent_of(one) == document.candidate_id]}
            for document, phonon, bands, _, family in found
        ]
        echo_json(parts if len(parts) > 1 else parts[0])
        return
    for one in found:
        _tell(*one)


def _why(query: CandidateDB, document: CandidateDoc) -> list[str]:
    """Why it stands where it does, and behind the one before."""
    from scdm_flows.analysis.ranking import why

    before = None
    if document.rank is not None and document.rank > 1:
        before = next(iter(query.find(campaign=document.campaign, rank=document.rank - 1, limit=1)), None)
    return why(_standing(document), None if before is None else _standing(before))


def _standing(document: CandidateDoc) -> RankResult:
    from scdm_flows.analysis.ranking import RankResult as Result

    terms, unknown = document.score_terms, tuple(document.score_unknown)
    return Result(document.candidate_id, document.rank, document.score, terms, unknown, document.pareto_front)


def _parent_of(one: CandidateDoc | ParentRecord) -> str | None:
    """What it was promoted from; a parent that is only remembered says nothing."""
    return getattr(one, "promoted_from", None)


def _tell(
    document: CandidateDoc,
    phonon: PhononDoc | None,
    bands: BandsDoc | None,
    reasons: list[str],
    family: Sequence[CandidateDoc | ParentRecord],
) -> None:
    from scdm_flows.query.candidate_db import known_words
    from scdm_flows.report.content import beside_known, novelty_words
    from scdm_flows.report.fidelities import by_fidelity

    data: dict[str, Any] = document.model_dump(mode="json")
    data["known_as"] = known_words(document.known_as)
    names = _with_tolerances(document)
    rows = [[names.get(k, k), v] for k, v in data.items() if k not in HIDDEN and v not in (None, [], {})]
    rows.append(["novelty", novelty_words(document)])
    if phonon is not None:
        n, m = phonon.supercell[0][0], phonon.supercell[1][1]
        verdict = phonon.reason or "stable"
        rows.append(["phonons", f"{n}x{m} supercell, {phonon.n_displacements} displacements; {verdict}"])
        if phonon.soft_mode is not None:
            q = ", ".join(f"{x:.3g}" for x in phonon.soft_mode.q)
            command = f"scdm candidates follow {document.candidate_id} -o DIR"
            rows.append(["soft mode", f"q = ({q}); `{command}` distorts along it"])
    if bands is not None:
        heavy = [f"{m.carrier} {m.direction} {m.mass:.2f}" for m in bands.masses if m.mass is not None]
        rows.append(["bands", f"{bands.gap_kind}, gap {bands.band_gap_ev:.3f} eV"])
        rows.append(["effective masses (m_e)", ", ".join(heavy) or "none is parabolic"])
    if document.provenance.engine:
        rows.append(["energies from", document.provenance.engine])
    table(f"{document.formula}  {document.candidate_id}", ["field", "value"], rows)
    beside = beside_known(document)
    if beside is not None:
        table("Beside the known layer (energies above each source's own hull)", *beside)
    fidelities = by_fidelity(family)
    if fidelities is not None:
        table("This material by fidelity (energies above each one's own hull)", *fidelities)
    table("Stages", ["stage", "status", "why"], [[k, v.status, v.reason] for k, v in document.stages.items()])
    for line in reasons:
        click.echo(line)


def _with_tolerances(document: CandidateDoc) -> dict[str, str]:
    """Fields that are groups -> what they are called with the tolerance they were found within."""
    from scdm_flows.analysis.screening import SYMPREC
    from scdm_flows.analysis.tolerances import group_tolerance

    of_sample = f"layer_group_generated ({SYMPREC:g} Å)"
    groups = {name: f"{name} ({group_tolerance(document):g} Å)" for name in ("layer_group", "space_group")}
    return groups | {"layer_group_generated": of_sample}
