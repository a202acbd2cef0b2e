"""A loop is removed with all of its campaigns, with nothing else, and a removal that was killed is completed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from bson import json_util
from click.testing import CliRunner
from support.documents import CampaignDocuments
from support.loops_demo import CAMPAIGNS, LEARNED, chosen, loop_config, promoted, store_campaign, store_loop
from support.memory import killed_at, memory_database

from scdm_flows.campaigns import removal
from scdm_flows.campaigns.controls import control_of, loop_key
from scdm_flows.campaigns.registration import register
from scdm_flows.campaigns.rounds import register_loop
from scdm_flows.cli import cli
from scdm_flows.config import parse_config
from scdm_flows.documents import utc_now
from scdm_flows.errors import CampaignError
from scdm_flows.stores import Database
from scdm_flows.stores.names import CONTROLS, OUTPUTS

RUN = {"host": "elsewhere", "pid": 1}


def fill() -> Database:
    """The loop ``l`` with an output and a workflow of each campaign, and a campaign that is none of it."""
    database = memory_database()
    store_loop(database)
    store_campaign(database, parse_config({"name": "other"}))
    for number, name in enumerate([*CAMPAIGNS, "other"]):
        database.mongo[OUTPUTS].insert_one({"uuid": name, "index": 1, "metadata": {"campaign": name}})
        database.mongo["fireworks"].insert_one({"fw_id": number, "state": "WAITING", "spec": {"campaign": name}})
        database.mongo["workflows"].insert_one({"nodes": [number], "metadata": {"campaign": name}})
    database.mongo[CONTROLS].insert_one({"_id": loop_key("l")})  # it was run once
    return database


def everything(database: Database) -> dict[str, list[str]]:
    """Collection -> what is in it, without empty ones."""
    found = {
        name: sorted(json_util.dumps(d, sort_keys=True) for d in database.mongo[name].find({}, {"_id": 0}))
        for name in database.mongo.list_collection_names()
    }
    return {name: documents for name, documents in found.items() if documents}


def rest() -> dict[str, int]:
    """What is left of ``fill`` without its loop."""
    return {"campaigns": 1, OUTPUTS: 1, "fireworks": 1, "workflows": 1}


def counted(database: Database) -> dict[str, int]:
    return {name: len(documents) for name, documents in everything(database).items()}


def test_a_loop_goes_with_its_campaigns_and_others_stay() -> None:
    database = fill()
    what = removal.removable(database, "l")
    # what was promoted before what it was promoted from
    assert what.campaigns == ("l-r03", "l-r02", "l-r01-gpaw", "l-r01")
    counts = removal.contents(database, what)
    assert counts == {"campaigns": 4, "fireworks": 4, "workflows": 4, OUTPUTS: 4, "candidates": 6}
    assert removal.remove(database, "l") == counts
    assert counted(database) == rest()
    assert database.campaign("other") is not None
    with pytest.raises(CampaignError, match="there is no campaign 'l', and no loop; `scdm campaign list` shows"):
        removal.remove(database, "l")


@pytest.mark.slow
def test_a_removal_that_is_killed_anywhere_is_completed_by_the_next() -> None:
    refused = 0
    for step in itertools.count():
        database = fill()
        try:
            with killed_at(step, "delete_many", "delete_one", "update_one"):
                removal.remove(database, "l")
            break
        except KeyboardInterrupt:
            pass
        if step:  # the first change is the mark
            with pytest.raises(CampaignError, match="loop 'l' is being removed; `scdm campaign remove l` completes"):
                register_loop(loop_config(), database)
            refused += 1
        removal.remove(database, "l")
        assert counted(database) == rest(), f"killed at change {step}"
    assert refused > 40  # every collection of each campaign was once the one at which it was killed


def test_a_loop_that_computes_is_kept_as_it_is() -> None:
    database = fill()
    before = everything(database)

    def refused(words: str) -> None:
        with pytest.raises(CampaignError, match=f"loop 'l' computes, so it cannot be removed: {words}"):
            removal.remove(database, "l")

    fireworks, controls = database.mongo["fireworks"], database.mongo[CONTROLS]
    fireworks.update_one({"spec.campaign": "l-r02"}, {"$set": {"state": "RUNNING"}})
    refused("campaign 'l-r02': 1 of its jobs run on the LaunchPad")
    fireworks.update_one({"spec.campaign": "l-r02"}, {"$set": {"state": "WAITING"}})
    for key, words in (
        ("l-r01-gpaw", r"campaign 'l-r01-gpaw': `scdm campaign run`"),
        (loop_key("l"), "`scdm campaign loop`"),
    ):
        controls.update_one({"_id": key}, {"$set": {"run": {**RUN, "seen": utc_now()}}}, upsert=True)
        refused(rf"{words} is under way \(process 1 on elsewhere")
        controls.update_one({"_id": key}, {"$unset": {"run": ""}})
    controls.delete_one({"_id": "l-r01-gpaw"})
    assert everything(database) == before


def test_a_job_that_begins_in_the_last_moment_keeps_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    database, mark = fill(), removal.mark_cancelled

    def claimed(mongo: Any, campaign: str) -> None:
        mark(mongo, campaign)
        mongo["fireworks"].update_one({"spec.campaign": "l-r01"}, {"$set": {"state": "RUNNING"}})

    monkeypatch.setattr(removal, "mark_cancelled", claimed)
    with pytest.raises(CampaignError, match="campaign 'l-r01': 1 of its jobs run"):
        removal.remove(database, "l")
    assert {control_of(database.mongo, name).cancelled for name in CAMPAIGNS} == {None}
    assert not any(removal.is_being_removed(database.mongo, key) for key in (loop_key("l"), *CAMPAIGNS))
    register_loop(loop_config(), database)  # it goes on


def test_a_campaign_that_appears_in_the_last_moment_goes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    database, real = fill(), removal.removable
    database.campaigns.remove_docs({"name": "l-r03"})
    late = [loop_config().campaign(3, LEARNED)]

    def removable(connected: Database, name: str) -> removal.Removable:
        what = real(connected, name)
        while late:  # after the first question
            campaign = late.pop()
            assert campaign is not None
            store_campaign(connected, campaign)
        return what

    monkeypatch.setattr(removal, "removable", removable)
    removal.remove(database, "l")
    assert counted(database) == rest()


def test_a_campaign_of_a_loop_is_not_removed_alone() -> None:
    database = fill()
    before = everything(database)
    for name in CAMPAIGNS:
        with pytest.raises(CampaignError, match=f"{name}' belongs to the loop 'l', .*`scdm campaign remove l`"):
            removal.remove(database, name)
    assert everything(database) == before


def test_namesakes_are_none_of_it() -> None:
    """What was promoted by hand, and what was there before the loop came to it, can be removed, and stays without it."""
    other = loop_config(candidates={"generator": {"kind": "scdm", "n": 20, "seed": 77}}).campaign(3)
    assert other is not None
    for alone in (True, False):
        database = fill()
        store_campaign(database, promoted(chosen(1)))
        store_campaign(database, other)
        for name in ("l-r03", "l-r01-gpaw") if alone else ("l",):
            removal.remove(database, name)
        left = {d["name"] for d in database.mongo["campaigns"].find({})}
        assert left == {"other", *({"l-r01", "l-r02"} if alone else {"l-r01-gpaw", "l-r03"})}
        assert (database.loop("l") is not None) == alone


def test_a_loop_with_a_round_that_has_no_campaign() -> None:
    database = fill()
    document = database.loop("l")
    assert document is not None
    files = loop_config(candidates={"generator": {"kind": "files", "paths": ["/layers"]}})
    second = document.rounds[1].model_copy(update={"surrogate": None, "samples": None})
    changes = {"config": files.model_dump(mode="json"), "rounds": [document.rounds[0], second], "taught": []}
    database.upsert(database.loops, [document.model_copy(update=changes).model_dump()])
    assert removal.removable(database, "l").campaigns == ("l-r01-gpaw", "l-r01")
    removal.remove(database, "l")
    assert {d["name"] for d in database.mongo["campaigns"].find({})} == {"l-r02", "l-r03", "other"}


def test_loops_and_campaigns_have_different_names(campaign_documents: CampaignDocuments) -> None:
    database = fill()
    campaign_documents.store(database)
    with pytest.raises(CampaignError, match="a campaign is called 'demo'; give the loop another name"):
        register_loop(loop_config(name="demo"), database)
    with pytest.raises(CampaignError, match="a loop is called 'l'; give the campaign another name"):
        register(parse_config({"name": "l"}), database)


def test_the_command_asks_and_says_what_it_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    database = fill()
    monkeypatch.setattr("scdm_flows.stores.database.connect", lambda **_: database)
    monkeypatch.setattr(Database, "close", lambda self: None)

    def scdm(*arguments: str, answer: str = "") -> Any:
        return CliRunner().invoke(cli, ["campaign", "remove", *arguments], input=answer)

    dry = json.loads(scdm("l", "--dry-run", "--json").stdout)
    assert dry["loop"] == "l"
    assert sorted(dry["campaigns"]) == [*CAMPAIGNS]
    assert dry["checkpoints_kept"] == [LEARNED]
    assert dry["removed"]["candidates"] == 6
    asked = scdm("l", answer="n\n").output
    assert "Loop l has 4 campaigns, 4 fireworks" in asked
    assert "(l-r01, l-r01-gpaw, l-r02, l-r03). Remove all of it" in asked
    assert "nothing was removed" in asked
    assert scdm("l").exit_code == 2
    assert "belongs to the loop 'l'" in str(scdm("l-r01", "--yes").exception)
    assert database.loop("l") is not None
    gone = scdm("l", answer="y\n")
    assert gone.exit_code == 0
    assert "its campaigns: l-r01, l-r01-gpaw, l-r02, l-r03" in gone.output
    assert gone.output.endswith(f"may draw by them:\n  {LEARNED}\n")  # a checkpoint is not the loop's alone
    assert database.loop("l") is None
    assert "there is no campaign 'l', and no loop" in str(scdm("l", "--yes").exception)
