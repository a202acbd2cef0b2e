"""A loop in its third round, with its campaigns and what they computed; values are made up."""

from __future__ import annotations

from typing import Any

from support.documents import candidate, energies
from support.layers import mx2

from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.loop import LoopConfig, parse_loop
from scdm_flows.documents import CampaignDoc, CandidateState, Choice, LoopDoc, LoopRound, Taught
from scdm_flows.stores import Database

CAMPAIGNS = ("l-r01", "l-r01-gpaw", "l-r02", "l-r03")
LEARNED = "/models/r03.safetensors"


def loop_config(**changes: Any) -> LoopConfig:
    """The loop ``l``, of samples."""
    asked = {
        "name": "l",
        "description": "small layers",
        "candidates": {"generator": {"kind": "scdm", "n": 20, "seed": 4}},
        "compute": {"engine": {"kind": "gpaw"}},
        "choose": {"n": 3},
    }
    return parse_loop(asked | changes)


def chosen(index: int, formula: str = "MoS2") -> Choice:
    return Choice(
        candidate_id=f"l-r01-{index:012x}", formula=formula, value=1.0, chance=0.7, e_above_hull=0.05,
        e_above_hull_error=0.04, core_hours=0.2,
        why=f"E_hull 0.05{index} ± 0.040 eV/atom predicted: 70 % to be what is looked for, 0.2 core hours",
    )  # fmt: skip


def promoted(*choices: Choice, name: str = "l-r01-gpaw", parent: str = "l-r01") -> CampaignConfig:
    """The campaign that computes what was chosen."""
    ids = [choice.candidate_id for choice in choices]
    generator = {"kind": "promoted", "parent": parent, "top": len(ids), "candidates": ids, "n": len(ids)}
    return parse_config({"name": name, "generator": generator | {"sha256": "0" * 64}, "engine": {"kind": "gpaw"}})


def store_campaign(database: Database, config: CampaignConfig) -> None:
    document = CampaignDoc(name=config.name, config=config.model_dump(mode="json"), config_hash=config.config_hash)
    database.upsert(database.campaigns, [document.model_dump()])


def store_loop(database: Database) -> LoopDoc:
    """Round 1 has computed three, of which it found one; round 2 chose none; round 3 generates, with what it learned."""
    config, choices = loop_config(), [chosen(0), chosen(1), chosen(2)]
    asked: dict[str, Any] = {
        "energy_model": "sevennet-1a2b3c4d",
        "pool": 40,
        "finished": True,
        "samples": 20,
    }
    first = LoopRound(
        number=1, surrogate="l-r01", computed="l-r01-gpaw", learned_from=0, promising=7, chosen=choices, ended=2,
        expected=2.1, expected_by_rank=1.5, expected_at_random=0.4, found=1, found_ids=["l-r01-gpaw-000000000000"], core_hours=0.5, **asked,
    )  # fmt: skip
    second = LoopRound(
        number=2, surrogate="l-r02", learned_from=2, promising=3, core_hours=0.1, expected=0, expected_by_rank=0, expected_at_random=0, **asked,
    )  # fmt: skip
    document = LoopDoc(
        name="l", description=config.description, config=config.model_dump(mode="json"),
        config_hash=config.config_hash, rounds=[first, second],
        taught=[
            Taught(number=2, why_not="too few layers"),
            Taught(number=3, checkpoint=LEARNED, model_id="scdm-learned"),
        ],
    )  # fmt: skip
    database.upsert(database.loops, [document.model_dump()])
    for number in (1, 2, 3):
        campaign = config.campaign(number, LEARNED if number == 3 else None)
        assert campaign is not None
        store_campaign(database, campaign)
    store_campaign(database, promoted(*choices))
    failed = {"state": CandidateState.FAILED, "reason": "relax: GPAW did not converge"}
    computed = [energies(0.021, surrogate=False), energies(0.35, surrogate=False), failed]
    documents = []
    for index, (choice, fields) in enumerate(zip(choices, computed, strict=True)):
        made = candidate(index, mx2("1H"), **fields)
        own = {"campaign": "l-r01-gpaw", "candidate_id": f"l-r01-gpaw-{index:012x}"}
        documents.append(made.model_copy(update={**own, "promoted_from": choice.candidate_id}))
        documents.append(made.model_copy(update={"campaign": "l-r01", "candidate_id": choice.candidate_id}))
    database.upsert(database.candidates, [one.model_dump() for one in documents])
    return document
