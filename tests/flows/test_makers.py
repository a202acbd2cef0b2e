"""Flows as Makers of their own: run by jobflow alone, with another's Makers, and as a stock FireWorks workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from support.examples import blocks
from support.layers import mx2
from support.places import ROOT

from scdm_flows.config import parse_config
from scdm_flows.engines import engine_of
from scdm_flows.execution.jobs import hushed
from scdm_flows.flows.campaign import CampaignMaker
from scdm_flows.flows.layer import LayerMaker

pytestmark = pytest.mark.usefixtures("quiet_place")


def settings(**more: Any) -> dict[str, Any]:
    return {
        "name": "m",
        "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.1, "phonon_min_length_angstrom": 6},
        "gate": {"max_e_above_hull": 3, "phonon_max_e_above_hull": 3},
        **more,
    }


def store() -> JobStore:
    found = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    found.connect()
    return found


def stages(found: JobStore) -> list[str]:
    return sorted(d["metadata"]["stage"] for d in found.query({}, properties=["metadata"]))


def test_the_page_shows_how() -> None:
    """The block of docs/howto.md does what it says: a layer on the hull that is stable (known of 1H-MoS2)."""
    (code,) = [text for language, text in blocks((ROOT / "docs" / "howto.md").read_text()) if "LayerMaker" in text]
    names: dict[str, Any] = {}
    with hushed():
        exec(code, names)
    outputs = {d["metadata"]["stage"]: d["output"] for d in names["store"].query({})}
    assert set(outputs) == {"relax", "static", "gate", "phonon"}
    assert outputs["gate"]["e_above_hull"] < 0.05
    assert outputs["phonon"]["dynamically_stable"] is True


def test_a_campaign_is_one_flow_for_any_job_store(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, layer in {"a": mx2("1H"), "b": mx2("1T")}.items():
        layer.to(str(tmp_path / "in" / f"{name}.cif"))
    generator = {"kind": "files", "paths": [str(tmp_path / "in")], "shard_size": 1}
    config = parse_config(settings(generator=generator, screen={"require_novel": False}))
    found = store()
    with hushed():
        run_locally(CampaignMaker(config).make(), store=found)
    once = ["gate", "generate", "phonon", "relax", "screen", "static"]
    assert stages(found) == sorted(once * 2)


def test_another_groups_makers_take_the_place_of_the_engines() -> None:
    """Their relaxation is kept looser; everything behind it follows from what it made."""
    config = parse_config(settings())
    loose = engine_of(parse_config(settings(engine={"kind": "forcefield", "fmax_ev_per_angstrom": 9})).engine)
    with hushed():
        run_locally(LayerMaker(config, relax_maker=loose.relax_maker()).make(mx2("1H", a=3.3)), store=(mine := store()))
        run_locally(LayerMaker(config).make(mx2("1H", a=3.3)), store=(usual := store()))
    steps = [found.query_one({"metadata.stage": "relax"})["output"]["output"]["n_steps"] for found in (mine, usual)]
    assert steps[0] < steps[1]
    assert stages(mine) == stages(usual) == ["gate", "phonon", "relax", "static"]


def test_stock_fireworks_takes_the_flow() -> None:
    from jobflow.managers.fireworks import flow_to_workflow

    workflow = flow_to_workflow(LayerMaker(parse_config(settings())).make(mx2("1H")), store=store())
    assert [fw.spec["_category"] for fw in workflow.fws] == ["compute"] * 3
    assert len(workflow.links) == 3
