"""The data contract: one file for each collection. Every field declares its unit and meaning."""

from __future__ import annotations

from scdm_flows.documents.bands import BandEdge, BandMass, BandsDoc, DosData, GapKind
from scdm_flows.documents.base import Provenance, ScdmDocument, utc_now
from scdm_flows.documents.campaign import CampaignDoc, Funnel
from scdm_flows.documents.candidate import CandidateDoc, StageRecord
from scdm_flows.documents.loop import Choice, LoopDoc, LoopRound, Taught
from scdm_flows.documents.novelty import KnownAs, Novelty
from scdm_flows.documents.phonon import PhononDoc, PhononDos, SoftMode, ThermalQuantities
from scdm_flows.documents.promotion import ParentRecord
from scdm_flows.documents.ranking import RankingDoc
from scdm_flows.documents.stages import GateDoc, ScreenedCandidate, ScreenOutput, StageFailure
from scdm_flows.documents.states import (
    CORE_STAGES,
    DYNAMIC_STAGES,
    END_STATES,
    OPENED_STAGES,
    SHARD_STAGES,
    CampaignState,
    CandidateState,
    StageName,
)
from scdm_flows.documents.static import StaticSummary

__all__ = [
    "CORE_STAGES",
    "DYNAMIC_STAGES",
    "END_STATES",
    "OPENED_STAGES",
    "SHARD_STAGES",
    "BandEdge",
    "BandMass",
    "BandsDoc",
    "CampaignDoc",
    "CampaignState",
    "CandidateDoc",
    "CandidateState",
    "Choice",
    "DosData",
    "Funnel",
    "GapKind",
    "GateDoc",
    "KnownAs",
    "LoopDoc",
    "LoopRound",
    "Novelty",
    "ParentRecord",
    "PhononDoc",
    "PhononDos",
    "Provenance",
    "RankingDoc",
    "ScdmDocument",
    "ScreenOutput",
    "ScreenedCandidate",
    "SoftMode",
    "StageFailure",
    "StageName",
    "StageRecord",
    "StaticSummary",
    "Taught",
    "ThermalQuantities",
    "utc_now",
]
