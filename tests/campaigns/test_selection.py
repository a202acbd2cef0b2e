"""Phonons of the best only: chosen by rank when all gates are closed, kept, added to; locally and on the LaunchPad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.builders import build_all
from scdm_flows.campaigns.budget import in_words
from scdm_flows.campaigns.controls import control_of
from scdm_flows.cli import cli
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.documents import CampaignState, CandidateDoc, CandidateState
from scdm_flows.execution import fireworks as launch
from scdm_flows.execution import jobs as execution
from scdm_flows.execution.fireworks import Kind
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database

pytestmark = pytest.mark.usefixtures("quiet_place")


def campaign(folder: Path, best: int | None, **rules: Any) -> CampaignConfig:
    """1H- and 1T-MoS2 and a strained 1T-MoSSe; a window so wide that all gates open to phonons."""
    folder.mkdir(exist_ok=True)
    janus = mx2("1T", a=3.25)
    janus.replace(2, "Se")
    for name, structure in {"a": mx2("1H"), "b": mx2("1T"), "c": janus}.items():
        structure.to(str(folder / f"{name}.cif"))
    budget = {} if best is None else {"phonons": {"best": best, **rules}}
    return parse_config(
        {
            "name": "t",
            "generator": {"kind": "files", "paths": [str(folder)]},
            "screen": {"require_novel": False},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.1, "phonon_min_length_angstrom": 3},
            "gate": {"max_e_above_hull": 3, "phonon_max_e_above_hull": 3},
            "budget": budget,
        }
    )


def candidates(database: Database) -> list[CandidateDoc]:
    """All of them, the lowest energy first."""
    build_all(database, "t")
    return sorted(CandidateDB(database).find(campaign="t"), key=lambda c: c.e_above_hull or 0.0)


def with_phonons(database: Database) -> list[bool]:
    return [c.dynamically_stable is not None for c in candidates(database)]


def test_only_the_best_get_phonons_and_all_have_an_end(tmp_path: Path) -> None:
    database = memory_database()
    run_campaign(campaign(tmp_path / "in", 1), database, processes=1)
    found = candidates(database)
    # stability is the one term that differs between them, so the lowest energy is the best
    assert [c.dynamically_stable is not None for c in found] == [True, False, False]
    assert {c.state for c in found} == {CandidateState.COMPLETED}
    for candidate in found[1:]:
        record = candidate.stages["phonon"]
        assert record.status == "skipped"
        assert record.reason == "no phonons: not among the 1 best new candidates (budget.phonons)"
    document = CandidateDB(database).campaign("t")
    assert document.state is CampaignState.COMPLETED
    assert (document.funnel.pending, document.funnel.phonon_done) == (0, 1)


def test_a_larger_budget_adds_to_the_choice_and_none_lifts_it(tmp_path: Path) -> None:
    database = memory_database()
    run_campaign(campaign(tmp_path / "in", 1), database, processes=1)
    first = control_of(database.mongo, "t").chosen
    uuids = {d["uuid"] for d in database.job_store.query({})}
    run_campaign(campaign(tmp_path / "in", 2), database, processes=1)
    second = control_of(database.mongo, "t").chosen
    assert first is not None
    assert second is not None
    assert second[: len(first)] == first
    assert with_phonons(database) == [True, True, False]
    assert len({d["uuid"] for d in database.job_store.query({})} - uuids) == 1  # one phonon job, and nothing else
    run_campaign(campaign(tmp_path / "in", None), database, processes=1)
    assert with_phonons(database) == [True, True, True]


def test_known_layers_are_passed_over_where_only_new_ones_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scdm_models.datasets.known import KnownLayers
    from scdm_models.datasets.records import LayerRecord

    known, _ = KnownLayers.build([LayerRecord("2dm-1", "C2DB", mx2("1H"))])
    monkeypatch.setattr(KnownLayers, "load", classmethod(lambda cls, path=None: known))
    for novel_only, expected in ((True, [False, True, False]), (False, [True, False, False])):
        database = memory_database()
        run_campaign(campaign(tmp_path / "in", 1, novel_only=novel_only), database, processes=1)
        found = candidates(database)
        assert [c.novel for c in found] == [False, True, True]
        assert [c.dynamically_stable is not None for c in found] == expected


def test_nothing_is_chosen_while_a_gate_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, real = memory_database(), execution.run_job
    config = campaign(tmp_path / "in", 1)

    def interrupted(job: Any, store: Any, **spent: float) -> Any:
        if job.metadata["stage"] == "gate" and len(gates) == 1:
            raise KeyboardInterrupt
        gates.extend([job.name] * (job.metadata["stage"] == "gate"))
        return real(job, store, **spent)

    gates: list[str] = []
    monkeypatch.setattr(execution, "run_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_campaign(config, database, processes=1)
    assert control_of(database.mongo, "t").chosen is None
    assert CandidateState.COMPLETED not in {c.state for c in candidates(database)}  # it may still be chosen
    monkeypatch.setattr(execution, "run_job", real)
    run_campaign(config, database, processes=1)
    assert with_phonons(database) == [True, False, False]


def work(database: Database) -> None:
    """Run fireworks one after the other until there are none."""
    launchpad = launch.launchpad_of(database)
    with execution.hushed():
        while launch_rocket(launchpad, FWorker(), strm_lvl="CRITICAL"):
            pass


def test_on_the_launchpad_resume_chooses_once_all_gates_are_closed(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    config = campaign(tmp_path / "in", 2)
    launch.submit(config, database)
    assert Kind.CHOSEN not in {item.kind for item in launch.resume(database, "t")}  # nothing is relaxed yet
    work(database)
    assert with_phonons(database) == [False, False, False]
    assert {c.state for c in candidates(database)} == {CandidateState.PENDING}
    first = [item.name for item in launch.resume(database, "t") if item.kind is Kind.CHOSEN]
    assert first == control_of(database.mongo, "t").chosen
    assert launch.resume(database, "t") == []  # each only once
    work(database)
    assert with_phonons(database) == [True, True, False]
    assert {c.state for c in candidates(database)} == {CandidateState.COMPLETED}
    assert "phonons of the 2 best new candidates: 2 are chosen" in in_words(database.mongo, "t")
    # the same campaign in this process finds everything done
    before = {d["uuid"] for d in database.job_store.docs_store.query({})}
    run_campaign(config, database, processes=1)
    assert {d["uuid"] for d in database.job_store.docs_store.query({})} == before


def test_a_budget_of_no_phonons_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: t\nbudget: {phonons: {best: 0}}\n")
    result = CliRunner().invoke(cli, ["campaign", "run", str(file)])
    assert result.exit_code != 0
    assert "budget.phonons.best = 0" in str(result.output) + str(result.exception)
