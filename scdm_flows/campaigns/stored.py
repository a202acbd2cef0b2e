"""What the database holds of a campaign, read for its plan and for the flows of its open work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pymatgen.core.structure import Structure

from scdm_flows.campaigns.controls import control_of
from scdm_flows.campaigns.plan import Stored
from scdm_flows.config import CampaignConfig
from scdm_flows.documents import OPENED_STAGES, ScreenedCandidate, StageName
from scdm_flows.errors import CampaignError
from scdm_flows.flows.identity import job_uuid
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors


def stored_of(
    config: CampaignConfig,
    database: Database,
    *,
    repeated: Collection[str] | None = None,
    set_aside: Collection[str] = (),
) -> Stored:
    """What decides the plan.

    repeated: samples that repeat one of another shard; those that the candidate builder has marked when absent.
    set_aside: see ``Stored``.
    """
    name = config.name
    with store_errors(database.uri):
        if repeated is None:
            repeated = repeats(database, name)
        fields = ["output.candidates.candidate_id", "output.candidates.accepted"]
        screens = outputs(database, name, StageName.SCREEN, fields)
        accepted = {
            int(d["metadata"].get("shard", 0)): [
                c["candidate_id"]
                for c in (d.get("output") or {}).get("candidates", [])
                if c["accepted"] and c["candidate_id"] not in repeated
            ]
            for d in screens
        }
        gates = outputs(database, name, StageName.GATE, [f"output.{stage}" for stage in OPENED_STAGES])
        done: dict[str, set[str]] = {}
        for stage in OPENED_STAGES:
            for d in outputs(database, name, stage, []):
                done.setdefault(d["metadata"]["candidate_id"], set()).add(stage)
        control = control_of(database.mongo, name)
        return Stored(
            accepted=accepted,
            shares=control.shares,
            opened={
                d["metadata"]["candidate_id"]: {s for s in OPENED_STAGES if (d.get("output") or {}).get(s)}
                for d in gates
            },
            done=done,
            failed=failed_stages(database, name),
            set_aside=set_aside,
            chosen=control.chosen,
        )


def repeats(database: Database, campaign: str) -> set[str]:
    """Samples that the candidate builder has marked as repeating one of another shard."""
    marked = {"campaign": campaign, "stages.screen.status": "rejected", "duplicate_of": {"$ne": None}}
    return {d["candidate_id"] for d in database.candidates.query(marked, properties=["candidate_id"])}


def outputs(database: Database, campaign: str, stage: StageName, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The stored outputs of a stage, with the given fields and the job's metadata."""
    criteria = {"metadata.campaign": campaign, "metadata.stage": stage.value}
    return list(database.job_store.docs_store.query(criteria, properties=["uuid", "metadata", *fields]))


def failed_stages(database: Database, campaign: str) -> dict[str, set[str]]:
    """Candidate -> its stages that have failed for good."""
    failed: dict[str, set[str]] = {}
    for d in database.failures.query({"campaign": campaign}, properties=["candidate_id", "stage"]):
        failed.setdefault(d["candidate_id"], set()).add(d["stage"])
    return failed


def screened(config: CampaignConfig, database: Database, shard: int) -> list[ScreenedCandidate] | None:
    """The verdicts of a shard; None where it has not been screened."""
    uuid = job_uuid(config, f"shard{shard}", StageName.SCREEN.value)
    found = database.job_store.docs_store.query_one({"uuid": uuid}, properties=["output"])
    if found is None:
        return None
    return [ScreenedCandidate.model_validate(c) for c in without_class_marks(found["output"])["candidates"]]


def relaxed_structure(config: CampaignConfig, database: Database, candidate_id: str) -> Structure:
    """The relaxed structure of a candidate, by its stored gate; ``CampaignError`` where that is not stored."""
    uuid = job_uuid(config, candidate_id, StageName.GATE.value)
    found = database.job_store.docs_store.query_one({"uuid": uuid}, properties=["output.relaxed_structure"])
    if found is None:
        raise CampaignError(f"the gate of {candidate_id} is not stored; run the campaign again")
    return Structure.from_dict(found["output"]["relaxed_structure"])


def without_class_marks(output: Any) -> Any:
    """A stored output without monty's marks of this project's classes."""
    if isinstance(output, Mapping):
        marks = {"@module", "@class", "@version"} if str(output.get("@module", "")).startswith("scdm_flows") else set()
        return {k: without_class_marks(v) for k, v in output.items() if k not in marks}
    if isinstance(output, list):
        return [without_class_marks(v) for v in output]
    return output
