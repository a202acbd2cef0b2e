"""Within what tolerance the layer and space groups of a candidate were found."""

from __future__ import annotations

from scdm_flows.analysis.gate import RELAXED_SYMPREC
from scdm_flows.analysis.screening import SYMPREC
from scdm_flows.documents import CandidateDoc

# what is said where candidates are listed
WORDS = f"Layer groups are those within {RELAXED_SYMPREC:g} Å, of what was not relaxed within {SYMPREC:g} Å."


def group_tolerance(document: CandidateDoc) -> float:
    """The tolerance of ``layer_group`` and ``space_group``, angstrom: samples are symmetric, relaxed layers roughly."""
    return RELAXED_SYMPREC if document.relaxed_structure else SYMPREC
