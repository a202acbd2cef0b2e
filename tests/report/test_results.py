"""The results page: every number is one of the documents, also by generator, and the figures are those that it names."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner
from support.documents import ENERGY_MODEL, CampaignDocuments, candidate, energies, phonon_bands
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.cli.report import report as command
from scdm_flows.cli.report import write_results
from scdm_flows.documents import CandidateDoc, CandidateState, Funnel
from scdm_flows.documents.candidate import StageRecord
from scdm_flows.errors import DatasetError, OutputError
from scdm_flows.evaluation.reconstruction import boxes
from scdm_flows.report import compounds, recount, results_figures
from scdm_flows.report.cards import PHONONS, RESULTS, card
from scdm_flows.report.markdown import table
from scdm_flows.report.reconstruction import read
from scdm_flows.report.results import MarkdownReport, render
from scdm_flows.report.study import Study, best_new
from scdm_flows.stores import Database

CONFIG = {"screen": {}, "gate": {"max_e_above_hull": 0.6}}
PASSED = ("generate", "screen", "relax", "static", "gate")


def stages(*names: str, seconds: float = 2.0, shard: str = "shard-0") -> dict[str, StageRecord]:
    """Stages that passed; one screening job for all."""
    return {n: StageRecord(status="passed", seconds=seconds, job_uuid=shard if n == "screen" else n) for n in names}


@pytest.fixture(scope="module")
def study() -> Study:
    """Three of SCDM, of which one is known and one a copy; two of UnSCDM, one beyond the window, one a copy of SCDM's."""
    valid = {"valid_distance": True, "valid_radii": True, "one_layer": True}
    layers = [
        candidate(
            0,
            mx2("1H"),
            stages=stages(*PASSED, "phonon"),
            **valid,
            **energies(-0.02, dynamically_stable=True, min_frequency_thz=0.0, rank=2),
        ),
        candidate(
            1,
            mx2("1T"),
            stages=stages(*PASSED, "phonon"),
            **valid,
            **energies(0.04, novel=False, dynamically_stable=True, min_frequency_thz=0.0, rank=1),
        ),
        candidate(2, mx2("1H"), state=CandidateState.REJECTED, duplicate_of="demo-000000000000", **valid),
        candidate(
            3,
            mx2("1T", a=3.4),
            stages={**stages(*PASSED[:4]), "gate": StageRecord(status="rejected")},
            **valid,
            **energies(0.75, state=CandidateState.REJECTED),
        ),
        candidate(4, mx2("1H"), state=CandidateState.REJECTED, duplicate_of="demo-000000000000", **valid),
        candidate(
            5, mx2("1T", a=3.5), state=CandidateState.PENDING, stages=stages("screen"), sample_novel=True, **valid
        ),
    ]
    candidates = [c.model_copy(update={"generator": "unscdm"}) if c.index in (3, 4) else c for c in layers]
    ids = [c.candidate_id for c in candidates]
    return _study(candidates, {ids[0]: phonon_bands(ids[0], 2.0)})


def _study(candidates: list[CandidateDoc], phonons: dict[str, Any], **more: Any) -> Study:
    from scdm_flows.documents import CampaignDoc, CampaignState

    counted = recount.count(candidates, CONFIG, {}).funnel
    campaign = CampaignDoc(
        name="demo", state=CampaignState.COMPLETED, config=CONFIG, config_hash="ab" * 32, funnel=counted
    )
    jobs = {step: getattr(counted, step) for step in recount.JOB_STEPS}
    return Study(campaign, candidates, phonons, jobs, **more)


@pytest.fixture(scope="module")
def page(study: Study) -> MarkdownReport:
    return render(study)


def row(text: str, start: str) -> list[str]:
    """Cells of the first row of a table that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_a_recount_by_generator_adds_up_to_the_total(study: Study) -> None:
    scdm, unscdm = study.counts["scdm"], study.counts["unscdm"]
    assert list(study.counts) == ["scdm", "unscdm"]
    # of SCDM's four the third repeats the first and the last has not relaxed; of UnSCDM's two one lies beyond the window
    assert scdm.funnel.model_dump(exclude_defaults=True) == {
        "generated": 4,
        "valid": 4,
        "unique": 3,
        "sample_novel": 3,
        "relaxed": 2,
        "distinct": 2,
        "novel": 1,
        "in_window": 2,
        "phonon_done": 2,
        "dynamically_stable": 2,
        "pending": 1,
    }
    assert (scdm.below[0.6], scdm.new_below[0.6], scdm.below[0.0], scdm.new_stable) == (2, 1, 1, 1)
    assert (unscdm.funnel.in_window, unscdm.below[0.6]) == (0, 0)  # 0.75
    assert (scdm.copies_of_other_generators, unscdm.copies_of_other_generators) == (0, 1)
    for step in Funnel.model_fields:
        parts = sum(getattr(c.funnel, step) for c in study.counts.values())
        assert parts == getattr(study.total.funnel, step), step


def test_the_page_sets_the_papers_numbers_beside(page: MarkdownReport) -> None:
    # Xu et al., Section 3: 4000 -> 3378 -> 2140 -> 1145; 1,376 and 843 of SCDM's 2,000, 764 and 302 of UnSCDM's
    assert row(page.text, "generated")[1:6:2] == ["4,000", "2,000", "2,000"]
    assert row(page.text, "valid")[1:3] == ["3,378 (84.5 %)", "6 (100.0 %)"]
    assert row(page.text, "no duplicates")[1:] == [
        *("2,140 (53.5 %)", "4 (66.7 %)"),
        *("1,376 (68.8 %)", "3 (75.0 %)"),
        *("764 (38.2 %)", "1 (50.0 %)"),
    ]
    assert row(page.text, "**surrogate E_hull ≤ 0.6**")[1:] == [
        *("1,145 (28.6 %)", "2 (33.3 %)"),
        *("843 (42.2 %)", "2 (50.0 %)"),
        *("302 (15.1 %)", "0 (0.0 %)"),
    ]
    assert "1 of UnSCDM equal an earlier sample of the other generator" in page.text
    assert "surrogate ones" in page.text


def test_what_symmetry_brings_is_said_with_its_interval(study: Study, page: MarkdownReport) -> None:
    # 843 of 2,000 over 302 of 2,000 in the paper; here no sample of UnSCDM is in the window, and nothing over it
    assert row(page.text, "surrogate E_hull ≤ 0.6")[1:] == ["2.79", "–"]
    # one of two of UnSCDM's comes down into the window: 2 of 4 over 1 of 2; of new ones 1 of 4 over 1 of 2.
    # Katz: exp(ln 1 ± 1.96 sqrt(1/2 - 1/4 + 1/1 - 1/2)) and exp(ln 0.5 ± 1.96 sqrt(1/1 - 1/4 + 1/1 - 1/2))
    lower = [c.model_copy(update={"e_above_hull": 0.05}) if c.index == 3 else c for c in study.candidates]
    text = render(_study(lower, study.phonons)).text
    assert row(text, "surrogate E_hull ≤ 0.6")[1:] == ["2.79", "**1.00** (0.18 to 5.46)"]
    assert row(text, "– and new, ≤ 0.6")[1:] == ["–", "**0.50** (0.06 to 4.47)"]
    assert row(text, "– and new, ≤ 0 ")[1:] == ["–", "–"]


def test_a_candidate_without_an_end_state_is_counted_and_named(study: Study, page: MarkdownReport) -> None:
    assert recount.without_end(study.candidates) == ["demo-000000000005"]
    assert "**1 without an end state** (`demo-000000000005`)" in page.text
    assert row(page.text, "samples with an end state")[-1] == "**5 of 6**"


@pytest.mark.parametrize("step", recount.JOB_STEPS)
def test_counts_that_differ_are_said_to_differ(study: Study, page: MarkdownReport, step: str) -> None:
    assert "**They agree.**" in page.text
    other = Study(study.campaign, study.candidates, study.phonons, {**study.jobs, step: 99})
    assert "**They do not agree.**" in render(other).text


def test_a_job_of_many_candidates_takes_its_time_once(study: Study) -> None:
    times = recount.stage_times(study.candidates)
    assert (times["screen"].jobs, times["screen"].seconds) == (1, 2.0)  # one job screened all
    assert (times["relax"].jobs, times["relax"].seconds) == (3, 6.0)
    assert "bands" not in times


def test_the_best_are_new_and_phonon_stable(study: Study, page: MarkdownReport) -> None:
    # the first in rank is known, so the second is shown
    assert [c.candidate_id for c in best_new(study.candidates)] == ["demo-000000000000"]
    assert row(page.text, "(a) MoS")[1:3] == ["SCDM", "p-6m2 (78)"]
    assert {"best-1-layer.svg", "best-1-phonons.svg", "best.svg"} <= page.pictures.keys()


def test_pictures_are_svg_that_the_page_names_and_the_same_bytes_again(study: Study, page: MarkdownReport) -> None:
    named = set(re.findall(r"results/([\w-]+\.svg)", page.text))
    assert named == page.pictures.keys()
    for text in page.pictures.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert not re.search(r' d="[^"]*\d\.\d{3}', text)  # rounded
    assert render(study) == page


def test_what_was_not_measured_is_said(page: MarkdownReport) -> None:
    assert "Not measured: `scdm reconstruct`" in page.text
    assert "Not computed: `scdm campaign run launchpad/campaigns/paper-compounds.yaml`" in page.text


def test_errors_of_the_surrogate_come_from_the_files(study: Study) -> None:
    classes = {"fluorides": {"n": 1214, "mae": 0.1075}, "other oxides": {"n": 20, "mae": 0.2}}
    energies = {
        **ENERGY_MODEL,
        "by_chemistry": classes,
        "n": 1234,
        "e_above_hull": {**ENERGY_MODEL["e_above_hull"], "mae": 0.111},
    }
    way = card(PHONONS)["ways"]["bands"]["all"]  # type: ignore[index]
    text = render(_study(study.candidates, study.phonons, energy_model=energies, accuracy=card(PHONONS))).text
    assert "on 1,234 layers" in text
    assert row(text, "E_hull |")[1:] == ["0.111", "0.035 to 0.039", "0.022", "0.003", "0.951"]
    assert row(text, "energy of the hull")[1:] == ["0.018", "0.016 to 0.019", "0.008", "−0.002", "–"]
    assert row(text, "the farthest")[1:] == ["± 0.12 (median)", "89.0 %"]
    assert row(text, "fluorides")[1:] == ["1,214", "0.107"]
    assert text.index("| other oxides") < text.index("| fluorides")  # the worst first
    assert "1,500 layers (2DMatPedia, chemical systems that C2DB has not): mean absolute error 0.062" in text
    assert row(text, "C2DB: stable")[1:] == [str(way["stable_said_stable"]), str(way["stable_said_unstable"])]


def test_extrapolated_energies_are_marked(study: Study, page: MarkdownReport) -> None:
    assert "**?** marks" not in page.text
    first = study.candidates[0].model_copy(update={"extrapolated": True})
    marked = _study([first, *study.candidates[1:]], study.phonons)
    text = render(marked).text
    assert "**?** marks energies outside what the energy model has learned from" in text
    assert row(text, "(a) MoS")[3] == "−0.020 ± 0.10 ?"
    assert "Not measured here: the energies are not those of the packaged energy model" in text


def test_the_share_of_draws_that_a_model_keeps_is_that_of_the_packaged_results(study: Study) -> None:
    kept = {"value": 0.55, "low": 0.5, "high": 0.6, "n": 549}
    models = {
        "quick": {
            "SCDM": {"label": "scdm-876224ce", "n": 300, "measures": {"kept_draws": kept}},
            "UnSCDM": {"label": "unscdm-afff9da8", "n": 300, "measures": {"kept_draws": {**kept, "value": 0.35}}},
        }
    }

    both = [{"kind": "scdm", "guidance": True}, {"kind": "unscdm", "guidance": True}]
    config = {**CONFIG, "generator": {"kind": "several", "generators": both}}
    campaign = study.campaign.model_copy(update={"config": config})
    text = render(Study(campaign, study.candidates, study.phonons, study.jobs, models=models)).text
    assert "Kept are 55 % by `scdm-876224ce` and 35 % by `unscdm-afff9da8` (`models/cards/results.json`)." in text
    without = {"protocol": {"models": []}}  # that part was not made
    text = render(Study(campaign, study.candidates, study.phonons, study.jobs, models=without)).text
    assert "passes over draws" in text
    assert "Kept are" not in text


def _prototype(name: str, index: int, e_above_hull: float, stable: bool | None, **more: Any) -> CandidateDoc:
    fields = energies(e_above_hull, dynamically_stable=stable, **more)
    return candidate(index, mx2("1T"), source_id=name, **fields)


def test_compounds_land_by_their_lowest_and_their_lowest_stable_prototype(study: Study) -> None:
    layers = [
        _prototype("NiS2-1T", 0, 0.2, True),
        _prototype("NiS2-1H", 1, 0.1, False),
        _prototype("NiS2-broken", 2, 0.0, True, one_layer=False),
        _prototype("V2S2-GaSe-staggered", 3, 0.7, True),
        # its energy counts though its bands failed later
        _prototype("V2S2-FeSe", 4, 0.3, None, state=CandidateState.FAILED, reason="bands: killed"),
    ]
    nickel, vanadium = compounds.compound_results(layers)
    assert [c.source_id for c in nickel.relaxed] == ["NiS2-1H", "NiS2-1T"]
    assert nickel.lowest_stable is layers[0]
    assert nickel.stable_in_window
    assert compounds.parts(layers[3]) == ("V2S2", "GaSe-staggered")
    assert not vanadium.stable_in_window  # 0.7 is beyond the paper's 0.6, whatever the campaign's gate
    text = render(_study(study.candidates, study.phonons, compounds=layers)).text
    assert "**2 of 2 have a prototype in the window, 1 of 2 a phonon-stable one there** by the surrogate." in text


def test_packaged_prototypes_are_what_the_script_makes_and_have_the_group_that_they_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    from paper_compounds import OUT, records

    from scdm_models.datasets.readers import read_any
    from scdm_models.symmetry.detect import detect_layer_group
    from scdm_models.symmetry.lattice import is_one_layer

    made = records()
    assert [json.loads(line) for line in OUT.read_text().splitlines()] == made
    assert len({compound for compound, _, _ in (r["id"].partition("-") for r in made)}) == 6
    for record, item in zip(made, read_any(OUT), strict=True):
        assert item.id == record["id"]
        assert detect_layer_group(item.structure, 1e-3) == record["layer_group"], item.id
        assert is_one_layer(item.structure), item.id


def test_boxes_of_measured_distances_and_of_the_packaged_ones(tmp_path: Path) -> None:
    keys = ("energy", "sinkhorn", "superpose", "crystalnn", "xrd", "ofm")
    rows = [{d: dict.fromkeys(keys, v) for d in ("published", "periodic")} for v in (0.0, 1.0, 2.0, 3.0, 4.0, None)]
    expected = boxes({"SCDM, t* = 0.3": rows})
    assert expected["periodic"]["SCDM, t* = 0.3"]["xrd"] == [0.0, 1.0, 2.0, 3.0, 4.0]  # quartiles of 0 to 4
    file = tmp_path / "reconstruction.json"
    file.write_text(json.dumps({"n": 6, "distances": {"SCDM, t* = 0.3": rows}}))
    found = read(file)
    assert found is not None
    assert found.boxes == expected
    packaged, measured = read(), card(RESULTS)
    assert packaged is not None
    assert measured is not None
    for definition, kinds in packaged.boxes.items():
        for kind, values in kinds.items():
            medians = {key: box[2] for key, box in values.items()}
            assert medians == measured["reconstruction"][definition][kind]
    # a distance of 0 has a place on a logarithmic axis
    assert results_figures.distances(expected["published"]).axes[0].get_ylim()[0] > 0


@pytest.mark.parametrize(("content", "said"), [(None, "does not exist"), ("{", "cannot be read"), ("[1]", "holds no")])
def test_a_wrong_file_of_a_reconstruction_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DatasetError, match=said):
        read(file)


def _judged(label: str, kind: str, share: tuple[float, float, float]) -> dict[str, Any]:
    value, low, high = share
    found = {"value": value, "low": low, "high": high, "n": 300}
    of_draws = {key: 1000 * share for key, share in found.items()}
    measures = {"sun_0.1": found, "unique": found}
    about = {"label": label, "model_id": label, "kind": kind, "n": 300}
    return about | {"measures": measures, "per_1000_draws": {"sun_0.1": of_draws}}


def test_the_protocol_says_of_which_others_the_model_can_be_told(study: Study) -> None:
    ours = str(study.candidates[0].model_id)
    models = [
        _judged(ours, "model", (0.2, 0.15, 0.25)),
        _judged("peer", "model", (0.05, 0.03, 0.08)),
        _judged("copies", "baseline", (0.3, 0.24, 0.36)),  # overlaps with ours by 0.01
        _judged("oracle", "baseline", (0.9, 0.85, 0.95)),
    ]
    protocol = {"protocol": {"name": "2d-1"}, "models": models}
    found = render(dataclasses.replace(study, models={"protocol": protocol}))
    assert row(found.text, "MetaS.U.N.: one of each")[1:3] == ["20.0 % (15.0 to 25.0)", "5.0 % (3.0 to 8.0)"]
    assert row(found.text, "MetaS.U.N. in 1,000")[1] == "200 (150 to 250)"
    said = f"`{ours}` is above `peer`; below oracle; not to be told from copies, as the intervals overlap."
    assert said in found.text
    assert "protocol.svg" in found.pictures
    # numbers of another model say nothing of the study's
    others = {"protocol": protocol | {"models": models[1:]}}
    assert "protocol 2d-1" not in render(dataclasses.replace(study, models=others)).text


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(["a", "b"], [["x|y", "1"]]).splitlines()[1:] == ["| --- | ---: |", "| x\\|y | 1 |"]


def test_outputs_of_jobs_are_counted_without_repeats() -> None:
    database = memory_database()
    samples = [{"candidate_id": f"c{k}"} for k in range(3)]
    docs = [_output("s", "screen", None, {"candidates": samples}, shard=0)]
    docs += [_output("s2", "screen", None, {"candidates": samples[:1]}, shard=1)]
    gates = {"c0": (True, True), "c1": (True, False), "c2": (False, True)}
    for name, (inside, whole) in gates.items():
        docs.append(_output(f"g{name}", "gate", name, {"in_window": inside, "relax_converged": whole}))
    docs += [
        _output(f"p{name}", "phonon", name, {"dynamically_stable": ok})
        for name, ok in (("c0", True), ("c1", True), ("c2", False))
    ]
    database.job_store.docs_store.update(docs)
    database.candidates.update([{"candidate_id": "c1", "campaign": "demo", "duplicate_of": "c0"}])
    assert recount.job_counts(database, "demo") == {
        "generated": 4,
        "in_window": 1,
        "phonon_done": 2,
        "dynamically_stable": 1,
    }


def _output(uuid: str, stage: str, candidate: str | None, output: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    metadata |= {"campaign": "demo", "stage": stage} | ({"candidate_id": candidate} if candidate else {})
    return {"uuid": uuid, "index": 1, "metadata": metadata, "output": output}


@pytest.mark.slow
@pytest.mark.usefixtures("packaged_energy_model")
def test_the_command_writes_the_page_and_its_figures(
    database: Database, campaign_documents: CampaignDocuments, tmp_path: Path
) -> None:
    campaign_documents.store(database)
    out = tmp_path / "found.md"
    write_results(database, "demo", out, None, None, force=False)
    text = out.read_text()
    named = set(re.findall(r"found/([\w-]+\.svg)", text))
    assert named == {path.name for path in (tmp_path / "found").iterdir()}
    assert f"scdm campaign report demo -o {out}" in text
    with pytest.raises(OutputError, match="exists"):
        write_results(database, "demo", out, None, None, force=False)
    left = tmp_path / "found" / "best-9-layer.svg"  # of an earlier study that had more to show
    left.write_text("<svg/>")
    write_results(database, "demo", out, None, None, force=True)
    assert not left.exists()
    assert out.read_text() == text


def test_options_of_the_page_belong_to_markdown() -> None:
    result = CliRunner().invoke(command, ["demo", "--compounds", "x"], standalone_mode=False)
    assert isinstance(result.exception, click.UsageError)
    assert "give -o FILE.md" in str(result.exception)
