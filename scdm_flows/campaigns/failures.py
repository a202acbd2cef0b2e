"""Stages that have failed for good: written once, forgotten when the stage succeeds."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from scdm_flows.documents import StageFailure
from scdm_flows.documents.provenance import made_here
from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)
LONGEST_MESSAGE = 2000


def failure(
    campaign: str,
    item: str,
    stage: str,
    error_type: str,
    message: str,
    *,
    job_uuid: str | None = None,
    config_hash: str | None = None,
) -> StageFailure:
    """The document of a stage that failed. item: the candidate, or ``<campaign>-shard<number>``."""
    return StageFailure(
        failure_id=f"{item}:{stage}",
        candidate_id=item,
        campaign=campaign,
        stage=stage,
        error_type=error_type,
        message=message[:LONGEST_MESSAGE] or error_type,
        job_uuid=job_uuid,
        provenance=made_here(config_hash=config_hash),
    )


def record(database: Database, failures: Iterable[StageFailure]) -> None:
    """Write failures."""
    failures = list(failures)
    database.upsert(database.failures, [one.model_dump() for one in failures])
    for one in failures:
        logger.warning("%s failed in %s: %s", one.candidate_id, one.stage, one.message)


def forget_all(database: Database, campaign: str) -> None:
    """Forget a campaign's failures, so that its stages are tried again."""
    database.failures.remove_docs({"campaign": campaign})


def forget_mended(database: Database, campaign: str | None) -> None:
    """Forget failures whose job has an output now; campaign: of all when None."""
    criteria = {"campaign": campaign} if campaign is not None else {}
    uuid_of = {
        d["failure_id"]: d["job_uuid"]
        for d in database.failures.query(criteria, properties=["failure_id", "job_uuid"])
        if d.get("job_uuid")
    }
    found = database.job_store.docs_store.query({"uuid": {"$in": list(uuid_of.values())}}, properties=["uuid"])
    stored = {d["uuid"] for d in found} if uuid_of else set()
    mended = [one for one, uuid in uuid_of.items() if uuid in stored]
    if mended:
        database.failures.remove_docs({"failure_id": {"$in": mended}})
