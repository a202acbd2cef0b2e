"""Equal layers in different shards; within a shard the screen has compared."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pymatgen.core import Structure

from scdm_flows.documents import ScreenedCandidate
from scdm_models.matching import LayerMatcher

logger = logging.getLogger(__name__)


def across_shards(
    shards: Sequence[Sequence[ScreenedCandidate]], known: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """candidate_id of a duplicate -> candidate_id of the first equal sample, the one with the lowest index.

    Only accepted samples with the same formula and layer group are compared, and only where they come from
    different shards; a duplicate within a shard follows its first. known: candidate_id -> ``duplicate_of``
    from an earlier build; a group of which every member is known is not compared again.
    """
    groups: dict[tuple[Any, ...], list[tuple[int, ScreenedCandidate]]] = defaultdict(list)
    for shard, verdicts in enumerate(shards):
        for verdict in verdicts:
            if verdict.accepted and verdict.structure is not None:
                groups[verdict.formula, verdict.layer_group_generated].append((shard, verdict))
    found: dict[str, str] = {}
    for members in groups.values():
        if len({shard for shard, _ in members}) < 2:
            continue
        verdicts = sorted((verdict for _, verdict in members), key=lambda v: v.index)
        if known is not None and all(v.candidate_id in known for v in verdicts):
            found |= {v.candidate_id: first for v in verdicts if (first := known[v.candidate_id]) is not None}
        else:
            found |= _compare(verdicts)
    for verdicts in shards:
        for verdict in verdicts:
            if verdict.duplicate_of in found:
                found[verdict.candidate_id] = found[verdict.duplicate_of]
    return found


def _compare(verdicts: Sequence[ScreenedCandidate]) -> dict[str, str]:
    """Duplicates among samples of one formula and layer group, in the order of their index."""
    try:
        structures = [Structure.from_dict(v.structure or {}) for v in verdicts]
        groups = LayerMatcher().group(structures)
    except Exception as error:
        logger.warning("duplicates of %s were not compared: %s", verdicts[0].formula, error)
        return {}
    return {verdicts[k].candidate_id: verdicts[group[0]].candidate_id for group in groups for k in group[1:]}
