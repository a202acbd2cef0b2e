"""The results page: counts by generator against counts by hand, agreement that can fail, figures that are there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support.documents import CampaignDocuments
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.cli.report import write_results
from scdm_flows.config import parse_config
from scdm_flows.documents import CandidateDoc, CandidateState, StageRecord
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.report import paper, recount
from scdm_flows.report.results import render
from scdm_flows.report.study import gather
from scdm_flows.stores import Database

PASSED = StageRecord(status="passed")
CONFIG = {"screen": {"require_radii": True, "require_one_layer": True}, "gate": {"max_e_above_hull": 0.6}}


def candidate(generator: str, index: int, **fields: object) -> CandidateDoc:
    """A candidate that went through the gate, changed by ``fields``."""
    given = {
        "candidate_id": f"{generator}-{index}",
        "campaign": "t",
        "generator": generator,
        "index": index,
        "state": CandidateState.COMPLETED,
        "stages": dict.fromkeys(("generate", "screen", "relax", "static", "gate"), PASSED),
        "formula": "MoS2",
        "chemsys": "Mo-S",
        "elements": ["Mo", "S"],
        "nelements": 2,
        "nsites": 3,
        "structure": {},
        "valid_distance": True,
        "valid_radii": True,
        "one_layer": True,
        "novel": True,
        "e_above_hull": 0.3,
        "surrogate": True,
        **fields,
    }
    return CandidateDoc.model_validate(given)


def test_counts_by_generator_are_those_by_hand() -> None:
    rejected = StageRecord(status="rejected")
    found = [
        candidate("scdm", 0, dynamically_stable=True),
        candidate("scdm", 1, novel=False, e_above_hull=-0.01),
        # the gate let it pass; another candidate lowered the hull since
        candidate("scdm", 6, novel=False, e_above_hull=0.601),
        # outside
        candidate(
            "scdm",
            2,
            e_above_hull=0.61,
            stages={"screen": PASSED, "relax": PASSED, "static": PASSED, "gate": rejected},
        ),
        candidate("unscdm", 3, duplicate_of="scdm-0", e_above_hull=None, stages={"screen": rejected}),
        candidate("unscdm", 4, dynamically_stable=False, e_above_hull=0.6),  # the edge belongs to the window
        candidate(
            "unscdm",
            5,
            state=CandidateState.PENDING,
            e_above_hull=None,
            stages={"screen": PASSED},
        ),
    ]
    counts = recount.by_generator(found, CONFIG)
    assert list(counts) == ["scdm", "unscdm"]
    scdm, unscdm = counts["scdm"], counts["unscdm"]
    assert (scdm.funnel.generated, scdm.funnel.unique, scdm.funnel.novel, scdm.funnel.in_window) == (4, 4, 2, 3)
    assert (scdm.below[0.6], scdm.new_below[0.6], scdm.below[0.0]) == (2, 1, 1)
    assert (scdm.new_in_window, scdm.new_stable) == (1, 1)
    assert (scdm.above_since, unscdm.above_since) == (1, 0)  # the one that the gate kept out does not count
    assert (unscdm.funnel.generated, unscdm.funnel.unique, unscdm.funnel.in_window) == (3, 2, 1)
    assert (unscdm.below[0.6], unscdm.copies_of_other_generators, unscdm.funnel.pending) == (1, 1, 1)
    assert recount.without_end(found) == ["unscdm-5"]
    total = recount.count(found, CONFIG, {})
    for step in ("generated", "unique", "distinct", "novel", "in_window", "pending"):
        parts = [getattr(c.funnel, step) for c in counts.values()]
        assert sum(parts) == getattr(total.funnel, step), step


def test_the_papers_numbers_are_the_papers() -> None:
    # Xu et al., doi:10.1021/acs.jpcc.4c08681, abstract and Fig. 5
    assert paper.FUNNEL["in_window"] == 1145 == sum(g["in_window"] for g in paper.BY_GENERATOR.values())
    assert paper.FUNNEL["unique"] == 2140 == sum(g["unique"] for g in paper.BY_GENERATOR.values())
    assert paper.BY_GENERATOR["scdm"]["in_window"] / paper.BY_GENERATOR["scdm"]["generated"] == pytest.approx(0.4215)
    assert paper.COMPOUNDS == ("NiS2", "ZnS2", "Nb2S2", "V2S2", "Cu2S2", "Ti2Te2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A campaign of two layers with phonons, run for real in memory."""
    folder = tmp_path_factory.mktemp("in")
    mx2("1H").to(str(folder / "a.cif"))
    mx2("1T").to(str(folder / "b.cif"))
    database = memory_database()
    config = parse_config(
        {
            "name": "t",
            "generator": {"kind": "files", "paths": [str(folder)]},
            "screen": {"require_novel": False},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.1, "phonon_min_length_angstrom": 6},
            "gate": {"max_e_above_hull": 3, "phonon_max_e_above_hull": 3},
        }
    )
    run_campaign(config, database, processes=1)
    return database


def test_page_figures_and_counts_of_a_real_campaign(finished: Database, tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    write_results(finished, "t", out, "t", None, force=False)  # its own layers stand for the compounds
    text = out.read_text()
    linked = set(re.findall(r"results/([a-z0-9-]+\.svg)", text))
    written = {path.name for path in (tmp_path / "results").iterdir()}
    assert linked == written
    for path in (tmp_path / "results").iterdir():
        assert ET.parse(path).getroot().tag.endswith("svg")
    assert "surrogate" in text
    assert "**They agree.**" in text
    assert "**0 without an end state**" in text
    assert "scdm campaign report t -o" in text
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_results(finished, "t", out, "t", None, force=True)
    assert {path: path.read_bytes() for path in before} == before  # the same documents give the same bytes


def test_a_campaign_without_results_has_a_page(campaign_documents: CampaignDocuments) -> None:
    database = memory_database()
    campaign = campaign_documents.campaign.model_copy(deep=True)
    database.upsert(database.campaigns, [campaign.model_dump()])
    text = render(gather(database, campaign.name), folder="x").text
    assert "No candidate is new and phonon-stable" in text
    assert "Not computed" in text
