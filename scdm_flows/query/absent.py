"""Why something is not there: the result of a stage of one candidate, or a field in all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.documents import StageName
from scdm_flows.documents.candidate import queryable_fields
from scdm_flows.query.conditions import RANGES

if TYPE_CHECKING:
    from scdm_flows.documents import CandidateDoc
    from scdm_flows.query import CandidateDB

# field -> the stage that finds it, and what it is in words
FOUND_BY = {
    "band_gap": (StageName.BANDS, "a band gap"),
    "gap_kind": (StageName.BANDS, "a band gap"),
    "magnetic": (StageName.BANDS, "magnetic moments"),
    "total_magnetization": (StageName.BANDS, "magnetic moments"),
    "dynamically_stable": (StageName.PHONON, "phonons"),
    "min_frequency_thz": (StageName.PHONON, "phonons"),
}
_SAID = re.compile(r"^no [a-z ]+: ")  # as the gate begins its reasons
_READ = 1000  # candidates that are asked for their reason


def why_not(document: CandidateDoc, stage: str) -> str | None:
    """Why a candidate has no result of a stage, without saying again that it has none; None where nothing is known."""
    record = document.stages.get(stage)
    reason = record.reason if record is not None and record.reason else document.reason
    return None if reason is None else _SAID.sub("", reason)


def nobody_has(query: CandidateDB, filters: Mapping[str, Any]) -> str | None:
    """That no candidate has what a filter asks of a value for, and why; None where some candidate has it.

    filters: as for ``CandidateDB.find``; a campaign among them is the only one that is looked at.
    """
    campaign = filters.get("campaign")
    for name in filters:
        prefix, _, rest = name.partition("_")
        field = rest if prefix in RANGES and name not in queryable_fields() else name
        if field not in FOUND_BY:
            continue
        values = query.columns([field], campaign=campaign)[field]
        if not len(values) or (values != "" if values.dtype.kind == "U" else ~np.isnan(values)).any():
            continue
        stage, words = FOUND_BY[field]
        of = "" if campaign is None else f" of {campaign}" if isinstance(campaign, str) else " of these campaigns"
        reason = _common_reason(query, campaign, stage)
        return f"no candidate{of} has {words}" + (f": {reason}" if reason else "")
    return None


def _common_reason(query: CandidateDB, campaign: str | list[str] | None, stage: StageName) -> str | None:
    """Why the stage was skipped, of the first candidate that says so."""
    names = [c.name for c in query.campaigns()] if campaign is None else np.atleast_1d(campaign).tolist()
    for name in names:
        for candidate in islice(query.stages(name), _READ):
            record = candidate["stages"].get(stage.value) or {}
            if record.get("reason"):
                return _SAID.sub("", record["reason"])
    return None
