"""Stages that are done again: what was made of their result goes with them, and nothing stored is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from jobflow import Flow, Response, job
from support.layers import mx2
from support.memory import memory_database
from support.rlaunching import FOLLOWERS, Workers, check_all_done, put, runs, uuid_of

from scdm_flows.builders import build_all
from scdm_flows.campaigns.again import set_aside
from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.cli import cli
from scdm_flows.config import parse_config
from scdm_flows.documents import StageName
from scdm_flows.engines.attempts import attempts
from scdm_flows.errors import CampaignError
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution.fireworks import again as launchpad_again
from scdm_flows.execution.fireworks import repair
from scdm_flows.execution.fireworks.firetask import workflow_of
from scdm_flows.execution.fireworks.workflows import insert
from scdm_flows.execution.jobs import execute, hushed
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database
from scdm_flows.stores.check import check
from scdm_flows.stores.names import OUTPUTS, SET_ASIDE


def stamps(database: Database) -> dict[str, str]:
    """Stage -> when its output was made."""
    found = database.job_store.docs_store.query({"metadata.candidate_id": {"$exists": True}})
    return {d["metadata"]["stage"]: str(d["completed_at"]) for d in found}


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_place")
def test_a_candidate_goes_again_from_a_stage_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    mx2("1H", a=3.2).to(filename=str(tmp_path / "in" / "mos2.cif"))
    config = parse_config(
        {
            "name": "t",
            "generator": {"kind": "files", "paths": [str(tmp_path / "in")]},
            "gate": {"phonon_max_atoms": 1, "bands_max_atoms": 1},
        }
    )
    database = memory_database()
    run_campaign(config, database, processes=1)
    build_all(database)
    (before,) = CandidateDB(database).find(campaign="t")
    made, spent = stamps(database), node_hours(database.mongo[OUTPUTS], "t")
    assert list(made) == ["relax", "static", "gate"]

    assert set_aside(database, "t", before.candidate_id, StageName.STATIC) == 2
    assert list(stamps(database)) == ["relax"]
    assert database.mongo[SET_ASIDE].count_documents({}) == 2
    assert node_hours(database.mongo[OUTPUTS], "t") == pytest.approx(spent)  # they were spent all the same
    assert not [finding for finding in check(database) if finding.rule == "blob-dangling"]
    assert set_aside(database, "t", before.candidate_id, StageName.STATIC) == 0  # what was killed can be completed
    with pytest.raises(CampaignError, match="no stored output from phonon on"):
        set_aside(database, "t", before.candidate_id, StageName.PHONON)
    with pytest.raises(CampaignError, match="has computed nothing of a candidate 'other'"):
        set_aside(database, "t", "other", StageName.RELAX)

    run_campaign(config, database, processes=1)
    again = stamps(database)
    assert again["relax"] == made["relax"]  # and no more than was asked for
    assert again["static"] != made["static"]
    assert again["gate"] != made["gate"]
    build_all(database)
    (after,) = CandidateDB(database).find(campaign="t")
    assert after.state == before.state
    assert after.e_above_hull == pytest.approx(before.e_above_hull, abs=1e-6)
    assert after.last_updated > before.last_updated


@pytest.mark.slow
def test_on_the_launchpad_its_jobs_run_again(database: Database, tmp_path: Path) -> None:
    launchpad = put(database)
    with Workers(database, tmp_path / "work") as workers:
        assert workers.run() == 0
        check_all_done(database, launchpad)
        before = runs(workers.log)
        assert launch.run_again(database, "t", "nobody", StageName.GATE) == 0
        moved = set_aside(database, "t", "c0", StageName.GATE)
        assert moved == 1 + FOLLOWERS
        assert launch.run_again(database, "t", "c0", StageName.GATE) == 1 + FOLLOWERS
        states = {f["name"]: f["state"] for f in launchpad.fireworks.find({}, {"name": 1, "state": 1})}
        assert states["gate c0"] == "READY"
        assert {state for name, state in states.items() if name.startswith("phonon c0")} == {"WAITING"}
        assert workers.run() == 0
        check_all_done(database, launchpad)
        twice = {name for name, times in runs(workers.log).items() if times > before[name]}
    assert twice == {"gate 0", *(f"follower 0 {k}" for k in range(FOLLOWERS))}
    assert database.mongo[OUTPUTS].count_documents({"metadata.candidate_id": "c0", "metadata.stage": "gate"}) == 1


def test_the_command_says_what_it_would_do(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(cli, ["campaign", "rerun", "t", "--candidate", "c0", "--from", "generate"])
    assert result.exit_code == 2
    assert "'generate' is not one of 'relax', 'static'" in result.output
    assert database.uri is not None
    monkeypatch.setenv("SCDM_MONGO_URI", database.uri)
    database.mongo[OUTPUTS].insert_one(
        {"uuid": "u", "index": 1, "output": None, "metadata": {"campaign": "t", "candidate_id": "c0", "stage": "bands"}}
    )
    arguments = ["campaign", "rerun", "t", "--candidate", "c0", "--from", "bands"]
    said = CliRunner().invoke(cli, [*arguments, "--dry-run"], catch_exceptions=False).output
    assert said == "1 outputs of c0 from bands on would be set aside; nothing was changed\n"
    assert database.mongo[OUTPUTS].count_documents({}) == 1
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).output
    assert '"outputs": 1' in done
    assert database.mongo[OUTPUTS].count_documents({}) == 0


# what the jobs below find: it changes between a run and the next one, as structures and folders do
FOUND: dict[str, Any] = {}


def named(made: Any, stage: str, part: str | None = None) -> Any:
    """A job of the candidate c0 as the product makes it; part: where it is not the last one of its stage."""
    made.set_uuid(uuid_of("again", stage, part))
    made.name = f"{stage} {part or ''}".strip()
    made.metadata.update({"campaign": "t", "candidate_id": "c0", "stage" if part is None else "part_of": stage})
    return made


@job
def relaxed() -> dict[str, Any]:
    """A structure, and from where it was gone on with."""
    return {"structure": FOUND["structure"], "earlier": len(attempts().folders)}


@job
def static(structure: str) -> dict[str, str]:
    """The folder of the run."""
    return {"structure": structure, "folder": FOUND["folder"]}


@job
def gate(static: dict[str, str]) -> Response[str]:
    """Adds jobs that hold structure and folder as they are, as many as the structure's symmetry asks for."""
    flows = [phonons(static["structure"])] if FOUND["phonons"] else []
    if FOUND["bands"]:
        flows.append(Flow([named(bands(static["structure"], static["folder"]), "bands")]))
    return Response(output="gate", addition=flows) if flows else Response(output="gate")


def phonons(structure: str) -> Flow:
    """A job for each displacement and their summary."""
    parts = [named(displaced(structure, k), "phonon", str(k)) for k in range(FOUND["displacements"])]
    return Flow([*parts, named(summary(structure, [p.output for p in parts]), "phonon")])


@job
def displaced(structure: str, number: int) -> str:
    """One of the displacements."""
    return f"{structure} {number}"


@job
def summary(structure: str, parts: list[str]) -> list[str]:
    """All of them."""
    return [structure, *parts]


@job
def bands(structure: str, folder: str) -> str:
    """Bands on the charge density in a folder."""
    return f"{structure} in {folder}"


def submitted(database: Database) -> Any:
    """The candidate on the LaunchPad, which is returned."""
    first = named(relaxed(), "relax")
    second = named(static(first.output["structure"]), "static")
    flow = Flow([first, second, named(gate(second.output), "gate")], name="candidate c0")
    launchpad = launch.launchpad_of(database)
    insert(launchpad, [workflow_of(flow, campaign="t", candidate_id="c0")])
    return launchpad


def work(launchpad: Any) -> None:
    """Run fireworks one after the other until none is ready; all have ended then, and none was left out or lost."""
    with hushed():
        while launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
            pass
    states = {d["fw_id"]: d["state"] for d in launchpad.fireworks.find({}, {"fw_id": 1, "state": 1})}
    assert set(states.values()) == {"COMPLETED"}
    shown = {int(n): s for w in launchpad.workflows.find({}) for n, s in w["fw_states"].items()}
    assert shown == states
    nodes = [n for w in launchpad.workflows.find({}) for n in w["nodes"]]
    assert sorted(nodes) == sorted(states)
    launches = {d["fw_id"] for d in launchpad.launches.find({}, {"fw_id": 1})}
    assert launches <= states.keys()  # a campaign's removal finds them by their fireworks


def computed(database: Database, **found: Any) -> Any:
    """The LaunchPad with the candidate computed to its end: of an old structure, with what else the jobs find."""
    FOUND.update(structure="old", **found)
    launchpad = submitted(database)
    work(launchpad)
    return launchpad


def output(database: Database, stage: str) -> Any:
    """What a stage has stored; None without an output."""
    found = database.job_store.docs_store.query_one({"uuid": uuid_of("again", stage, None)}, properties=["output"])
    return None if found is None else found["output"]


def rerun(database: Database, stage: StageName) -> None:
    """What the command does."""
    set_aside(database, "t", "c0", stage)
    launch.run_again(database, "t", "c0", stage)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_place")
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_what_follows_a_stage_gets_its_new_result(database: Database, before: int, after: int) -> None:
    """The jobs that a gate adds hold structure and folder: taken for the new ones, they would compute the old layer.

    A layer of another symmetry has other displacements, of which the summary waits for each.
    """
    launchpad = computed(database, folder="purged", displacements=before, phonons=True, bands=True)
    assert output(database, "phonon") == ["old", *(f"old {k}" for k in range(before))]
    assert output(database, "bands") == "old in purged"

    FOUND.update(folder="kept")
    rerun(database, StageName.STATIC)
    work(launchpad)
    assert output(database, "bands") == "old in kept"

    FOUND.update(structure="new", displacements=after)
    rerun(database, StageName.RELAX)
    work(launchpad)
    assert output(database, "phonon") == ["new", *(f"new {k}" for k in range(after))]
    assert output(database, "bands") == "new in kept"
    assert launchpad.fireworks.count_documents({}) == 3 + after + 1 + 1  # nothing of before is left

    FOUND.update(bands=False, phonons=False)
    rerun(database, StageName.RELAX)
    work(launchpad)
    assert (output(database, "phonon"), output(database, "bands")) == (None, None)
    assert launchpad.fireworks.count_documents({}) == 3  # nor what the new gate does not open


@pytest.mark.usefixtures("quiet_place")
def test_what_is_the_same_stays_as_it_is(database: Database) -> None:
    """A gate that adds what is there already leaves it, with what its attempts were: some may take days."""
    launchpad = computed(database, folder="kept", displacements=2, phonons=True, bands=True)
    before = sorted(d["fw_id"] for d in launchpad.fireworks.find({}, {"fw_id": 1}))
    rerun(database, StageName.GATE)
    work(launchpad)
    assert sorted(d["fw_id"] for d in launchpad.fireworks.find({}, {"fw_id": 1})) == before
    assert output(database, "phonon") == ["old", "old 0", "old 1"]


@pytest.mark.usefixtures("quiet_place")
def test_a_gate_that_was_killed_while_it_replaced_them_does_so_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workflow has lost the jobs of before by then, which are still there, and would be taken for its own."""
    launchpad = computed(database, folder="kept", displacements=2, phonons=True, bands=True)
    FOUND.update(structure="new", displacements=1)
    rerun(database, StageName.RELAX)

    def fail(*_: Any) -> None:
        raise MemoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(launchpad_again, "delete", lambda launchpad, nodes, states: fail() if nodes else None)
        with hushed():
            while launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
                pass
    (failed,) = launchpad.get_fw_ids({"state": "FIZZLED"})
    assert launchpad.get_fw_by_id(failed).name == "gate"
    launchpad.rerun_fw(failed)
    work(launchpad)
    assert output(database, "phonon") == ["new", "new 0"]
    assert output(database, "bands") == "new in kept"


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_place")
def test_phonons_of_their_own_wait_for_the_new_gate(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a budget chooses for whom they are, nothing links them to the relaxation: they would start beside it."""
    launchpad = computed(database, folder="kept", displacements=2, phonons=False, bands=True)
    about = {"campaign": "t", "candidate_id": "c0", "stage": "phonon"}
    assert insert(launchpad, [workflow_of(phonons("old"), **about)]) == 1
    work(launchpad)

    rerun(database, StageName.PHONON)  # of the same gate
    assert launch.status(database, "t")["phonon"] == {"READY": 2, "WAITING": 1}
    work(launchpad)

    set_aside(database, "t", "c0", StageName.RELAX)
    with monkeypatch.context() as patch:  # killed when the workflow is gone, and its jobs are not
        patch.setattr(launchpad_again, "delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            launch.run_again(database, "t", "c0", StageName.RELAX)
    assert "READY" not in launch.status(database, "t")["phonon"]
    rerun(database, StageName.RELAX)  # the same call completes it
    status = launch.status(database, "t")
    assert "phonon" not in status
    assert status["relax"] == {"READY": 1}
    FOUND.update(structure="new", displacements=3)
    work(launchpad)
    assert insert(launchpad, [workflow_of(phonons("new"), **about)]) == 1  # as ``begin_phonons`` does
    work(launchpad)
    assert output(database, "phonon") == ["new", "new 0", "new 1", "new 2"]


@pytest.mark.usefixtures("quiet_place")
def test_a_stage_that_is_done_again_goes_on_with_nothing(database: Database) -> None:
    """A relaxation would begin with the last geometry of the run that its user does not trust."""
    launchpad = computed(database, folder="kept", displacements=1, phonons=True, bands=True)
    first = launchpad.fireworks.find_one({"name": "relax"})["fw_id"]
    database.job_store.docs_store.remove_docs({"uuid": uuid_of("again", "relax", None)})
    launchpad.rerun_fw(first)
    work(launchpad)
    assert output(database, "relax")["earlier"] == 1  # a job that is tried again goes on where it was
    rerun(database, StageName.RELAX)
    work(launchpad)
    assert output(database, "relax")["earlier"] == 0


def test_nor_does_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a LaunchPad an attempt is a folder with the job's mark, and a finished one looks like one cut short."""
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path))
    database = memory_database()
    FOUND.update(structure="old")

    def earlier() -> int:
        made = named(leaves_a_file(), "relax")
        made.metadata["keep_folder"] = True
        assert execute(made, database.job_store) == []
        return int(output(database, "relax"))

    assert earlier() == 0
    database.job_store.docs_store.remove_docs({})
    assert earlier() == 1  # as after a kill
    assert set_aside(database, "t", "c0", StageName.RELAX) == 1
    assert earlier() == 0
    database.job_store.docs_store.remove_docs({})
    assert earlier() == 1  # of this run alone


@job
def leaves_a_file() -> int:
    """How many attempts it could go on with; a folder without files would not stay."""
    Path("CONTCAR").write_text("a structure")
    return len(attempts().folders)


@pytest.mark.usefixtures("quiet_place")
def test_killed_between_its_steps_the_same_call_completes_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All outputs are set aside then and no job knows: it must not be told that there is nothing to do."""
    launchpad = computed(database, folder="kept", displacements=1, phonons=True, bands=True)
    assert set_aside(database, "t", "c0", StageName.RELAX) == 6
    with monkeypatch.context() as patch:
        patch.setattr(repair, "rerun", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            launch.run_again(database, "t", "c0", StageName.RELAX)
    assert set_aside(database, "t", "c0", StageName.RELAX) == 0
    assert launch.run_again(database, "t", "c0", StageName.RELAX) == 6
    FOUND.update(structure="new")
    work(launchpad)
    assert output(database, "bands") == "new in kept"

    launchpad.workflows.update_one({}, {"$set": {"locked": True}})  # by a worker that was killed
    monkeypatch.setattr(repair, "LOCK_WAIT_SECONDS", 0.1)
    set_aside(database, "t", "c0", StageName.BANDS)
    with pytest.raises(CampaignError, match="give the same command again, after `scdm campaign resume t`"):
        launch.run_again(database, "t", "c0", StageName.BANDS)
    launchpad.workflows.update_one({}, {"$unset": {"locked": True}})
    launchpad.fireworks.update_one({"name": "bands"}, {"$set": {"state": "RUNNING"}})
    with pytest.raises(CampaignError, match="bands has begun on the LaunchPad meanwhile"):
        launch.run_again(database, "t", "c0", StageName.BANDS)
