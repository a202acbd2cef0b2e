"""What a campaign costs: within its gates, and fitted to what finished jobs of the store took."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.campaigns.estimate import LEAST, Fit, ends_in_time, estimate, fit, fits, in_node_hours, stage_of
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CampaignDoc, StageName


def campaign(**gate: Any) -> CampaignConfig:
    # the smallest supercell: what is estimated of phonons is not looked at
    engine = {"kind": "vasp", "phonon_min_length_angstrom": 3}
    return parse_config({"name": "v", "engine": engine, "gate": gate})


def test_a_fit_finds_the_factor_and_its_spread() -> None:
    # ratios of 2 e^s and 2 e^-s in turn: the mean of their logarithms is ln 2, their spread s sqrt(n / (n - 1))
    n, s = 12, 0.3
    estimated = np.linspace(1, 5, n)
    found = fit(estimated.tolist(), (2 * estimated * np.exp(s * (-1.0) ** np.arange(n))).tolist())
    assert found is not None
    assert (found.jobs, found.node_hours_per_core_hour) == (n, pytest.approx(2))
    assert found.factor == pytest.approx(np.exp(2 * s * np.sqrt(n / (n - 1))))
    assert fit([1.0] * (LEAST - 1), [1.0] * (LEAST - 1)) is None


def test_what_a_gate_leaves_out_costs_nothing() -> None:
    layer = mx2("1H")  # three atoms
    stages = [
        {stage_of(run).value for run in estimate(config, layer, 3)}
        for config in (campaign(), campaign(phonon_max_atoms=2), campaign(phonon_max_atoms=2, bands_max_atoms=2))
    ]
    assert stages == [{"relax", "static", "phonon", "bands"}, {"relax", "static", "bands"}, {"relax", "static"}]


def test_every_run_is_a_part_of_a_stage() -> None:
    options = {"magnetism": {"orderings": ["fm", "afm"]}, "hse_gap": True, "phonon_min_length_angstrom": 3}
    iron = mx2("1T").replace_species({"Mo": "Fe", "S": "Cl"})
    config = parse_config({"name": "v", "engine": {"kind": "vasp", **options}})
    found = {run.stage: stage_of(run).value for run in estimate(config, iron, 3)}
    assert (found["static_orders"], found["strain"], found["hse"]) == ("static", "phonon", "bands")


def test_what_vasp_computes_on_many_cores_ends_the_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    config, database, layer = campaign(phonon_max_atoms=1, bands_max_atoms=1), memory_database(), mx2("1H")
    hours = sum(run.core_hours for run in estimate(config, layer, 3))
    deadline = time.time() + 3600 * hours / 4
    for ranks, ends in ((None, False), (2, False), (8, True)):  # nobody says how many: one
        monkeypatch.setattr("scdm_flows.campaigns.estimate.get_settings", lambda r=ranks: ScdmSettings(vasp_ranks=r))
        assert ends_in_time(config, database, layer, deadline) is ends


def test_finished_jobs_of_the_store_say_how_many_node_hours_a_core_hour_is() -> None:
    config, database, layer = campaign(phonon_max_atoms=1, bands_max_atoms=1), memory_database(), mx2("1H")
    dump = config.model_dump(mode="json")
    document = CampaignDoc(name="v", config=dump, config_hash=config.config_hash)
    database.upsert(database.campaigns, [document.model_dump()])
    relax, static = (
        [r.core_hours for r in estimate(config, layer, 3) if stage_of(r) == s] for s in ("relax", "static")
    )
    names = [f"v-{k}" for k in range(LEAST)]
    stored = {"campaign": "v", "relaxed_structure": layer.as_dict()}
    database.mongo["candidates"].insert_many([{**stored, "candidate_id": name} for name in names])
    for k, name in enumerate(names):
        about = {"campaign": "v", "candidate_id": name}
        first, second = (3600 * 0.25 * hours for hours in relax)  # node hours are a quarter of the core hours
        database.mongo["outputs"].insert_many(
            [
                {"uuid": f"a{k}", "metadata": {**about, "part_of": "relax", "seconds": first}},
                {"uuid": f"b{k}", "metadata": {**about, "stage": "relax", "seconds": second}},
                # one static run fewer, which is one too few
                {
                    "uuid": f"c{k}",
                    "metadata": {**about, "stage" if k else "part_of": "static", "seconds": 3600 * static[0]},
                },
            ]
        )
    found = fits(database, config)
    assert set(found) == {StageName.RELAX}
    assert found[StageName.RELAX].jobs == LEAST
    assert found[StageName.RELAX].node_hours_per_core_hour == pytest.approx(0.25)
    assert found[StageName.RELAX].factor == pytest.approx(1)
    runs = estimate(config, layer, 3)
    assert in_node_hours(runs, found) is None  # of the static run nothing is known
    both = {**found, StageName.STATIC: Fit(12, 1.0, 2.0)}
    assert in_node_hours(runs, both) == (pytest.approx(0.25 * sum(relax) + sum(static)), 2.0)
