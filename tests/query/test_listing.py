"""Pages by key: every candidate once and in order, in both directions, while others come and go."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
from typing import Any

import pytest
from support.documents import store_ranking
from support.memory import memory_database

from scdm_flows.documents import CampaignDoc, CandidateDoc
from scdm_flows.errors import ConfigError, StoreError
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database


def _document(index: int, draw: random.Random, campaign: str = "c", **fields: Any) -> dict[str, Any]:
    elements = sorted(draw.sample(["Mo", "S", "Se", "W", "O"], draw.randint(1, 3)))
    known: dict[str, Any] = {
        # few values, so that many are tied; some unknown
        "rank": draw.choice([None, *range(1, 200)]),
        "e_above_hull": draw.choice([None, 0.0, 0.0, round(draw.random(), 2)]),
        "dynamically_stable": draw.choice([None, True, False]),
        "layer_group": draw.choice([1, 2, 2, 2, 78]),
        "state": draw.choice(["pending", "rejected", "completed"]),
    }
    return CandidateDoc(
        candidate_id=f"{campaign}-{hashlib.sha256(str(index).encode()).hexdigest()[:12]}",
        campaign=campaign,
        generator="scdm",
        formula="".join(elements),
        chemsys="-".join(elements),
        elements=elements,
        nelements=len(elements),
        nsites=3,
        structure={},
        **(known | fields),
    ).model_dump()


def _store(database: Database, documents: list[dict[str, Any]]) -> None:
    """As the builders do: without ranks, and these apart."""
    database.mongo["candidates"].insert_many([{k: v for k, v in d.items() if k != "rank"} for d in documents])


def _filled(n: int = 90) -> tuple[Database, list[dict[str, Any]]]:
    draw = random.Random(0)
    database = memory_database()
    documents = [_document(i, draw, "ab"[i % 3 == 0]) for i in range(n)]
    database.upsert(database.campaigns, [CampaignDoc(name=n, config={}, config_hash="0").model_dump() for n in "ab"])
    _store(database, documents)
    store_ranking(database, [CandidateDoc(**d) for d in documents])
    return database, documents


@pytest.fixture(scope="module")
def filled() -> tuple[Database, list[dict[str, Any]]]:
    return _filled()


@pytest.fixture(scope="module")
def served(filled: tuple[Database, list[dict[str, Any]]]) -> CandidateDB:
    return CandidateDB(filled[0])


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
]
SORTS = ["rank", "-rank", "e_above_hull", "-e_above_hull", "layer_group", "-dynamically_stable", "candidate_id"]


@pytest.mark.parametrize("sort", [*SORTS, "-candidate_id", "-state"])
def test_pages_hold_every_candidate_once_and_in_order(
    served: CandidateDB, filled: tuple[Database, list[dict[str, Any]]], sort: str
) -> None:
    for filters, criteria in FILTERS:
        expected = _expected(filled[1], sort, criteria)
        found: list[str] = []
        after = None
        for _ in itertools.count():
            page = served.page(sort=sort, limit=13, after=after, **filters)
            found += [d.candidate_id for d in page.documents]
            after = page.next
            if after is None:
                break
            assert len(page.documents) == 13
        assert found == expected, filters
        assert [d.candidate_id for d in served.find(sort=sort, **filters)] == expected
        assert served.count(**filters) == len(expected)


def test_pages_are_stable_while_others_are_stored_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    database, documents = _filled(60)
    db = CandidateDB(database)
    expected = _expected(documents, "e_above_hull", lambda d: True)
    page = db.page(sort="e_above_hull", limit=20)
    draw = random.Random(1)
    _store(database, [_document(1000 + i, draw, "a", e_above_hull=-1.0) for i in range(5)])  # before all that was shown
    database.candidates.remove_docs({"candidate_id": page.documents[-1].candidate_id})  # the cursor's own document
    rest = db.find(sort="e_above_hull", after=page.next)
    assert [d.candidate_id for d in page.documents] + [d.candidate_id for d in rest] == expected


def test_streaming_holds_few_documents_at_a_time(
    filled: tuple[Database, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scdm_flows.query.candidate_db.BATCH", 20)
    db = CandidateDB(filled[0])
    asked: list[int] = []
    read = db._listing.read
    monkeypatch.setattr(db._listing, "read", lambda c, o, limit, *a: asked.append(limit) or read(c, o, limit, *a))
    stream = db.stream(sort="candidate_id")
    first = [next(stream).candidate_id for _ in range(20)]
    assert asked == [20]  # nothing is read before it is needed
    assert first + [d.candidate_id for d in stream] == _expected(filled[1], "candidate_id", lambda d: True)
    assert set(asked) == {20}


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
