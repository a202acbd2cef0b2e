"""What ``scdm db explain`` says of the questions that are offered."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.memory import memory_database

from scdm_flows.documents import CandidateDoc
from scdm_flows.documents.candidate import queryable_fields, sort_fields
from scdm_flows.query import CandidateDB
from scdm_flows.query.conditions import SPECIAL
from scdm_flows.query.explain import Plan, _index_names, plans
from scdm_flows.stores import Database


@pytest.fixture(scope="module")
def database() -> Database:
    """Thirty candidates; every field has a value somewhere."""
    made, draw = memory_database(), random.Random(0)
    examples: dict[type, Any] = {str: "x", int: 3, float: 0.5, bool: True}
    kinds = {name: kind for name, kind in queryable_fields().items() if kind in examples}
    fixed = {"candidate_id", "elements", "chemsys", "formula", "passed"}
    documents = []
    for index in range(30):
        fields = {n: examples[k] for n, k in kinds.items() if n not in fixed and draw.random() < 0.7}
        fields |= {"campaign": "c", "generator": "scdm", "nelements": 2, "nsites": 3, "gap_kind": "metal"}
        known = {"id": "MoS2-1", "source": "C2DB", "formula": "MoS2"}
        documents.append(
            CandidateDoc(
                candidate_id=f"c-{index:012x}",
                formula="MoS2",
                chemsys="Mo-S",
                elements=["Mo", "S"],
                structure={},
                known_as=[known] if index % 2 else [],
                **fields,
            ).model_dump(mode="json")
        )
    made.mongo["candidates"].insert_many(documents)
    return made


@pytest.fixture(scope="module")
def found(database: Database) -> dict[str, Plan]:
    listed = list(plans(database))
    by_question = {plan.asked: plan for plan in listed}
    assert len(by_question) == len(listed)  # each once
    return by_question


def test_every_filter_and_sort_that_is_offered_is_explained(found: dict[str, Plan]) -> None:
    asked = [name.partition("=")[0] for name in found]
    for field, kind in queryable_fields().items():
        assert field in asked
        if field in sort_fields():
            assert f"sort={field}" in found
            assert f"sort=-{field}" in found
        if kind in (int, float):
            assert {f"min_{field}", f"max_{field}"} <= set(asked)
    assert set(SPECIAL) <= set(asked)
    assert "chemsys=Mo-*" in found


def test_examples_are_values_that_occur(database: Database, found: dict[str, Plan]) -> None:
    db = CandidateDB(database)
    for text in ("formula=MoS2", "known_as=MoS2-1", "elements=Mo,S", "gap_kind=metal"):
        name, _, value = text.partition("=")
        assert db.count(**{name: value}) == (15 if name == "known_as" else 30)
        assert (found[text].returned or 0) > 0


def test_the_index_that_is_made_for_a_question_is_named(found: dict[str, Plan]) -> None:
    assert found["formula=MoS2"].declared == "formula, candidate_id"
    assert found["elements=Mo,S"].declared == "elements, candidate_id"
    assert found["known_as=MoS2-1"].declared == "known_as.id"
    assert found["sort=-e_above_hull"].declared == "e_above_hull, candidate_id"
    assert found["passed=phonon"].declared == "stages.phonon.status, candidate_id"
    assert found["passed=screen"].declared is None  # nearly all did
    assert all(plan.declared for name, plan in found.items() if name.startswith("sort="))


def test_the_index_that_a_server_takes_is_read_from_its_answer() -> None:
    # from MongoDB's manual, "Explain Results": stages are nested
    plan = {"stage": "LIMIT", "inputStage": {"stage": "FETCH", "inputStage": {"stage": "IXSCAN", "indexName": "a_1"}}}
    merged = {"stage": "SORT_MERGE", "inputStages": [{"stage": "IXSCAN", "indexName": "b_1"}, plan]}
    assert list(_index_names(plan)) == ["a_1"]
    assert list(_index_names(merged)) == ["b_1", "a_1"]
    assert list(_index_names({"stage": "COLLSCAN", "direction": "forward"})) == []
