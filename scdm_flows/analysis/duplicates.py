"""Which samples are the same layer, by their verdicts: within a shard and across shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from scdm_flows.documents.stages import ScreenedCandidate
from scdm_models.datasets.matching import LayerMatcher


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
            if verdict.structure is not None:
                structures.append(verdict.structure)
                readable.append(verdict)
    groups = LayerMatcher().group(structures, processes=processes)
    return [[readable[i] for i in group] for group in groups if len(group) > 1]


def across_shards(
    shards: Sequence[Sequence[ScreenedCandidate]],
    known: Mapping[str, str | None] | None = None,
    processes: int = 1,
) -> dict[str, str]:
    """candidate_id of a duplicate -> candidate_id of the first equal sample, the one with the lowest index.

    Only accepted samples with the same formula, and what equals them in their shards, are compared, and only where they
    come from different shards; a duplicate within a shard follows its first. known: candidate_id -> ``duplicate_of``
    from an earlier build; a formula of which every accepted member is known is not compared again. processes: as for
    ``LayerMatcher.group``.
    """
    accepted = {v.candidate_id for verdicts in shards for v in verdicts if v.accepted}
    formulas: dict[str | None, list[tuple[int, ScreenedCandidate]]] = defaultdict(list)
    for shard, verdicts in enumerate(shards):
        for verdict in verdicts:
            # a duplicate within its shard is no candidate, but can link its first to a sample of another shard
            if verdict.structure is not None and (verdict.accepted or verdict.duplicate_of in accepted):
                formulas[verdict.formula].append((shard, verdict))
    found: dict[str, str] = {}
    unknown: list[ScreenedCandidate] = []
    for members in formulas.values():
        if len({shard for shard, _ in members}) < 2:
            continue
        ids = [verdict.candidate_id for _, verdict in members if verdict.accepted]
        if known is not None and all(i in known for i in ids):
            found |= {i: first for i in ids if (first := known[i]) is not None}
        else:
            unknown += [verdict for _, verdict in members]
    if unknown:
        found |= _compare(sorted(unknown, key=lambda v: v.index), processes)
    for verdicts in shards:
        for verdict in verdicts:
            if verdict.duplicate_of in found:
                found[verdict.candidate_id] = found[verdict.duplicate_of]
    return found


def _compare(verdicts: Sequence[ScreenedCandidate], processes: int) -> dict[str, str]:
    """Duplicates among samples in the order of their index."""
    groups = equal_samples(verdicts, processes)
    return {v.candidate_id: group[0].candidate_id for group in groups for v in group[1:] if v.accepted}
