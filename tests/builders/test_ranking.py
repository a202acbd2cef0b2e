"""Ranks in the candidates: complete, only written where they changed, and never over a candidate that changed since."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.memory import memory_database

from scdm_flows.builders import CandidateBuilder, RankingBuilder
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CampaignDoc, CandidateDoc, RankingDoc
from scdm_flows.documents.candidate import RANK_FIELDS
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.process import free_port
from scdm_flows.stores.upgrade import upgrade


def _document(index: int, campaign: str = "c", **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"formula": "MoS2", "chemsys": "Mo-S", "elements": ["Mo", "S"], "nelements": 2}
    document = CandidateDoc(
        candidate_id=f"{campaign}-{index:012x}",
        campaign=campaign,
        generator="scdm",
        nsites=3,
        structure={},
        **(known | fields),
    )
    return document.model_dump()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    embedded = EmbeddedServer(tmp_path_factory.mktemp("data"), free_port())
    embedded.start()
    yield embedded
    pid = embedded.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["memory", "embedded"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A campaign of six, ranked by energy above hull, the lowest first."""
    if request.param == "memory":
        connected = memory_database()
    else:
        server = request.getfixturevalue("server")
        name = f"t{abs(hash(request.node.name)) % 10**8}"
        connected = connect(ScdmSettings(data_dir=server.data_dir, port=server.port, database=name))
    with connected:
        connected.upsert(connected.campaigns, [CampaignDoc(name="c", config={}, config_hash="0").model_dump()])
        documents = [_document(i, e_above_hull=0.05 + 0.1 * i) for i in range(6)]
        connected.upsert(connected.candidates, documents)
        assert _build(connected) == 6
        yield connected


def _build(database: Database, **options: bool) -> int:
    """How many ranks a builder writes."""
    builder = RankingBuilder(database, **options)
    builder.run()
    return builder.written


def _change(database: Database, index: int, **fields: Any) -> None:
    key = {"candidate_id": f"c-{index:012x}"}
    database.mongo["candidates"].update_one(key, database.stamped({"$set": fields}))


def _names(database: Database, **asked: Any) -> list[int]:
    found = CandidateDB(database).flat_records(**asked)
    return [int(d["candidate_id"][2:], 16) for d in found if d["rank"] is not None]


def _head(database: Database) -> dict[str, Any]:
    head = database.rankings.query_one({"campaign": "c"})
    assert head is not None
    return head


def test_only_what_changed_is_written_and_nothing_where_nothing_did(database: Database) -> None:
    assert _names(database) == [0, 1, 2, 3, 4, 5]
    old = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    database.mongo["candidates"].update_many({}, {"$set": {"last_updated": old}})
    best = CandidateDB(database).get("c-000000000000")
    # a score is the sum of its parts; what is not known counts half and is named
    assert best.score == pytest.approx(sum(best.score_terms.values()))
    assert {"dynamics", "novelty"} <= set(best.score_unknown)
    assert best.pareto_front == 1
    before = _head(database)
    assert (before["n_candidates"], before["n_ranked"], before["complete"]) == (6, 6, True)
    assert _build(database) == 0
    assert _head(database) == before
    assert _build(database, everything=True) == 0
    # two exchange their places: the last but one becomes the last, whose score changes, too
    _change(database, 5, e_above_hull=0.41)
    assert _build(database) == 2
    assert _names(database) == [0, 1, 2, 3, 5, 4]
    assert CandidateDB(database).get("c-000000000004").last_updated == old  # that is when it changed itself


def test_what_is_rejected_or_removed_loses_its_rank_and_the_others_move_up(database: Database) -> None:
    _change(database, 0, state="rejected")
    _change(database, 1, duplicate_of="c-000000000002")
    _build(database)
    assert _names(database) == [2, 3, 4, 5]
    gone = CandidateDB(database).get("c-000000000000")
    assert (gone.rank, gone.score, gone.score_terms, gone.score_unknown, gone.pareto_front) == (
        None,
        None,
        {},
        [],
        None,
    )
    database.candidates.remove_docs({"candidate_id": "c-000000000002"})
    _build(database)
    assert [(d["rank"], d["candidate_id"][-1]) for d in CandidateDB(database).flat_records(min_rank=1)] == [
        (1, "3"),
        (2, "4"),
        (3, "5"),
    ]


def test_another_objective_ranks_anew(database: Database) -> None:
    weights = {"stability": 0, "dynamics": 0, "novelty": 0, "prototype": 1, "symmetry": 0, "gap": 0}
    for index in range(6):
        _change(database, index, prototype_distance=index / 10)
    _build(database)
    database.mongo["campaigns"].update_one({"name": "c"}, {"$set": {"config": {"objective": weights}}})
    _build(database)
    assert _names(database) == [5, 4, 3, 2, 1, 0]  # the furthest from a known prototype first


def test_one_odd_document_does_not_end_a_ranking(database: Database) -> None:
    _change(database, 2, e_above_hull="low", layer_group={"no": "number"})
    _build(database)
    assert _names(database, sort="rank", candidate_id=[f"c-{i:012x}" for i in (0, 1, 3, 4, 5)]) == [0, 1, 3, 4, 5]


class Killed(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("writes", range(4))
def test_a_kill_at_any_write_is_made_good_by_the_next_build(
    database: Database, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scdm_flows.builders.ranking.BATCH", 2)
    _change(database, 5, e_above_hull=-1.0)  # moves all others
    kind = type(database.candidates._collection)
    left = [writes]

    def limited(name: str) -> Any:
        real = getattr(kind, name)

        def call(*asked: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*asked, **named)

        return call

    builder = RankingBuilder(database)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bulk_write", "replace_one", "update_one"):
            patch.setattr(kind, name, limited(name))
        with pytest.raises(Killed):
            builder.run()
    _build(database)
    assert _names(database) == [5, 0, 1, 2, 3, 4]
    assert [d["rank"] for d in CandidateDB(database).flat_records()] == [1, 2, 3, 4, 5, 6]
    assert _build(database) == 0


def test_a_candidate_that_changes_meanwhile_gets_no_rank_of_what_it_was(database: Database) -> None:
    slow = RankingBuilder(database, everything=True)
    item = slow.process_item(next(slow.get_items()))
    _change(database, 0, state="failed", e_above_hull=None)
    _change(database, 5, e_above_hull=-1.0)
    database.mongo["candidates"].update_many({}, {"$unset": dict.fromkeys(RANK_FIELDS, "")})
    slow.update_targets([item])
    assert _names(database) == [5, 1, 2, 3, 4]


def test_of_two_builders_at_once_the_slower_one_ranks_again(database: Database) -> None:
    slow = RankingBuilder(database, everything=True)
    item = slow.process_item(next(slow.get_items()))
    _change(database, 5, e_above_hull=-1.0)
    _build(database)
    revision = _head(database)["revision"]
    slow.update_targets([{**item, "results": {}}])  # as if it had found nothing to rank
    assert _names(database) == [5, 0, 1, 2, 3, 4]
    assert _head(database)["revision"] == revision + 1
    assert _head(database)["complete"]


def test_a_clock_that_was_set_back_hides_no_change(database: Database) -> None:
    later = datetime.now(UTC) + timedelta(days=1)  # what it was when the clock still ran ahead
    database.mongo["rankings"].update_one({"campaign": "c"}, {"$set": {"taken_at": later}})
    _change(database, 5, e_above_hull=-1.0)
    _build(database)
    assert _names(database) == [5, 0, 1, 2, 3, 4]
    assert _head(database)["taken_at"] < later


def test_the_candidate_builder_leaves_ranks_alone(database: Database) -> None:
    before = CandidateDB(database).get("c-000000000001")
    builder = CandidateBuilder(database)
    new = CandidateDoc(**_document(1, e_above_hull=0.15, reason="seen again")).model_dump()
    builder._write_candidates([new, _document(9)])
    found = CandidateDB(database).get("c-000000000001")
    assert found.reason == "seen again"
    assert all(getattr(found, name) == getattr(before, name) for name in RANK_FIELDS)
    stored = database.mongo["candidates"].find_one({"candidate_id": "c-000000000009"})
    assert stored is not None
    assert {name: stored[name] for name in RANK_FIELDS} == {
        "rank": None,
        "score": None,
        "score_terms": {},
        "score_unknown": [],
        "pareto_front": None,
    }


@pytest.mark.parametrize("migrated", [True, False], ids=["migrated", "built at once"])
def test_ranks_that_an_earlier_version_kept_in_blocks_are_in_the_candidates_after_a_build(
    database: Database, migrated: bool
) -> None:
    head = {"campaign": "c", "revision": "0123456789abcdef", "n_blocks": 1, "n_candidates": 6, "n_ranked": 6}
    head |= {"taken_at": database.now(), "schema_version": 1, "last_updated": database.now(), "provenance": {}}
    head["objective"] = _head(database)["objective"]
    mongo = database.mongo
    mongo["rankings"].replace_one({"campaign": "c"}, head)
    mongo["ranking_blocks"].insert_one({"block_id": "c:0123456789abcdef:0", "columns": {}})
    mongo["candidates"].update_many({}, {"$unset": dict.fromkeys(RANK_FIELDS, "")})
    assert _names(database) == []
    if migrated:
        assert upgrade(database)["ranking_blocks"].changed == 1
    assert _build(database) == 6
    assert _names(database) == [0, 1, 2, 3, 4, 5]
    done = upgrade(database)
    assert not any(result.problems for result in done.values())
    assert "ranking_blocks" not in mongo.list_collection_names()
    RankingDoc.model_validate({k: v for k, v in _head(database).items() if k != "_id"})
    assert _build(database) == 0
