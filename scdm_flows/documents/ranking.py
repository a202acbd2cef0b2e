"""When a campaign was ranked, and by what. Collection ``rankings``, key ``campaign``, one small document each.

The ranks themselves are fields of the candidates (``documents.candidate.RANK_FIELDS``); this says whether they are all
written, and up to when the candidates are in them, so that a build with nothing new to rank is over at once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from scdm_flows.documents.base import ScdmDocument, versioned


class RankingDoc(ScdmDocument):
    """The last ranking of a campaign."""

    schema_version: int = versioned(2)  # 2: ranks are in the candidates; 1 named blocks of columns that held them
    campaign: str = Field(description="name of the campaign")
    revision: int = Field(0, description="raised by every ranking that writes")
    complete: bool = Field(False, description="every rank of this revision is written")
    taken_at: datetime = Field(description="UTC time of the database before the candidates were read")
    n_candidates: int = Field(description="candidates of the campaign")
    n_ranked: int = Field(description="candidates with a rank")
    objective: dict[str, Any] = Field(default_factory=dict, description="weights of the terms and wished band gap")
