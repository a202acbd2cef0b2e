"""What the database holds of computed layers, for energy models to learn from."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from scdm_flows.documents import CandidateDoc
from scdm_flows.engines.forcefield.energies import see
from scdm_flows.engines.gpaw.presets import SCHEME as GPAW_SCHEME
from scdm_flows.query import CandidateDB
from scdm_flows.stores.database import Database
from scdm_flows.thermo.energy_model import EnergyModel, Seen
from scdm_flows.thermo.learning import Finding
from scdm_flows.thermo.table import SCHEME, ReferenceTable

logger = logging.getLogger(__name__)

SAME_SCALE_EV = 0.01  # standard error of a formation energy on C2DB's scale by another code (docs/results-dft.md)
OTHER_SCALE_EV = 0.03  # of one that another scheme's energy above hull stands for
C2DB_SCALE = (SCHEME, GPAW_SCHEME)
HEAVY = 37  # rubidium: from here on spin-orbit coupling changes a band gap by more than the model's error


def findings_of(database: Database, model: EnergyModel) -> list[Finding]:
    """Every layer of the database with an energy above hull that is no surrogate's and no lower bound.

    Of a promoted layer both geometries count: its own and, with the same energy, that of the surrogate which it was
    relaxed from, as the layers that the model is asked about are relaxed by it.
    """
    query, references = CandidateDB(database), ReferenceTable.load()
    documents = [c for c in query.stream(sort="candidate_id", surrogate=False) if _counts(c)]
    geometries = [
        (document, which, Structure.from_dict(structure))
        for document in documents
        for which, structure in (("computed", document.relaxed_structure), ("as relaxed before", document.structure))
        if structure is not None and (which == "computed" or document.parent is not None)
    ]
    seen = see([structure for _, _, structure in geometries], model.force_fields) if geometries else []
    found = []
    for (document, which, structure), one in zip(geometries, seen, strict=True):
        if isinstance(one, str):
            logger.warning("%s is not learned from: %s", document.candidate_id, one)
            continue
        composition = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
        if references.elements >= composition.keys():
            found.append(_finding(document, which, composition, one, references))
    return found


def _counts(document: CandidateDoc) -> bool:
    return (
        document.e_above_hull is not None
        and document.relaxed_structure is not None
        and not document.e_above_hull_lower_bound
    )


def _finding(
    document: CandidateDoc,
    which: str,
    composition: Mapping[str, float],
    seen: Mapping[str, Seen],
    references: ReferenceTable,
) -> Finding:
    formation, error = document.formation_energy_per_atom, SAME_SCALE_EV
    if formation is None or document.energy_scheme not in C2DB_SCALE:
        # the energy above hull is what schemes have in common
        assert document.e_above_hull is not None
        formation, error = document.e_above_hull + references.hull_energy(composition), OTHER_SCALE_EV
    gap = document.band_gap
    without_spin_orbit = document.lacks_spin_orbit or all(Element(e).Z < HEAVY for e in composition)
    return Finding(
        f"{document.candidate_id} {which}",
        composition,
        seen,
        formation,
        error,
        stable=document.dynamically_stable,
        nonmetal=None if gap is None else gap > 0,
        magnetic=document.magnetic,
        direct=None if not gap or document.gap_kind is None else document.gap_kind == "direct",
        band_gap=gap if without_spin_orbit else None,
    )
