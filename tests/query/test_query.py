"""``CandidateDB``: what can be asked, in which order the answers come, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import mongomock_ng
import pytest
from support.memory import memory_database

from scdm_flows.documents import CampaignDoc, CandidateDoc, StageFailure, StageRecord
from scdm_flows.documents.candidate import queryable_fields, sort_fields
from scdm_flows.documents.hull import HullDoc
from scdm_flows.errors import CampaignError, ConfigError
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_db import FLAT
from scdm_flows.stores import Database


def _candidate(name: str, formula: str, elements: list[str], **fields: Any) -> CandidateDoc:
    known: dict[str, Any] = {"campaign": "c", "generator": "scdm", "nsites": 3, "structure": {}}
    return CandidateDoc(
        candidate_id=name,
        formula=formula,
        elements=elements,
        nelements=len(elements),
        chemsys="-".join(elements),
        **(known | fields),
    )


CANDIDATES = [
    _candidate("c-2", "MoS2", ["Mo", "S"], rank=2, e_above_hull=0.05, layer_group=78, state="completed"),
    _candidate(
        "c-1",
        "MoSe2",
        ["Mo", "Se"],
        rank=1,
        e_above_hull=0.0,
        dynamically_stable=True,
        layer_group=78,
        state="completed",
        stages={name: StageRecord(status="passed") for name in ("screen", "gate", "phonon")},
    ),
    _candidate("c-3", "Mo2SSe", ["Mo", "S", "Se"], rank=3, e_above_hull=0.3, dynamically_stable=False, layer_group=1),
    _candidate("c-4", "S", ["S"], state="rejected", reason="atoms too close"),
    _candidate("d-1", "MoS2", ["Mo", "S"], rank=1, e_above_hull=0.2, layer_group=72, campaign="d", nsites=6),
]


@pytest.fixture(scope="module")
def database() -> Database:
    database = memory_database()
    database.upsert(database.candidates, [c.model_dump() for c in CANDIDATES])
    for name in ("c", "d"):
        document = CampaignDoc(name=name, config={}, config_hash="0")
        database.upsert(database.campaigns, [document.model_dump()])
    failure = StageFailure(
        failure_id="c-9:relax", candidate_id="c-9", campaign="c", stage="relax", error_type="E", message="m"
    )
    database.upsert(database.failures, [failure.model_dump()])
    return database


@pytest.fixture(scope="module")
def db(database: Database) -> CandidateDB:
    return CandidateDB(database)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["c-1", "d-1", "c-2", "c-3", "c-4"]),  # by rank, ties by id, those without a rank last
        ({"campaign": "c"}, ["c-1", "c-2", "c-3", "c-4"]),
        ({"campaign": "c", "formula": None}, ["c-1", "c-2", "c-3", "c-4"]),  # None: no filter
        ({"formula": "MoS2"}, ["d-1", "c-2"]),
        ({"formula": "S4Mo2"}, ["d-1", "c-2"]),  # another way to write it
        ({"formula": ["MoS2", "MoSe2"], "campaign": "c"}, ["c-1", "c-2"]),
        ({"chemsys": "Se-Mo"}, ["c-1"]),
        ({"chemsys": "Mo-*"}, ["c-1", "d-1", "c-2"]),  # Mo and one other
        ({"chemsys": "*-S-*"}, ["c-3"]),
        ({"chemsys": "*"}, ["c-4"]),
        ({"crystal_system": "hexagonal", "campaign": "c"}, ["c-1", "c-2"]),  # layer groups 73 to 80
        ({"crystal_system": "trigonal"}, ["d-1"]),
        ({"text": "-1"}, ["c-1", "d-1"]),
        ({"passed": "phonon"}, ["c-1"]),
        ({"elements": ["S", "Mo"]}, ["d-1", "c-2", "c-3"]),  # holds all of them, and maybe others
        ({"elements": "Mo,Se"}, ["c-1", "c-3"]),
        ({"nelements": 2, "elements": ["S"]}, ["d-1", "c-2"]),
        ({"max_e_above_hull": 0.05}, ["c-1", "c-2"]),  # inclusive; unknown energies never match
        ({"min_e_above_hull": 0.05, "max_e_above_hull": 0.2}, ["d-1", "c-2"]),
        ({"layer_group": 78}, ["c-1", "c-2"]),
        ({"layer_group": [1, 72]}, ["d-1", "c-3"]),
        ({"dynamically_stable": True}, ["c-1"]),
        ({"dynamically_stable": False}, ["c-3"]),  # known to be unstable; unknown is neither
        ({"state": "completed"}, ["c-1", "c-2"]),
        ({"min_nsites": 4}, ["d-1"]),
        ({"formula": "MoS2", "max_e_above_hull": 0.1}, ["c-2"]),  # filters add up
        ({"formula": "NbS2"}, []),
        ({"sort": "-rank", "campaign": "c"}, ["c-3", "c-2", "c-1", "c-4"]),
        ({"sort": "e_above_hull", "limit": 2}, ["c-1", "c-2"]),
        ({"sort": "candidate_id", "limit": 2}, ["c-1", "c-2"]),
        ({"limit": 4}, ["c-1", "d-1", "c-2", "c-3"]),
        ({"limit": 5}, ["c-1", "d-1", "c-2", "c-3", "c-4"]),
    ],
)
def test_find(db: CandidateDB, filters: dict[str, Any], expected: list[str]) -> None:
    assert [c.candidate_id for c in db.find(**filters)] == expected
    assert [r["candidate_id"] for r in db.flat_records(**filters)] == expected
    if not {"sort", "limit"} & set(filters):
        assert db.count(**filters) == len(expected)


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"fromula": "MoS2"}, "did you mean 'formula'?"),
        ({"max_e_above_hul": 1}, "did you mean 'max_e_above_hull'?"),
        ({"structure": {}}, "unknown field 'structure'"),  # there, but not to be asked for
        ({"sort": "rnak"}, "did you mean 'rank'?"),
        ({"sort": "structure"}, "unknown field"),
        ({"limit": 0}, "limit=0 must be a whole number >= 1"),
        ({"limit": -1}, "limit=-1 must"),
        ({"sort": "elements"}, "holds several values; sort by chemsys"),
        ({"after": "nonsense!"}, "cursor 'nonsense!' is damaged; take it as the page before gave it"),
        ({"state": "complete"}, "did you mean 'completed'?"),
        ({"elements": ["Mo", "Xx"]}, "'Xx' is not an element"),
        ({"elements": ["mo"]}, "did you mean 'Mo'?"),
        ({"elements": []}, "at least one element"),
        ({"chemsys": "Mo-Q"}, "'Q' is not an element"),
        ({"chemsys": "Q-*"}, "'Q' is not an element"),
        ({"chemsys": "Mo-Mo-*"}, "names an element twice"),
        ({"passed": "phonons"}, "did you mean 'phonon'?"),
        ({"crystal_system": "hexagonl"}, "did you mean 'hexagonal'?"),
        ({"crystal_sytem": "hexagonal"}, "did you mean 'crystal_system'?"),
        ({"formula": "Qz2"}, "is not a chemical formula"),
        ({"formula": ""}, "is not a chemical formula"),
        ({"formula": "2"}, "is not a chemical formula"),
        ({"layer_group": 81}, "must be between 1 and 80"),
        ({"layer_group": 0}, "must be between 1 and 80"),
        ({"layer_group": "78"}, "must be a whole number"),
        ({"space_group": True}, "must be a whole number"),
        ({"dynamically_stable": "yes"}, "must be true or false"),
        ({"max_e_above_hull": "low"}, "must be a number"),
        ({"max_e_above_hull": float("nan")}, "must be a number"),
        ({"max_formula": 1}, "has no order to compare by"),
        # no way to smuggle an operator of the database in
        ({"formula": {"$ne": None}}, "formula={'$ne': None} must be text"),
        ({"formula": [{"$gt": ""}]}, "must be text"),
        ({"e_above_hull": {"$gt": 0}}, "must be a number"),
        ({"max_e_above_hull": {"$gt": 0}}, "must be a number"),
        ({"$where": "sleep(1000)"}, "unknown field '$where'"),
        ({"elements": [{"$gt": ""}]}, "is not an element"),
        ({"sort": "$natural"}, "unknown field"),
        ({"sort": "known_as"}, "holds several values"),
        ({"sort": "-magnetic_probability"}, "magnetic_probability has no index to sort by; filter by it"),
        ({"known_as": ["MoS2-1"]}, "must be the id of a known layer"),
    ],
)
def test_what_is_refused(db: CandidateDB, filters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        db.find(**filters)
    assert says in str(caught.value)


def test_every_declared_field_can_be_asked_for_and_sorted_by(db: CandidateDB) -> None:
    document = CANDIDATES[1]
    for name in queryable_fields():
        value = "gate" if name == "passed" else getattr(document, name)  # one stage of them
        if name == "known_as":  # by the id of one, which this one has none of
            assert db.find(known_as="MoS2-1") == []
            continue
        if name in sort_fields():
            assert len(db.find(sort=name, limit=1)) == 1
        if value is not None:
            assert document.candidate_id in [c.candidate_id for c in db.find(**{name: value})], name


def test_flat_records_are_json(db: CandidateDB) -> None:
    records = db.flat_records(campaign="c")
    assert json.loads(json.dumps(records)) == records
    assert all(list(r) == list(FLAT) for r in records)
    needed = {"candidate_id", "formula", "layer_group", "e_above_hull", "dynamically_stable", "rank"}
    assert needed <= set(FLAT)
    by_id = {r["candidate_id"]: r for r in records}
    assert by_id["c-2"]["dynamically_stable"] is None  # not known, and there all the same
    assert by_id["c-4"]["rank"] is None
    assert by_id["c-4"]["state"] == "rejected"


def test_get(db: CandidateDB) -> None:
    assert db.get("c-3") == CANDIDATES[2]
    with pytest.raises(CampaignError, match="no candidate has the id 'c3'; did you mean c-"):
        db.get("c3")
    with pytest.raises(CampaignError, match=r"scdm candidates list"):
        db.get("zzzzzz")
    with pytest.raises(CampaignError, match="no candidate"):
        db.get({"$ne": None})  # type: ignore[arg-type]


def test_a_mistyped_id_finds_its_neighbour_among_many(database: Database) -> None:
    many = memory_database()
    names = [f"c-{i:012x}" for i in range(0, 10**6, 1000)]
    many.mongo["candidates"].insert_many([{"candidate_id": name} for name in names])
    with pytest.raises(CampaignError, match=f"did you mean {names[500]}"):
        CandidateDB(many).get(names[500][:-1] + "f")


def test_campaigns(db: CandidateDB) -> None:
    assert [c.name for c in db.campaigns()] == ["c", "d"]
    assert db.campaign("d").name == "d"
    with pytest.raises(CampaignError, match="no campaign is called 'dd'; did you mean 'd'"):
        db.campaign("dd")


def test_the_hull_of_a_candidate_is_the_one_it_was_placed_on() -> None:
    """Campaigns with reference files of their own have hulls of one system and scheme beside each other."""
    database = memory_database()
    system: dict[str, Any] = {"chemsys": "Mo-S", "elements": ["Mo", "S"], "energy_scheme": "vasp-pbe"}
    known: dict[str, Any] = system | {"surrogate": False, "basis_sha256": "0", "reference_sha256": "0"}
    known |= {"n_reference_phases": 3, "n_candidates": 1}
    hulls = [
        HullDoc(hull_id="vasp-pbe-a:Mo-S", references="vasp-pbe-a", candidates={"c-1": 0.1}, **known),
        HullDoc(
            hull_id="vasp-pbe-b:Mo-S", references="vasp-pbe-b", candidates={"c-2": 0.2}, errors={"c-3": "no"}, **known
        ),
    ]
    database.upsert(database.hulls, [hull.model_dump() for hull in hulls])
    db = CandidateDB(database)
    for name, given, expected in (
        ("c-1", "vasp-pbe-a:Mo-S", "vasp-pbe-a:Mo-S"),
        ("c-2", "vasp-pbe-b:Mo-S", "vasp-pbe-b:Mo-S"),
        ("c-2", None, "vasp-pbe-b:Mo-S"),  # of before candidates said it
        ("c-3", None, "vasp-pbe-b:Mo-S"),  # it has no place there
        ("c-4", None, None),
    ):
        candidate = _candidate(name, "MoS2", ["Mo", "S"], energy_scheme="vasp-pbe", hull_id=given)
        found = db.hull_of(candidate)
        assert (None if found is None else found.hull_id) == expected


def test_what_is_not_there(db: CandidateDB) -> None:
    assert db.phonon("c-1") is None
    assert db.hull("Mo-S") is None
    assert db.failures("d") == []
    assert [f.failure_id for f in db.failures("c")] == ["c-9:relax"]


def test_a_database_that_is_gone(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    from pymongo.errors import AutoReconnect

    from scdm_flows.errors import StoreError

    def gone(*_: Any, **__: Any) -> Any:
        raise AutoReconnect("connection closed")

    monkeypatch.setattr(mongomock_ng.collection.Collection, "find", gone)
    with pytest.raises(StoreError, match=r"does not answer: connection closed; check"):
        CandidateDB(database).find()
