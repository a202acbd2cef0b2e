"""A campaign: its configuration and its funnel. Collection ``campaigns``, key ``name``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import ScdmDocument, versioned
from scdm_flows.documents.states import CampaignState


class Funnel(BaseModel):
    """How many samples passed each step (the paper: 4000 -> 3378 -> 2140 -> 1145 -> 6)."""

    model_config = ConfigDict(extra="forbid")

    generated: int = Field(0, description="samples")
    valid: int = Field(0, description="shortest distance and radii in order, one layer")
    unique: int = Field(0, description="not a duplicate of an earlier sample")
    sample_novel: int = Field(0, description="of these samples, before they are relaxed, new: equal to no known layer")
    relaxed: int = Field(0, description="relaxation converged and energy known")
    distinct: int = Field(0, description="relaxed to a layer that no earlier sample of the campaign relaxed to")
    novel: int = Field(0, description="of these distinct relaxed layers new: equal to no known layer")
    in_window: int = Field(0, description="distinct, and e_above_hull within the campaign's window")
    phonon_done: int = Field(0, description="phonons computed")
    dynamically_stable: int = Field(0, description="no imaginary mode")
    bands_done: int = Field(0, description="electronic bands computed")
    failed: int = Field(0, description="a stage failed")
    pending: int = Field(0, description="not finished yet")


class CampaignDoc(ScdmDocument):
    """One campaign."""

    schema_version: int = versioned(2)  # 2: the funnel tells new samples from layers that are new after relaxation
    name: str = Field(description="unique name")
    description: str = Field("", description="free text")
    state: CampaignState = Field(CampaignState.SUBMITTED, description="submitted, running or completed")
    config: dict[str, Any] = Field(description="the campaign configuration")
    config_hash: str = Field(description="sha256 of the configuration")
    n_requested: int | None = Field(None, description="samples asked for")
    funnel: Funnel = Field(default_factory=Funnel, description="counts at the last build")
