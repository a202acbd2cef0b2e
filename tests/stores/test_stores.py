"""Stores: where a URI leads, what indexes promise, what goes in and comes out, and what errors say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.memory import memory_database

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CampaignDoc, CampaignState, CandidateDoc, utc_now
from scdm_flows.documents.candidate import queryable_fields, sort_fields
from scdm_flows.errors import StoreError
from scdm_flows.stores import Database, EmbeddedServer, connect, store_errors
from scdm_flows.stores.database import database_of, strip
from scdm_flows.stores.indexes import BUDGET, declared, wanted
from scdm_flows.stores.names import KEYS
from scdm_flows.stores.process import free_port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    pytest.importorskip("secantus", reason="the embedded database is an optional extra")
    server = EmbeddedServer(tmp_path_factory.mktemp("stores"), free_port())
    with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
        yield database
    pid = server.status().pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["memory", "served"])
def database(request: pytest.FixtureRequest) -> Database:
    """Both kinds must behave alike: what passes in memory must pass on a server."""
    if request.param == "memory":
        return memory_database()
    database: Database = request.getfixturevalue("served")
    for store in (database.job_store.docs_store, *database.stores()):
        store.remove_docs({})
    return database


def _campaign(name: str = "c", **fields: object) -> CampaignDoc:
    return CampaignDoc(name=name, config={"generator": {"shard_size": 2}}, config_hash="0", **fields)


def test_documents_come_back_as_they_went(database: Database) -> None:
    document = _campaign(state=CampaignState.RUNNING)
    database.upsert(database.campaigns, [document.model_dump()])
    assert database.campaign("c") == document  # enumerations, times with zone and all
    assert database.campaign("nope") is None
    stored = database.mongo["campaigns"].find_one({"name": "c"})
    assert stored["state"] == "running"  # a plain word, not a pickled class
    assert stored["last_updated"].utcoffset() == timedelta(0)


def test_upsert_replaces(database: Database) -> None:
    for state in (CampaignState.SUBMITTED, CampaignState.COMPLETED):
        database.upsert(database.campaigns, [_campaign(state=state).model_dump()])
    assert database.campaigns.count() == 1
    found = database.campaign("c")
    assert found is not None
    assert found.state is CampaignState.COMPLETED


def test_index_of_every_key_and_of_every_declared_field(database: Database) -> None:
    for index in wanted(database):
        information = database.mongo[index.collection].index_information().values()
        found = [i for i in information if tuple(name for name, _ in i["key"]) == index.fields]
        assert found, f"{index} is missing"
        assert bool(found[0].get("unique")) == index.unique
    leading = {index.fields[0] for index in wanted(database) if index.collection == "candidates"}
    for name, field in CandidateDoc.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("indexed"):
            assert name in leading
    database.ensure_indexes()  # again: nothing to do, nothing to break


def test_every_sort_has_an_index_and_they_are_not_too_many() -> None:
    by_collection: dict[str, list[tuple[str, ...]]] = {}
    for index in declared(KEYS):
        by_collection.setdefault(index.collection, []).append(index.fields)
    for fields in by_collection.values():
        assert len(set(fields)) == len(fields)
        assert len(fields) + 1 <= BUDGET < 64  # and _id; MongoDB makes no more than 64
    sorted_by = {fields[0] for fields in by_collection["candidates"] if fields[1:] in ((), ("candidate_id",))}
    assert set(sort_fields()) <= sorted_by
    assert queryable_fields().keys() - sort_fields() > {"known_as", "magnetic_probability"}


def test_the_embedded_server_has_no_index_that_it_could_only_sort_by(served: Database) -> None:
    there = [d["key"] for d in served.mongo["candidates"].index_information().values()]
    assert [("rank", 1), ("candidate_id", 1)] not in there
    assert [("formula", 1), ("candidate_id", 1)] in there
    assert [("rank", 1), ("candidate_id", 1)] in [
        d["key"] for d in memory_database().mongo["candidates"].index_information().values()
    ]


def test_the_same_output_cannot_be_stored_twice(database: Database) -> None:
    outputs = database.mongo["outputs"]
    outputs.insert_one({"uuid": "u", "index": 1})
    outputs.insert_one({"uuid": "u", "index": 2})  # a replaced job: another output
    with pytest.raises(StoreError, match="two documents of one key"), store_errors(database.uri):
        outputs.insert_one({"uuid": "u", "index": 1})


def test_job_store_with_large_objects(database: Database) -> None:
    document = {
        "uuid": "j",
        "index": 1,
        "output": {"small": 1, "records": [list(range(1000))] * 50},
        "metadata": {"campaign": "c"},
        "completed_at": "2026-01-01T00:00:00",
        "name": "generate",
        "hosts": [],
    }
    database.job_store.update(document, save={"data": ["records"]})
    slim = database.job_store.query_one({"uuid": "j"})
    assert slim is not None
    assert "blob_uuid" in slim["output"]["records"]  # in the blob store
    full = database.job_store.query_one({"uuid": "j"}, load=True)
    assert full is not None
    assert full["output"]["records"] == [list(range(1000))] * 50


def test_a_later_schema_is_refused_where_it_is_read_and_hinders_nothing_else(database: Database) -> None:
    written = {"provenance": {"versions": {"scdm-flows": "7.1"}}}
    database.mongo["campaigns"].insert_one({"name": "future", "schema_version": 99, **written})
    database.upsert(database.campaigns, [_campaign().model_dump()])
    database.connect()
    assert database.campaign("c") is not None
    with pytest.raises(StoreError, match=r"'future' has schema version 99.*needs scdm-flows 7\.1 or later: upgrade"):
        database.campaign("future")
    with pytest.raises(StoreError, match=r"'future' has schema version 99, this scdm-flows writes 2"):
        database.upsert(database.campaigns, [_campaign("future").model_dump()])
    database.campaigns.remove_docs({})


def test_memory_databases_are_apart() -> None:
    first, second = memory_database(), memory_database()
    first.upsert(first.campaigns, [_campaign().model_dump()])
    assert second.campaign("c") is None
    assert "in memory" in repr(first)


def test_times_are_whole_milliseconds() -> None:
    # MongoDB stores milliseconds: a finer time would differ from itself after a round trip
    assert utc_now().microsecond % 1000 == 0
    assert datetime.now(UTC) - utc_now() < timedelta(seconds=1)


def test_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scdm_flows.stores.database.TIMEOUT_MS", 200)
    settings = ScdmSettings(mongo_uri=f"mongodb://u:secret@127.0.0.1:{free_port()}/")
    with pytest.raises(StoreError, match=r"u:\*\*\*@.*does not answer.*check that the server runs") as caught:
        connect(settings)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (18, "refuses the login"),
        (13, "cannot be written"),
        (10107, "cannot be written"),
        (14031, "full disk"),
        (1, "usual cause is a full disk"),
        (96, "see the server's log"),
    ],
)
def test_what_the_server_refuses(code: int, says: str) -> None:
    from pymongo.errors import OperationFailure

    with pytest.raises(StoreError, match=says), store_errors("mongodb://u:secret@h/"):
        raise OperationFailure("it says no", code)


def test_password_does_not_show() -> None:
    assert "secret" not in repr(database_of("mongodb://u:secret@h/scdm"))


def test_reading_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"no database in {tmp_path}/none; run a campaign here first"):
        connect(ScdmSettings(data_dir=tmp_path / "none"), create=False)
    assert not (tmp_path / "none").exists()


def test_strip() -> None:
    assert strip({"_id": 1, "name": "c"}) == {"name": "c"}
    assert set(KEYS) == {"candidates", "campaigns", "phonons", "bands", "hulls", "failures", "rankings", "loops"}


def test_what_reading_loads() -> None:
    code = (
        "import sys; import scdm_flows.query, support.memory; support.memory.memory_database(); "
        "heavy = {'torch', 'atomate2', 'fireworks', 'secantus', 'ase', 'chgnet'} & set(sys.modules); "
        "sys.exit(' '.join(sorted(heavy)) or None)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
