"""The DFT page: verdicts and agreement by hand, what is missing said so, and the page of a promoted campaign."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.builders import build_all
from scdm_flows.campaigns import promotion
from scdm_flows.cli.chosen import conditions
from scdm_flows.cli.promote import _setting, promote
from scdm_flows.cli.report import _promotion, write_dft
from scdm_flows.config import parse_config, stored_config
from scdm_flows.documents import BandsDoc, CampaignDoc, CandidateDoc, CandidateState, LoopDoc, PhononDoc
from scdm_flows.documents.novelty import KnownAs
from scdm_flows.documents.static import MagneticOrder
from scdm_flows.errors import CampaignError, OutputError, ReferenceDataError
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.report.dft_study import DftStudy, gather, read_rows
from scdm_flows.report.results_dft import RECORDS, render


def promoted(name: str, source: str, e_hull: float | None, surrogate: float, **fields: Any) -> CandidateDoc:
    """A candidate computed by DFT, beside the surrogate's E_hull of the one that it was promoted from."""
    given = {
        "candidate_id": name,
        "campaign": "dft",
        "generator": "files",
        "index": 0,
        "source_id": source,
        "formula": source.partition("-")[0],
        "chemsys": "Ni-S",
        "elements": ["Ni", "S"],
        "nelements": 2,
        "nsites": 3,
        "layer_group": 72,
        "structure": mx2("1T").as_dict(),
        "state": "completed" if e_hull is not None else "failed",
        "reason": None if e_hull is not None else "relax: the electrons did not converge",
        "e_above_hull": e_hull,
        "surrogate": False,
        "energy_scheme": "gpaw-pbe-c2db",
        "engine_version": "25.7.0",
        "parent": {
            "candidate_id": f"parent-of-{name}",
            "campaign": "study",
            "surrogate": True,
            "energy_scheme": "c2db-pbe",
            "e_above_hull": surrogate,
            "e_above_hull_error": 0.05,
        },
        **fields,
    }
    return CandidateDoc.model_validate(given)


def bands_of(candidate_id: str, gap: float) -> BandsDoc:
    """Bands of a gap, 0 for a metal."""
    kind = "metal" if gap == 0 else "indirect"
    given = {"candidate_id": candidate_id, "campaign": "dft", "energy_scheme": "gpaw-pbe-c2db", "spin_orbit": True}
    given |= {"k_points": [[0, 0, 0], [0.5, 0, 0]], "distances": [0.0, 0.3], "labels": [(0.0, "G"), (0.3, "M")]}
    given |= {"energies_ev": {"up": [[-1.0, gap], [-1.0, gap]]}, "energy_zero": "Fermi level", "energy_zero_ev": 0.0}
    given |= {"efermi_ev": 0.0, "band_gap_ev": gap, "direct_gap_ev": gap, "gap_kind": kind, "spin_polarised": False}
    return BandsDoc.model_validate({**given, "magnetic": False})


def phonons_of(candidate_id: str, smallest: float) -> PhononDoc:
    """A verdict by C2DB's criteria."""
    given = {"candidate_id": candidate_id, "campaign": "dft", "energy_scheme": "gpaw-pbe-c2db", "surrogate": False}
    given |= {"supercell": [[2, 0, 0], [0, 2, 0], [0, 0, 1]], "displacement_angstrom": 0.05, "n_displacements": 3}
    given |= {"q_points": [[0, 0, 0]], "distances": [0.0], "labels": [(0.0, "G")], "frequencies_thz": [[0.0]]}
    given |= {"min_frequency_thz": 0.0, "threshold_thz": 0.2, "dynamically_stable": smallest > -0.01}
    given |= {"min_hessian_ev_per_angstrom2": smallest, "reason": None if smallest > -0.01 else "too small"}
    return PhononDoc.model_validate(given)


@pytest.fixture
def study() -> DftStudy:
    """Two compounds of the paper, one of them judged in another campaign, and four drawn candidates."""
    lowest = promoted("a", "NiS2-1T", 0.02, 0.05, magnetic_order=MagneticOrder.FM)
    lowest = lowest.model_copy(update={"decomposition": {"b NiS2": 1.0}, "computed_competitors": ["b"]})
    compounds = [lowest, promoted("b", "NiS2-1H", 0.3, 0.1), promoted("c", "V2S2-rocksalt", 0.7, 0.4)]
    again = promoted("a2", "NiS2-1T", 0.02, 0.05)
    again = again.model_copy(update={"parent": again.parent.model_copy(update={"candidate_id": "a"})})  # type: ignore[union-attr]
    drawn = [promoted(f"d{k}", "KBr-1T", 0.1 * k, 0.1 * k + x, generator="scdm") for k, x in enumerate([0.01, 0.03])]
    drawn += [promoted("d2", "CuI-1T", 0.2, 0.3, generator="unscdm"), promoted("d3", "CuI-1H", None, 0.3)]
    config = {"name": "dft", "engine": {"kind": "gpaw", "preset": "fast", "phonon_repeats": 3}}
    config["generator"] = {"kind": "promoted", "parent": "paper", "within": 0.2}
    campaign = CampaignDoc.model_validate({"name": "dft", "config_hash": "0" * 64, "config": config})
    known = KnownAs(id="NiS2-1", source="C2DB", formula="NiS2", layer_group=72, e_above_hull=0.011, band_gap=0.57)
    rows = [{"id": "MoS2-1", "preset": "fast", "magstate": "NM", "formation_energy": -0.93, "c2db": -0.92}]
    rows += [{"id": "FeO-1", "preset": "fast", "failed": "the electrons did not converge"}]
    return DftStudy(
        campaign,
        compounds,
        [again],
        phonons={"a2": phonons_of("a2", -0.002), "c": phonons_of("c", -0.5)},
        bands={"a": bands_of("a", 0.6), "c": bands_of("c", 0.8)},
        drawn={"one": drawn[:2], "other": drawn[2:]},
        known={"NiS2": [known]},
        validation=rows,
        commands={"page": "scdm campaign report dft -o page.md"},
    )


def test_the_page_says_what_was_found(study: DftStudy) -> None:
    page = render(study)
    text = " ".join(page.text.split())
    # of NiS2 the lowest is a; V2S2 lies outside the window of 0.6 eV/atom
    assert "1 of 2 have a prototype with E_hull ≤ 0.6 eV/atom by DFT" in text
    assert "of the lowest ones 1 of 2 computed are dynamically stable" in text
    assert "3 prototypes, those within 0.2 eV/atom of the lowest" in text
    assert "the Hessian of the 2 × 2 supercell" in text  # of the phonons, which another campaign computed
    # semiconducting by Section 3 of the paper; V2S2 is metallic there
    assert "word for the bands holds for 1 of 2; not for V<sub>2</sub>S<sub>2</sub> (semiconducting here" in text
    assert "100 % b NiS2 (computed, as this one's)" in text
    assert "| 1, lowest `NiS2-1` | 72 | 0.011 | 0.57 |" in page.text
    # surrogate minus DFT: 0.01, 0.03 and 0.1; within an error bar of 0.05 are two
    assert "| E_hull: bias | 0.047 eV/atom (" in page.text
    assert "hold the value here | 67 % (" in page.text
    assert "within 0.02 eV/atom for **1 of 2**" in text
    assert "1 failed" in text
    assert "- CuI (`d3`): relax: the electrons did not converge" in page.text
    assert {"bands-NiS2.svg", "bands-V2S2.svg", "surrogate-dft.svg", RECORDS} == set(page.pictures)
    lines = [json.loads(line) for line in page.pictures[RECORDS].splitlines()]
    assert [line["candidate_id"] for line in lines] == ["a", "b", "c", "a2", "d0", "d1", "d2", "d3"]
    assert all(line["structure"] and line["parent"] for line in lines)


def test_layers_that_the_energy_model_was_fitted_on_stand_apart(study: DftStudy) -> None:
    learned = KnownAs(id="KBr-1", source="C2DB", formula="KBr")
    one, *rest = study.drawn["one"]
    drawn = {"one": [one.model_copy(update={"known_as": [learned]}), *rest], "other": study.drawn["other"]}
    page = render(DftStudy(study.campaign, [], drawn=drawn))
    # surrogate minus DFT: 0.01 of C2DB's layer, 0.03 and 0.1 of the others; the fourth has no energy
    (row,) = [line for line in page.text.splitlines() if line.startswith("| E_hull: mean absolute difference")]
    cells = [cell.strip().split(" ")[0] for cell in row.strip("|").split("|")]
    assert cells[1:] == ["0.047", "0.020", "0.100", "0.010", "0.065"]
    assert "**1 of 4 are not computed.**" in page.text
    # nothing but what was drawn: the page does not speak of the paper's compounds
    assert page.text.startswith("# DFT: how far the surrogate is right")
    assert "six compounds" not in page.text


def test_what_is_not_there_yet_is_said(study: DftStudy) -> None:
    page = render(DftStudy(study.campaign, [promoted("a", "NiS2-1T", None, 0.1)]))
    for words in (
        "| NiS<sub>2</sub> | none |",
        "Not computed: `scdm campaign promote",
        "Not measured here: `scdm refs",
    ):
        assert words in page.text
    assert "not computed yet" not in page.text
    waiting = promoted("a", "NiS2-1T", None, 0.1).model_copy(update={"state": CandidateState.PENDING, "reason": None})
    text = render(
        DftStudy(study.campaign, [*study.compounds, waiting.model_copy(update={"source_id": "ZnS2-1T"})])
    ).text
    assert "**1 of them are not computed yet**" in text
    assert "| ZnS<sub>2</sub> | not computed yet |" in text


def test_the_page_says_how_they_were_chosen_and_what_is_asked_of_phonons(study: DftStudy) -> None:
    config = {**study.campaign.config, "generator": {"kind": "promoted", "parent": "paper", "within": None}}
    campaign = study.campaign.model_copy(update={"config": config})
    text = " ".join(render(DftStudy(campaign, study.compounds)).text.split())
    assert "promoted from campaign `paper`, however far above the lowest of their compound" in text
    assert "the Hessian of the 3 × 3 supercell" in text  # no phonons yet, so as the engine would compute them
    config = {**config, "engine": {"kind": "vasp"}}
    campaign = study.campaign.model_copy(update={"config": config})
    assert "the Hessian of the supercell" in " ".join(render(DftStudy(campaign, study.compounds)).text.split())


def test_a_stage_that_failed_later_takes_no_energy_from_the_page(study: DftStudy) -> None:
    ended = {"state": CandidateState.FAILED, "reason": "bands: killed"}
    compounds = [c.model_copy(update=ended) for c in study.compounds]
    drawn = [c.model_copy(update=ended) for c in study.all_drawn]
    page = render(DftStudy(study.campaign, compounds, drawn={"one": drawn}))
    assert "1 of 2 have a prototype with E_hull ≤ 0.6 eV/atom by DFT" in " ".join(page.text.split())
    assert "| NiS<sub>2</sub> | 1T |" in page.text
    assert "| SCDM | 0.130 ± 0.05 | 0.100 | 0.030 |" in page.text
    # of the four that were drawn only the last has no energy
    assert page.text.count("| failed |") == 1


LISTED = "# promoted from a list of 2 candidates, which no command makes"


def test_the_command_that_is_printed_makes_the_campaign() -> None:
    database = memory_database()
    where = {"elements": ["Mo", "S"], "novel": True, "max_nsites": 6, "generator": "scdm"}
    generator = {"kind": "promoted", "parent": "t", "top": 3, "where": where, "draw": 1, "n": 3, "sha256": "0" * 64}
    engine = {"kind": "gpaw", "initial_moments": {"Ni": 1.5}}
    config = {"name": "u", "generator": generator, "engine": engine, "budget": {"node_hours": 2.5}}
    choice = {"formula": "NiS2", "value": 1, "chance": 1, "e_above_hull": 0, "e_above_hull_error": 0, "why": ""}
    chosen = [{**choice, "candidate_id": name} for name in ("t-1", "t-2")]
    model = {"energy_model": "m", "learned_from": 0, "pool": 2, "expected": 1, "chosen": chosen}
    counts = {"number": 1, "computed": "found-r01-gpaw", "expected_by_rank": 1, "expected_at_random": 1}
    loop = LoopDoc.model_validate({"name": "found", "config": {}, "config_hash": "0", "rounds": [{**model, **counts}]})
    several = {**generator, "candidates": ["t-1", "t-2"]}
    listed = {**config, "name": "v", "generator": several}
    of_loop = {**listed, "name": "found-r01-gpaw", "description": "chosen in round 1 of the loop found, by chance"}
    for one in (config, listed, of_loop):
        stored = parse_config(one).model_dump(mode="json")
        database.upsert(
            database.campaigns, [CampaignDoc(name=one["name"], config=stored, config_hash="0").model_dump()]
        )
    database.upsert(database.loops, [loop.model_dump()])
    query = CandidateDB(database)
    command, *arguments = shlex.split(_promotion(query, "u"))[2:]
    # read by the command itself, as a shell would give it the words
    given = promote.make_context(command, arguments).params
    assert (given["name"], given["top"], given["draw"], given["node_hours"]) == ("t", 3, 1, 2.5)
    assert conditions(query, {"where": given["where"]}) == where
    assert dict(_setting("", text) for text in given["options"]) == {"initial_moments": {"Ni": 1.5}}
    assert _promotion(query, "v") == LISTED
    assert _promotion(query, "found-r01-gpaw") == "scdm campaign loop found"


def test_rows_of_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text in ("[1]\n", '{"id": "a"}\n', "no json"):
        path.write_text(text)
        with pytest.raises(ReferenceDataError, match="scdm refs gpaw -o FILE"):
            read_rows(path)


@pytest.mark.slow
def test_the_page_of_a_promoted_campaign(tmp_path: Path) -> None:
    mx2("1H").to(str(tmp_path / "a.cif"))
    database = memory_database()
    engine = {"kind": "forcefield", "fmax_ev_per_angstrom": 0.1}
    given = {"name": "t", "generator": {"kind": "files", "paths": [str(tmp_path)]}, "engine": engine}
    given |= {"screen": {"require_novel": False}, "gate": {"max_e_above_hull": 3}}
    run_campaign(parse_config(given), database, processes=1)
    build_all(database, "t")
    asked = promotion.Asked("t", 1, {**engine, "fmax_ev_per_angstrom": 0.05}, "u", {}, None, None, {}, 0.1, 7)
    promotion.promote(database, asked)
    promotion.promote(database, replace(asked, name="ranked", draw=None))
    run_campaign(stored_config(database.campaigns.query_one({"name": "u"})["config"]), database, processes=1)
    out = tmp_path / "page.md"
    write_dft(database, "u", out, (), ("u",), None, force=False)
    text = out.read_text()
    assert "Energies here are surrogate" in text
    assert "scdm campaign promote t --top 1 --engine forcefield --within 0.1 --draw 7" in text
    assert (tmp_path / "page" / RECORDS).is_file()
    with pytest.raises(OutputError, match="--force"):
        write_dft(database, "u", out, (), (), None, force=False)
    with pytest.raises(CampaignError, match="holds no promoted candidates"):
        gather(database, "u", drawn=["t"])
    run_campaign(stored_config(database.campaigns.query_one({"name": "ranked"})["config"]), database, processes=1)
    build_all(database, "ranked")
    with pytest.raises(CampaignError, match="campaign ranked was promoted by rank or from a list"):
        gather(database, "u", drawn=["ranked"])
