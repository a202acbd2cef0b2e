"""What OPTIMADE says of a candidate, made when its document is: the server only looks it up. Pure."""

from __future__ import annotations

import logging
from typing import Any

from optimade.adapters.structures.pymatgen import from_pymatgen
from pymatgen.core import Lattice, Structure

from scdm_flows.documents import CandidateDoc

logger = logging.getLogger(__name__)

FORCE_FIELDS = ("chgnet", "sevennet")  # as the names of schemes and energy models hold them; ids of references
_PERIODIC = (True, True, False)  # along a and b; c is the vacuum


def optimade_of(document: CandidateDoc) -> dict[str, Any] | None:
    """OPTIMADE's own properties of the structure as it was relaxed, else as it was sampled.

    None where there is no structure that OPTIMADE could describe: no atoms, or sites shared by several elements.
    """
    stored = document.relaxed_structure or document.structure
    if not stored.get("sites"):
        return None
    try:
        return {"type": "structures", **_properties(Structure.from_dict(stored)), **_relationships(document)}
    except Exception as error:  # whatever a stored structure may lack; the candidate counts all the same
        logger.warning("OPTIMADE will not have %s: %s: %s", document.candidate_id, type(error).__name__, error)
        return None


def _properties(structure: Structure) -> dict[str, Any]:
    lattice = Lattice(structure.lattice.matrix, pbc=_PERIODIC)
    layer = Structure(lattice, structure.species, structure.frac_coords).remove_oxidation_states()
    found: dict[str, Any] = from_pymatgen(layer).model_dump(exclude_none=True)
    found["species"].sort(key=lambda species: species["name"])  # optimade's come in the order of a set
    return found | {
        "chemical_formula_descriptive": layer.composition.reduced_formula,
        "chemical_formula_hill": layer.composition.hill_formula.replace(" ", ""),
    }


def _relationships(document: CandidateDoc) -> dict[str, Any]:
    """The references that a candidate owes itself to: the model that made it, the force fields of its energies."""
    made = ["scdm"] if document.generator in ("scdm", "unscdm") else []
    used = f"{document.energy_scheme} {document.energy_model}".lower()
    cited = made + [name for name in FORCE_FIELDS if name in used]
    data = [{"type": "references", "id": name} for name in cited]
    return {"relationships": {"references": {"data": data}}} if data else {}
