"""A candidate: one generated crystal and all that became of it. Collection ``candidates``, key ``candidate_id``.

Written by the candidate builder; the novelty builder refreshes ``NOVELTY_FIELDS``, the hull builder ``HULL_FIELDS``,
the ranking builder ``RANK_FIELDS``.
"""

from __future__ import annotations

import types
from datetime import datetime
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.bands import GapKind
from scdm_flows.documents.base import ScdmDocument, queryable, versioned
from scdm_flows.documents.novelty import KnownAs, Novelty
from scdm_flows.documents.promotion import ParentRecord
from scdm_flows.documents.states import CandidateState
from scdm_flows.documents.static import MagneticOrder

INDEXED: dict[str, Any] = {"indexed": True}


class StageRecord(BaseModel):
    """What one stage did."""

    model_config = ConfigDict(extra="forbid")

    status: str = Field(description="passed, rejected, failed or skipped")
    reason: str | None = Field(None, description="why it was rejected, failed or skipped")
    completed_at: datetime | None = Field(None, description="UTC time")
    job_uuid: str | None = Field(None, description="jobflow uuid of the job")
    seconds: float | None = Field(None, description="wall time, s")


class CandidateDoc(ScdmDocument):
    """One candidate."""

    schema_version: int = versioned(3)  # 3: novelty and duplicates are those of the relaxed structure
    candidate_id: str = queryable(..., "deterministic id: <campaign>-<12 hex digits>", indexed=True)
    campaign: str = queryable(..., "name of the campaign")
    generator: str = queryable(..., "kind of the generator: scdm, files, ...")
    model_id: str | None = Field(None, description="checkpoint that made it")
    seed: int | None = Field(None, description="seed of the generation")
    index: int = Field(0, description="position within the campaign's samples; of a promoted one within its parent's")
    source_id: str | None = Field(None, description="id in the source file, for structures brought by the user")
    promoted_from: str | None = queryable(
        None, "candidate_id of the one whose relaxed structure is the sample of this one", indexed=True
    )
    parent: ParentRecord | None = Field(None, description="what that one was when it was promoted")

    state: CandidateState = queryable(CandidateState.PENDING, "pending, rejected, failed or completed")
    reason: str | None = Field(None, description="why it was rejected or failed")
    stages: dict[str, StageRecord] = Field(default_factory=dict, description="stage name -> what it did")
    passed: str = queryable("", "stages that it passed, in their order, with spaces between them")

    formula: str = queryable(..., "reduced formula", indexed=True)
    chemsys: str = queryable(..., "chemical system, elements in alphabetical order joined by -", indexed=True)
    elements: list[str] = queryable(..., "elements in alphabetical order", indexed=True)
    nelements: int = queryable(..., "number of elements")
    nsites: int = queryable(..., "atoms in the cell")
    layer_group_requested: int | None = queryable(None, "layer group asked of the generator (1-80)")
    layer_group_generated: int | None = queryable(None, "layer group of the sample, symprec 1e-3 angstrom")
    layer_group: int | None = queryable(
        None, "layer group after relaxation (symprec 0.05 angstrom), else of the sample"
    )
    space_group: int | None = queryable(None, "space group of the three-periodic cell, as layer_group")
    thickness_angstrom: float | None = queryable(
        None, "distance between the outermost atoms along c, angstrom; after relaxation where there was one"
    )
    area_per_atom_angstrom2: float | None = queryable(None, "area of the relaxed cell over its atoms, angstrom^2")
    min_distance_angstrom: float | None = Field(
        None, description="shortest distance between atoms of the sample, angstrom"
    )
    valid_distance: bool | None = queryable(None, "shortest distance above the threshold (paper: 0.5 angstrom)")
    valid_radii: bool | None = queryable(None, "shortest distances compatible with covalent radii", sortable=False)
    one_layer: bool | None = queryable(None, "one connected layer")
    sample_novel: bool | None = queryable(None, "the sample, before it is relaxed, equals no known layer")
    sample_known_as: list[str] = Field(default_factory=list, description="ids of known layers that equal the sample")
    novel: bool | None = queryable(
        None, "the relaxed structure equals no known layer of a data set; null until that has been judged"
    )
    known_as: list[KnownAs] = queryable(
        [], "known layers that equal the relaxed structure, the nearest first; then equal candidates of other campaigns"
    )
    novelty: Novelty | None = Field(None, description="what novel was judged on, against what, and why it was not")
    duplicate_of: str | None = queryable(
        None,
        "candidate_id of the first candidate of the campaign that relaxed to the same layer; of a sample that the "
        "screen rejected as a duplicate: of the first equal sample",
    )
    bulk_compound: bool | None = queryable(
        None, "a bulk compound of this composition exists in the Materials Project's table"
    )
    template: str | None = Field(None, description="Wyckoff template of the sample, such as 78:a-e")
    new_template: bool | None = queryable(None, "no known layer has this Wyckoff template")
    prototype_distance: float | None = queryable(
        None, "share of orbits not shared with the nearest known Wyckoff template of the layer group, dimensionless"
    )

    structure: dict[str, Any] = Field(description="the sample, pymatgen's dict")
    relaxed_structure: dict[str, Any] | None = Field(None, description="after relaxation, pymatgen's dict")
    optimade: dict[str, Any] | None = Field(
        None, description="what OPTIMADE says of the relaxed structure, else of the sample; null where it cannot"
    )
    rmsd_to_relaxed_angstrom: float | None = queryable(
        None, "root mean square atom displacement by the relaxation, angstrom"
    )
    energy_per_atom: float | None = Field(
        None, description="total energy, eV/atom, of energy_scheme; where surrogate, predicted by the energy model"
    )
    energy_scheme: str | None = queryable(
        None,
        'what energy_per_atom is: "c2db-pbe" (with surrogate true: predicted), "vasp-pbe", the name of a force field '
        "whose own energies were used",
    )
    potentials: dict[str, str] | None = Field(
        None, description="element -> TITEL of its PAW potential, part of the scheme; null for engines without"
    )
    surrogate: bool | None = queryable(None, "whether the energies come from a force field")
    energy_model: str | None = queryable(None, "id of the energy model; null where the engine's own energies were used")
    extrapolated: bool | None = queryable(
        None,
        "outside what the energy model has learned from: its error may be larger than said; null without an energy "
        "model",
    )
    formation_energy_per_atom: float | None = queryable(None, "eV/atom relative to the elements, of energy_scheme")
    e_above_hull: float | None = queryable(None, "energy above the hull of the competing phases, eV/atom")
    e_above_hull_error: float | None = queryable(
        None, "half-width of the interval around e_above_hull that holds nine in ten, eV/atom"
    )
    e_above_hull_lower_bound: bool | None = queryable(
        None,
        "e_above_hull is a lower bound, as competing phases are missing among the references (missing_competitors)",
        sortable=False,
    )
    missing_competitors: list[str] = Field(
        default_factory=list, description="compositions that belong on the hull and that the references lack"
    )
    e_above_hull_gate: float | None = Field(None, description="value the in-flow gate decided on, eV/atom")
    e_above_same_composition: float | None = queryable(
        None, "energy above the lowest other phase of the same composition, eV/atom, on the scale of e_above_hull"
    )
    exfoliation_mev_per_angstrom2: float | None = queryable(
        None,
        "exfoliation energy: energy of the layer above bulk_parent over its area, meV/angstrom^2; null where the "
        "references name no parent",
        sortable=False,
    )
    bulk_parent: str | None = Field(None, description="bulk crystal that the references call the layer's parent")
    hull_id: str | None = Field(
        None, description="hull document that e_above_hull comes from; null where it is the gate's"
    )
    hull_revision: int | None = Field(None, description="revision of that document; revisions count within one hull_id")
    hull_pending: str | None = Field(
        None, description="hash of what the hull has still to take in; null where it has", json_schema_extra=INDEXED
    )
    decomposition: dict[str, float] | None = Field(None, description="hull phase -> fraction of atoms")
    computed_competitors: list[str] = Field(
        default_factory=list,
        description="candidate_ids among the phases of decomposition, whose energies are the engine's own; those of "
        "the other phases come from the reference table",
    )
    dynamically_stable: bool | None = queryable(
        None, "no imaginary mode beyond the stated threshold; null where unknown"
    )
    stable_probability: float | None = queryable(
        None,
        "probability that DFT's phonons have no imaginary mode, by the energy model, without phonons of our own; null "
        "without an energy model",
    )
    nonmetal_probability: float | None = queryable(
        None,
        "probability that PBE gives the layer a band gap, by the energy model, dimensionless; null without one",
        sortable=False,
    )
    magnetic_probability: float | None = queryable(
        None,
        "probability that PBE gives the layer magnetic moments, by the energy model, dimensionless; null without one",
        sortable=False,
    )
    predicted_band_gap: float | None = queryable(
        None,
        "surrogate of PBE's band gap without spin-orbit, eV, by the energy model; 0 where a metal is more likely; kept "
        "where band_gap comes",
    )
    predicted_band_gap_error: float | None = Field(
        None,
        description="half-width around predicted_band_gap that holds nine in ten, eV; null where a metal is likelier",
    )
    direct_gap_probability: float | None = queryable(
        None,
        "probability that PBE's gap is direct, if there is one, by the energy model, dimensionless; null without one",
        sortable=False,
    )
    min_frequency_thz: float | None = queryable(
        None, "lowest phonon frequency on the in-plane path and mesh, THz; imaginary is negative"
    )
    band_gap: float | None = queryable(
        None, "electronic band gap, eV; from the bands, else on the k-points of the static run"
    )
    gap_kind: GapKind | None = queryable(None, "direct, indirect or metal; as band_gap")
    lacks_spin_orbit: bool | None = queryable(
        None,
        "band_gap is without spin-orbit coupling, which matters to elements of period 5 or below; null without a gap",
        sortable=False,
    )
    hse_gap: float | None = queryable(
        None, "HSE06 gap at PBE's band edges without spin-orbit coupling, eV; null where not computed", sortable=False
    )
    work_function: float | None = queryable(
        None,
        "of a metal: vacuum level (mean of both sides of the layer) minus Fermi level, eV; null for a layer with a gap",
        sortable=False,
    )
    vbm_vs_vacuum: float | None = queryable(
        None,
        "valence band maximum, eV, where 0 is the vacuum level (mean of both sides of the layer); of the bands, else "
        "on the k-points of the static run; null for a metal",
        sortable=False,
    )
    cbm_vs_vacuum: float | None = queryable(None, "conduction band minimum, as vbm_vs_vacuum, eV", sortable=False)
    vacuum_level_difference: float | None = queryable(
        None, "vacuum level above the layer minus that below it, eV; 0 for a layer without a dipole", sortable=False
    )
    magnetic: bool | None = queryable(None, "some atom's moment is above 0.1 Bohr magnetons; null where unknown")
    total_magnetization: float | None = queryable(None, "Bohr magnetons per cell; null without spin polarisation")
    magnetic_order: MagneticOrder | None = Field(
        None, description="NM, FM or AFM: the lowest of the orders that were tried; null where only one was"
    )
    antiferromagnetic_ev_per_atom: float | None = Field(
        None, description="energy of the lowest antiferromagnetic order above the ferromagnetic one, eV/atom"
    )
    magnetic_note: str | None = Field(
        None, description="why magnetic orders that were tried have no energy; null where all have"
    )
    engine_version: str | None = queryable(None, "version that the engine's program printed; a test's stand-in says so")

    score: float | None = queryable(None, "ranking score, 0 to 1, larger is better")
    score_terms: dict[str, float] = Field(default_factory=dict, description="term -> contribution to score")
    score_unknown: list[str] = Field(default_factory=list, description="terms that count half as they are not known")
    rank: int | None = queryable(None, "1 is best within the campaign; null where it cannot be ranked")
    pareto_front: int | None = queryable(
        None, "Pareto front within the campaign, 1 is the best; null beyond the last that is told apart"
    )


# Fields that later builders own: a rebuild of the candidates leaves them alone.
NOVELTY_FIELDS = ("novel", "known_as", "novelty", "duplicate_of")
HULL_FIELDS = (
    "formation_energy_per_atom",
    "e_above_hull",
    "e_above_hull_lower_bound",
    "missing_competitors",
    "e_above_same_composition",
    "decomposition",
    "computed_competitors",
    "hull_id",
    "hull_revision",
)
# A change of these leaves last_updated as it is: they follow from other candidates, too.
RANK_FIELDS = ("score", "score_terms", "score_unknown", "rank", "pareto_front")


def _queryable() -> dict[str, tuple[type, dict[str, Any]]]:
    """Queryable field -> its type without None (a list's type is ``list``), and what it declares."""
    found: dict[str, tuple[type, dict[str, Any]]] = {}
    for name, field in CandidateDoc.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("queryable"):
            kind: Any = field.annotation
            if get_origin(kind) in (Union, types.UnionType):
                kind = next(k for k in get_args(kind) if k is not type(None))
            found[name] = get_origin(kind) or kind, extra
    return found


@cache
def queryable_fields() -> dict[str, type]:
    """Queryable field -> its type without None (a list's type is ``list``)."""
    return {name: kind for name, (kind, _) in _queryable().items()}


@cache
def sort_fields() -> tuple[str, ...]:
    """Queryable fields that listings may be sorted by."""
    return tuple(
        name for name, (kind, extra) in _queryable().items() if kind is not list and extra.get("sortable", True)
    )
