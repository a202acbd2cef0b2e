"""Takes a campaign out of the database, with everything that it computed.

A mark in ``scdm_controls`` comes first and goes last: a removal that was killed is seen, nothing can start meanwhile,
and the same call completes it. What refers to something goes before what it refers to.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from jobflow.utils.find import find_key

from scdm_flows.campaigns.controls import control_of, mark_cancelled, unmark_cancelled
from scdm_flows.campaigns.under_way import who_runs
from scdm_flows.documents import utc_now
from scdm_flows.errors import CampaignError
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import CONTROLS, OUTPUTS, SET_ASIDE

RUNS = ("RUNNING", "RESERVED")  # states of fireworks
SLOTS = "scdm_slots"  # of jobs on FireWorks workers
RESULTS = ("rankings", "ranking_blocks", "phonons", "bands", "failures", "candidates")
AT_ONCE = 200
BIG_LAUNCHES = "fw_gridfs"  # where FireWorks keeps what is too large for a launch's document


def contents(database: Database, campaign: str) -> dict[str, int]:
    """Collection -> documents of a campaign, without empty ones.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    """
    with store_errors(database.uri):
        mongo = database.mongo
        if mongo["campaigns"].find_one({"name": campaign}) is None and not is_being_removed(mongo, campaign):
            raise CampaignError(f"there is no campaign {campaign!r}; `scdm campaign list` shows what there is")
        counts = {name: mongo[name].count_documents(query) for name, query in _queries(campaign).items()}
    return {name: count for name, count in counts.items() if count}


def _queries(campaign: str) -> dict[str, dict[str, Any]]:
    return {
        "fireworks": {"spec.campaign": campaign},
        "workflows": {"metadata.campaign": campaign},
        OUTPUTS: {"metadata.campaign": campaign},
        **{name: {"campaign": campaign} for name in RESULTS},
    }


def remove(database: Database, campaign: str) -> dict[str, int]:
    """Remove a campaign and all that belongs to it; returns collection -> documents removed now.

    The hulls of its chemical systems are right again after the next build.

    Raises
    ------
    CampaignError
        If there is no such campaign, or it computes.
    """
    counts = contents(database, campaign)
    with store_errors(database.uri):
        mongo = database.mongo
        _refuse_while_it_computes(mongo, campaign)
        resumed, cancelled = is_being_removed(mongo, campaign), control_of(mongo, campaign).cancelled
        mark_cancelled(mongo, campaign)  # workers start nothing from now on
        mongo[CONTROLS].update_one({"_id": campaign}, {"$set": {"removing": utc_now()}}, upsert=True)
        try:
            _refuse_while_it_computes(mongo, campaign)  # claimed in the moment before
        except CampaignError:
            if not resumed:
                mongo[CONTROLS].update_one({"_id": campaign}, {"$unset": {"removing": ""}})
            if cancelled is None:
                unmark_cancelled(mongo, campaign)
            raise
        clear(database, campaign)
        mongo["campaigns"].delete_many({"name": campaign})
        mongo[CONTROLS].delete_one({"_id": campaign})
    return counts


def clear(database: Database, campaign: str) -> None:
    """Remove all of a campaign but its document and its marks."""
    with store_errors(database.uri):
        mongo = database.mongo
        _take_off_launchpad(mongo, campaign)
        _remove_own_hulls(mongo, campaign)
        _remove_outputs(database, campaign)
        for name in RESULTS:
            mongo[name].delete_many({"campaign": campaign})
        mongo[CONTROLS].update_one({"_id": campaign}, {"$unset": {"taken": "", "shards": "", "phonons": ""}})


def is_being_removed(mongo: Any, campaign: str) -> bool:
    """Whether a removal has begun and not ended. mongo: pymongo's database."""
    return mongo[CONTROLS].find_one({"_id": campaign, "removing": {"$exists": True}}, {"_id": 1}) is not None


def has_computed(mongo: Any, campaign: str) -> bool:
    """Whether an output of a campaign is stored."""
    return mongo[OUTPUTS].find_one({"metadata.campaign": campaign}, {"_id": 1}) is not None


def who_computes(mongo: Any, campaign: str) -> str | None:
    """What computes a campaign now, in words with the remedy; None where nothing does."""
    run = who_runs(mongo, campaign)
    if run is not None:
        return f"`scdm campaign run` is under way ({run}); wait for its end, or stop it with Ctrl-C"
    names = [
        str(d.get("name", d["fw_id"]))
        for d in mongo["fireworks"].find(
            {"spec.campaign": campaign, "state": {"$in": list(RUNS)}}, {"name": 1, "fw_id": 1}
        )
    ]
    if not names:
        return None
    return (
        f"{len(names)} of its jobs run on the LaunchPad, such as {names[0]}; `scdm campaign cancel {campaign}` lets no "
        f"other begin, and `scdm campaign resume {campaign}` gives back those of workers that were lost"
    )


def _refuse_while_it_computes(mongo: Any, campaign: str) -> None:
    busy = who_computes(mongo, campaign)
    if busy is not None:
        raise CampaignError(f"campaign {campaign!r} computes, so it cannot be removed: {busy}")


def _take_off_launchpad(mongo: Any, campaign: str) -> None:
    """Launches, fireworks, then the workflows that name them."""
    query = {"spec.campaign": campaign}
    while found := list(mongo["fireworks"].find(query, {"fw_id": 1}).limit(AT_ONCE)):
        among = {"fw_id": {"$in": [d["fw_id"] for d in found]}}
        launches = {"$in": [d["launch_id"] for d in mongo["launches"].find(among, {"launch_id": 1})]}
        files = [d["_id"] for d in mongo[f"{BIG_LAUNCHES}.files"].find({"metadata.launch_id": launches}, {"_id": 1})]
        mongo[f"{BIG_LAUNCHES}.chunks"].delete_many({"files_id": {"$in": files}})
        mongo[f"{BIG_LAUNCHES}.files"].delete_many({"_id": {"$in": files}})
        mongo["offline_runs"].delete_many({"launch_id": launches})
        mongo["launches"].delete_many(among)
        mongo["fireworks"].delete_many(among)
    mongo["workflows"].delete_many({"metadata.campaign": campaign})
    mongo[SLOTS].delete_many({"campaign": campaign})


def _remove_outputs(database: Database, campaign: str) -> None:
    """The outputs, each after its large objects."""
    job_store: Any = database.job_store
    outputs, blobs = database.mongo[OUTPUTS], job_store.additional_stores["data"]
    query = {"metadata.campaign": campaign}
    for collection in (outputs, database.mongo[SET_ASIDE]):
        while found := list(collection.find(query).limit(AT_ONCE)):
            for names in _parts([name for d in found for name in _large_objects(d.get("output"))]):
                blobs.remove_docs({"blob_uuid": {"$in": names}})
            collection.delete_many({"_id": {"$in": [d["_id"] for d in found]}})


def _large_objects(output: Any) -> list[str]:
    """The keys of the large objects that an output refers to, as jobflow writes them."""
    held: dict[Hashable, Any] = {"output": output}
    return [str(reduce(getitem, path, held)) for path in find_key(held, "blob_uuid", include_end=True)]


def _parts(names: Sequence[str]) -> Iterator[list[str]]:
    return (list(names[k : k + AT_ONCE]) for k in range(0, len(names), AT_ONCE))


def _remove_own_hulls(mongo: Any, campaign: str) -> None:
    """Hulls on references that no other campaign names: no build would look at them again."""
    document = mongo["campaigns"].find_one({"name": campaign}, {"config.engine": 1}) or {}
    references = ((document.get("config") or {}).get("engine") or {}).get("references")
    if references is None or mongo["campaigns"].find_one(
        {"name": {"$ne": campaign}, "config.engine.references": references}, {"_id": 1}
    ):
        return
    mine = {d["candidate_id"] for d in mongo["candidates"].find({"campaign": campaign}, {"candidate_id": 1})}
    for hull in mongo["hulls"].find({}, {"candidates": 1}):
        if hull["candidates"] and mine.issuperset(hull["candidates"]):
            mongo["hulls"].delete_one({"_id": hull["_id"]})
