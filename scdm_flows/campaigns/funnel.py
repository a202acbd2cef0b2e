"""The funnel of a campaign, counted from its candidates, and where the campaign stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scdm_flows.documents import CampaignState, CandidateState, Funnel, StageName

# what the funnel needs of a stored candidate
FUNNEL_FIELDS = [
    "state",
    "stages",
    "duplicate_of",
    "sample_novel",
    "novel",
    "valid_distance",
    "valid_radii",
    "one_layer",
    "dynamically_stable",
]


def funnel(candidates: Iterable[Mapping[str, Any]], *, radii: bool, one_layer: bool) -> Funnel:
    """The counts of a campaign; each step counts what passed it and all before.

    Parameters
    ----------
    candidates
        Stored candidates with the fields ``FUNNEL_FIELDS``.
    radii, one_layer
        Whether the campaign's screen requires the radii check and one connected layer.
    """
    counts = Funnel()
    for candidate in candidates:
        stages = candidate.get("stages") or {}

        def passed(stage: StageName, stages: Mapping[str, Any] = stages) -> bool:
            return bool(stages.get(stage.value, {}).get("status") == "passed")

        accepted, duplicate = passed(StageName.SCREEN), candidate.get("duplicate_of") is not None
        of_sample = duplicate and not accepted  # else the relaxed structures are equal
        counts.generated += 1
        counts.failed += candidate["state"] == CandidateState.FAILED
        counts.pending += candidate["state"] == CandidateState.PENDING
        valid = (
            accepted
            or of_sample
            or bool(
                candidate.get("valid_distance")
                and (candidate.get("valid_radii") or not radii)
                and (candidate.get("one_layer") or not one_layer)
            )
        )
        counts.valid += valid
        counts.unique += valid and not of_sample
        counts.sample_novel += valid and not of_sample and candidate.get("sample_novel") is True
        if accepted:
            relaxed = passed(StageName.RELAX) and passed(StageName.STATIC)
            counts.relaxed += relaxed
            distinct = relaxed and not duplicate
            counts.distinct += distinct
            counts.novel += distinct and candidate.get("novel") is True
            counts.in_window += distinct and passed(StageName.GATE)
            counts.phonon_done += not duplicate and candidate.get("dynamically_stable") is not None
            counts.dynamically_stable += not duplicate and candidate.get("dynamically_stable") is True
            counts.bands_done += not duplicate and passed(StageName.BANDS)
    return counts


def campaign_state(before: CampaignState, funnel: Funnel, *, screened: int, shards: int, failed: int) -> CampaignState:
    """Where a campaign stands; screened, failed: of its shards."""
    if screened and screened >= shards and funnel.pending == 0:
        return CampaignState.COMPLETED
    return CampaignState.RUNNING if screened or failed else before
