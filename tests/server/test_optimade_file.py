"""The file of OPTIMADE's JSON lines: read by optimade's own reader, it holds what the server answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.crates import store_campaigns
from support.memory import memory_database

pytest.importorskip("fastapi", reason="the server is an optional extra")

from optimade.models import EntryInfoResource, ReferenceResource, StructureResource
from optimade.server.query_params import EntryListingQueryParams
from optimade.utils import insert_from_jsonl

from scdm_flows.query import CandidateDB
from scdm_flows.server.optimade_app import optimade_app
from scdm_flows.server.optimade_file import OptimadeFile
from scdm_flows.server.properties import provider_fields
from scdm_flows.stores.database import Database


class Collected:
    """Stands for a collection of optimade's."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}

    def insert(self, data: list[dict[str, Any]]) -> None:
        self.entries |= {entry["id"]: entry for entry in data}


@pytest.fixture(scope="module")
def database() -> Database:
    found = memory_database()
    store_campaigns(found)
    return found


@pytest.fixture(scope="module")
def lines(database: Database) -> list[dict[str, Any]]:
    file = OptimadeFile()
    entries = map(file.entry, CandidateDB(database).find(sort="candidate_id"))
    return [*file.head(), *(entry for entry in entries if entry is not None), *file.tail()]


def test_what_optimade_reads_is_what_the_server_answers(
    database: Database, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "optimade.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = {"structures": Collected(), "references": Collected()}
    insert_from_jsonl(path, read)

    collections = optimade_app(database).state.entry_collections
    for kind, model in (("structures", StructureResource), ("references", ReferenceResource)):
        served, *_ = collections[kind].find(EntryListingQueryParams(page_limit=100))
        answers = {entry["id"]: model.model_validate(entry) for entry in served}
        for name, entry in read[kind].entries.items():
            links = {"relationships": entry.pop("relationships")} if "relationships" in entry else {}
            again = model.model_validate({"id": entry.pop("id"), "type": kind, "attributes": entry, **links})
            assert again.model_dump(exclude_none=True) == answers[name].model_dump(exclude_none=True)
        if kind == "structures":
            assert read[kind].entries.keys() == answers.keys()
    cited = (entry["relationships"]["references"]["data"] for entry in lines if "relationships" in entry)
    assert read["references"].entries.keys() == {reference["id"] for found in cited for reference in found}


def test_every_property_is_described(lines: list[dict[str, Any]]) -> None:
    header, *infos = lines[:3]
    assert header == {"x-optimade": {"meta": {"api_version": "1.2.0"}}}
    described = {info["id"]: EntryInfoResource.model_validate(info).properties for info in infos}
    own = {f"_scdm_{name}" for name in provider_fields()}
    assert own <= described["structures"].keys()
    assert described["structures"]["_scdm_e_above_hull"].unit == "eV/atom"
    for line in lines[3:]:
        assert line["attributes"].keys() - {"last_modified"} <= described[line["type"]].keys()


def test_a_candidate_that_optimade_cannot_describe_has_no_entry(database: Database) -> None:
    document = next(iter(CandidateDB(database).find(campaign="demo")))
    assert document.optimade is not None
    assert OptimadeFile().entry(document.model_copy(update={"optimade": None})) is None
    damaged = {**document.optimade, "nsites": -1}
    assert OptimadeFile().entry(document.model_copy(update={"optimade": damaged})) is None
