"""The table that listings come from: it finds what a plain search finds, and is never older than the candidates."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import memory_database

from scdm_flows.builders.ranking import RankingBuilder
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CampaignDoc, CandidateDoc
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.catalogue import Catalogue, read_all
from scdm_flows.stores.table import After, Table, joined, pack, unpack


def _document(name: str, campaign: str = "c", **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"formula": "MoS2", "chemsys": "Mo-S", "elements": ["Mo", "S"], "nelements": 2}
    document = CandidateDoc(
        candidate_id=name, campaign=campaign, generator="scdm", nsites=3, structure={}, **(known | fields)
    )
    return document.model_dump()


_rows = st.lists(
    st.fixed_dictionaries(
        {
            "chemsys": st.sampled_from(["Mo", "Mo-S", "Mo-S-Se", "Os-Se", "O-S"]),
            "state": st.sampled_from(["pending", "rejected", "completed"]),
            "e_above_hull": st.none() | st.sampled_from([-0.5, 0.0, 0.1, 0.1000001, 3.0]),
            "dynamically_stable": st.none() | st.booleans(),
            "layer_group": st.none() | st.integers(1, 3),
            "gap_kind": st.none() | st.sampled_from(["direct", "metal"]),
        }
    ),
    max_size=12,
)
_criteria = st.fixed_dictionaries(
    {},
    optional={
        "chemsys": st.just({"$eq": "Mo-S"}) | st.just({"$in": ["Mo", "O-S"]}),
        "elements": st.lists(st.sampled_from(["Mo", "S", "O", "Se"]), min_size=1).map(lambda e: {"$all": e}),
        "e_above_hull": st.sampled_from([{"$lte": 0.1}, {"$gte": 0.1, "$lte": 3.0}, {"$eq": 0.0}, {"$in": []}]),
        "dynamically_stable": st.booleans().map(lambda b: {"$eq": b}),
        "layer_group": st.sampled_from([{"$in": [1, 3]}, {"$gte": 2}]),
        "state": st.just({"$eq": "pending"}),
    },
)


def _fits(row: dict[str, Any], criteria: dict[str, Any]) -> bool:
    tests: dict[str, Any] = {
        "$eq": lambda v, x: v == x,
        "$in": lambda v, x: v in x,
        "$all": lambda v, x: set(x) <= set(v),
        "$lte": lambda v, x: v is not None and v <= x,
        "$gte": lambda v, x: v is not None and v >= x,
    }
    return all(tests[o](row[f], x) for f, condition in criteria.items() for o, x in condition.items())


def test_blocks_of_another_version_have_the_fields_of_this_one() -> None:
    table = Table.of([_document("c-0", e_above_hull=0.1, extrapolated=True), _document("c-1")])
    stored = {f: c.model_dump() for f, c in pack(table).items()}
    stored["e_above_hull_raw"] = stored["e_above_hull"]  # a field that was
    del stored["extrapolated"], stored["energy_model"]  # and two that were not yet
    found = unpack(stored)
    assert found.columns.keys() == table.columns.keys()
    assert np.isnan(found.columns["extrapolated"]).all()
    assert found.columns["energy_model"].tolist() == [b"", b""]
    assert found.columns["e_above_hull"][0] == 0.1


def test_blocks_that_judged_samples_alone_say_nothing_of_relaxed_layers() -> None:
    table = Table.of([_document("c-0", novel=True), _document("c-1", novel=False)])
    stored = {f: c.model_dump() for f, c in pack(table).items()}
    for field in ("sample_novel", "known_as", "duplicate_of", "bulk_compound"):
        del stored[field]  # as version 2 of the candidates had it
    found = unpack(stored)
    assert found.columns["sample_novel"].tolist() == [1.0, 0.0]
    assert np.isnan(found.columns["novel"]).all()


def test_documents_of_an_earlier_version_are_listed_as_they_are_read() -> None:
    database = memory_database()
    old = _document("t-0", campaign="t") | {"schema_version": 2, "novel": True, "known_as": ["2dm-1"]}
    old = {name: value for name, value in old.items() if name not in ("sample_novel", "sample_known_as", "novelty")}
    database.mongo["campaigns"].insert_one({"name": "t"})
    database.mongo["candidates"].insert_one(old)
    columns = read_all(database, "t").columns
    assert (columns["sample_novel"].tolist(), columns["known_as"].tolist()) == ([1.0], [b""])
    assert np.isnan(columns["novel"]).all()


@given(
    _rows,
    _criteria,
    st.sampled_from(["e_above_hull", "dynamically_stable", "gap_kind", "chemsys", "candidate_id"]),
    st.booleans(),
    st.integers(1, 4),
)
def test_a_table_finds_and_sorts_as_a_plain_search_does(
    rows: list[dict[str, Any]], criteria: dict[str, Any], field: str, descending: bool, size: int
) -> None:
    documents = [
        _document(f"c-{i:012x}", **row, elements=row["chemsys"].split("-"), formula="X") for i, row in enumerate(rows)
    ]
    table = unpack({f: c.model_dump() for f, c in pack(Table.of(documents)).items()})
    matching = [d for d in documents if _fits(d, criteria)]
    known = sorted(
        (d for d in matching if d[field] is not None), key=lambda d: (d[field], d["candidate_id"]), reverse=descending
    )
    unknown = sorted(
        (d for d in matching if d[field] is None), key=lambda d: str(d["candidate_id"]), reverse=descending
    )
    expected = known + unknown
    found: list[str] = []
    after = None
    while True:  # in pages, each by the last of the one before
        page = table.select(criteria, field, descending=descending, after=after)[:size]
        if not len(page):
            break
        found += [name.decode() for name in table.ids[page].tolist()]
        last = next(d for d in documents if d["candidate_id"] == found[-1])
        after = After(last[field], last["candidate_id"])
    assert found == [d["candidate_id"] for d in expected]
    assert table.mask(criteria).sum() == len(expected)


def test_rows_are_replaced_and_keep_their_ranks() -> None:
    table = Table.of([_document("c-1"), _document("c-3", e_above_hull=0.5)])
    table = table.with_columns({"rank": np.array([2.0, 1.0]), "score_terms.stability": np.array([0.1, 0.2])})
    changed = table.updated(Table.of([_document("c-3", e_above_hull=0.1), _document("c-2")]))
    assert [n.decode() for n in changed.ids] == ["c-1", "c-2", "c-3"]
    assert changed.columns["e_above_hull"].tolist()[2] == 0.1
    assert changed.rank_fields("c-3") == {
        "rank": 1,
        "score": None,
        "pareto_front": None,
        "score_terms": {"stability": 0.2},
        "score_unknown": [],
    }
    assert changed.rank_fields("c-2")["rank"] is None
    assert changed.rank_fields("c-9") == changed.rank_fields("c-2")
    assert len(joined([changed, Table.of([])])) == 3
    assert len(joined([])) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    embedded = EmbeddedServer(tmp_path_factory.mktemp("data"))
    yield embedded
    embedded.stop()


@pytest.fixture(params=["memory", "embedded"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A campaign of six, ranked by energy above hull."""
    if request.param == "memory":
        connected = memory_database()
    else:
        server = request.getfixturevalue("server")
        name = f"t{abs(hash(request.node.name)) % 10**8}"
        connected = connect(ScdmSettings(data_dir=server.data_dir, database=name))
    with connected:
        campaign = CampaignDoc(name="c", config={}, config_hash="0")
        connected.upsert(connected.campaigns, [campaign.model_dump()])
        documents = [_document(f"c-{i:012x}", e_above_hull=0.05 + 0.1 * i) for i in range(6)]
        connected.upsert(connected.candidates, documents)
        RankingBuilder(connected).run()
        yield connected


def _names(db: CandidateDB, **asked: Any) -> list[int]:
    return [int(d["candidate_id"][2:], 16) for d in db.flat_records(**asked)]


def test_listings_are_as_new_as_the_candidates(database: Database) -> None:
    db = CandidateDB(database)
    assert _names(db) == [0, 1, 2, 3, 4, 5]
    assert db.get("c-000000000003").rank == 4
    # a change after the ranking: found and sorted by its new value at once; its rank is that of the last ranking
    candidates = database.candidates._collection
    candidates.update_one({"candidate_id": "c-000000000005"}, database.stamped({"$set": {"e_above_hull": -1.0}}))
    database.upsert(database.candidates, [_document("c-000000000006", e_above_hull=0.1)])
    for reader in (db, CandidateDB(database)):
        assert _names(reader, sort="e_above_hull") == [5, 0, 6, 1, 2, 3, 4]
        assert _names(reader, max_e_above_hull=0.05) == [0, 5]
        assert _names(reader) == [0, 1, 2, 3, 4, 5, 6]
        assert reader.count(min_e_above_hull=0.0) == 6
    builder = RankingBuilder(database)
    builder.run()
    assert builder.written == 1
    assert _names(db) == _names(CandidateDB(database)) == [5, 0, 6, 1, 2, 3, 4]
    # nothing changed: nothing is written but the time
    before = database.rankings.query_one({"campaign": "c"})
    builder = RankingBuilder(database)
    builder.run()
    after = database.rankings.query_one({"campaign": "c"})
    assert builder.written == 0
    assert before is not None
    assert after is not None
    assert (after["revision"], after["taken_at"] >= before["taken_at"]) == (before["revision"], True)
    # removed: on no page, and gone from the count with the next ranking
    database.candidates.remove_docs({"candidate_id": "c-000000000000"})
    assert _names(db) == [5, 6, 1, 2, 3, 4]
    assert [int(d.candidate_id[2:], 16) for d in db.page(limit=2).documents] == [5, 6]
    RankingBuilder(database).run()
    assert db.count() == 6


def test_a_kill_at_any_write_leaves_the_old_ranking_or_the_new_one(database: Database) -> None:
    candidates = database.candidates._collection
    mongo = database.mongo
    for writes in range(1, 5):
        value = -float(writes)
        candidates.update_one({"candidate_id": "c-000000000005"}, database.stamped({"$set": {"e_above_hull": value}}))
        old = _names(CandidateDB(database))

        class Killed(BaseException):
            pass

        class Limited:
            """The database's collections; it is gone after some writes."""

            left = writes

            def __init__(self, real: Any) -> None:
                self.real = real

            def __getitem__(self, name: str) -> Any:
                return Limited(self.real[name])

            def __getattr__(self, name: str) -> Any:
                if name in ("insert_many", "replace_one", "update_one", "delete_many"):
                    Limited.left -= 1
                    if Limited.left < 0:
                        raise Killed
                return getattr(self.real, name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Database, "mongo", Limited(mongo))
            with contextlib.suppress(Killed):
                RankingBuilder(database).run()
        new = _names(CandidateDB(database))
        assert new in (old, [5, 0, 1, 2, 3, 4]), writes
        RankingBuilder(database).run()
        assert _names(CandidateDB(database)) == [5, 0, 1, 2, 3, 4]
    assert len({d["revision"] for d in mongo["ranking_blocks"].find({})}) >= 1


def test_of_two_builders_at_once_the_slower_one_ranks_again(database: Database) -> None:
    slow = RankingBuilder(database)
    item = slow.process_item(next(slow.get_items()))
    candidates = database.candidates._collection
    candidates.update_one({"candidate_id": "c-000000000005"}, database.stamped({"$set": {"e_above_hull": -1.0}}))
    RankingBuilder(database).run()
    candidates.update_one({"candidate_id": "c-000000000004"}, database.stamped({"$set": {"e_above_hull": -2.0}}))
    other = RankingBuilder(database)
    other.update_targets([other.process_item(other._read("c"))])
    slow.update_targets([{**item, "ranked": item["ranked"].rows(slice(0, 3))}])  # as if it had read less
    assert _names(CandidateDB(database)) == [4, 5, 0, 1, 2, 3]
    head = database.rankings.query_one({"campaign": "c"})
    assert head is not None
    assert database.mongo["ranking_blocks"].count_documents({}) == head["n_blocks"] == 1


def test_what_is_left_of_a_killed_builder_is_removed(database: Database) -> None:
    blocks = database.mongo["ranking_blocks"]
    block = blocks.find_one({}, {"_id": 0})
    old = block["written_at"] - timedelta(hours=2)
    blocks.insert_one({**block, "block_id": "c:dead:0", "revision": "dead", "written_at": old})
    blocks.insert_one({**block, "block_id": "c:busy:0", "revision": "busy"})  # another may still be writing this one
    database.upsert(database.candidates, [_document("c-000000000007", e_above_hull=0.0)])
    RankingBuilder(database).run()
    assert {d["revision"] for d in blocks.find({})} - {"busy"} == {
        d["revision"] for d in database.mongo["rankings"].find({})
    }
    assert blocks.count_documents({"revision": "busy"}) == 1


def test_without_its_blocks_a_campaign_is_listed_all_the_same(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.mongo["ranking_blocks"].delete_many({})
    with caplog.at_level(logging.WARNING):
        assert _names(CandidateDB(database), sort="-e_above_hull") == [5, 4, 3, 2, 1, 0]
    assert "blocks of the ranking of c are missing" in caplog.text
    RankingBuilder(database).run()
    assert _names(CandidateDB(database), sort="-rank") == [5, 4, 3, 2, 1, 0]


def test_a_clock_that_was_set_back_hides_no_change(database: Database) -> None:
    head = database.rankings.query_one({"campaign": "c"})
    assert head is not None
    later = head["taken_at"] + timedelta(days=1)  # what it was when the clock still ran ahead
    database.mongo["rankings"].update_one({"campaign": "c"}, {"$set": {"taken_at": later}})
    candidates = database.candidates._collection
    candidates.update_one({"candidate_id": "c-000000000005"}, database.stamped({"$set": {"e_above_hull": -1.0}}))
    RankingBuilder(database).run()
    assert _names(CandidateDB(database)) == [5, 0, 1, 2, 3, 4]
    found = database.rankings.query_one({"campaign": "c"})
    assert found is not None
    assert found["taken_at"] < later


def test_the_table_is_shared_until_something_changes(database: Database) -> None:
    catalogue = Catalogue(database)
    assert catalogue.table() is catalogue.table()
    assert catalogue.table("nobody").ids.tolist() == []
