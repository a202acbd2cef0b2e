"""Pages by key: every candidate once and in order, in both directions, while others come and go."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import mongomock_ng
import numpy as np
import pytest
from support.memory import memory_database

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CampaignDoc, CandidateDoc
from scdm_flows.documents.candidate import sort_fields
from scdm_flows.errors import ConfigError, StoreError
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_db import count_words
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.process import free_port


def _document(index: int, draw: random.Random, campaign: str = "c", **fields: Any) -> dict[str, Any]:
    elements = sorted(draw.sample(["Mo", "S", "Se", "W", "O"], draw.randint(1, 3)))
    passed = draw.choice([["screen"], ["screen", "gate"], ["screen", "gate", "phonon"]])
    known_as = draw.choice([[], ["MoS2-1"], ["WSe2.2", "MoS2-1"]])
    known: dict[str, Any] = {
        # few values, so that many are tied; some unknown
        "rank": draw.choice([None, *range(1, 200)]),
        "e_above_hull": draw.choice([None, 0.0, 0.0, -0.0, round(draw.random(), 2)]),
        "band_gap": draw.choice([None, 0.0, round(3 * draw.random(), 2)]),
        "gap_kind": draw.choice([None, "direct", "metal"]),
        "dynamically_stable": draw.choice([None, True, False]),
        "novel": draw.choice([None, True, False]),
        "layer_group": draw.choice([None, 1, 2, 2, 2, 60, 78]),
        "state": draw.choice(["pending", "rejected", "completed"]),
        "stages": {name: {"status": "passed"} for name in passed} | {"bands": {"status": "failed"}},
        "known_as": [{"id": name, "source": "C2DB", "formula": "X"} for name in known_as],
        "nsites": draw.randint(1, 4),
    }
    return CandidateDoc(
        candidate_id=f"{campaign}-{hashlib.sha256(str(index).encode()).hexdigest()[:12]}",
        campaign=campaign,
        generator="scdm",
        formula="".join(elements),
        chemsys="-".join(elements),
        elements=elements,
        nelements=len(elements),
        structure={},
        **(known | fields),
    ).model_dump(mode="json")


def _store(database: Database, documents: list[dict[str, Any]]) -> None:
    """Some as an earlier version did, which left out what it did not know."""
    partial = [{k: v for k, v in d.items() if v is not None} for d in documents[::5]]
    whole = [dict(d) for i, d in enumerate(documents) if i % 5]
    database.mongo["candidates"].insert_many([*partial, *whole])


def _fill(database: Database, n: int) -> list[dict[str, Any]]:
    draw = random.Random(0)
    documents = [_document(i, draw, "ab"[i % 3 == 0]) for i in range(n)]
    database.upsert(database.campaigns, [CampaignDoc(name=n, config={}, config_hash="0").model_dump() for n in "ab"])
    _store(database, documents)
    return documents


def _filled(n: int = 90) -> tuple[Database, list[dict[str, Any]]]:
    database = memory_database()
    return database, _fill(database, n)


@pytest.fixture(scope="module")
def filled() -> tuple[Database, list[dict[str, Any]]]:
    return _filled()


@pytest.fixture(scope="module", params=["memory", "embedded"])
def many(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, list[dict[str, Any]]]]:
    """200 candidates, in memory and on the embedded server."""
    if request.param == "memory":
        yield _filled(200)
        return
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    server = EmbeddedServer(tmp_path_factory.mktemp("data"), free_port())
    with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
        yield database, _fill(database, 200)
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _expected(documents: list[dict[str, Any]], sort: str, criteria: Any) -> list[str]:
    """The documented order, worked out without a database: by value, ties by id, those without a value last."""
    field, descending = sort.removeprefix("-"), sort.startswith("-")
    matching = [d for d in documents if criteria(d)]
    known = [d for d in matching if d[field] is not None]
    unknown = [d for d in matching if d[field] is None]
    known.sort(key=lambda d: (d[field], d["candidate_id"]), reverse=descending)
    unknown.sort(key=lambda d: d["candidate_id"], reverse=descending)
    return [d["candidate_id"] for d in known + unknown]


FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda d: True),
    ({"campaign": "a"}, lambda d: d["campaign"] == "a"),
    ({"layer_group": [2, 78]}, lambda d: d["layer_group"] in (2, 78)),
    (
        {"max_e_above_hull": 0.5, "min_e_above_hull": 0.0},
        lambda d: d["e_above_hull"] is not None and d["e_above_hull"] <= 0.5,
    ),
    ({"elements": ["Mo", "S"]}, lambda d: {"Mo", "S"} <= set(d["elements"])),
    (
        {"elements": ["S"], "dynamically_stable": False, "state": "completed"},
        lambda d: "S" in d["elements"] and d["dynamically_stable"] is False and d["state"] == "completed",
    ),
    ({"formula": "MoO"}, lambda d: d["formula"] == "MoO"),
    ({"chemsys": "S-Mo"}, lambda d: d["elements"] == ["Mo", "S"]),
    ({"chemsys": "Mo-*"}, lambda d: "Mo" in d["elements"] and len(d["elements"]) == 2),
    # several filters that speak of one field
    (
        {"chemsys": "Mo-*-*", "elements": ["S"], "max_nelements": 3, "nelements": [2, 3]},
        lambda d: {"Mo", "S"} <= set(d["elements"]) and len(d["elements"]) == 3,
    ),
    (
        {"crystal_system": "hexagonal", "min_layer_group": 70, "layer_group": [2, 78]},
        lambda d: d["layer_group"] == 78,
    ),
    ({"text": "a-"}, lambda d: "a-" in d["candidate_id"]),
    ({"text": "-4."}, lambda d: False),  # a dot, and no letter in its place
    ({"passed": "gate"}, lambda d: d["stages"].get("gate") is not None),
    ({"passed": "bands"}, lambda d: False),  # its record says failed
    ({"known_as": "MoS2-1"}, lambda d: any(k["id"] == "MoS2-1" for k in d["known_as"])),
    ({"known_as": "WSe2"}, lambda d: False),  # the beginning of an id is none
    ({"min_band_gap": 0, "novel": True}, lambda d: d["band_gap"] is not None and d["novel"] is True),
    ({"gap_kind": ["metal", "direct"], "nsites": 2}, lambda d: d["gap_kind"] is not None and d["nsites"] == 2),
    ({"state": []}, lambda d: False),
]
SORTS = ["rank", "-rank", "e_above_hull", "-e_above_hull", "layer_group", "-dynamically_stable", "novel", "-state"]
SORTS += ["candidate_id", "-candidate_id", "-gap_kind"]


@pytest.mark.parametrize("filters", range(len(FILTERS)), ids=lambda i: "-".join(FILTERS[i][0]) or "none")
def test_every_filter_and_sort_finds_what_a_plain_search_finds(
    many: tuple[Database, list[dict[str, Any]]], filters: int
) -> None:
    db, documents = CandidateDB(many[0]), many[1]
    asked, criteria = FILTERS[filters]
    assert db.count(**asked) == sum(map(criteria, documents))
    for sort in random.Random(filters).sample(SORTS, 4):
        expected = _expected(documents, sort, criteria)
        assert [r["candidate_id"] for r in db.flat_records(sort=sort, **asked)] == expected, sort
        start = len(expected) // 2
        rows, total = db.window(start, start + 9, sort=sort, **asked)
        assert ([r["candidate_id"] for r in rows], total) == (expected[start : start + 9], len(expected)), sort
        page, following = db.flat_page(sort=sort, limit=max(1, start), **asked)
        if following:
            page += db.flat_page(sort=sort, limit=7, after=following, **asked)[0]
        assert [r["candidate_id"] for r in page] == expected[: max(1, start) + 7 * bool(following)], sort


@pytest.mark.parametrize("sort", ["rank", "-e_above_hull", "layer_group", "-dynamically_stable", "candidate_id"])
def test_pages_hold_every_candidate_once_and_in_order(filled: tuple[Database, list[dict[str, Any]]], sort: str) -> None:
    db = CandidateDB(filled[0])
    for filters, criteria in FILTERS:
        expected = _expected(filled[1], sort, criteria)
        found: list[str] = []
        after = None
        for _ in itertools.count():
            page, after = db.flat_page(sort=sort, limit=9, after=after, **filters)
            found += [r["candidate_id"] for r in page]
            if after is None:
                break
            assert len(page) == 9
        assert found == expected, filters


def test_every_field_that_is_offered_sorts(many: tuple[Database, list[dict[str, Any]]]) -> None:
    db, documents = CandidateDB(many[0]), many[1]
    for field in sort_fields():
        for sort in (field, f"-{field}"):
            found = [r["candidate_id"] for r in db.flat_records(sort=sort, campaign="b")]
            assert found == _expected(documents, sort, lambda d: d["campaign"] == "b"), sort


@pytest.mark.parametrize("sort", ["e_above_hull", "-dynamically_stable", "layer_group", "-candidate_id"])
def test_pages_are_stable_while_others_are_stored_and_removed(
    many: tuple[Database, list[dict[str, Any]]], sort: str
) -> None:
    database, documents = many
    db = CandidateDB(database)
    draw = random.Random(sort)
    fresh = [_document(1000 + i, draw, "n") for i in range(30)]
    candidates = database.mongo["candidates"]
    removed = _expected(documents, sort, lambda d: True)[9]  # the last of the first page: the cursor's own document
    try:
        found: list[str] = []
        after: str | None = None
        for number in itertools.count():
            page = db.page(sort=sort, limit=10, after=after)
            found += [d.candidate_id for d in page.documents]
            after = page.next
            if after is None:
                break
            candidates.insert_many([dict(d) for d in fresh[number : number + 1]])
            candidates.delete_one({"candidate_id": removed})
        old = [name for name in found if not name.startswith("n-")]
        assert old == _expected(documents, sort, lambda d: True)  # each once, whatever came and went
        assert len(found) == len(set(found))
    finally:
        candidates.delete_many({"campaign": "n"})
        candidates.insert_many([dict(d) for d in documents if d["candidate_id"] == removed])


def test_streaming_reads_nothing_before_it_is_needed(
    filled: tuple[Database, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    find = mongomock_ng.collection.Collection.find

    def counted(self: Any, *asked: Any, **named: Any) -> Iterator[Any]:
        for document in find(self, *asked, **named):
            sent.append(1)
            yield document

    monkeypatch.setattr(mongomock_ng.collection.Collection, "find", counted)
    stream = CandidateDB(filled[0]).stream(sort="e_above_hull")
    assert sent == []
    first = [next(stream).candidate_id for _ in range(20)]
    assert len(sent) == 20
    assert first + [d.candidate_id for d in stream] == _expected(filled[1], "e_above_hull", lambda d: True)


def test_more_than_many_are_not_counted(
    filled: tuple[Database, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scdm_flows.query.candidate_db.MOST_COUNTED", 40)
    db = CandidateDB(filled[0])
    assert (db.count(), db.window(0, 5)[1], db.count(campaign="b")) == (41, 41, 30)
    assert (count_words(41), count_words(40)) == ("more than 40", "40")


def test_columns_are_what_the_candidates_say(many: tuple[Database, list[dict[str, Any]]]) -> None:
    documents = sorted((d for d in many[1] if d["campaign"] == "a"), key=lambda d: d["candidate_id"])
    fields = ["candidate_id", "e_above_hull", "novel", "gap_kind"]
    found = CandidateDB(many[0]).columns(fields, campaign="a")
    assert found["candidate_id"].tolist() == [d["candidate_id"] for d in documents]
    assert found["gap_kind"].tolist() == [d["gap_kind"] or "" for d in documents]
    for field in ("e_above_hull", "novel"):
        expected = [math.nan if d[field] is None else float(d[field]) for d in documents]
        np.testing.assert_array_equal(found[field], expected)
    with pytest.raises(ConfigError, match="columns: elements holds several values"):
        CandidateDB(many[0]).columns(["elements"])


def test_a_cursor_is_held_to_its_question(filled: tuple[Database, list[dict[str, Any]]]) -> None:
    db = CandidateDB(filled[0])
    cursor = db.page(sort="rank", limit=5, campaign="a").next
    assert cursor is not None
    for sort, filters in (("e_above_hull", {"campaign": "a"}), ("rank", {}), ("-rank", {"campaign": "a"})):
        with pytest.raises(ConfigError, match=r"belongs to another listing \(sorted by rank\)"):
            db.page(sort=sort, after=cursor, **filters)
    for position in range(0, len(cursor), 7):  # one letter changed, anywhere
        other = cursor[:position] + ("A" if cursor[position] != "A" else "B") + cursor[position + 1 :]
        with pytest.raises(ConfigError, match="is damaged"):
            db.page(sort="rank", after=other, campaign="a")
    old = json.dumps([1, "rank", "01234567", 4, "a-0"], separators=(",", ":"))
    check = hashlib.sha256(f"scdm-flows cursor {old}".encode()).hexdigest()[:8]  # as it always was
    with pytest.raises(ConfigError, match="of another version of scdm-flows; begin anew"):
        db.page(after=base64.urlsafe_b64encode(f"{check}{old}".encode()).decode())
    for text in ("", "e30", base64.urlsafe_b64encode(b"00000000[]").decode(), cursor[:-3]):
        with pytest.raises(ConfigError, match="is damaged"):
            db.page(sort="rank", after=text, campaign="a")


def test_documents_of_a_later_version_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    database, documents = _filled(10)
    names = _expected(documents, "candidate_id", lambda d: True)
    later = {"schema_version": 99, "provenance": {"versions": {"scdm-flows": "7.1"}}, "unheard_of": 1}
    database.mongo["candidates"].update_one({"candidate_id": names[0]}, {"$set": later})
    db = CandidateDB(database)
    page = db.page(sort="candidate_id", limit=3)
    assert [d.candidate_id for d in page.documents] == names[1:3]
    assert page.skipped == 1
    assert len(db.find()) == 9
    assert len(db.flat_records()) == 9
    assert "1 document left out: a later scdm-flows wrote it; upgrade" in caplog.text
    with pytest.raises(StoreError, match=r"schema version 99.* knows 3 at most; it needs scdm-flows 7\.1 or later"):
        db.get(names[0])
    database.mongo["campaigns"].update_one({"name": "a"}, {"$set": {"schema_version": 99}})
    assert [c.name for c in db.campaigns()] == ["b"]
    with pytest.raises(StoreError, match="schema version 99"):
        db.campaign("a")
