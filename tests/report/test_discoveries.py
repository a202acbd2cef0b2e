"""Discoveries: each demand alone makes a layer none, the files of a list are read again, the command and the page."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymatgen.core import Structure
from support.commands import commands
from support.documents import CampaignDocuments, phonon_bands, six_candidates
from support.layers import mx2
from support.memory import memory_database
from support.places import ROOT

from scdm_flows.analysis.discovery import demands, fell, is_discovery
from scdm_flows.analysis.fidelity import MEASURED
from scdm_flows.config import parse_config
from scdm_flows.documents import CandidateDoc, CandidateState
from scdm_flows.documents.novelty import KnownAs
from scdm_flows.report.discoveries import INDEX, OTHERS, Considered, read, render, together
from scdm_flows.server.pages import discoveries as discoveries_page

KNOWN = {
    "MoS2": [
        KnownAs(
            id="MoS2-165798ab5e33",
            source="C2DB",
            formula="MoS2",
            layer_group=78,
            e_above_hull=0.0,
            dynamically_stable=True,
        )
    ]
}
DFT: dict[str, Any] = {
    "surrogate": False,
    "energy_scheme": "gpaw-pbe-c2db",
    "energy_model": None,
    "engine_version": "25.7.0",
    "extrapolated": None,
    "bulk_compound": False,
    "novel": True,
    "dynamically_stable": True,
}


def documents() -> CampaignDocuments:
    """Of six candidates the first two as DFT might have left them: the first is a discovery."""
    found = six_candidates()
    first, second, *others = found.candidates
    first, second = first.model_copy(update=DFT), second.model_copy(update={**DFT, "dynamically_stable": False})
    found.candidates[:] = [first, second, *others]
    config = {"name": "demo", "generator": {"kind": "scdm", "n": 6}, "engine": {"kind": "gpaw", "preset": "fast"}}
    stored = parse_config(config).model_dump(mode="json")
    return CampaignDocuments(
        found.campaign.model_copy(update={"config": stored}), found.candidates, found.phonons, found.failures
    )


@pytest.fixture
def discovery() -> CandidateDoc:
    return documents().candidates[0]


def test_a_discovery_meets_every_demand(discovery: CandidateDoc) -> None:
    assert is_discovery(demands(discovery))
    assert fell(demands(discovery)) is None


@pytest.mark.parametrize(
    ("changed", "lacks", "said"),
    [
        ({"surrogate": True}, "computed by DFT", "gpaw-pbe-c2db"),
        ({"surrogate": None, "energy_scheme": None}, "computed by DFT", "no energy yet"),
        ({"engine_version": "6.5.0 stand-in"}, "computed by DFT", "stand-in"),
        ({"state": CandidateState.FAILED, "reason": "phonon: killed"}, "every stage ended well", "phonon: killed"),
        ({"state": CandidateState.PENDING}, "every stage ended well", "some are under way or to come"),
        ({"novel": False}, "new: the relaxed layer", "is a known layer"),
        ({"novel": None}, "new: the relaxed layer", "not judged"),
        ({"duplicate_of": "demo-1"}, "the first of its kind", "the same as demo-1"),
        ({"bulk_compound": True}, "no bulk crystal of its formula", "there is one"),
        ({"e_above_hull": 0.1001}, "E_hull of at most 0.1", "0.100 eV/atom"),
        ({"e_above_hull": None}, "E_hull of at most 0.1", "not computed"),
        ({"e_above_hull_lower_bound": True}, "E_hull of at most 0.1", "≥"),
        ({"dynamically_stable": False}, "dynamically stable", "no"),
        ({"dynamically_stable": None}, "dynamically stable", "not computed"),
        ({"min_frequency_thz": -0.21}, "no imaginary mode between", "reach 0.21i THz"),
        ({"min_frequency_thz": None}, "no imaginary mode between", "not computed"),
    ],
)
def test_one_demand_that_is_not_met_is_enough(
    discovery: CandidateDoc, changed: dict[str, Any], lacks: str, said: str
) -> None:
    first = fell(demands(discovery.model_copy(update=changed)))
    assert first is not None
    assert first.asked.startswith(lacks)
    assert said in first.said


def test_files_of_a_list_are_read_again(discovery: CandidateDoc) -> None:
    found = documents()
    phonon = phonon_bands(discovery.candidate_id, 2.0)
    considered = [Considered(c, phonon if c is found.candidates[0] else None) for c in found.candidates]
    files = render(considered, KNOWN, "scdm campaign discoveries demo -o list")
    name = "MoS2-000000000000"
    assert {INDEX, OTHERS, f"{name}.md", f"{name}.cif", f"{name}.json", f"{name}-phonons.svg"} <= set(files)
    # of six the first two are computed by DFT, three by a surrogate, and one failed
    assert "with 6 layers" in files[INDEX]
    assert "Of the 3 whose computations have ended **1 are discoveries**" in files[INDEX]
    assert f"[MoS<sub>2</sub>]({name}.md)" in files[INDEX]
    again = read(files)
    assert {one.candidate.candidate_id: one.candidate.model_dump_json() for one in again} == {
        c.candidate_id: c.model_dump_json() for c in found.candidates
    }
    assert next(one for one in again if one.phonon is not None).phonon == phonon
    assert render(together(again, []), KNOWN, "scdm campaign discoveries demo -o list") == files
    # a layer that is brought up to date takes the place of what was known of it
    worse = Considered(found.candidates[0].model_copy(update={"dynamically_stable": False}))
    assert "**0 are discoveries**" in render(together(again, [worse]), KNOWN, "")[INDEX]


def test_no_folder_of_the_machine_is_published(discovery: CandidateDoc) -> None:
    generator = {"kind": "files", "paths": ["/data/ada/study/drawn.jsonl"]}
    engine = {"kind": "vasp", "references": "/data/ada/refs.json"}
    layer = Considered(discovery, campaigns={discovery.campaign: {"generator": generator, "engine": engine}})
    other = Considered(discovery.model_copy(update={"candidate_id": "x-1", "state": CandidateState.FAILED}))
    other = Considered(other.candidate.model_copy(update={"reason": "no POTCAR in /data/ada/potcars/PBE"}))
    files = render([layer, other], KNOWN, "")
    assert not any("/data" in text for text in files.values())
    assert "…/drawn.jsonl" in json.loads(files["MoS2-000000000000.json"])["campaigns"]["demo"]["generator"]["paths"]
    assert "…/refs.json" in files["MoS2-000000000000.yaml"]
    assert {one.candidate.candidate_id for one in read(files)} == {discovery.candidate_id, "x-1"}


def test_known_layers_of_the_formula_are_named_and_lower_ones_said(discovery: CandidateDoc) -> None:
    match = KNOWN["MoS2"][0]
    changed = {"candidate_id": "demo-known", "novel": False, "known_as": [match], "e_above_hull": 0.01}
    computed = Considered(discovery.model_copy(update=changed))
    name = "MoS2-000000000000"
    files = render([Considered(discovery.model_copy(update={"e_above_hull": 0.05})), computed], KNOWN, "")
    assert "`MoS2-165798ab5e33` (0.010 here)" in files[INDEX]
    assert "A known layer of its formula, `MoS2-165798ab5e33`, lies lower: 0.010 eV/atom." in files[f"{name}.md"]
    assert "| `MoS2-165798ab5e33` | C2DB | 78 | 0.000 | yes | 0.010 |" in files[f"{name}.md"]
    # one that lies higher, one of another scheme, and none at all
    for other, said in (({"e_above_hull": 0.06}, "(0.060 here)"), ({"energy_scheme": "vasp"}, "(0.000 there)")):
        higher = Considered(computed.candidate.model_copy(update=other))
        files = render([Considered(discovery.model_copy(update={"e_above_hull": 0.05})), higher], KNOWN, "")
        assert said in files[INDEX]
        assert "lies lower" not in files[f"{name}.md"]
    assert "None, in C2DB as of 27 March 2022" in render([Considered(discovery)], {}, "")[f"{name}.md"]


def test_what_a_preset_was_measured_to_be_off_by_is_said_and_is_what_its_file_holds(discovery: CandidateDoc) -> None:
    rows = [json.loads(line) for line in (ROOT / "docs/results-dft/validation.jsonl").read_text().splitlines()]
    off = [row["formation_energy"] - row["c2db"] for row in rows if row["preset"] == "fast"]
    measured = MEASURED["fast"]
    assert (measured.n, measured.bias) == (len(off), round(sum(off) / len(off), 3))
    assert measured.largest == round(max(abs(value) for value in off), 3)
    engine = {"kind": "gpaw", "preset": "fast"}
    layer = Considered(discovery, campaigns={discovery.campaign: {"engine": engine}})
    files = render([layer], KNOWN, "")
    for text in (files[INDEX], files["MoS2-000000000000.md"]):
        assert "20 layers of C2DB lie 0.008 eV/atom below C2DB's own in the mean, at most 0.021 away" in text
    engine["preset"] = "c2db"  # not measured
    assert "in the mean, at most" not in render([layer], KNOWN, "")[INDEX]


def test_the_command_writes_a_list_and_keeps_what_other_campaigns_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scdm = commands(capsys)
    database = memory_database()
    documents().store(database)
    monkeypatch.setattr("scdm_flows.builders.build_all", lambda *a, **k: None)  # there are no outputs to build from
    monkeypatch.setattr("scdm_flows.cli.discoveries.database", lambda **k: nullcontext(database))
    out = tmp_path / "list"
    assert "1 of 6 layers are discoveries" in scdm("campaign", "discoveries", "demo", "-o", str(out))
    layer = Structure.from_file(out / "MoS2-000000000000.cif")
    assert layer.matches(mx2("1H"))
    rerun = yaml.safe_load((out / "MoS2-000000000000.yaml").read_text())
    again = parse_config(rerun)
    assert (again.engine.kind, again.generator.kind) == ("gpaw", "files")
    assert (out / rerun["generator"]["paths"][0]).is_file()
    assert "holds a list" in scdm("campaign", "discoveries", "demo", "-o", str(out), code=2)
    before = {path.name: path.read_text() for path in out.iterdir()}
    scdm("campaign", "discoveries", "-o", str(out), "--force")
    assert {path.name: path.read_text() for path in out.iterdir()} == before
    assert json.loads(before[OTHERS].splitlines()[0])["campaign"] == "demo"
    # a folder of something else is left alone
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("mine")
    assert "holds no others.jsonl" in scdm(
        "campaign", "discoveries", "demo", "-o", str(tmp_path / "docs"), "--force", code=2
    )
    assert (tmp_path / "docs" / "page.md").read_text() == "mine"


def test_the_page_shows_discoveries_and_what_others_lack() -> None:
    from scdm_flows.query import CandidateDB

    database = memory_database()
    query = CandidateDB(database)
    assert "None yet" in str(discoveries_page.page(query))
    documents().store(database)
    shown = str(discoveries_page.page(query))
    assert "1 discoveries" in shown
    assert "/files/demo-000000000000.cif" in shown
    assert "What the others lack" in shown
    assert "demo-000000000001" in shown
    assert "demo-000000000002" not in shown  # a surrogate's
