"""Which samples are the same layer, by their verdicts: within a shard and across shards."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from pymatgen.core import Structure

from scdm_flows.documents.stages import ScreenedCandidate
from scdm_models.matching import LayerMatcher

logger = logging.getLogger(__name__)


def equal_samples(verdicts: Sequence[ScreenedCandidate], processes: int = 1) -> list[list[ScreenedCandidate]]:
    """Groups of samples that are the same layer, in the order given; what has no partner is left out.

    Samples of one formula are compared whatever their layer groups are, as ``LayerMatcher.group`` does without keys:
    a sample without symmetry is a duplicate of the symmetric layer that it is a slight distortion of. A sample whose
    structure cannot be read equals nothing.
    """
    formulas: dict[str | None, list[ScreenedCandidate]] = defaultdict(list)
    for verdict in verdicts:
        formulas[verdict.formula].append(verdict)
    readable, structures = [], []
    for same in formulas.values():
        if len(same) < 2:
            continue
        for verdict in same:
            try:
                structures.append(Structure.from_dict(verdict.structure or {}))
            except Exception as error:  # a structure can break a library in ways nobody lists
                logger.warning("%s is not compared: %s", verdict.candidate_id, error)
            else:
                readable.append(verdict)
    groups = LayerMatcher().group(structures, processes=processes)
    return [[readable[i] for i in group] for group in groups if len(group) > 1]
