"""Is a structure known, and which candidates are it or nearest to it? Pure; reads no database."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymatgen.core import Structure

from scdm_flows.query.candidate_files import structure_of
from scdm_flows.stores.known_sets import known_layers
from scdm_models.datasets.fingerprints import distance, fingerprint
from scdm_models.datasets.known import KnownMatch
from scdm_models.datasets.matching import LayerMatcher
from scdm_models.symmetry.lattice import orient_slab

if TYPE_CHECKING:
    from scdm_flows.documents import CandidateDoc

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """A candidate of the formula asked for.

    distance: of the fingerprints (``scdm_models.datasets.fingerprints.distance``), dimensionless; same: the same layer
    by ``LayerMatcher``.
    """

    document: CandidateDoc
    distance: float
    same: bool


def known_as(structure: Structure) -> list[KnownMatch]:
    """The known layers that the structure is, nearest first; raises ``StructureError`` if it is no layer."""
    return known_layers().lookup(structure)


def nearest(structure: Structure, documents: Iterable[CandidateDoc], limit: int = 10) -> list[Hit]:
    """Candidates of the structure's reduced formula by the distance of their fingerprints; others do not compare.

    The nearest ``limit`` are compared by ``LayerMatcher`` too. A candidate without a usable structure is passed over.

    Raises
    ------
    StructureError
        If the structure is no layer.
    """
    slab, formula = orient_slab(structure), structure.composition.reduced_formula
    own = fingerprint(slab)

    def compared() -> Iterator[tuple[float, str, CandidateDoc, Structure]]:
        for document in documents:
            if document.formula != formula:
                continue
            try:
                other = orient_slab(structure_of(document))
                yield distance(own, fingerprint(other)), document.candidate_id, document, other
            except Exception as error:  # one odd structure must not end the search
                logger.warning("%s cannot be compared: %s", document.candidate_id, error)

    found = heapq.nsmallest(limit, compared(), key=lambda hit: hit[:2])
    matcher = LayerMatcher()
    return [Hit(document, apart, matcher.fit(slab, other)) for apart, _, document, other in found]
