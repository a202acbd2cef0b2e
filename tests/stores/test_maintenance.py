"""``scdm db backup|restore|check|index|migrate``: nothing is lost, nothing is half done, every damage is named."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from click.testing import CliRunner
from pydantic import Field
from support.memory import memory_database

from scdm_flows.cli import cli
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CampaignDoc, CandidateDoc, Provenance, utc_now
from scdm_flows.documents.base import ScdmDocument, versioned
from scdm_flows.errors import OutputError, StoreError
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.archive import Archive
from scdm_flows.stores.backup import RESTORES, backup, restore
from scdm_flows.stores.blobs import ASIDE, NOBODY, OF_OUTPUT, prune, rooms
from scdm_flows.stores.check import RULES, Finding, check
from scdm_flows.stores.database import database_of
from scdm_flows.stores.indexes import ensure, ensure_or_raise, index_problems
from scdm_flows.stores.names import KEYS
from scdm_flows.stores.process import free_port
from scdm_flows.stores.upgrade import MODELS, upgrade


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    pytest.importorskip("secantus", reason="the embedded database is an optional extra")
    found = EmbeddedServer(tmp_path_factory.mktemp("care"), free_port())
    found.start()
    yield found
    pid = found.status().pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def served(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Database]]:
    """Makes connected databases of their own on one server."""
    opened: list[Database] = []

    def make(name: str, **options: bool) -> Database:
        settings = ScdmSettings(
            data_dir=server.data_dir, port=server.port, database=f"{name}{abs(hash(request.node.name))}"
        )
        opened.append(connect(settings, **options))
        return opened[-1]

    yield make
    for database in opened:
        database.mongo.client.drop_database(database.mongo.name)
        database.close()


FULL = Provenance(versions={"scdm-flows": "1"}, config_hash="0", job_uuids={"screen": "u"})


def _candidate(name: str, **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"formula": "MoS2", "elements": ["Mo", "S"], "chemsys": "Mo-S", "nelements": 2}
    known |= {"nsites": 3, "structure": {}, "generator": "scdm", "campaign": "c"}
    known["provenance"] = FULL
    return CandidateDoc(candidate_id=name, **(known | fields)).model_dump(mode="json")


def _campaign(name: str = "c", **fields: Any) -> dict[str, Any]:
    return CampaignDoc(name=name, config={}, config_hash="0", **({"provenance": FULL} | fields)).model_dump()


def _fill(database: Database) -> None:
    """A campaign with three candidates, and a job whose output has a large object."""
    database.upsert(database.campaigns, [_campaign()])
    documents = [_candidate(f"c-{i:02x}0000000000") for i in (0, 128, 255)]
    for document in documents:
        document["last_updated"] = utc_now()
    database.upsert(database.candidates, documents)
    job = {"uuid": "a-job", "index": 1, "output": {"records": list(range(1000))}, "name": "generate"}
    database.job_store.update(job, save={"data": ["records"]})


def _content(database: Database) -> dict[str, list[bytes]]:
    """Every document of every collection, as bytes."""
    names = [n for n in database.mongo.list_collection_names() if n != RESTORES]
    return {
        n: sorted(bson.encode(d) for d in database.mongo[n].find({})) for n in names if database.mongo[n].find_one()
    }


# --- backup and restore ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_everything_comes_back(served: Callable[..., Database], tmp_path: Path, name: str) -> None:
    source, target = served("source"), served("target")
    _fill(source)
    # of other programs, with types that JSON has not
    source.mongo["fireworks"].insert_one(
        {"fw_id": 1, "at": datetime(2026, 1, 1, tzinfo=UTC), "raw": b"\0\xff", "n": bson.Int64(1)}
    )
    source.mongo["fireworks"].create_index("fw_id", unique=True)
    source.mongo["candidates"].insert_one({"no": "key"})  # not ours, and kept all the same
    reported: list[tuple[str, int, int]] = []
    manifest = backup(source, tmp_path / name, lambda *progress: reported.append(progress))
    assert manifest.collections["candidates"] == 4
    assert ("candidates", 4, 4) in reported
    assert restore(target, tmp_path / name) == manifest
    assert _content(target) == _content(source)
    full = target.job_store.query_one({"uuid": "a-job"}, load=True)
    assert full is not None
    assert full["output"]["records"] == list(range(1000))  # from the large objects
    assert target.mongo["fireworks"].index_information()["fw_id_1"]["unique"]
    assert [f for f in check(target) if f.wrong and f.rule != "schema"] == []
    assert list(tmp_path.iterdir()) == [tmp_path / name]  # no temporary files


def test_a_backup_is_what_mongodump_writes(served: Callable[..., Database], tmp_path: Path) -> None:
    # mongodump --gzip: <database>/<collection>.bson.gz, documents one after the other; .metadata.json.gz with indexes
    database = served("dump")
    _fill(database)
    backup(database, tmp_path / "dump")
    folder = tmp_path / "dump" / database.mongo.name
    with gzip.open(folder / "candidates.bson.gz") as handle:
        found = list(bson.decode_file_iter(handle))  # type: ignore[call-overload]
    assert sorted(d["candidate_id"] for d in found) == ["c-000000000000", "c-800000000000", "c-ff0000000000"]
    metadata = json.loads(gzip.decompress((folder / "candidates.metadata.json.gz").read_bytes()))
    assert metadata["collectionName"] == "candidates"
    keys = {index["name"]: index["key"] for index in metadata["indexes"]}
    assert keys["_id_"] == {"_id": {"$numberInt": "1"}}  # extended JSON in its canonical form, as mongodump's
    assert keys["candidate_id_1"] == {"candidate_id": {"$numberInt": "1"}}


def test_memory_and_server_read_each_others_backups(served: Callable[..., Database], tmp_path: Path) -> None:
    source, target = memory_database(), served("other")
    source.upsert(source.campaigns, [_campaign()])
    backup(source, tmp_path / "b.tar")
    restore(target, tmp_path / "b.tar")
    assert target.campaign("c") == source.campaign("c")


@pytest.mark.parametrize("where", ["memory", "served"])
def test_who_works_at_a_database_does_not_come_back_with_it(
    where: str, served: Callable[..., Database], tmp_path: Path
) -> None:
    # its workers' folders and slots are those of the database that was saved: a copy would take what is kept there
    source, target = (served(name) if where == "served" else memory_database() for name in ("source", "target"))
    own = {"_id": ":database", "database": "an id"}
    source.mongo["scdm_workers"].insert_many([own, {"_id": "host:1:2", "launch": 7, "keeps": "/live/undelivered"}])
    source.mongo["scdm_slots"].insert_one({"_id": "c:compute:0", "fw_id": 1, "launch_id": 7})
    run = {"host": "host", "pid": 1, "seen": datetime(2026, 1, 1, tzinfo=UTC)}
    source.mongo["scdm_controls"].insert_one({"_id": "c", "taken": 3, "run": run})
    backup(source, tmp_path / "b")
    restore(target, tmp_path / "b")
    # its id comes along: what is kept for a database that was lost finds the restored one
    assert list(target.mongo["scdm_workers"].find({})) == [own]
    assert list(target.mongo["scdm_slots"].find({})) == []
    assert list(target.mongo["scdm_controls"].find({})) == [{"_id": "c", "taken": 3}]
    # a launch of a restored queue may get the number of one that came after the backup
    target.mongo["scdm_workers"].insert_one({"_id": "host:3:4", "launch": 8, "keeps": "/live/undelivered"})
    restore(target, tmp_path / "b", force=True)
    assert list(target.mongo["scdm_workers"].find({})) == [own]


def test_restore_refuses_what_it_would_destroy(tmp_path: Path) -> None:
    source, target = memory_database(), memory_database()
    source.upsert(source.candidates, [_candidate("c-1")])
    backup(source, tmp_path / "b")
    target.upsert(target.candidates, [_candidate("c-2")])
    target.upsert(target.campaigns, [_campaign("mine")])
    with pytest.raises(
        StoreError, match=r"holds documents already \(campaigns, candidates\); restore into another one"
    ):
        restore(target, tmp_path / "b")
    assert [d["candidate_id"] for d in target.candidates.query()] == ["c-2"]
    restore(target, tmp_path / "b", force=True)
    assert [d["candidate_id"] for d in target.candidates.query()] == ["c-1"]
    for path in (tmp_path / "b", tmp_path / "there"):
        path.mkdir(exist_ok=True)
        (path / "x").touch()
        with pytest.raises(OutputError, match="exists; give another name, a backup never replaces anything"):
            backup(source, path)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: _flip(b / "scdm" / "candidates.bson.gz"), r"candidates\.bson\.gz has .* another sha256"),
        (lambda b: _cut(b / "scdm" / "candidates.bson.gz"), r"candidates\.bson\.gz has"),
        (lambda b: (b / "scdm" / "candidates.metadata.json.gz").unlink(), r"candidates\.metadata\.json\.gz is missing"),
        (lambda b: (b / "manifest.json").write_text("{"), "is no backup of scdm-flows"),
        (lambda b: (b / "manifest.json").unlink(), "is no backup of scdm-flows"),
        (lambda b: shutil.rmtree(b), "does not exist; give the folder"),
    ],
)
def test_a_damaged_backup_is_refused_before_anything_is_written(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    source, target = memory_database(), memory_database()
    source.upsert(source.candidates, [_candidate("c-1")])
    backup(source, tmp_path / "b")
    damage(tmp_path / "b")
    with pytest.raises(StoreError, match=says):
        restore(target, tmp_path / "b")
    assert target.candidates.count() == 0


def test_other_formats_and_names_outside_are_refused(tmp_path: Path) -> None:
    source = memory_database()
    source.upsert(source.candidates, [_candidate("c-1")])
    backup(source, tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(data | {"version": 2}))
    with pytest.raises(StoreError, match="of format 2, this scdm-flows knows 1; upgrade"):
        Archive(tmp_path / "b")
    (tmp_path / "secret").write_text("x")
    data["members"][0]["name"] = "../secret"
    manifest.write_text(json.dumps(data))
    with pytest.raises(StoreError, match=r"\.\./secret is missing"):
        Archive(tmp_path / "b").verify()
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "secret", "other.txt")
    with pytest.raises(StoreError, match="is no backup"):
        Archive(tmp_path / "t.tar")


def test_an_interrupted_restore_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = memory_database(), memory_database()
    source.upsert(source.candidates, [_candidate(f"c-{i}") for i in range(50)])
    source.upsert(source.campaigns, [_campaign()])
    backup(source, tmp_path / "b")
    monkeypatch.setattr("scdm_flows.stores.backup._MANY", 10)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "candidates" and done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(target, tmp_path / "b", report=stop)
    assert 0 < target.candidates.count() < 50
    assert [f.rule for f in check(target) if f.rule == "restore"] == ["restore"]
    source.upsert(source.candidates, [_candidate("c-new")])
    backup(source, tmp_path / "other")
    with pytest.raises(StoreError, match="was being restored here and was interrupted; restore that one again"):
        restore(target, tmp_path / "other")
    restore(target, tmp_path / "b")
    assert target.candidates.count() == 50
    assert target.mongo[RESTORES].find_one({}) is None


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = memory_database()
    source.upsert(source.candidates, [_candidate("c-1")])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"was not written \(No space left on device\); free some space"):
        backup(source, tmp_path / "b.tar", full)
    assert list(tmp_path.iterdir()) == []


# --- check -----------------------------------------------------------------------------------------------------------


def _found(database: Database, **options: bool) -> dict[str, Finding]:
    return {f.rule: f for f in check(database, **options)}


def test_nothing_is_wrong_with_a_healthy_database(served: Callable[..., Database]) -> None:
    database = served("healthy")
    _fill(database)
    assert list(check(database)) == []


def test_large_objects_without_job_and_jobs_without_large_object(served: Callable[..., Database]) -> None:
    database = served("blobs")
    _fill(database)
    files = database.mongo["outputs_blobs.files"]
    file = files.find_one({})
    files.insert_one({**file, "_id": bson.ObjectId(), "metadata": {"blob_uuid": "nobody's"}})  # just now: maybe a job's
    assert _found(database) == {}
    files.update_many({}, {"$set": {"uploadDate": utc_now() - timedelta(hours=2)}})
    found = _found(database)
    assert set(found) == {"blob-dangling"}
    assert "no job output names" in found["blob-dangling"].detail
    database.mongo["outputs_blobs.chunks"].delete_many({"files_id": file["_id"]})  # the file is there, its content not
    found = _found(database)
    assert set(found) == {"blob-dangling", "blob-missing"}
    assert found["blob-missing"].id == "a-job index 1"
    files.delete_many({})
    assert set(_found(database)) == {"blob-missing"}


def test_large_objects_by_kind_and_the_rule_by_which_they_go(served: Callable[..., Database]) -> None:
    database = served("rooms")
    _fill(database)
    mongo = database.mongo
    (before,) = rooms(database)
    assert (before.belongs, before.objects) == (OF_OUTPUT, 1)
    file = mongo["outputs_blobs.files"].find_one({})
    assert before.bytes == file["length"] > 0
    old = utc_now() - timedelta(days=10)
    for name in ("nobody's", "aside"):
        key = bson.ObjectId()
        mongo["outputs_blobs.files"].insert_one(
            {**file, "_id": key, "metadata": {"blob_uuid": name}, "uploadDate": old}
        )
        for chunk in mongo["outputs_blobs.chunks"].find({"files_id": file["_id"]}):
            mongo["outputs_blobs.chunks"].insert_one({**chunk, "_id": bson.ObjectId(), "files_id": key})
    pointer = {"@class": "CompleteDos", "blob_uuid": "aside", "store": "data"}
    output = {"uuid": "u", "index": 1, "metadata": {"part_of": "bands"}, "output": {"vasp_objects": {"dos": pointer}}}
    mongo["outputs_set_aside"].insert_one({**output, "set_aside_at": old})
    assert {(room.kind, room.belongs) for room in rooms(database)} == {
        (before.kind, OF_OUTPUT),
        ("bands dos", ASIDE),
        ("", NOBODY),
    }
    assert {room.belongs for room in prune(database, 9, dry_run=True)} == {NOBODY, ASIDE}
    assert {room.belongs for room in prune(database)} == {NOBODY}
    assert prune(database, 11) == []
    assert [room.kind for room in prune(database, 9)] == ["bands dos"]
    assert rooms(database) == [before]
    assert list(check(database)) == []  # the output set aside says that its large objects are gone
    assert mongo["outputs_blobs.chunks"].distinct("files_id") == [file["_id"]]


@pytest.mark.parametrize(
    ("change", "rule", "says"),
    [
        ({"nsites": "three"}, "schema", "nsites: Input should be a valid integer"),
        ({"unheard_of": 1}, "schema", "unheard_of: Extra inputs"),
        ({"schema_version": 7}, "newer", "has schema version 7"),
        ({"campaign": "gone"}, "campaign", "its campaign 'gone' does not exist"),
        (
            {"last_updated": datetime(2100, 1, 1, tzinfo=UTC)},
            "clock",
            "2100-01-01 00:00:00 UTC, which is still to come",
        ),
    ],
)
def test_what_is_wrong_with_a_document_is_named(change: dict[str, Any], rule: str, says: str) -> None:
    database = memory_database()
    database.upsert(database.campaigns, [_campaign()])
    database.upsert(database.candidates, [_candidate("c-1"), _candidate("c-2")])
    database.mongo["candidates"].update_one({"candidate_id": "c-2"}, {"$set": change})
    (finding,) = check(database)
    assert (finding.rule, finding.collection, finding.id) == (rule, "candidates", "c-2")
    assert says in finding.detail
    assert finding.remedy
    assert finding.rule in RULES


def test_documents_that_do_not_say_where_they_come_from_are_counted() -> None:
    database = memory_database()
    database.upsert(database.campaigns, [_campaign()])
    database.upsert(database.candidates, [_candidate("c-1"), *(_candidate(f"c-{i}", provenance={}) for i in (2, 3))])
    (finding,) = check(database)
    assert finding.rule == "provenance"
    assert finding.detail == "documents that do not say their versions: 2, config_hash: 2, job_uuids: 2"
    assert not finding.wrong


def test_duplicates_prevent_the_unique_index_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    database = memory_database()
    outputs = database.mongo["outputs"]
    outputs.drop_index("uuid_1_index_1")
    outputs.insert_many([{"uuid": "u", "index": 1, "output": 1}, {"uuid": "u", "index": 1, "output": 2}])
    database.connect()  # goes on all the same
    assert "2 documents have uuid='u', index=1; see `scdm db check`" in caplog.text
    with pytest.raises(StoreError, match="2 documents have uuid='u', index=1"):
        ensure_or_raise(database)
    finding = _found(database)["key"]
    assert finding.id == "uuid='u', index=1"
    assert "that differ" in finding.detail
    assert not finding.repairable
    assert len(list(outputs.find({}))) == 2


def test_repair_does_only_what_loses_nothing() -> None:
    database = memory_database()
    database.upsert(database.campaigns, [_campaign()])
    collection = database.mongo["candidates"]
    collection.drop_index("candidate_id_1")
    same = _candidate("c-1")
    collection.insert_many([dict(same), {**same, "last_updated": utc_now()}, _candidate("c-2", nsites=4)])
    collection.update_one({"candidate_id": "c-2"}, {"$set": {"last_updated": datetime(2100, 1, 1, tzinfo=UTC)}})
    found = _found(database)
    assert set(found) == {"key", "index", "clock"}
    assert not any(f.repaired for f in found.values())
    assert collection.count_documents({}) == 3
    repaired = _found(database, repair=True)
    assert all(f.repaired for f in repaired.values())
    assert list(check(database)) == []
    assert sorted(d["candidate_id"] for d in collection.find({})) == ["c-1", "c-2"]
    assert collection.find_one({"candidate_id": "c-2"})["nsites"] == 4


# --- indexes ---------------------------------------------------------------------------------------------------------


def test_a_missing_and_a_different_index_are_seen_and_mended(served: Callable[..., Database]) -> None:
    database = served("indexes")
    assert index_problems(database) == []
    candidates = database.mongo["candidates"]
    candidates.drop_index("candidate_id_1")
    candidates.create_index("candidate_id")  # there, but not unique
    candidates.drop_index("formula_1_candidate_id_1")
    found = {t.state: t for t in index_problems(database)}
    assert found["missing"].detail == "candidates (formula, candidate_id) is missing"
    assert found["different"].detail == "candidates (candidate_id) unique is there, but not unique"
    assert found["missing"].remedy == "run `scdm db index`"
    assert ensure_or_raise(database) == 2
    assert index_problems(database) == []
    assert candidates.index_information()["candidate_id_1"]["unique"]


def test_a_large_embedded_database_is_not_indexed_in_passing(
    served: Callable[..., Database], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = served("large")
    _fill(database)
    monkeypatch.setattr("scdm_flows.stores.embedded_faults.LARGEST_TO_INDEX", 2)
    database.mongo["candidates"].drop_index("formula_1_candidate_id_1")
    database.mongo["campaigns"].drop_index("name_1")
    database.connect()
    assert [t.index.collection for t in index_problems(database)] == ["candidates"]
    assert "1 indexes are missing, so listings are slow; run `scdm db index`" in caplog.text
    assert ensure_or_raise(database) == 1


def test_who_may_only_read_goes_without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from pymongo.errors import OperationFailure

    database = memory_database()
    database.mongo["candidates"].drop_index("formula_1_candidate_id_1")

    def refuse(*_: Any, **__: Any) -> None:
        raise OperationFailure("not authorized on scdm to execute command", 13)

    monkeypatch.setattr(type(database.mongo["candidates"]), "create_index", refuse)
    database.connect()  # no error, and nothing to be told of: reading works
    assert caplog.text == ""
    (left,) = ensure(database)
    assert "this user may only read" in left.detail
    assert "ask a user who may write" in left.remedy


# --- migrations in bulk ----------------------------------------------------------------------------------------------


class Thing(ScdmDocument):
    schema_version: int = versioned(2)
    failure_id: str = Field(description="an id")
    size: int = Field(description="a count")


def _step(document: dict[str, Any]) -> dict[str, Any]:
    return {"size": int(document.pop("text")), **document}


@pytest.mark.parametrize("where", ["memory", "served"])
def test_documents_are_migrated_in_bulk(where: str, served: Callable[..., Database]) -> None:
    database = memory_database() if where == "memory" else served("migrate")
    models, steps = {"failures": Thing}, {("Thing", 1): _step}
    database.mongo["failures"].insert_many(
        [
            {"failure_id": "c-1:relax", "text": "1"},
            {"failure_id": "c-2:relax", "text": "2", "schema_version": 1},
            {"failure_id": "c-3:relax", "text": "three"},  # cannot be
            {"failure_id": "c-4:relax", "size": 4, "schema_version": 2},
            {"failure_id": "c-5:relax", "size": 5, "schema_version": 3},
        ]
    )
    for dry_run, changed in ((True, 2), (False, 2), (False, 0)):  # again: nothing is left to do
        result = upgrade(database, dry_run=dry_run, models=models, migrations=steps)["failures"]
        assert (result.changed, result.newer, len(result.problems)) == (changed, 1, 1)
        found = {d["failure_id"]: d for d in database.mongo["failures"].find({})}
        assert found["c-1:relax"].get("size") == (None if dry_run else 1)
    assert "three" in next(iter(result.problems.values()))
    assert found["c-3:relax"]["text"] == "three"  # left as it was
    assert found["c-2:relax"]["schema_version"] == 2
    assert found["c-5:relax"]["size"] == 5


def test_every_collection_has_its_class() -> None:
    assert set(MODELS) == set(KEYS), "name the class of the new collection's documents in stores/upgrade.py"


def test_a_later_document_is_never_replaced() -> None:
    database = memory_database()
    database.mongo["candidates"].insert_one({"candidate_id": "c-1", "schema_version": 9, "new": "field"})
    with pytest.raises(StoreError, match="'c-1' has schema version 9, this scdm-flows writes 3; upgrade"):
        database.upsert(database.candidates, [_candidate("c-0"), _candidate("c-1")])
    assert database.mongo["candidates"].find_one({"candidate_id": "c-1"})["new"] == "field"


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Runs `scdm db ...` on a database of its own; returns (exit code, what it printed)."""
    for name in ("SCDM_MONGO_URI", "SCDM_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCDM_DATA_DIR", str(server.data_dir))
    monkeypatch.setenv("SCDM_PORT", str(server.port))
    monkeypatch.setenv("SCDM_DATABASE", "shell")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["db", *arguments])

    yield run
    with connect() as database:
        database.mongo.client.drop_database("shell")


def test_commands(shell: Callable[..., Any], tmp_path: Path) -> None:
    with connect() as database:
        _fill(database)
        database.mongo["candidates"].drop_index("formula_1_candidate_id_1")
    done = shell("index", "--dry-run")
    assert (done.exit_code, done.stdout) == (0, "would create candidates (formula, candidate_id)\n")
    done = shell("check", "--json")
    assert done.exit_code == 1
    assert [f["rule"] for f in json.loads(done.stdout)["findings"]] == ["index"]
    assert shell("check", "--repair").exit_code == 0
    assert shell("index").stdout == "every index is there\n"
    plans = {plan["asked"]: plan for plan in json.loads(shell("explain", "--json").stdout)}
    assert (plans["formula=MoS2"]["used"], plans["formula=MoS2"]["examined"]) == ("formula_1_candidate_id_1", 3)
    assert "sort=rank" in shell("explain").stdout
    path = str(tmp_path / "b.tar")
    done = shell("backup", path, "--json")
    assert json.loads(done.stdout)["collections"]["candidates"] == 3
    assert "candidates" in shell("restore", path, "--dry-run").stdout
    assert isinstance(shell("restore", path).exception, StoreError)
    assert shell("restore", path, "--force").exit_code == 0
    assert shell("check").stdout.endswith("nothing is wrong\n")
    assert shell("migrate", "--dry-run", "--json").exit_code == 0
    with connect() as database:
        database.mongo["candidates"].update_one({"candidate_id": "c-800000000000"}, {"$set": {"nsites": "many"}})
    done = shell("check")
    assert done.exit_code == 1
    assert "nsites" in done.stdout
    assert "something is wrong" in done.stdout


def test_an_unreachable_database_and_one_that_cannot_be_written_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymongo.errors import OperationFailure

    source, target = memory_database(), memory_database()
    source.upsert(source.candidates, [_candidate("c-1")])
    backup(source, tmp_path / "b")

    def refuse(*_: Any, **__: Any) -> None:
        raise OperationFailure("not authorized on scdm to execute command { insert: ... }", 13)

    monkeypatch.setattr(type(target.mongo["candidates"]), "insert_one", refuse)
    with pytest.raises(StoreError, match="cannot be written: not authorized.*use a user with the role readWrite"):
        restore(target, tmp_path / "b")
    monkeypatch.setattr("scdm_flows.stores.database.TIMEOUT_MS", 200)
    with pytest.raises(StoreError, match="does not answer.*check that the server runs"):
        database_of(f"mongodb://127.0.0.1:{free_port()}/scdm").connect()
