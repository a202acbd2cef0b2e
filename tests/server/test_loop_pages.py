"""The pages of loops: their list, what is said of each round, unknown ones, and the way from a campaign to its loop."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from support.loops_demo import chosen, loop_config, promoted, store_campaign, store_loop
from support.memory import memory_database
from support.pages_asked import Browser

from scdm_flows.documents import LoopDoc
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database

pytest.importorskip("dash", reason="the extra `server` is not installed")


def shown(words: str) -> str:
    """As it stands in the answer."""
    return json.dumps(words)[1:-1]


@pytest.fixture(scope="module")
def filled() -> Database:
    database = memory_database()
    store_loop(database)
    return database


@pytest.fixture(scope="module")
def browser(filled: Database) -> Browser:
    return Browser(filled)


def test_the_list_says_what_each_loop_gave(browser: Browser) -> None:
    page = browser.page("/loops")
    # one of two in 0.6 core hours; Wilson's interval of 1 of 2 is 9 to 91 %
    for words in ("/loops/l", "small layers", "chance", "50 % (9 to 91)", "0.60", "1.67", "not at its end yet"):
        assert f'"{shown(words)}"' in page, words


def test_a_loop_says_what_was_chosen_why_and_what_came_of_it(browser: Browser) -> None:
    page = browser.loop("l")
    for words in (
        "E_hull 0.051 ± 0.040 eV/atom predicted: 70 % to be what is looked for, 0.2 core hours",
        "/candidates/l-r01-000000000001",  # as it was chosen
        "/candidates/l-r01-gpaw-000000000001",  # as it was computed
        "0.021",
        "not what is looked for",  # 0.35 eV/atom above the hull
        "relax: GPAW did not converge",
        "7 of 20",
        "1 of 2",
    ):
        assert f'"{shown(words)}"' in page, words
    assert page.count('"children": "found", "className": "tag good"') == 1
    assert "data:image/svg+xml" in page


def test_a_loop_says_who_chose_and_generated_in_every_round(browser: Browser) -> None:
    page = browser.loop("l")
    for words in ("sevennet-1a2b3c4d", "that of the start", "that of the start: too few layers", "scdm-learned"):
        assert f'"{words}"' in page, words
    for name in ("l-r01", "l-r01-gpaw", "l-r02", "l-r03"):  # the last has begun and chosen nothing yet
        assert f'"/campaigns/{name}"' in page, name


def test_campaigns_that_are_not_there_are_no_links(filled: Database) -> None:
    database = memory_database()
    store_loop(database)
    database.campaigns.remove_docs({"name": "l-r01-gpaw"})
    page = Browser(database).loop("l")
    assert '"l-r01-gpaw"' in page
    assert "/campaigns/l-r01-gpaw" not in page


def test_a_loop_of_files_has_rounds_without_a_campaign() -> None:
    database = memory_database()
    document = store_loop(database)
    files = loop_config(candidates={"generator": {"kind": "files", "paths": ["/layers"]}})
    second = document.rounds[1].model_copy(update={"surrogate": None, "samples": None})
    changes = {"config": files.model_dump(mode="json"), "rounds": [document.rounds[0], second], "taught": []}
    database.upsert(database.loops, [document.model_copy(update=changes).model_dump()])
    page = Browser(database).loop("l")
    assert "/campaigns/l-r01-gpaw" in page
    assert "l-r02" not in page  # it is called so, and none of the loop's
    assert "l-r03" not in page


def test_a_loop_that_has_not_begun() -> None:
    database, config = memory_database(), loop_config()
    document = LoopDoc(name="l", config=config.model_dump(mode="json"), config_hash=config.config_hash)
    database.upsert(database.loops, [document.model_dump()])
    page = Browser(database).loop("l")
    for words in ("No round has been counted yet.", "No round has chosen yet.", "No round has begun yet."):
        assert words in page
    assert "There is no loop yet" in Browser(memory_database()).page("/loops")


def test_a_page_keeps_up_with_its_loop_and_the_campaigns_of_it() -> None:
    database = memory_database()
    document = store_loop(database)
    pages = Browser(database)
    before = pages.followed("loop", "l")["loop-shown"]["data"]
    assert pages.followed("loop", "l", before) == {}
    later = document.last_updated + timedelta(seconds=1)
    database.upsert(
        database.loops, [document.model_copy(update={"ended": "all done", "last_updated": later}).model_dump()]
    )
    answer = pages.followed("loop", "l", before)
    assert "all done" in json.dumps(answer["loop-content"])
    campaign = database.campaign("l-r03")
    assert campaign is not None
    later = campaign.last_updated + timedelta(seconds=2)
    database.upsert(database.campaigns, [campaign.model_copy(update={"last_updated": later}).model_dump()])
    assert pages.followed("loop", "l", answer["loop-shown"]["data"]) != {}


def test_an_unknown_loop_is_told(browser: Browser) -> None:
    page = browser.page("/loops/ll")
    assert "Not found" in page
    assert "no loop is called 'll'; did you mean 'l'?" in page
    assert "`scdm campaign list --loops` shows what there is" in browser.page("/loops/elsewhere")


def test_a_campaign_leads_to_its_loop_and_a_namesake_does_not(filled: Database, browser: Browser) -> None:
    for name in ("l-r01", "l-r01-gpaw", "l-r02", "l-r03"):
        assert '"/loops/l"' in browser.campaign(name), name
    assert [one.name for one in CandidateDB(filled).campaigns_of(CandidateDB(filled).loop("l"))] == [
        *("l-r01", "l-r01-gpaw", "l-r02", "l-r03")
    ]
    database = memory_database()
    store_loop(database)
    store_campaign(database, promoted(chosen(1)))  # promoted by hand, of other candidates
    other = loop_config(candidates={"generator": {"kind": "scdm", "n": 20, "seed": 77}}).campaign(3)
    assert other is not None
    store_campaign(database, other)  # another seed than the loop's
    for name in ("l-r01-gpaw", "l-r03"):
        assert '"/loops/l"' not in Browser(database).campaign(name), name
