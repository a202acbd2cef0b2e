"""A removed campaign leaves nothing, takes nothing from others, and a removal that was killed is completed."""

from __future__ import annotations

import itertools
import json
import os
from datetime import timedelta
from typing import Any

import pytest
from bson import json_util
from click.testing import CliRunner
from support.documents import CampaignDocuments
from support.memory import killed_at, memory_database

from scdm_flows.campaigns import removal, under_way
from scdm_flows.campaigns.controls import control_of
from scdm_flows.campaigns.registration import register
from scdm_flows.cli import cli
from scdm_flows.config import parse_config
from scdm_flows.documents import utc_now
from scdm_flows.errors import CampaignError
from scdm_flows.stores import Database
from scdm_flows.stores.names import CONTROLS


def fill(database: Database, documents: CampaignDocuments) -> None:
    """The campaign ``demo`` with all that a campaign can have, and a job of another one."""
    documents.store(database)
    mongo, job_store = database.mongo, database.job_store
    for campaign, count in (("demo", 3), ("other", 1)):
        for number in range(count):
            output = {
                "uuid": f"{campaign}-{number}",
                "index": 1,
                "output": {"records": [campaign] * 10, "shard": number},
            }
            job_store.update([{**output, "metadata": {"campaign": campaign}}], save={"data": "records"})
            spec = {"campaign": campaign}
            fw_id = number + 10 * (campaign == "other")
            mongo["fireworks"].insert_one({"fw_id": fw_id, "state": "COMPLETED", "spec": spec, "launches": [fw_id]})
            mongo["launches"].insert_one({"launch_id": fw_id, "fw_id": fw_id, "of": campaign})
            mongo["workflows"].insert_one({"nodes": [fw_id], "metadata": spec})
        mongo[CONTROLS].insert_one({"_id": campaign, "taken": 3, "shards": {"0": {"taken": 3, "left_out": 0}}})
        mongo["scdm_slots"].insert_one({"campaign": campaign, "fw_id": 1})
    mongo["bands"].insert_one({"candidate_id": "demo-x", "campaign": "demo"})


def traces(database: Database, campaign: str) -> dict[str, int]:
    """Collection -> documents that hold the campaign's name anywhere."""
    found = {}
    for name in database.mongo.list_collection_names():
        texts = [json.dumps(json_util.loads(json_util.dumps(d)), default=str) for d in database.mongo[name].find({})]
        count = sum(campaign in text for text in texts)
        if count:
            found[name] = count
    return found


@pytest.fixture(params=["memory", "server"])
def filled(request: pytest.FixtureRequest, campaign_documents: CampaignDocuments) -> Database:
    if request.param == "memory":
        database = memory_database()
    else:
        pytest.importorskip("secantus", reason="the embedded server is an optional extra")
        database = request.getfixturevalue("database")
    fill(database, campaign_documents)
    return database


def test_nothing_is_left_and_others_keep_what_they_have(filled: Database) -> None:
    blobs = filled.job_store.additional_stores["data"]
    other = traces(filled, "other")
    assert blobs.count({}) == 4
    counts = removal.contents(filled, removal.removable(filled, "demo"))
    assert (counts["candidates"], counts["outputs"], counts["fireworks"], counts["phonons"]) == (6, 3, 3, 2)
    assert removal.remove(filled, "demo") == counts
    assert traces(filled, "demo") == {}
    assert traces(filled, "other") == other
    assert blobs.count({}) == 1
    assert filled.mongo["launches"].count_documents({}) == filled.mongo["workflows"].count_documents({}) == 1
    with pytest.raises(CampaignError, match="there is no campaign 'demo'"):
        removal.remove(filled, "demo")


def test_a_removal_that_is_killed_anywhere_is_completed_by_the_next(campaign_documents: CampaignDocuments) -> None:
    for step in itertools.count():
        database = memory_database()
        fill(database, campaign_documents)
        try:
            with killed_at(step, "delete_many", "delete_one"):
                removal.remove(database, "demo")
            break
        except KeyboardInterrupt:
            pass
        with pytest.raises(CampaignError, match="is being removed; `scdm campaign remove demo` completes that"):
            register(parse_config({"name": "demo"}), database)
        removal.remove(database, "demo")
        assert traces(database, "demo") == {}, f"killed at deletion {step}"
    assert step > 10  # every collection was once the one at which it was killed


def test_a_campaign_that_computes_is_kept_as_it_is(campaign_documents: CampaignDocuments) -> None:
    database = memory_database()
    fill(database, campaign_documents)
    before = traces(database, "demo")
    database.mongo["fireworks"].update_one({"fw_id": 1}, {"$set": {"state": "RUNNING"}})
    with pytest.raises(CampaignError, match="1 of its jobs run on the LaunchPad"):
        removal.remove(database, "demo")
    database.mongo["fireworks"].update_one({"fw_id": 1}, {"$set": {"state": "COMPLETED"}})
    run = {"host": "elsewhere", "pid": 1, "seen": utc_now()}
    database.mongo[CONTROLS].update_one({"_id": "demo"}, {"$set": {"run": run}})
    with pytest.raises(CampaignError, match="process 1 on elsewhere"):
        removal.remove(database, "demo")
    assert traces(database, "demo") == before
    assert control_of(database.mongo, "demo").cancelled is None
    run["seen"] -= under_way.LOST_AFTER + timedelta(seconds=1)  # that machine is gone
    database.mongo[CONTROLS].update_one({"_id": "demo"}, {"$set": {"run": run}})
    removal.remove(database, "demo")


def test_a_run_says_so_while_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    mongo = (database := memory_database()).mongo
    monkeypatch.setattr(under_way, "_lives", lambda pid: True)
    with under_way.running(database, "c"):
        assert under_way.who_runs(mongo, "c") is None  # this process may change what it runs
        mine = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: mine + 1)  # any other may not
        assert f"process {mine} on " in str(under_way.who_runs(mongo, "c"))
        monkeypatch.setattr(under_way, "_lives", lambda pid: False)  # but for one that was killed
        assert under_way.who_runs(mongo, "c") is None
        monkeypatch.setattr(under_way, "_lives", lambda pid: True)
    assert under_way.who_runs(mongo, "c") is None


def test_hulls_on_references_of_its_own_go_and_others_stay(campaign_documents: CampaignDocuments) -> None:
    database = memory_database()
    fill(database, campaign_documents)
    ids = [c.candidate_id for c in campaign_documents.candidates]
    hulls = [
        {"hull_id": "own", "candidates": {ids[0]: 0.1}},
        {"hull_id": "both", "candidates": {ids[0]: 0.1, "x": 0.2}},
    ]
    database.mongo["hulls"].insert_many(hulls)
    database.mongo["campaigns"].update_one({"name": "demo"}, {"$set": {"config.engine": {"references": "/r.json"}}})
    removal.remove(database, "demo")
    assert [d["hull_id"] for d in database.mongo["hulls"].find({})] == ["both"]


def test_the_command_asks_and_says_what_it_would_do(
    campaign_documents: CampaignDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = memory_database()
    fill(database, campaign_documents)
    monkeypatch.setattr("scdm_flows.stores.database.connect", lambda **_: database)
    monkeypatch.setattr(Database, "close", lambda self: None)

    def scdm(*arguments: str, answer: str = "") -> Any:
        return CliRunner().invoke(cli, ["campaign", "remove", *arguments], input=answer)

    dry = scdm("demo", "--dry-run", "--json")
    assert json.loads(dry.stdout)["removed"]["candidates"] == 6
    assert "nothing was removed" in scdm("demo", answer="n\n").output
    unasked = scdm("demo")
    assert unasked.exit_code == 2
    assert "give --yes" in unasked.output
    assert database.campaign("demo") is not None
    assert scdm("demo", answer="y\n").exit_code == 0
    assert database.campaign("demo") is None
    assert scdm("demo", "--yes").exit_code != 0
