"""Builders: from what jobs leave in the job store to ranked candidates, on job outputs made by hand."""

from __future__ import annotations

import os
import random
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure
from pymongo.errors import AutoReconnect
from support.memory import memory_database

from scdm_flows.analysis.duplicates import across_shards
from scdm_flows.builders import (
    CandidateBuilder,
    FunnelBuilder,
    HullBuilder,
    NoveltyBuilder,
    RankingBuilder,
    build_all,
)
from scdm_flows.builders.assemble import completed_at
from scdm_flows.campaigns import removal
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import (
    CampaignDoc,
    CampaignState,
    CandidateDoc,
    GateDoc,
    PhononDoc,
    Provenance,
    ScreenedCandidate,
    ScreenOutput,
    StageFailure,
    utc_now,
)
from scdm_flows.errors import CampaignError, StoreError
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.names import CONTROLS
from scdm_flows.stores.process import free_port
from scdm_flows.thermo.competing_phases import lower_hull
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.datasets.known import KnownLayers
from scdm_models.datasets.records import LayerRecord

SCHEME = "test-dft"
# elements at 0, one compound at -1 eV/atom: E_hull of anything else follows by hand
PHASES = {
    "Mo": (Phase("ref-Mo", {"Mo": 1.0}, 0.0, "Mo"),),
    "S": (Phase("ref-S", {"S": 1.0}, 0.0, "S"),),
    "Mo-S": (Phase("ref.MoS", {"Mo": 0.5, "S": 0.5}, -1.0, "Mo1S1"),),
}
TABLE = ReferenceTable(SCHEME, False, "f" * 64, {}, PHASES)


def layer(polytype: str = "1H", a: float = 3.18, metal: str = "Mo") -> Structure:
    second = (2 / 3, 1 / 3) if polytype == "1H" else (0.0, 0.0)
    frac = [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.57825], [*second, 0.42175]]
    return Structure(Lattice.hexagonal(a, 20.0), [metal, "S", "S"], frac)


def screened(name: str, index: int, structure: Structure | None = None, **fields: Any) -> ScreenedCandidate:
    structure = structure or layer()
    known: dict[str, Any] = {
        "layer_group_generated": 78,
        "space_group_generated": 187,
        "valid_distance": True,
        "valid_radii": True,
        "one_layer": True,
        "novel": True,
        "accepted": True,
        "formula": structure.composition.reduced_formula,
        "structure": structure.as_dict(),
    }
    return ScreenedCandidate(candidate_id=name, index=index, generator="scdm", **(known | fields))


def gate_doc(name: str, energy: float, structure: Structure | None = None, **fields: Any) -> GateDoc:
    known: dict[str, Any] = {
        "relax_converged": True,
        "one_layer": True,
        "in_window": True,
        "phonon": True,
        "e_above_hull": 0.1,
        "layer_group": 78,
        "decomposition": {"ref.MoS Mo1S1": 1.0},
        "energy_scheme": SCHEME,
        "surrogate": False,
        "thickness_angstrom": 3.1,
        "area_per_atom_angstrom2": 2.9,
    }
    return GateDoc(
        candidate_id=name,
        campaign="c",
        relaxed_structure=(structure or layer()).as_dict(),
        energy_per_atom=energy,
        **(known | fields),
    )


def phonon_doc(name: str, stable: bool = True) -> PhononDoc:
    return PhononDoc(
        candidate_id=name,
        campaign="c",
        energy_scheme=SCHEME,
        surrogate=False,
        supercell=[[4, 0, 0], [0, 4, 0], [0, 0, 1]],
        displacement_angstrom=0.01,
        n_displacements=2,
        q_points=[[0, 0, 0], [0.5, 0, 0]],
        distances=[0.0, 0.3],
        labels=[(0.0, "G"), (0.3, "M")],
        frequencies_thz=[[0.0], [1.0]],
        min_frequency_thz=0.0 if stable else -2.0,
        threshold_thz=0.1,
        dynamically_stable=stable,
    )


class Campaign:
    """A campaign in a database, with what its jobs would have stored."""

    def __init__(self, database: Database, n: int = 2, shard_size: int = 2) -> None:
        self.database = database
        self.samples: dict[str, Structure] = {}
        self.known, _ = KnownLayers.build([])
        config = {"generator": {"shard_size": shard_size}, "screen": {}}
        document = CampaignDoc(name="c", config=config, config_hash="0" * 64, n_requested=n)
        database.upsert(database.campaigns, [document.model_dump()])

    def store(self, stage: str, output: Any, **metadata: Any) -> None:
        key = metadata.get("candidate_id", f"shard{metadata.get('shard')}")
        document = {
            "uuid": f"{stage}-{key}",
            "index": 1,
            "name": f"{stage} {key}",
            "output": jsanitize(output, strict=True, enum_values=True, allow_bson=True),
            "metadata": {"campaign": "c", "stage": stage, **metadata},
            "completed_at": "2026-01-01T00:00:00.123456",
        }
        self.database.job_store.update(document)

    def screen(self, shard: int, *verdicts: ScreenedCandidate) -> None:
        self.samples |= {v.candidate_id: v.structure for v in verdicts if v.structure}
        output = ScreenOutput(campaign="c", shard=shard, candidates=list(verdicts))
        self.store("screen", output, shard=shard)

    def gate(self, name: str, energy: float, structure: Structure | None = None, **fields: Any) -> None:
        for stage in ("relax", "static"):
            self.store(stage, {"energy": energy}, candidate_id=name)
        structure = structure or self.samples[name]  # which does not move
        self.store("gate", gate_doc(name, energy, structure, **fields), candidate_id=name)

    def phonon(self, name: str, stable: bool = True) -> None:
        self.store("phonon", phonon_doc(name, stable), candidate_id=name)

    def fail(self, name: str, stage: str) -> None:
        failure = StageFailure(
            failure_id=f"{name}:{stage}",
            candidate_id=name,
            campaign="c",
            stage=stage,
            error_type="ValueError",
            message="it broke",
        )
        self.database.upsert(self.database.failures, [failure.model_dump()])

    def build(self, table: ReferenceTable = TABLE) -> dict[str, int]:
        builders = [
            CandidateBuilder(self.database),
            NoveltyBuilder(self.database, self.known, processes=1),
            FunnelBuilder(self.database),
            HullBuilder(self.database, table),
            RankingBuilder(self.database),
        ]
        for builder in builders:
            builder.run()
        return {type(b).__name__: b.written for b in builders}

    def get(self, name: str) -> CandidateDoc:
        return CandidateDB(self.database).get(name)

    @property
    def document(self) -> CampaignDoc:
        return CandidateDB(self.database).campaign("c")


def written(**counts: int) -> dict[str, int]:
    """How many documents each builder wrote, in their order."""
    builders = (CandidateBuilder, NoveltyBuilder, FunnelBuilder, HullBuilder, RankingBuilder)
    return {builder.__name__: counts.get(builder.__name__, 0) for builder in builders}


@pytest.fixture
def campaign() -> Campaign:
    return Campaign(memory_database())


def test_a_candidate_is_put_together_from_its_stages(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0), screened("b", 1, accepted=False, valid_distance=False, reason="atoms"))
    ran = Provenance(versions={"scdm-flows": "0.9"})
    campaign.gate("a", -0.5, layer(a=3.2), layer_group=77, rmsd_to_relaxed_angstrom=0.02, provenance=ran)
    campaign.phonon("a")
    campaign.build()
    found = campaign.get("a")
    assert (found.state, found.formula, found.chemsys, found.nsites) == ("completed", "MoS2", "Mo-S", 3)
    assert (found.layer_group_generated, found.layer_group) == (78, 77)  # of the sample; after relaxation
    assert found.relaxed_structure is not None
    assert Structure.from_dict(found.relaxed_structure).lattice.a == pytest.approx(3.2)
    assert found.dynamically_stable is True
    assert {s: r.status for s, r in found.stages.items()} == dict.fromkeys(
        ("generate", "screen", "relax", "static", "gate", "phonon"), "passed"
    )
    assert found.passed == "generate screen relax static gate phonon"
    assert found.provenance.job_uuids["gate"] == "gate-a"
    assert found.stages["gate"].completed_at is not None
    assert found.provenance.versions == {"scdm-flows": "0.9"}  # of the worker, not of whoever submitted
    rejected = campaign.get("b")
    assert rejected.provenance.versions == {}
    assert (rejected.state, rejected.reason, rejected.rank) == ("rejected", "atoms", None)
    phonon = CandidateDB(campaign.database).phonon("a")
    assert phonon is not None
    assert phonon.labels == [(0.0, "G"), (0.3, "M")]


def test_energy_model_and_extrapolation_come_from_the_gate(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0), screened("b", 1, layer("1T")))
    campaign.gate("a", -0.5, surrogate=True, energy_model="m-1a2b3c4d", extrapolated=True)
    campaign.gate("b", -0.4)
    CandidateBuilder(campaign.database).run()
    a, b = campaign.get("a"), campaign.get("b")
    assert (a.energy_model, a.extrapolated) == ("m-1a2b3c4d", True)
    assert (b.energy_model, b.extrapolated) == (None, None)


def test_gates_of_an_earlier_version_are_read_and_of_a_later_one_named(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0), screened("b", 1, layer("1T")))
    campaign.gate("a", -0.5, surrogate=True)
    campaign.gate("b", -0.4)
    outputs = campaign.database.mongo["outputs"]
    old = {"schema_version": 1, "e_above_hull_raw": -0.2, "calibration_id": "trees-1a2b3c4d"}
    gone = dict.fromkeys(("output.energy_model", "output.extrapolated"), "")
    outputs.update_one({"uuid": "gate-a"}, {"$set": {f"output.{k}": v for k, v in old.items()}, "$unset": gone})
    outputs.update_one({"uuid": "gate-b"}, {"$set": {"output.schema_version": 99}})
    CandidateBuilder(campaign.database).run()
    a, b = campaign.get("a"), campaign.get("b")
    assert (a.schema_version, a.state, a.energy_model, a.extrapolated) == (3, "pending", "trees-1a2b3c4d", None)
    assert b.state == "failed"
    assert "schema version 99" in str(b.reason)


def test_building_again_writes_nothing(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0), screened("b", 1, layer("1T"), layer_group_generated=72))
    campaign.gate("a", -0.5)
    campaign.gate("b", -0.4)
    campaign.phonon("a")
    campaign.fail("b", "phonon")
    first = campaign.build()
    assert first == written(CandidateBuilder=3, NoveltyBuilder=2, FunnelBuilder=1, HullBuilder=3, RankingBuilder=1)
    before = list(campaign.database.candidates.query(sort={"candidate_id": 1}))
    assert campaign.build() == written()
    assert list(campaign.database.candidates.query(sort={"candidate_id": 1})) == before  # times too


def test_candidates_of_an_earlier_version_are_judged_at_the_next_build(campaign: Campaign) -> None:
    campaign.known, _ = KnownLayers.build([LayerRecord("MoS2-1", "C2DB", layer())])
    campaign.screen(0, screened("a", 0), screened("b", 1, layer(metal="W"), novel=False, known_as=["WS2-1"]))
    campaign.gate("a", -0.5)
    campaign.gate("b", -0.4)
    campaign.build()
    before = campaign.get("a")
    assert (before.sample_novel, before.novel, before.bulk_compound) == (True, False, True)  # molybdenite
    assert (campaign.get("b").sample_novel, campaign.get("b").sample_known_as) == (False, ["WS2-1"])
    gone = dict.fromkeys(("sample_novel", "sample_known_as", "novelty", "bulk_compound"), "")
    old = {"schema_version": 2, "novel": True, "known_as": []}  # what was said of the sample
    campaign.database.mongo["candidates"].update_one({"candidate_id": "a"}, {"$set": old, "$unset": gone})
    assert campaign.get("a").novel is None
    counts = campaign.build()
    assert (counts["CandidateBuilder"], counts["NoveltyBuilder"]) == (1, 1)
    after = campaign.get("a")
    assert after.model_dump(exclude={"last_updated"}) == before.model_dump(exclude={"last_updated"})


@pytest.mark.parametrize(
    ("gate", "phonon", "failed", "state", "status"),
    [
        ({}, None, None, "pending", None),
        ({}, True, None, "completed", "passed"),
        ({}, None, "phonon", "failed", "failed"),
        ({"phonon": False, "reason": "no phonons: large"}, None, None, "completed", "skipped"),
        ({"in_window": False, "phonon": False, "reason": "above"}, None, None, "rejected", None),
        ({"one_layer": False, "phonon": False, "reason": "fell apart"}, None, None, "rejected", None),
        ({"relax_converged": False, "phonon": False, "reason": "no end"}, None, None, "failed", None),
        (None, None, "relax", "failed", None),
        (None, None, None, "pending", None),
        # run again with success: the old failure is history
        ({}, True, "relax", "completed", "passed"),
        ({}, True, "phonon", "completed", "passed"),
    ],
)
def test_state(
    campaign: Campaign,
    gate: dict[str, Any] | None,
    phonon: bool | None,
    failed: str | None,
    state: str,
    status: str | None,
) -> None:
    campaign.screen(0, screened("a", 0))
    if gate is not None:
        campaign.gate("a", -0.5, **gate)
    if phonon is not None:
        campaign.phonon("a", phonon)
    if failed is not None:
        campaign.fail("a", failed)
    campaign.build()
    found = campaign.get("a")
    assert found.state == state
    assert (found.stages["phonon"].status if "phonon" in found.stages else None) == status
    if state in ("failed", "rejected"):
        assert found.reason
        assert found.rank is None
    if state == "failed" and failed:
        assert found.reason == f"{failed}: ValueError: it broke"


def test_one_bad_item_never_ends_the_build(campaign: Campaign) -> None:
    bad_structure = {"@module": "pymatgen.core.structure", "@class": "Structure", "sites": "?"}
    unreadable = screened("unreadable", 1, structure=None, accepted=False, reason="unreadable: no structure")
    unreadable.structure = unreadable.formula = None
    campaign.screen(
        0, screened("good", 0), unreadable, screened("odd", 2, accepted=False, reason="odd"), screened("x", 3)
    )
    outputs = campaign.database.mongo["outputs"]
    outputs.update_one({"uuid": "screen-shard0"}, {"$set": {"output.candidates.2.structure": bad_structure}})
    outputs.update_one({"uuid": "screen-shard0"}, {"$push": {"output.candidates": {"candidate_id": "torn"}}})
    campaign.gate("good", -0.5)
    campaign.phonon("good")
    campaign.gate("x", -0.5)
    outputs.update_one({"uuid": "gate-x"}, {"$unset": {"output.energy_scheme": ""}})
    campaign.database.mongo["failures"].insert_one({"failure_id": "torn", "candidate_id": "x"})
    builder = CandidateBuilder(campaign.database)
    builder.run()
    FunnelBuilder(campaign.database).run()
    assert campaign.get("good").state == "completed"
    assert (campaign.get("unreadable").state, campaign.get("unreadable").nsites) == ("rejected", 0)
    assert campaign.get("odd").reason == "odd"
    broken = campaign.get("x")
    assert broken.state == "failed"
    assert "gate" in str(broken.reason)
    assert "energy_scheme" in str(broken.reason)
    assert set(builder.errors) == {"c shard 0 torn", "torn"}
    assert campaign.document.funnel.generated == 4


def test_funnel_and_campaign_state(campaign: Campaign) -> None:
    verdicts = [
        screened("close", 0, accepted=False, valid_distance=False, reason="atoms too close"),
        screened("twin", 1, accepted=False, duplicate_of="ok", reason="duplicate"),
        screened("known", 2, accepted=False, novel=False, reason="known"),
        screened("ok", 3),
        screened("high", 4, layer("1T")),
        screened("broken", 5, layer(metal="W")),
        screened("soft", 6, layer(metal="Nb")),
        screened("again", 7, layer(metal="Ta")),
    ]
    campaign.screen(0, *verdicts)
    assert campaign.document.state is CampaignState.SUBMITTED
    campaign.build()
    assert campaign.document.state is CampaignState.RUNNING
    for name in ("ok", "soft"):
        campaign.gate(name, -0.5)
        campaign.phonon(name, stable=name == "ok")
    campaign.gate("high", 3.0, in_window=False, phonon=False, reason="above")
    campaign.gate("again", -0.5, layer(a=3.19), in_window=True)  # relaxed to what 'ok' is
    campaign.phonon("again")
    campaign.fail("broken", "relax")
    soft = LayerRecord("known-NbS2", "C2DB", layer(metal="Nb"))
    campaign.known, _ = KnownLayers.build([soft])
    campaign.build()
    funnel = campaign.document.funnel
    assert funnel.model_dump() == {
        "generated": 8,
        "valid": 7,
        "unique": 6,
        "sample_novel": 5,
        "relaxed": 4,
        "distinct": 3,
        "novel": 2,  # 'ok' and 'high'; the sample of 'soft' was new by the screen's data
        "in_window": 2,
        "phonon_done": 2,
        "dynamically_stable": 1,
        "bands_done": 0,
        "failed": 1,
        "pending": 0,
    }
    assert campaign.document.state is CampaignState.COMPLETED


def test_what_changes_while_candidates_are_counted_stays_changed(campaign: Campaign) -> None:
    """Counting thousands takes seconds, in which somebody may raise the budget, or a newer program take over."""
    campaign.screen(0, screened("a", 0))
    CandidateBuilder(campaign.database).run()
    stored, builder = campaign.database.mongo["campaigns"], FunnelBuilder(campaign.database)
    stored.update_one({"name": "c"}, {"$set": {"config.budget": {"node_hours": 5.0}}})
    (item,) = builder.get_items()
    stored.update_one({"name": "c"}, {"$set": {"config.budget": {"node_hours": None}, "description": "longer"}})
    builder.update_targets([item])
    after = campaign.document
    assert (after.config["budget"], after.description) == ({"node_hours": None}, "longer")
    assert (after.funnel.generated, after.state, builder.written) == (1, CampaignState.RUNNING, 1)
    campaign.screen(1, screened("b", 2))
    CandidateBuilder(campaign.database).run()
    (item,) = builder.get_items()
    stored.update_one({"name": "c"}, {"$set": {"schema_version": 99}})
    builder.update_targets([item])
    assert stored.find_one({"name": "c"})["funnel"]["generated"] == 1


def test_a_campaign_of_an_earlier_version_is_counted_in_the_words_of_this_one(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0))
    CandidateBuilder(campaign.database).run()
    stored = campaign.database.mongo["campaigns"]
    # version 1 called new samples ``novel``
    old = {"schema_version": 1, "funnel": {"generated": 1, "novel": 1}}
    stored.update_one({"name": "c"}, {"$set": old})
    for _ in range(2):
        FunnelBuilder(campaign.database).run()
        assert campaign.document.funnel.model_dump(exclude_defaults=True) == {
            "generated": 1, "valid": 1, "unique": 1, "sample_novel": 1, "pending": 1,
        }  # fmt: skip
        assert stored.find_one({"name": "c"})["schema_version"] == 2


@pytest.mark.parametrize("moment", ["before", "while", "as"])
def test_a_campaign_that_is_removed_during_a_build_stays_removed(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before its batch is written, in the middle of that, or by a removal that has looked at the candidates already."""
    campaign.screen(0, screened("a", 0))
    campaign.gate("a", -0.5)
    campaign.phonon("a")
    database, builder = campaign.database, CandidateBuilder(campaign.database)
    funnels = FunnelBuilder(database)
    (counted,), items = funnels.get_items(), [builder.process_item(item) for item in builder.get_items()]
    write = builder._write_candidates

    def remove() -> None:
        if moment == "as":
            database.mongo[CONTROLS].update_one({"_id": "c"}, {"$set": {"removing": utc_now()}}, upsert=True)
        else:
            removal.remove(database, "c")

    def written(documents: list[dict[str, Any]]) -> list[str]:
        remove()
        return write(documents)

    if moment == "before":
        remove()
    else:
        monkeypatch.setattr(builder, "_write_candidates", written)
    builder.update_targets(items)
    assert [database.mongo[name].count_documents({}) for name in ("candidates", "phonons", "bands")] == [0, 0, 0]
    if moment != "as":
        funnels.update_targets([counted])
        assert database.campaign("c") is None


def test_a_campaign_of_another_program_does_not_end_the_build_of_the_others(
    campaign: Campaign, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a later version, with a budget that this one does not know, or an engine: each is named and left out."""
    campaign.screen(0, screened("a", 0))
    campaign.gate("a", -0.5)
    alien = {
        "newer": {"schema_version": 99},
        "richer": {"config": {"budget": {"unheard_of": 1}}},
        "other": {"config": {"engine": {"kind": "vasp", "references": "r.json", "unheard_of": 1}}},
        "aimless": {"config": {"objective": {"unheard_of": 1}}},
        "torn": {"config": {"engine": {"kind": "forcefield", "references": "r.json"}}},
    }
    for name, fields in alien.items():
        document = CampaignDoc(name=name, config={}, config_hash="1" * 64).model_dump()
        campaign.database.mongo["campaigns"].insert_one({**document, **fields})
    builders = [
        CandidateBuilder(campaign.database),
        FunnelBuilder(campaign.database),
        HullBuilder(campaign.database, TABLE),
        RankingBuilder(campaign.database),
    ]
    for builder in builders:
        builder.run()
    assert campaign.get("a").e_above_hull is not None
    assert campaign.get("a").rank == 1
    assert campaign.document.funnel.generated == 1
    candidates, funnels, hulls, rankings = (builder.errors for builder in builders)
    assert set(candidates) == {"campaign newer", "campaign richer"}
    assert "schema version 99" in candidates["campaign newer"]
    assert "unheard_of" in candidates["campaign richer"]
    assert set(funnels) == {"campaign newer"}
    assert set(hulls) == {"campaign other", "campaign torn"}
    assert set(rankings) == {"campaign aimless"}
    assert "HullBuilder left out campaign other" in caplog.text


def test_a_database_that_fails_ends_the_build(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of a campaign, which would be left out as if nothing had happened."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AutoReconnect("no answer")

    builder = CandidateBuilder(campaign.database, "c")
    monkeypatch.setattr(campaign.database.campaigns, "query_one", fail)
    with pytest.raises(StoreError, match="does not answer"):
        builder.run()
    assert builder.errors == {}


def test_a_campaign_is_not_complete_before_its_last_shard() -> None:
    campaign = Campaign(memory_database(), n=4, shard_size=2)
    campaign.screen(0, screened("a", 0, accepted=False, reason="no"))
    campaign.build()
    assert campaign.document.state is CampaignState.RUNNING
    campaign.screen(1, screened("b", 2, accepted=False, reason="no"))
    campaign.build()
    assert campaign.document.state is CampaignState.COMPLETED


def test_duplicates_across_shards_the_first_index_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign(memory_database(), n=6, shard_size=2)
    campaign.screen(1, screened("late", 2), screened("other", 3, layer("1T"), layer_group_generated=72))
    campaign.screen(0, screened("first", 0, layer(a=3.181)), screened("far", 1, layer(a=4.2)))
    # within its shard 'echo' equals 'again', which equals 'first' of another shard
    echo = screened("echo", 5, accepted=False, duplicate_of="again", reason="duplicate: again")
    campaign.screen(2, screened("again", 4), echo)
    campaign.build()
    marked = {name: campaign.get(name).duplicate_of for name in ("first", "far", "late", "other", "again", "echo")}
    assert marked == {
        "first": None,
        "far": None,
        "other": None,
        "late": "first",
        "again": "first",
        "echo": "first",
    }
    late = campaign.get("late")
    assert (late.state, late.reason) == ("rejected", "duplicate: the same layer as first")
    assert campaign.document.funnel.unique == 3
    # what has been compared is not compared again, and stays as it is
    monkeypatch.setattr("scdm_flows.analysis.duplicates._compare", lambda *_: pytest.fail("compared again"))
    assert campaign.build()["CandidateBuilder"] == 0


def test_duplicates_across_shards_of_other_layer_groups_and_through_a_chain() -> None:
    # 8 % longer each: neighbours are within the matcher's 10 %, the ends are not; 'link' was found within its shard
    link = screened("link", 1, layer(a=3.24), accepted=False, duplicate_of="short", reason="duplicate: short")
    shards = [
        [screened("short", 0, layer(a=3.0)), link],
        [screened("long", 2, layer(a=3.5)), screened("bent", 3, layer("1T").perturb(0.01), layer_group_generated=1)],
        [screened("straight", 4, layer("1T"), layer_group_generated=72)],
    ]
    expected = {"long": "short", "straight": "bent"}  # 'link' follows 'short' already
    assert across_shards(shards) == expected
    assert across_shards(shards[::-1]) == expected
    broken = screened("broken", 5, layer()).model_copy(update={"structure": {"lattice": "nonsense"}})
    assert across_shards([*shards, [broken]]) == expected
    assert across_shards(shards, {"short": None, "long": "short", "bent": None, "straight": None}) == {"long": "short"}


def test_energies_above_the_hull_by_hand(campaign: Campaign) -> None:
    # MoS2 between S (0) and MoS (-1 eV/atom): 2/3 of its atoms make MoS, so the hull lies at -2/3 eV/atom
    campaign.screen(0, screened("a", 0))
    campaign.gate("a", -0.5, e_above_hull=0.123)
    campaign.phonon("a")
    campaign.build()
    found = campaign.get("a")
    assert found.e_above_hull == pytest.approx(2 / 3 - 0.5)
    assert found.formation_energy_per_atom == pytest.approx(-0.5)
    assert found.e_above_hull_gate == 0.123  # what the gate decided on is kept beside it
    assert found.decomposition == pytest.approx({"ref_MoS Mo1S1": 2 / 3, "ref-S S": 1 / 3})
    hull = CandidateDB(campaign.database).hull("S-Mo")
    assert hull is not None
    assert {p.name for p in hull.points if p.stable} == {"ref-Mo", "ref-S", "ref.MoS"}
    assert [p.name for p in hull.points if p.candidate] == ["a"]


def test_candidates_compete_and_a_new_one_moves_the_others(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0))
    campaign.gate("a", -0.5)
    campaign.build()
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.5)
    # a polymorph 0.1 eV/atom below the hull: 'a' now lies above it; it lies below all others, so is negative
    campaign.screen(0, screened("a", 0), screened("b", 1, layer("1T"), layer_group_generated=72))
    campaign.gate("b", -2 / 3 - 0.1)
    campaign.build()
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 + 0.1 - 0.5)
    assert campaign.get("a").decomposition == pytest.approx({"b MoS2": 1.0})
    assert campaign.get("b").e_above_hull == pytest.approx(-0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"one_layer": False, "phonon": False, "reason": "fell apart"},
        {"relax_converged": False, "phonon": False, "reason": "no end"},
    ],
)
def test_what_is_no_relaxed_layer_does_not_compete(campaign: Campaign, fields: dict[str, Any]) -> None:
    campaign.screen(0, screened("a", 0), screened("wreck", 1, layer("1T"), layer_group_generated=72))
    campaign.gate("a", -0.5)
    campaign.gate("wreck", -9.0, **fields)
    campaign.build()
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.5)


def test_duplicates_do_not_compete_with_their_first() -> None:
    campaign = Campaign(memory_database(), n=2, shard_size=1)
    campaign.screen(0, screened("a", 0))
    campaign.screen(1, screened("twin", 1))
    for name in ("a", "twin"):
        campaign.gate(name, -0.8)
    campaign.build()
    assert campaign.get("twin").duplicate_of == "a"
    # below the hull at -2/3: would be 0 if its own twin were its rival
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.8)


def test_one_layer_of_two_campaigns_does_not_compete_with_itself(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0))
    campaign.gate("a", -0.8)
    campaign.build()
    candidates = campaign.database.mongo["candidates"]
    other = campaign.get("a").model_copy(update={"candidate_id": "again", "campaign": "d"})
    again = {**other.model_dump(mode="json"), "energy_per_atom": -0.79, "hull_pending": "new"}
    again["novelty"]["version"] = ""  # not judged yet
    candidates.insert_one(again)
    campaign.build()
    assert [k.id for k in campaign.get("a").known_as] == ["again"]
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.8)
    assert campaign.get("again").e_above_hull == pytest.approx(2 / 3 - 0.79)
    candidates.delete_one({"candidate_id": "again"})
    campaign.build()
    assert campaign.get("a").known_as == []
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.8)


def test_predicted_energies_compete_and_keep_their_error(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0), screened("b", 1, layer("1T"), layer_group_generated=72))
    said = {"surrogate": True, "e_above_hull_error": 0.05, "extrapolated": True, "energy_model": "model-1"}
    campaign.gate("a", -2 / 3 - 0.2, **said)  # 0.2 below the references' hull
    campaign.gate("b", -2 / 3 + 0.1, **said | {"extrapolated": False})  # 0.3 above a
    campaign.build()
    a, b = campaign.get("a"), campaign.get("b")
    assert (a.e_above_hull, b.e_above_hull) == pytest.approx((-0.2, 0.3))
    assert (a.e_above_hull_error, a.extrapolated, a.energy_model) == (0.05, True, "model-1")
    assert b.extrapolated is False
    hull = campaign.database.hulls.query_one({"chemsys": "Mo-S"})
    assert hull is not None
    assert hull["surrogate"]  # of references that are not, but its candidates' energies are predicted
    campaign.gate("b", -2 / 3 + 0.1, **said | {"e_above_hull_error": 0.07})  # the energy as before, its error not
    campaign.build()
    assert (campaign.get("b").e_above_hull, campaign.get("b").e_above_hull_error) == (pytest.approx(0.3), 0.07)


def test_unknown_scheme_and_missing_reference_leave_the_gates_value(campaign: Campaign) -> None:
    campaign.screen(0, screened("other", 0), screened("w", 1, layer(metal="W")))
    campaign.gate("other", -0.5, e_above_hull=0.11)
    campaign.database.mongo["outputs"].update_one(
        {"uuid": "gate-other"}, {"$set": {"output.energy_scheme": "vasp-pbe"}}
    )
    campaign.gate("w", -0.5, e_above_hull=0.12)
    CandidateBuilder(campaign.database).run()
    builder = HullBuilder(campaign.database, TABLE)
    builder.run()
    assert "W" in builder.errors["hull S-W"]
    assert campaign.get("other").e_above_hull == 0.11  # energies of two schemes are never compared
    assert campaign.get("w").e_above_hull == 0.12


def test_an_absurd_energy_spoils_only_itself(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0), screened("mad", 1, layer("1T"), layer_group_generated=72))
    campaign.gate("a", -0.5)
    campaign.gate("mad", -1e6)
    campaign.build()
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.5)
    hull = CandidateDB(campaign.database).hull("Mo-S")
    assert hull is not None
    assert "mad" in hull.errors


def test_a_changed_energy_replaces_the_old_hull_values(campaign: Campaign) -> None:
    campaign.screen(0, screened("a", 0))
    campaign.gate("a", -0.5)
    campaign.build()
    assert list(HullBuilder(campaign.database, TABLE).get_items()) == []  # nothing to compute again
    campaign.gate("a", -0.4)  # the static run was repeated
    CandidateBuilder(campaign.database).run()
    assert campaign.get("a").e_above_hull == 0.1  # the gate's, until the hull is built; not that of the old energy
    assert campaign.build() == written(HullBuilder=2, RankingBuilder=1)
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.4)
    campaign.database.candidates.remove_docs({})  # whoever deletes candidates gets them back as they were
    campaign.build()
    assert campaign.get("a").e_above_hull == pytest.approx(2 / 3 - 0.4)


def test_ranking(campaign: Campaign) -> None:
    names = ["best", "next", "soft", "gone"]
    structures = [layer(), layer("1T"), layer(a=3.9), layer(metal="W")]
    campaign.screen(0, *(screened(n, i, s) for i, (n, s) in enumerate(zip(names, structures, strict=True))))
    for name, energy in (("best", -0.6), ("next", -0.5), ("soft", -0.6)):
        campaign.gate(name, energy)
        campaign.phonon(name, stable=name != "soft")
    campaign.fail("gone", "relax")
    campaign.build()
    ranks = {name: campaign.get(name).rank for name in names}
    assert ranks["best"] == 1
    assert sorted(r for r in ranks.values() if r) == [1, 2, 3]
    assert ranks["gone"] is None
    best = campaign.get("best")
    assert best.score == pytest.approx(sum(best.score_terms.values()), abs=1e-8)
    # a candidate that fails later loses its rank, and the others move up
    campaign.database.mongo["outputs"].delete_one({"uuid": "phonon-best"})
    campaign.fail("best", "phonon")
    campaign.build()
    assert campaign.get("best").rank is None
    assert sorted(r for n in names if (r := campaign.get(n).rank)) == [1, 2]


def test_build_all_on_the_packaged_table(campaign: Campaign) -> None:
    table = ReferenceTable.load()
    campaign.screen(0, screened("a", 0))
    # 0.5 eV/atom below the elements: MoS2's own hull lies lower (C2DB: -0.9 for the layer)
    energy = table.total_energy({"Mo": 1 / 3, "S": 2 / 3}, -0.5)
    campaign.gate("a", energy, energy_scheme=table.scheme, surrogate=True, e_above_hull_error=0.05)
    counts = written(CandidateBuilder=1, NoveltyBuilder=1, FunnelBuilder=1, HullBuilder=2, RankingBuilder=1)
    assert build_all(campaign.database, "c") == counts
    found = campaign.get("a")
    assert found.formation_energy_per_atom == pytest.approx(-0.5)
    assert found.e_above_hull_error == 0.05
    assert found.e_above_hull is not None
    assert 0.3 < found.e_above_hull < 0.6
    assert found.provenance.engine == f"{table.scheme} (surrogate)"
    assert build_all(campaign.database) == written()


def test_unknown_campaign(campaign: Campaign) -> None:
    with pytest.raises(CampaignError, match="no campaign is called 'cc'; did you mean 'c'"):
        build_all(campaign.database, "cc")


def test_a_builder_leaves_the_root_logger_and_the_stores_alone(campaign: Campaign) -> None:
    import logging

    before = (logging.getLogger().level, list(logging.getLogger().handlers))
    CandidateBuilder(campaign.database).run()
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before
    assert campaign.database.campaigns.count() == 1  # still open


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"metadata": {"completed_at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)}}, 678000),
        ({"metadata": {}, "completed_at": "2026-01-02T03:04:05.678901+00:00"}, 678000),
        ({"metadata": {"completed_at": datetime(2026, 1, 2, 3, 4, 5, 678901)}}, 678000),
    ],
)
def test_times_are_utc_in_milliseconds(job: dict[str, Any], expected: int) -> None:
    assert completed_at(job) == datetime(2026, 1, 2, 3, 4, 5, expected, UTC)


def test_times_that_are_none() -> None:
    assert completed_at({"metadata": {}, "completed_at": "yesterday"}) is None
    assert completed_at({}) is None


def test_corners_of_the_lower_hull() -> None:
    # A, B, AB2 on a binary hull; A2B above the line from A to AB2 and a polymorph of B are not corners
    x = np.array([[1, 0], [0, 1], [1 / 3, 2 / 3], [2 / 3, 1 / 3], [0, 1]], dtype=float)
    formation = np.array([0.0, 0.0, -1.0, -0.4, 0.2])
    found = lower_hull(x, formation)
    assert found is not None
    assert found.tolist() == [True, True, True, False, False]
    alone = lower_hull(np.eye(3), np.zeros(3))
    assert alone is not None
    assert alone.all()  # the elements, where nothing else is known
    single = lower_hull(np.ones((2, 1)), np.array([0.1, 0.0]))
    assert single is not None
    assert single.tolist() == [False, True]
    assert lower_hull(np.eye(7), np.zeros(7)) is None  # not worked out for so many elements


def test_corners_agree_with_the_linear_programme() -> None:
    # a corner is what lies below the hull of all others; the two are computed in different ways
    from scdm_flows.thermo.hull import energy_above_hull

    generator = random.Random(0)
    phases = [Phase(e, {e: 1.0}, 0.0, e) for e in ("Mo", "S", "W")]
    for i in range(30):
        a, b = sorted(generator.uniform(0, 1) for _ in range(2))
        fractions = {"Mo": a, "S": b - a, "W": 1 - b}
        phases.append(Phase(f"p{i}", fractions, generator.uniform(-1, 0.2)))
    x = np.array([[p.fractions.get(e, 0.0) for e in ("Mo", "S", "W")] for p in phases])
    found = lower_hull(x, np.array([p.energy_per_atom for p in phases]))
    assert found is not None
    for phase, corner in list(zip(phases, found, strict=True))[3:]:
        others = [p for p in phases if p is not phase]
        below = energy_above_hull(phase.fractions, phase.energy_per_atom, others).e_above_hull < 0
        assert corner == below


def test_the_same_on_a_real_server(tmp_path: Path) -> None:
    """Nothing is written twice: types, milliseconds and floats survive the way through a server."""
    pytest.importorskip("secantus", reason="the embedded database is an optional extra")
    server = EmbeddedServer(tmp_path, free_port())
    with connect(ScdmSettings(data_dir=tmp_path, port=server.port)) as database:
        campaign = Campaign(database, n=4, shard_size=2)
        campaign.screen(0, screened("a", 0), screened("b", 1, layer("1T"), layer_group_generated=72))
        campaign.screen(1, screened("twin", 2), screened("c", 3, accepted=False, reason="no"))
        for name in ("a", "b", "twin"):
            campaign.gate(name, -0.5)
        campaign.phonon("a")
        campaign.fail("b", "phonon")
        counts = written(CandidateBuilder=5, NoveltyBuilder=3, FunnelBuilder=1, HullBuilder=4, RankingBuilder=1)
        assert campaign.build() == counts
        assert campaign.build() == written()
        assert [(r["candidate_id"], r["rank"], r["state"]) for r in CandidateDB(database).flat_records()] == [
            ("a", 1, "completed"),
            ("b", None, "failed"),
            ("c", None, "rejected"),
            ("twin", None, "rejected"),
        ]
        pid = server.status().pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
