"""``scdm candidates compare``: candidates side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.chosen import chosen, filters
from scdm_flows.cli.common import JSON, as_text, database, echo_json, table

if TYPE_CHECKING:
    from scdm_flows.documents import CandidateDoc

FIELDS = (
    "candidate_id",
    "campaign",
    "rank",
    "formula",
    "layer_group",
    "nsites",
    "e_above_hull",
    "e_above_hull_error",
    "extrapolated",
    "surrogate",
    "dynamically_stable",
    "min_frequency_thz",
    "band_gap",
    "novel",
    "thickness_angstrom",
    "state",
)


@click.command()
@click.argument("names", nargs=-1, required=True)
@filters
@JSON
def compare(names: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Candidates side by side; of those with the formula of the first, how far their atoms lie from the first's.

    NAMES are ids or formulas, as for `scdm candidates show`.
    """
    from scdm_flows.query import CandidateDB

    with database(create=False) as connected:
        documents = chosen(CandidateDB(connected), names, asked)
    if len(documents) < 2:
        raise click.UsageError(f"{' and '.join(names)} is one candidate, {documents[0].candidate_id}; give two or more")
    lattices = [_lattice(document) for document in documents]
    apart = [_apart(documents[0], document) for document in documents[1:]]
    if as_json:
        echo_json(
            [
                {name: getattr(d, name) for name in FIELDS}
                | {"lattice": lattice, "rmsd_to_first_angstrom": rmsd if isinstance(rmsd, float) else None}
                for d, lattice, rmsd in zip(documents, lattices, [None, *apart], strict=True)
            ]
        )
        return
    table("Candidates", ["", *(d.candidate_id for d in documents)], _rows(documents, lattices, apart))


def _rows(
    documents: list[CandidateDoc], lattices: list[dict[str, float] | None], apart: list[float | str]
) -> list[list[Any]]:
    from scdm_flows.report.content import novelty_words

    def cell(lattice: dict[str, float] | None) -> str | None:
        return None if lattice is None else "a = {a:.3f} Å, b = {b:.3f} Å, γ = {gamma:.1f}°".format(**lattice)

    columns = [
        {
            "campaign, rank": f"{d.campaign}, {'not ranked' if d.rank is None else d.rank}",
            "formula": d.formula,
            "layer group": _group(d),
            "atoms in the cell": as_text(d.nsites),
            "lattice": cell(lattice),
            "thickness (Å)": d.thickness_angstrom,
            "E_hull (eV/atom)": _energy(d),
            "phonons": _phonons(d),
            "band gap (eV)": d.band_gap,
            "novelty": novelty_words(d),
            "atoms from the first's (Å)": rmsd,
        }
        for d, lattice, rmsd in zip(documents, lattices, [None, *apart], strict=True)
    ]
    return [
        [name, *(as_text(column[name]) for column in columns)]
        for name in columns[0]
        if name != "band gap (eV)" or any(column[name] is not None for column in columns)
    ]


def _lattice(document: CandidateDoc) -> dict[str, float] | None:
    """Lengths of a and b, angstrom, and the angle between them, degrees; None where there is no structure."""
    from scdm_flows.query.candidate_files import structure_of

    if not document.structure:
        return None
    lattice = structure_of(document).lattice
    return {"a": lattice.a, "b": lattice.b, "gamma": lattice.gamma}


def _apart(first: CandidateDoc, other: CandidateDoc) -> float | str:
    """Root mean square distance of the atoms of two layers, angstrom, by ``LayerMatcher``; or why there is none."""
    from scdm_flows.errors import ScdmError
    from scdm_flows.query.candidate_files import structure_of
    from scdm_models.datasets.matching import LayerMatcher

    if first.formula != other.formula:
        return "another formula"
    matcher = LayerMatcher()
    try:
        found = matcher.displacement(*(matcher.layer(structure_of(d)) for d in (first, other)))
    except ScdmError as error:
        return f"not compared: {error}"
    return "another layer" if found is None else found


def _group(document: CandidateDoc) -> str | None:
    from scdm_flows.analysis.tolerances import group_tolerance
    from scdm_models.symmetry import layer_group

    number = document.layer_group
    if number is None:
        return None
    return f"{number} ({layer_group(number).symbol}), within {group_tolerance(document):g} Å"


def _energy(document: CandidateDoc) -> str | None:
    if document.e_above_hull is None:
        return None
    from scdm_flows.query.words import above_hull_in_full

    kind = "surrogate" if document.surrogate else "DFT"
    return f"{above_hull_in_full(document)} ({kind}{', extrapolated' if document.extrapolated else ''})"


def _phonons(document: CandidateDoc) -> str:
    from scdm_flows.query.absent import why_not

    if document.dynamically_stable is None:
        return f"none: {why_not(document, 'phonon') or 'that stage has not run yet'}"
    verdict, lowest = "stable" if document.dynamically_stable else "unstable", document.min_frequency_thz
    return verdict if lowest is None else f"{verdict}, lowest mode {round(lowest, 2) + 0.0:.2f} THz"
