"""Loops that run: to their end, within a time, and killed again and again to the same end."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from pymatgen.core import Structure
from support.layers import mx2
from support.loops_demo import store_campaign
from support.memory import memory_database

from scdm_flows.builders import build_all
from scdm_flows.campaigns import rounds
from scdm_flows.config import BudgetConfig, CampaignConfig
from scdm_flows.config.loop import LoopConfig, parse_loop
from scdm_flows.documents import CandidateState, LoopDoc
from scdm_flows.errors import CampaignError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution import jobs as execution
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.execution.loop import go_on, is_over
from scdm_flows.query import CandidateDB
from scdm_flows.report.loops import came_of
from scdm_flows.stores import Database
from scdm_flows.stores.names import OUTPUTS
from scdm_models.datasets.known import KnownLayers

KILLS = 10
FOLDER = Path("/nowhere")  # no generator learns here


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnownLayers, "load", classmethod(lambda cls, path=None: cls.build([])[0]))


@pytest.fixture
def config(tmp_path: Path, graphene: Structure) -> LoopConfig:
    """Five layers of a file, of which each round computes two, with the force field in the place of DFT."""
    folder = tmp_path / "layers"
    folder.mkdir()
    layers = {"mos2": mx2("1H", a=3.18), "mos2-t": mx2("1T", a=3.2), "graphene": graphene}
    for name, metal in (("nbs2", "Nb"), ("ws2", "W")):
        layers[name] = mx2("1H", a=3.2)
        layers[name].replace_species({"Mo": metal})
    for name, layer in layers.items():
        layer.to(str(folder / f"{name}.cif"))
    engine = {"kind": "forcefield", "fmax_ev_per_angstrom": 0.3}
    return parse_loop(
        {
            "name": "l",
            "candidates": {"generator": {"kind": "files", "paths": [str(folder)]}, "engine": engine},
            "compute": {"engine": {**engine, "fmax_ev_per_angstrom": 0.2}},
            "choose": {"n": 2, "stable_ev": 0.2},
            "rounds": 4,
        }
    )


def here(database: Database) -> Any:
    def run(campaign: CampaignConfig) -> None:
        run_campaign(campaign, database, processes=1)

    return run


def told(document: LoopDoc) -> dict[str, Any]:
    """All but times, what code made it, and ids that are made of all digits of a relaxed structure."""
    found = document.model_dump(exclude={"last_updated", "provenance"})
    for one in found["rounds"]:
        one.pop("core_hours")
        one["found_ids"] = len(one["found_ids"])
        one["chosen"] = [{k: v for k, v in choice.items() if k != "why"} for choice in one["chosen"]]
    return found


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two documents differ, numbers by more than a thousandth: layers that are relaxed in other company differ in
    their last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [d for k in one.keys() | other.keys() for d in differences(one.get(k), other.get(k), f"{path}.{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [d for k, both in enumerate(zip(one, other, strict=True)) for d in differences(*both, f"{path}.{k}")]
    if isinstance(one, float) and isinstance(other, float) and abs(one - other) < 1e-3:
        return []
    return [] if one == other else [f"{path}: {one!r}, {other!r}"]


def test_a_loop_to_its_end(config: LoopConfig) -> None:
    database, said = memory_database(), []
    went = go_on(config, database, here(database), FOLDER, report=said.append)
    document = went.document
    assert went.waits_for is None
    assert document.ended == "all 4 rounds are done"
    assert [len(r.chosen) for r in document.rounds] == [2, 2, 1, 0]  # five layers, each once
    chosen = [c.candidate_id for r in document.rounds for c in r.chosen]
    assert len(set(chosen)) == 5
    # the likeliest first, as long as no two are alike: 1T-MoS2 lies 0.28 eV/atom above 1H in C2DB
    formulas = {c.candidate_id: c.formula for r in document.rounds for c in r.chosen}
    worst = document.rounds[2].chosen[0]
    assert formulas[worst.candidate_id] == "MoS2"
    assert worst.e_above_hull == pytest.approx(0.28, abs=0.06)
    assert worst.chance < 0.1
    # force fields' energies are no findings, so nothing is learned, and the documents say so
    assert {r.learned_from for r in document.rounds} == {0}
    # every computed candidate says where it is from, and what was found is stable
    query = CandidateDB(database)
    for one in document.rounds[:3]:
        own = query.find(campaign=one.computed)
        assert sorted(str(c.promoted_from) for c in own) == sorted(c.candidate_id for c in one.chosen)
        assert one.ended == len(own)
        stable = [c.candidate_id for c in own if c.e_above_hull is not None and c.e_above_hull <= 0.2]
        assert sorted(one.found_ids) == sorted(stable)
        assert one.core_hours is not None
        assert one.core_hours > 0
    assert sum(r.found or 0 for r in document.rounds) == 4
    assert said[:3] == ["round 1: generate and relax", "round 1: choose", "round 1: compute"]
    # and again: nothing is done twice
    before = told(document)
    assert told(go_on(config, database, here(database), FOLDER).document) == before


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    config: LoopConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    unkilled = memory_database()
    whole = go_on(config, unkilled, here(unkilled), FOLDER).document
    database, rng, moments = memory_database(), random.Random(5), [0, 0]
    job, upsert, save = execution.run_job, Database.upsert, rounds.save

    def lives() -> None:
        moments[0] += 1
        if moments[0] == moments[1]:
            raise Killed

    def run_job(*args: Any, **more: Any) -> Any:
        lives()
        return job(*args, **more)

    def write(self: Database, store: Any, documents: list[dict[str, Any]]) -> None:
        lives()
        upsert(self, store, documents)
        lives()  # after it was written, and nobody was told

    def save_loop(*args: Any) -> None:
        lives()
        save(*args)
        lives()

    monkeypatch.setattr("scdm_flows.execution.loop.save", save_loop)
    monkeypatch.setattr(execution, "run_job", run_job)
    monkeypatch.setattr(Database, "upsert", write)
    for _ in range(KILLS):
        moments[:] = [0, rng.randrange(1, 25)]
        with pytest.raises(Killed):
            go_on(config, database, here(database), FOLDER)
    moments[1] = -1
    assert differences(told(go_on(config, database, here(database), FOLDER).document), told(whole)) == []
    outputs = database.job_store.docs_store
    assert outputs.count() == len(outputs.distinct("uuid")) == unkilled.job_store.docs_store.count()


def test_a_time_that_is_over_is_kept_to(config: LoopConfig) -> None:
    database = memory_database()
    went = go_on(config, database, here(database), FOLDER, deadline=time.time() - 1)
    assert went.waits_for == "time"
    assert went.document.rounds == []
    # a campaign that had no time is not over, and the loop says which one
    late: list[str] = []

    def run(campaign: CampaignConfig) -> None:
        late.append(campaign.name)
        run_campaign(campaign, database, processes=1, deadline=time.time() - 1)

    assert go_on(config, database, run, FOLDER).waits_for == "l-r01"
    assert late == ["l-r01"]
    assert go_on(config, database, here(database), FOLDER).document.ended == "all 4 rounds are done"


def test_another_campaign_of_the_name_of_a_round_is_none_of_it(
    config: LoopConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it is at its end, and looks like a round that is done."""
    database, mine = memory_database(), config.campaign(1)
    assert mine is not None
    store_campaign(database, mine.model_copy(update={"screen": mine.screen.model_copy(update={"max_atoms": 2})}))
    database.mongo[OUTPUTS].insert_one({"metadata": {"campaign": "l-r01"}})  # it has computed something
    monkeypatch.setattr("scdm_flows.execution.loop.is_over", lambda *_: True)
    with pytest.raises(CampaignError, match="campaign 'l-r01' exists with another configuration.*max_atoms"):
        go_on(config, database, here(database), FOLDER)


def test_used_up_core_hours_end_it(config: LoopConfig) -> None:
    database = memory_database()
    short = config.model_copy(update={"core_hours": 1e-7})
    document = go_on(short, database, here(database), FOLDER).document
    assert document.ended == "its 1e-07 core hours are used up"
    stored = database.loop("l")
    assert stored is not None
    assert told(stored) == told(document)


def until_chosen(config: LoopConfig, database: Database) -> None:
    """The first round has chosen, and nothing is computed for it."""

    def run(campaign: CampaignConfig) -> None:
        if campaign.name.endswith("-forcefield"):
            raise Killed
        run_campaign(campaign, database, processes=1)

    with pytest.raises(Killed):
        go_on(config, database, run, FOLDER)


def test_what_the_budget_left_out_is_chosen_again_when_it_is_raised(config: LoopConfig) -> None:
    database = memory_database()
    until_chosen(config, database)
    over = config.model_copy(update={"core_hours": rounds.spent(config, database, 1)})
    document = go_on(over, database, here(database), FOLDER).document
    (first,) = document.rounds
    assert (len(first.chosen), first.ended, first.finished) == (2, 0, True)
    assert document.ended == f"its {over.core_hours:g} core hours are used up"
    (name,) = {c.state for c in CandidateDB(database).find(campaign="l-r01-forcefield")}
    assert came_of(first, CandidateDB(database).find(campaign="l-r01-forcefield")[0]).startswith("left out")
    assert name is CandidateState.PENDING
    raised = go_on(config, database, here(database), FOLDER).document  # no limit any more
    assert [len(r.chosen) for r in raised.rounds] == [2, 2, 2, 1]
    again = {c.candidate_id for r in raised.rounds[1:] for c in r.chosen}
    assert {c.candidate_id for c in first.chosen} <= again
    assert sum(r.found or 0 for r in raised.rounds) == 4


def test_a_round_is_counted_when_what_it_has_begun_has_ended(config: LoopConfig) -> None:
    """Workers are still at it when its hours are used up."""
    database = memory_database()
    until_chosen(config, database)
    limited = config.model_copy(update={"core_hours": rounds.spent(config, database, 1) + 1})

    def begin(campaign: CampaignConfig) -> None:
        """One has ended, and of the other a job of two hours."""
        run_campaign(campaign.model_copy(update={"budget": BudgetConfig(max_candidates=1)}), database, processes=1)
        database.mongo["campaigns"].update_one(
            {"name": campaign.name}, {"$set": {"config.budget.max_candidates": None}}
        )
        build_all(database, campaign.name)
        (other,) = CandidateDB(database).find(campaign=campaign.name, state="pending")
        began = {"campaign": campaign.name, "candidate_id": other.candidate_id, "stage": "relax", "seconds": 7200.0}
        database.mongo[OUTPUTS].insert_one({"uuid": "u", "index": 1, "output": {}, "metadata": began})

    went = go_on(limited, database, begin, FOLDER)
    assert went.waits_for == "l-r01-forcefield"
    assert (went.document.rounds[0].finished, went.document.rounds[0].ended) == (False, 1)
    database.mongo[OUTPUTS].delete_many({"uuid": "u"})  # it has ended otherwise
    went = go_on(limited, database, here(database), FOLDER)
    assert went.document.rounds[0].finished
    assert went.document.rounds[0].ended == 2


def test_jobs_that_somebody_has_taken_out_are_not_waited_for(config: LoopConfig) -> None:
    database = memory_database()
    campaign = config.campaign(1)
    assert campaign is not None
    run_campaign(campaign, database, processes=1)
    assert is_over(database, campaign.name)
    build_all(database, campaign.name)
    one = CandidateDB(database).find(campaign=campaign.name)[0].candidate_id
    query = {"metadata.candidate_id": one, "metadata.stage": "gate"}
    database.mongo[OUTPUTS].delete_many(query)
    assert not is_over(database, campaign.name)
    spec = {"campaign": campaign.name, "candidate_id": one}
    database.mongo["fireworks"].insert_one({"fw_id": 1, "state": "DEFUSED", "spec": spec})
    assert is_over(database, campaign.name)
    # `scdm campaign cancel` defuses as well, and remembers it: that campaign is to be refused, not to count as over
    database.mongo["fireworks"].update_one({"fw_id": 1}, {"$set": {"spec.cancelled_from": "READY"}})
    assert not is_over(database, campaign.name)


def test_the_command(config: LoopConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from scdm_flows.cli import cli

    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "data"))
    file = tmp_path / "loop.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    plan = CliRunner().invoke(cli, ["campaign", "loop", str(file), "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert "4 rounds of 5 samples, of which 2 are computed by the forcefield engine" in plan.output
    wrong = CliRunner().invoke(cli, ["campaign", "loop", str(file), "--submit", "--hours", "1"])
    assert wrong.exit_code == 2


@pytest.mark.slow
def test_workers_take_it_to_the_same_end(
    config: LoopConfig, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call takes the next step and puts its work on the LaunchPad; workers do it meanwhile."""
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    monkeypatch.chdir(tmp_path)
    memory = memory_database()
    wanted = go_on(config, memory, here(memory), FOLDER).document
    waited = []

    def submit(campaign: CampaignConfig) -> None:
        launch.submit(campaign, database)

    for _ in range(10):
        went = go_on(config, database, submit, FOLDER)
        if went.waits_for is None:
            break
        waited.append(went.waits_for)
        launchpad = launch.launchpad_of(database)
        with execution.hushed():
            while launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
                pass
    assert waited == ["l-r01", "l-r01-forcefield", "l-r02-forcefield", "l-r03-forcefield"]
    assert differences(told(went.document), told(wanted)) == []
