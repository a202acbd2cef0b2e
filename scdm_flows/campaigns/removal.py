"""Takes a campaign, or a loop with all of its campaigns, out of the database, with everything that it computed.

A mark in ``scdm_controls`` comes first and goes last: a removal that was killed is seen, nothing can start meanwhile,
and the same call completes it. What refers to something goes before what it refers to; but a loop's document, which
says which campaigns are its own, goes after these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

from jobflow.utils.find import find_key

from scdm_flows.campaigns.controls import control_of, loop_key, mark_cancelled, unmark_cancelled
from scdm_flows.campaigns.under_way import who_runs
from scdm_flows.config.loop import round_of
from scdm_flows.documents import utc_now
from scdm_flows.errors import CampaignError
from scdm_flows.query import CandidateDB
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import CONTROLS, OUTPUTS, SET_ASIDE

RUNS = ("RUNNING", "RESERVED")  # states of fireworks
SLOTS = "scdm_slots"  # of jobs on FireWorks workers
RESULTS = ("rankings", "ranking_blocks", "phonons", "bands", "failures", "candidates")
AT_ONCE = 200
BIG_LAUNCHES = "fw_gridfs"  # where FireWorks keeps what is too large for a launch's document


@dataclass(frozen=True)
class Removable:
    """What is removed at once: a campaign, or a loop with its campaigns.

    name: of the campaign or loop; campaigns: their names, in the order in which they go; loop: whether it is one;
    checkpoints: files of generators that a loop has taught. They stay, as any campaign may draw by them.
    """

    name: str
    campaigns: tuple[str, ...]
    loop: bool = False
    checkpoints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{'loop' if self.loop else 'campaign'} {self.name!r}"


def removable(database: Database, name: str) -> Removable:
    """What goes by a name, what is left of an interrupted removal included.

    Raises
    ------
    CampaignError
        If there is neither a campaign nor a loop of this name, or it is a campaign of a loop, which needs it.
    """
    query = CandidateDB(database)
    with store_errors(database.uri):
        mongo = database.mongo
        begun = [d["_id"] for d in mongo[CONTROLS].find({"removing": {"$exists": True}}, {"_id": 1})]
        if name in begun or mongo["campaigns"].find_one({"name": name}) is not None:
            needed = query.loop_of(name)
            if needed is not None:
                raise CampaignError(
                    f"campaign {name!r} belongs to the loop {needed.name!r}, which cannot do without it; `scdm "
                    f"campaign remove {needed.name}` removes the loop and all of its campaigns"
                )
            return Removable(name, (name,))
        loop = database.loop(name)
        if loop is None and loop_key(name) not in begun:
            raise CampaignError(
                f"there is no campaign {name!r}, and no loop; `scdm campaign list` shows what there is, with `--loops` "
                "the loops"
            )
        campaigns = set() if loop is None else {one.name for one in query.campaigns_of(loop)}
        for key in begun:  # a campaign's document goes before its mark
            of = round_of(key)
            if of is not None and of[0] == name and mongo["campaigns"].find_one({"name": key}) is None:
                campaigns.add(key)
    # later rounds first, and what was promoted before what it was promoted from
    taught = [] if loop is None else [one.checkpoint for one in loop.taught if one.checkpoint is not None]
    return Removable(name, tuple(sorted(campaigns, reverse=True)), loop=True, checkpoints=tuple(taught))


def contents(database: Database, what: Removable) -> dict[str, int]:
    """Collection -> documents, without empty ones; of a loop its campaigns are counted as well."""
    counts = Counter(campaigns=len(what.campaigns) if what.loop else 0)
    with store_errors(database.uri):
        for campaign in what.campaigns:
            for name, query in _queries(campaign).items():
                counts[name] += database.mongo[name].count_documents(query)
    return {name: count for name, count in counts.items() if count}


def _queries(campaign: str) -> dict[str, dict[str, Any]]:
    return {
        "fireworks": {"spec.campaign": campaign},
        "workflows": {"metadata.campaign": campaign},
        OUTPUTS: {"metadata.campaign": campaign},
        **{name: {"campaign": campaign} for name in RESULTS},
    }


def remove(database: Database, name: str) -> dict[str, int]:
    """Remove a campaign, or a loop and its campaigns, and all that belongs to it; collection -> documents removed now.

    The hulls of its chemical systems are right again after the next build.

    Raises
    ------
    CampaignError
        As ``removable``, or if it computes.
    """
    mongo = database.mongo
    _begin(database, what := removable(database, name))
    while (now := removable(database, name)) != what:  # a loop went on in the moment before, and cannot any more
        _begin(database, what := now)
    counts = contents(database, what)
    with store_errors(database.uri):
        for campaign in what.campaigns:
            clear(database, campaign)
            mongo["campaigns"].delete_many({"name": campaign})
            mongo[CONTROLS].delete_one({"_id": campaign})
        if what.loop:
            mongo["loops"].delete_many({"name": name})
            mongo[CONTROLS].delete_one({"_id": loop_key(name)})
    return counts


def _begin(database: Database, what: Removable) -> None:
    """Mark all of it, so that nothing of it starts from now on; none of it where something computes."""
    with store_errors(database.uri):
        mongo = database.mongo
        _refuse_while_it_computes(mongo, what)
        marks = [*([loop_key(what.name)] if what.loop else []), *what.campaigns]
        new = [mark for mark in marks if not is_being_removed(mongo, mark)]
        running = [campaign for campaign in what.campaigns if control_of(mongo, campaign).cancelled is None]
        for mark in marks:
            mongo[CONTROLS].update_one({"_id": mark}, {"$set": {"removing": utc_now()}}, upsert=True)
        for campaign in what.campaigns:
            mark_cancelled(mongo, campaign)  # workers start nothing from now on
        try:
            _refuse_while_it_computes(mongo, what)  # claimed in the moment before
        except CampaignError:
            for campaign in running:
                unmark_cancelled(mongo, campaign)
            for mark in reversed(new):
                mongo[CONTROLS].update_one({"_id": mark}, {"$unset": {"removing": ""}})
            raise


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
    """Whether a removal has begun and not ended, of a campaign or by its ``loop_key`` of a loop. mongo: pymongo's."""
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


def who_computes_of(mongo: Any, what: Removable) -> str | None:
    """What computes any of it now, in words with the remedy; None where nothing does."""
    if what.loop:
        run = who_runs(mongo, loop_key(what.name))
        if run is not None:
            return f"`scdm campaign loop` is under way ({run}); wait for its end, or stop it with Ctrl-C"
    for campaign in what.campaigns:
        busy = who_computes(mongo, campaign)
        if busy is not None:
            return f"campaign {campaign!r}: {busy}" if what.loop else busy
    return None


def _refuse_while_it_computes(mongo: Any, what: Removable) -> None:
    busy = who_computes_of(mongo, what)
    if busy is not None:
        raise CampaignError(f"{what} computes, so it cannot be removed: {busy}")


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
