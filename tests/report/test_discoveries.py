"""Discoveries: each demand alone makes a layer none, the files of a list are read again, the command and the page."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
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
from scdm_flows.documents.candidate import StageRecord
from scdm_flows.documents.novelty import CAMPAIGN, KnownAs, Novelty
from scdm_flows.report.discoveries import INDEX, OTHERS, Considered, read, render, together
from scdm_flows.server.pages import discoveries as discoveries_page
from scdm_models.datasets.known import KnownLayers

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
ENGINE = {"kind": "gpaw", "preset": "fast"}


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


def whole(candidate: CandidateDoc, **config: Any) -> Considered:
    """A layer with its phonons and the configuration of its campaign, as ``gather`` reads it."""
    config = {"engine": ENGINE, **config}
    return Considered(candidate, phonon_bands(candidate.candidate_id, 2.0), campaigns={candidate.campaign: config})


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
    first, *others = found.candidates
    considered = [whole(first), *map(Considered, others)]
    phonon = considered[0].phonon
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
    layer = whole(discovery, generator=generator, engine=engine)
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
    layer = whole(discovery.model_copy(update={"e_above_hull": 0.05}))
    files = render([layer, computed], KNOWN, "")
    assert "`MoS2-165798ab5e33` (0.010 here)" in files[INDEX]
    assert "A known layer of its formula, `MoS2-165798ab5e33`, lies lower: 0.010 eV/atom." in files[f"{name}.md"]
    assert "| `MoS2-165798ab5e33` | C2DB | 78 | 0.000 | yes | 0.010 |" in files[f"{name}.md"]
    # one that lies higher, one of another scheme, and none at all
    for other, said in (({"e_above_hull": 0.06}, "(0.060 here)"), ({"energy_scheme": "vasp"}, "(0.000 there)")):
        higher = Considered(computed.candidate.model_copy(update=other))
        files = render([layer, higher], KNOWN, "")
        assert said in files[INDEX]
        assert "lies lower" not in files[f"{name}.md"]
    # computed several times, the lowest counts; one that has failed, without an energy, does not
    failed = {"candidate_id": "demo-zz", "e_above_hull": None, "state": CandidateState.FAILED}
    more = [
        Considered(computed.candidate.model_copy(update=update))
        for update in ({"candidate_id": "demo-y", "e_above_hull": 0.02}, failed)
    ]
    assert "(0.010 here)" in render([layer, computed, *more], KNOWN, "")[INDEX]
    assert "None, in C2DB as of 27 March 2022" in render([layer], {}, "")[f"{name}.md"]


def test_a_layer_that_a_higher_threshold_lets_in_has_its_documents(discovery: CandidateDoc) -> None:
    above = whole(discovery.model_copy(update={"e_above_hull": 0.15}))
    files = render([above], KNOWN, "")
    assert "0.150 eV/atom" in files[INDEX]
    (again,) = read(files)
    assert again.dumped() == above.dumped()
    files = render([again], KNOWN, "", 0.2)
    assert {"MoS2-000000000000.json", "MoS2-000000000000-phonons.svg"} <= set(files)
    assert yaml.safe_load(files["MoS2-000000000000.yaml"])["engine"] == ENGINE
    # a line of an earlier version, the candidate alone, is read, and is no discovery without its documents
    old = read({OTHERS: above.candidate.model_dump_json() + "\n"})
    assert [one.candidate.model_dump_json() for one in old] == [above.candidate.model_dump_json()]
    for later in (old, read(render(old, KNOWN, ""))):
        files = render(later, KNOWN, "", 0.2)
        assert set(files) == {INDEX, OTHERS}
        assert "an earlier list kept none; naming campaign demo brings them in" in files[INDEX]
    # this repository's own list began with such lines
    lines = (ROOT / "docs/discoveries" / OTHERS).read_text()
    assert len(read({OTHERS: lines})) == len(lines.splitlines())


def test_a_layer_of_two_campaigns_counts_once(discovery: CandidateDoc) -> None:
    # the first to come counts: by its id "again" precedes "demo", by the time of its screening "demo" does
    def made(name: str, campaign: str, day: int, equal: str) -> Considered:
        stages = {"screen": StageRecord(status="passed", completed_at=datetime(2026, 1, day, tzinfo=UTC))}
        same = KnownAs(id=equal, source=f"{CAMPAIGN}another", formula="MoS2")
        update = {"candidate_id": name, "campaign": campaign, "known_as": [same], "stages": stages}
        return whole(discovery.model_copy(update=update))

    first, second = made("demo-1", "demo", 1, "again-1"), made("again-1", "again", 2, "demo-1")
    files = render([second, first], {}, "")
    assert [name for name in files if name.endswith(".json")] == ["MoS2-1.json"]
    assert "**1 are discoveries**" in files[INDEX]
    assert "the first of its kind among the discoveries: the same layer as demo-1 | `again-1`" in files[INDEX]
    # one that is no discovery itself leaves the place to the other
    unstable = Considered(first.candidate.model_copy(update={"dynamically_stable": False}))
    assert json.loads(render([second, unstable], {}, "")["MoS2-1.json"])["candidate"]["candidate_id"] == "again-1"
    # two that are equal through a third, which alone names them: each names the first one of a campaign
    third = made("third-1", "third", 3, "demo-1")
    assert "**1 are discoveries**" in render([made("x-1", "x", 4, "third-1"), first, third], {}, "")[INDEX]
    # equal to an entry of a data set says nothing of each other
    other = made("other-1", "other", 5, "nobody-1")
    assert "**2 are discoveries**" in render([first, other], {}, "")[INDEX]


@pytest.mark.parametrize(
    ("version", "sets", "says"),
    [
        ("as judged", {"C2DB": 2, "mine": 1}, None),
        ("later", {"C2DB": 2}, None),  # a set was taken away: what is new beside both is new beside one
        ("later", {"C2DB": 2, "mine": 1, "yours": 5}, "not judged against yours as they are now"),
        ("later", {"C2DB": 3, "mine": 1}, "not judged against C2DB as they are now"),
        ("later", {"C2DB": 2, "mine": 1}, "not judged against C2DB and mine as they are now"),  # other layers, as many
    ],
)
def test_a_layer_that_was_judged_before_a_set_was_added_is_not_called_new(
    discovery: CandidateDoc, version: str, sets: dict[str, int], says: str | None
) -> None:
    judged = Novelty(structure="0" * 12, version="as judged", against={"C2DB": 2, "mine": 1})
    text = render([whole(discovery.model_copy(update={"novelty": judged}))], {}, "", present=(version, sets))[INDEX]
    assert ("**0 are discoveries**" in text) == (says is not None)
    if says is not None:
        assert f"equals no known one: {says}; naming campaign demo judges it again" in text
    # that it is a known layer stays true
    known = discovery.model_copy(update={"novelty": judged, "novel": False})
    assert "is a known layer" in render([whole(known)], {}, "", present=(version, sets))[INDEX]


def test_what_a_preset_was_measured_to_be_off_by_is_said_and_is_what_its_file_holds(discovery: CandidateDoc) -> None:
    rows = [json.loads(line) for line in (ROOT / "docs/results-dft/validation.jsonl").read_text().splitlines()]
    off = [row["formation_energy"] - row["c2db"] for row in rows if row["preset"] == "fast"]
    measured = MEASURED["fast"]
    assert (measured.n, measured.bias) == (len(off), round(sum(off) / len(off), 3))
    assert measured.largest == round(max(abs(value) for value in off), 3)
    engine = dict(ENGINE)
    layer = whole(discovery, engine=engine)
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
    found = documents()
    known = KnownLayers.load()
    judged = Novelty(structure="0" * 12, version=known.version, against=known.sources)
    found.candidates[0] = found.candidates[0].model_copy(update={"novelty": judged})
    found.store(database)
    steps: list[tuple[str, str]] = []  # there are no outputs to build from, and no workers
    for module, step in (("builders", "build_all"), ("execution.fireworks", "collect_failures")):
        told = partial(lambda step, _, name: steps.append((step, name)), step)
        monkeypatch.setattr(f"scdm_flows.{module}.{step}", told)
    monkeypatch.setattr("scdm_flows.cli.discoveries.database", lambda **k: nullcontext(database))
    out = tmp_path / "list"
    assert "1 of 6 layers are discoveries" in scdm("campaign", "discoveries", "demo", "-o", str(out))
    # what workers failed at is known before the candidates are built
    assert steps == [("collect_failures", "demo"), ("build_all", "demo")]
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
    assert json.loads(before[OTHERS].splitlines()[0])["candidate"]["campaign"] == "demo"
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
    first = database.mongo["candidates"].find_one({"candidate_id": "demo-000000000000"}, {"_id": 0})
    assert first is not None
    equal = [{"id": "demo-000000000000", "source": f"{CAMPAIGN}demo", "formula": "MoS2"}]
    again = {**first, "candidate_id": "again-0", "campaign": "again", "known_as": equal, "e_above_hull": 0.09}
    database.mongo["candidates"].insert_one(again)
    assert "1 discoveries" in str(discoveries_page.page(query))  # one layer of two campaigns
    database.mongo["candidates"].update_one({"candidate_id": "again-0"}, {"$set": {"known_as": []}})
    assert "2 discoveries" in str(discoveries_page.page(query))
