"""A campaign's ranking, and the table that listings of its candidates are answered from.

Collection ``rankings``, key ``campaign``: one small document that names the blocks that count. Collection
``ranking_blocks``, key ``block_id``: the candidates in id order, their queryable and rank fields as columns. Both are
derived from ``candidates`` by the ranking builder, which replaces a campaign's blocks as a whole: nobody ever sees half
of a ranking.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import ScdmDocument


class RankingDoc(ScdmDocument):
    """Which ranking of a campaign counts."""

    campaign: str = Field(description="name of the campaign")
    revision: str = Field(description="of the blocks that belong to it")
    taken_at: datetime = Field(description="UTC time of the database before the candidates were read")
    n_blocks: int = Field(description="number of blocks")
    n_candidates: int = Field(description="candidates in the blocks")
    n_ranked: int = Field(description="candidates with a rank")
    objective: dict[str, Any] = Field(default_factory=dict, description="weights of the terms and wished band gap")


class Column(BaseModel):
    """The values of one field."""

    model_config = ConfigDict(extra="forbid")

    dtype: str = Field(description="numpy's: <f8 (nan: not known; booleans 0 and 1) or S<n> (UTF-8; empty: not known)")
    data: bytes = Field(description="the values, compressed by zlib")


class RankingBlock(BaseModel):
    """Some candidates of a ranking."""

    model_config = ConfigDict(extra="forbid")

    block_id: str = Field(description="<campaign>:<revision>:<number>")
    campaign: str = Field(description="name of the campaign")
    revision: str = Field(description="as in the ranking")
    n_candidates: int = Field(description="number of candidates")
    written_at: datetime = Field(description="UTC time of the database")
    columns: dict[str, Column] = Field(
        description="field of CandidateDoc -> values; of score_terms one column a term, score_terms.<term>"
    )
