"""Stages that are done again: what was made of their result goes with them, and nothing stored is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.layers import mx2
from support.memory import memory_database
from support.rlaunching import FOLLOWERS, Workers, check_all_done, put, runs

from scdm_flows.builders import build_all
from scdm_flows.campaigns.again import set_aside
from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.cli import cli
from scdm_flows.config import parse_config
from scdm_flows.documents import StageName
from scdm_flows.errors import CampaignError
from scdm_flows.execution import fireworks as launch
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
    with pytest.raises(CampaignError, match="no stored output from static on"):
        set_aside(database, "t", before.candidate_id, StageName.STATIC)
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
