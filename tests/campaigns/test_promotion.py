"""Promotion: the best of a campaign become another one, each once, whatever interrupts it, and say where they are from."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from pymatgen.core import Structure
from support.documents import candidate, energies, six_candidates
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.campaigns import promotion
from scdm_flows.campaigns.promotion import (
    DUPLICATE,
    HIGHER,
    NOT_COMPUTABLE,
    TOO_DEAR,
    UNRANKED,
    UNRELAXED,
    Asked,
    promote,
)
from scdm_flows.cli import show as show_command
from scdm_flows.documents import CandidateDoc
from scdm_flows.engines import engine_of
from scdm_flows.errors import CampaignError, ConfigError, EngineError, GenerationError
from scdm_flows.flows.campaign import generate
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database

SURROGATE = {"kind": "forcefield"}
VASP = {"kind": "vasp", "references": "/nowhere.json"}


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(f"demo-{k:012x}" for k in numbers)


def parents() -> list[CandidateDoc]:
    """Ranks 1, 2 and 3 are numbers 0, 2 and 1; a duplicate, one rejected by the gate, two that were never relaxed."""
    documents = six_candidates().candidates
    documents += [candidate(6, mx2("1T", a=3.1), **energies(0.02, duplicate_of=documents[1].candidate_id))]
    for document in [*documents[:4], documents[6]]:
        layer = Structure.from_dict(document.structure)
        layer.scale_lattice(1.01 * layer.volume)
        document.relaxed_structure = layer.as_dict()
    documents[0].novel = False
    return documents


@pytest.fixture
def database() -> Database:
    found = memory_database()
    documents = six_candidates()
    documents.store(found)
    found.upsert(found.candidates, [c.model_dump() for c in parents()])
    return found


def records(database: Database, config: Any) -> list[dict[str, Any]]:
    """The stored records of all shards."""
    found = database.job_store.query({"metadata.campaign": config.name}, sort={"metadata.shard": 1}, load=True)
    return [record for output in found for record in output["output"]["records"]]


def everything(database: Database) -> dict[str, list[Any]]:
    """All that is stored, but for when the documents were written."""
    names = sorted(database.mongo.list_collection_names())
    return {name: sorted(map(repr, database.mongo[name].find({}, {"_id": 0}))) for name in names}


def test_the_best_come_first_and_the_others_are_counted(database: Database) -> None:
    found = promote(database, Asked("demo", 10, SURROGATE))
    assert found.config.name == "demo-forcefield"
    assert found.chosen == ids(0, 2, 1)
    assert found.left_out == {DUPLICATE: 1, UNRANKED: 1, UNRELAXED: 2}
    assert found.known_layers == 1
    made = records(database, found.config)
    assert [record["promoted_from"] for record in made] == list(ids(0, 2, 1))
    before = CandidateDB(database).get(ids(2)[0])
    record = made[1]
    assert {k: record[k] for k in ("generator", "model_id", "seed", "index")} == {
        "generator": "scdm",
        "model_id": before.model_id,
        "seed": 0,
        "index": 2,
    }
    parent = record["parent"]
    kept = ("rank", "score", "e_above_hull", "e_above_hull_error", "energy_scheme", "surrogate", "extrapolated")
    assert {name: parent[name] for name in kept} == {name: getattr(before, name) for name in kept}
    # the relaxed structure, not the sample, which is 1 % smaller
    assert Structure.from_dict(record["structure"]).volume == pytest.approx(
        1.01 * Structure.from_dict(before.structure).volume
    )
    # what is above is the parent's business: no novelty is asked for, the gate is the parent's
    assert found.config.screen.require_novel is False
    assert found.config.gate.max_e_above_hull == 0.6


def test_top_and_filters_choose(database: Database) -> None:
    assert promote(database, Asked("demo", 2, SURROGATE, "two")).chosen == ids(0, 2)
    assert promote(database, Asked("demo", 9, SURROGATE, "stable", {"dynamically_stable": True})).chosen == ids(0)
    assert promote(database, Asked("demo", 9, SURROGATE, "new", {"novel": True})).chosen == ids(2, 1)
    with pytest.raises(ConfigError, match="did you mean"):
        promote(database, Asked("demo", 9, SURROGATE, "x", {"max_e_above_hul": 0.1}))


def test_the_same_call_changes_nothing(database: Database) -> None:
    asked = Asked("demo", 2, SURROGATE, node_hours=5)
    first = promote(database, asked)
    stored = everything(database)
    # ranks that have changed since are no reason to change what may be running
    database.mongo["candidates"].update_one({"candidate_id": ids(1)[0]}, {"$set": {"rank": 1}})
    stored["candidates"] = everything(database)["candidates"]
    again = promote(database, asked)
    assert (first.changed, again.changed) == (True, False)
    assert (again.config, again.chosen) == (first.config, first.chosen)
    assert everything(database) == stored
    # a budget is applied, as everywhere; without one the budget stays
    assert promote(database, Asked("demo", 2, SURROGATE, node_hours=7)).changed
    assert not promote(database, Asked("demo", 2, SURROGATE)).changed
    known = database.campaign("demo-forcefield")
    assert known is not None
    assert known.config["budget"]["node_hours"] == 7


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Asked("demo", 3, SURROGATE), "top: 2 there, 3 here"),
        (Asked("demo", 2, {**SURROGATE, "fix_symmetry": True}), "engine.fix_symmetry: False there, True here"),
        (Asked("demo", 2, SURROGATE, where={"novel": True}), "where: {} there, {'novel': True} here"),
    ],
)
def test_another_promotion_of_the_same_name_is_refused(database: Database, other: Asked, says: str) -> None:
    promote(database, Asked("demo", 2, SURROGATE))
    stored = everything(database)
    with pytest.raises(CampaignError) as error:
        promote(database, other)
    assert says in str(error.value)
    assert "--as" in str(error.value)
    assert everything(database) == stored


def test_a_campaign_that_is_no_promoted_one_keeps_its_name(database: Database) -> None:
    database.upsert(database.campaigns, [{**six_candidates().campaign.model_dump(), "name": "taken"}])
    with pytest.raises(CampaignError, match="'taken' exists and is no promoted one; .* --as"):
        promote(database, Asked("demo", 2, SURROGATE, "taken"))


def _no_output(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "stored_shard", lambda *_: _killed())


def _no_large_object(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database.job_store.additional_stores["data"], "update", lambda *_, **__: _killed())


def _one_of_two_shards(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = promotion.stored_shard
    monkeypatch.setattr(promotion, "stored_shard", lambda c, shard, made: _killed() if shard else real(c, shard, made))


def _killed() -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kill", [_no_output, _no_large_object, _one_of_two_shards])
@pytest.mark.parametrize("ranks_change", [False, True])
def test_what_was_cut_short_is_completed_by_the_same_call(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    kill: Callable[[Database, pytest.MonkeyPatch], None],
    ranks_change: bool,
) -> None:
    asked = Asked("demo", 3, SURROGATE)
    real = promotion.parse_config

    def small_shards(data: Any, origin: str) -> Any:
        if "kind" in data.get("generator", {}) and data["generator"]["kind"] == "promoted":
            data = {**data, "generator": {**data["generator"], "shard_size": 2}}
        return real(data, origin=origin)

    monkeypatch.setattr(promotion, "parse_config", small_shards)
    with monkeypatch.context() as patch:
        kill(database, patch)
        with pytest.raises(KeyboardInterrupt):
            promote(database, asked)
    if ranks_change:
        database.mongo["candidates"].update_one({"candidate_id": ids(3)[0]}, {"$set": {"rank": 0}})
    found = promote(database, asked)
    assert found.changed
    wanted = ids(3, 0, 2) if ranks_change else ids(0, 2, 1)
    assert found.chosen == wanted
    assert [record["promoted_from"] for record in records(database, found.config)] == list(wanted)
    assert not promote(database, asked).changed


def test_a_campaign_without_its_records_says_how_to_complete_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _no_output(database, patch)
        with pytest.raises(KeyboardInterrupt):
            promote(database, Asked("demo", 3, SURROGATE))
    known = database.campaign("demo-forcefield")
    assert known is not None
    with pytest.raises(GenerationError, match="run `scdm campaign promote demo --top 3"):
        generate.original(known.config, 0)  # type: ignore[attr-defined]


def test_what_cannot_be_promoted_is_refused_in_words(database: Database) -> None:
    with pytest.raises(CampaignError, match="no campaign is called 'dem'; did you mean 'demo'"):
        promote(database, Asked("dem", 3, SURROGATE))
    with pytest.raises(CampaignError, match="no candidate of campaign 'demo' can be promoted, as none matches .*WS2"):
        promote(database, Asked("demo", 3, SURROGATE, where={"formula": "WS2"}))
    with pytest.raises(CampaignError, match=f"1 {UNRELAXED}.*scdm candidates list --campaign demo"):
        promote(database, Asked("demo", 3, SURROGATE, where={"state": "failed"}))
    with pytest.raises(ConfigError, match="engine.kind = 'vaps'.*did you mean 'vasp'"):
        promote(database, Asked("demo", 3, {"kind": "vaps"}))
    with pytest.raises(ConfigError, match="unknown key 'engine.encut_e'; did you mean 'encut_ev'"):
        promote(database, Asked("demo", 3, {"kind": "vasp", "encut_e": 500}))
    with pytest.raises(EngineError, match="VASP"):
        promote(database, Asked("demo", 3, VASP))
    assert [c.name for c in CandidateDB(database).campaigns()] == ["demo"]


def test_a_dry_run_writes_nothing_and_says_what_is_missing(database: Database) -> None:
    stored = everything(database)
    found = promote(database, Asked("demo", 2, VASP), dry_run=True)
    assert (found.chosen, found.changed) == (ids(0, 2), True)
    assert any("SCDM_VASP_CMD" in line for line in found.missing)
    assert everything(database) == stored


def test_only_those_near_the_lowest_of_their_formula(database: Database) -> None:
    energies = {i: CandidateDB(database).get(i).e_above_hull or 0.0 for i in ids(0, 2, 1)}
    above = sorted(energy - min(energies.values()) for energy in energies.values())
    found = promote(database, Asked("demo", 9, SURROGATE, within=(above[1] + above[2]) / 2), dry_run=True)
    assert set(found.chosen) == {i for i, energy in energies.items() if energy < max(energies.values())}
    assert found.left_out[HIGHER] == 1


def test_a_draw_is_seeded_and_does_not_prefer_the_best(database: Database) -> None:
    drawn = [promote(database, Asked("demo", 1, SURROGATE, draw=seed), dry_run=True).chosen for seed in range(12)]
    assert drawn == [
        promote(database, Asked("demo", 1, SURROGATE, draw=seed), dry_run=True).chosen for seed in range(12)
    ]
    assert {one for (one,) in drawn} == set(ids(0, 1, 2))
    promote(database, Asked("demo", 1, SURROGATE, draw=3))
    with pytest.raises(CampaignError, match="draw: 3 there, None here"):
        promote(database, Asked("demo", 1, SURROGATE))


def test_core_hours_take_the_best_that_fit(database: Database) -> None:
    everyone = promote(database, Asked("demo", 3, VASP), dry_run=True)
    layers = [Structure.from_dict(CandidateDB(database).get(i).relaxed_structure or {}) for i in everyone.chosen]
    costs = [sum(s.core_hours for s in engine_of(everyone.config.engine).cost(layer)) for layer in layers]
    assert everyone.core_hours == pytest.approx(sum(costs))
    within = promote(database, Asked("demo", 3, VASP, core_hours=1.001 * sum(costs[:2])), dry_run=True)
    assert within.chosen == everyone.chosen[:2]
    assert within.left_out == {TOO_DEAR: 1}
    with pytest.raises(CampaignError, match="alone would take"):
        promote(database, Asked("demo", 3, VASP, core_hours=0.5 * costs[0]), dry_run=True)
    with pytest.raises(ConfigError, match="give node hours instead"):
        promote(database, Asked("demo", 3, SURROGATE, core_hours=5))


def test_what_the_engine_cannot_compute_is_left_out(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = promotion.Structure.from_dict

    def from_dict(data: dict[str, Any]) -> Structure:
        found = real(data)
        if found.lattice.a > 3.3:  # number 2, whose document is damaged
            raise KeyError("lattice")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(promotion.Structure, "from_dict", from_dict)
        found = promote(database, Asked("demo", 2, SURROGATE))
    assert found.chosen == ids(0, 1)
    assert found.left_out == {NOT_COMPUTABLE: 1}


# --- one material by fidelity -----------------------------------------------------------------------------------------


def child(of: CandidateDoc, name: str, **fields: Any) -> CandidateDoc:
    """A promoted candidate as the builder leaves it."""
    record = promotion._record(of)
    values = {**of.model_dump(exclude={"provenance"}), "candidate_id": name, "campaign": "dft", **fields}
    return CandidateDoc(**{**values, "promoted_from": of.candidate_id, "parent": record["parent"]})


@pytest.fixture
def family(database: Database) -> CandidateDB:
    """Number 0 promoted to DFT, and that one promoted once more."""
    query = CandidateDB(database)
    first = query.get(ids(0)[0])
    dft = {"surrogate": False, "energy_scheme": "vasp-pbe", "energy_model": None, "e_above_hull_error": None}
    second = child(first, "dft-0", e_above_hull=0.031, **dft)
    third = child(second, "again-0", e_above_hull=0.04, campaign="again", **dft)
    database.upsert(database.candidates, [second.model_dump(), third.model_dump()])
    return query


def test_a_material_is_known_from_parent_and_child(family: CandidateDB, database: Database) -> None:
    everyone = [ids(0)[0], "dft-0", "again-0"]
    for name in everyone:
        assert [one.candidate_id for one in family.family(family.get(name))] == everyone
    assert [one.candidate_id for one in family.family(family.get(ids(1)[0]))] == [ids(1)[0]]
    # a parent that was removed is there as its child remembers it
    database.candidates.remove_docs({"candidate_id": ids(0)[0]})
    found = family.family(family.get("again-0"))
    assert [one.candidate_id for one in found] == everyone
    assert (found[0].e_above_hull, found[0].surrogate) == (0.01, True)


def test_show_sets_surrogate_and_dft_side_by_side(
    family: CandidateDB, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def here(**_: Any) -> Any:
        yield database

    monkeypatch.setattr(show_command, "database", here)
    for name in (ids(0)[0], "dft-0"):
        text = CliRunner().invoke(show_command.show, [name], catch_exceptions=False).output
        (row,) = [line for line in text.splitlines() if line.strip().startswith("E_hull, eV/atom")]
        assert row.index("0.010 ± 0.100 (surrogate)") < row.index("0.031 (DFT)")
    shown = json.loads(CliRunner().invoke(show_command.show, [ids(0)[0], "--json"], catch_exceptions=False).output)
    assert shown["promoted_to"] == ["dft-0"]


def test_the_page_links_both_ways(family: CandidateDB, database: Database) -> None:
    pytest.importorskip("dash", reason="the pages are an optional extra")
    from scdm_flows.server.pages import candidate as page

    for here, other in ((ids(0)[0], "dft-0"), ("dft-0", ids(0)[0])):
        text = repr(page.page(family, here))
        assert "This material by fidelity" in text
        assert f"href='/candidates/{other}'" in text
    assert "This material by fidelity" not in repr(page.page(family, ids(1)[0]))
    database.candidates.remove_docs({"candidate_id": ids(0)[0]})
    assert f"{ids(0)[0]} (removed)" in repr(page.page(family, "dft-0"))
