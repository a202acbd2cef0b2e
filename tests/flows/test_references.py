"""Reference phases by the engine of the campaign, with the stand-in executable: energies are CHGNet's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Composition, Lattice, Structure
from support.layers import mx2, rock_salt

from scdm_flows.campaigns import registration
from scdm_flows.cli import competing
from scdm_flows.cli.refs import refs
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.engines import engine_of
from scdm_flows.engines.vasp.bulk import bulk_input_set
from scdm_flows.engines.vasp.inputs import input_set
from scdm_flows.flows import references
from scdm_flows.stores import EmbeddedServer, connect
from scdm_flows.thermo.completeness import missing_phases
from scdm_flows.thermo.entries import load_entries
from scdm_flows.thermo.hull import PhaseSystem
from scdm_models.training.forcefield.network import load

ENGINE = {
    "kind": "vasp",
    "fmax_ev_per_angstrom": 0.05,
    "first_fmax_ev_per_angstrom": 0.1,
    "kpoint_spacing_per_angstrom": 0.8,
    "vasp_version": "6.5.0",
}
# rock salt LiF, bcc Li and an F2 molecule: few atoms and high symmetry
LI_F = {
    "Li": Structure(Lattice.cubic(3.44), ["Li", "Li"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "F": Structure(Lattice.tetragonal(3.6, 5.0), ["F", "F"], [[0, 0, 0.36], [0, 0, 0.64]]),
    "LiF": rock_salt("Li", "F", 4.03),
}


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CampaignConfig]:
    """A campaign file for one layer of Li and F, and a folder with bulk crystals."""
    monkeypatch.chdir(tmp_path)
    for name in ("SCDM_MONGO_URI", "SCDM_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    mx2("1T").replace_species({"Mo": "Li", "S": "F"}).to(filename=str(tmp_path / "layer.cif"))
    (tmp_path / "bulk").mkdir()
    for name, structure in LI_F.items():
        structure.to(filename=str(tmp_path / "bulk" / f"{name}.cif"))
    data = {
        "name": "r",
        "generator": {"kind": "files", "paths": [str(tmp_path / "layer.cif")]},
        "engine": {**ENGINE, "references": str(tmp_path / "references.json")},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(data))
    yield parse_config(data)
    EmbeddedServer(tmp_path / "scdm-data").stop()  # where a command has started one


def invoke(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(refs, [*arguments, "--json"], catch_exceptions=False)
    return result.exit_code, json.loads(result.output[result.output.index("{") :])


def test_the_plan_names_what_is_missing_and_what_it_costs(campaign: CampaignConfig, tmp_path: Path) -> None:
    code, found = invoke("plan", "r.yaml", "--structures", "bulk")
    assert code == 0
    # materialsproject.org: of Li and F only LiF is stable
    assert [row["formula"] for row in found["missing"]] == ["F", "FLi", "Li"]
    assert all(row["core_hours"] > 0 for row in found["missing"])
    assert found["core_hours"] == pytest.approx(sum(row["core_hours"] for row in found["missing"]))
    (tmp_path / "bulk" / "LiF.cif").unlink()
    _, found = invoke("plan", "r.yaml", "--structures", "bulk")
    assert found["missing"][1] == {"formula": "FLi", "from": None, "core_hours": None}


def test_bulk_runs_have_the_settings_of_layers_and_a_free_cell(campaign: CampaignConfig) -> None:
    config: Any = campaign.engine
    for stage in ("relax_1", "relax_2", "static"):
        layer, bulk = (make(config, stage) for make in (input_set, bulk_input_set))
        own, theirs = layer.config_dict["INCAR"], bulk.config_dict["INCAR"]
        assert {k: v for k, v in own.items() if k not in ("LATTICE_CONSTRAINTS", "LCHARG", "LVHAR")} == {
            k: v for k, v in theirs.items() if k != "LCHARG"
        }
        made = bulk.get_input_set(LI_F["F"], potcar_spec=True)
        assert not {"LDIPOL", "LATTICE_CONSTRAINTS"} & set(made.incar)
        assert made.incar["LCHARG"] is False
        # 2 pi / (3.6 * 0.8) = 2.2, 2 pi / (5 * 0.8) = 1.6
        assert made.kpoints.kpts == [(3, 3, 2)]
    assert bulk_input_set(config, "relax_1").config_dict["INCAR"]["ISIF"] == 3


def test_computed_phases_are_a_hull_with_its_bulk_phases(
    campaign: CampaignConfig, tmp_path: Path, standin_vasp: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCDM_VASP_POLL_SECONDS", "0.05")
    (tmp_path / "bulk" / "LiF.cif").rename(tmp_path / "LiF.cif")
    command = ("compute", "r.yaml", "--structures", "bulk", "-o", "references.json")
    code, found = invoke(*command)
    assert code == 1
    assert (found["computed"], found["failed"], found["without_crystal"]) == (2, {}, ["FLi"])
    elements = load_entries("references.json", "vasp-pbe")
    assert missing_phases(elements, ["Li", "F"]) == ["FLi"]
    code, found = invoke(*command, "--structures", "LiF.cif")
    assert (code, found["computed"], found["left"]) == (0, 1, 0)

    table = engine_of(campaign.engine).references()
    assert missing_phases(table, ["Li", "F"]) == []
    assert engine_of(campaign.engine).check_elements(["F", "Li"]) == []  # the TITELs are those of the POTCARs here
    system = PhaseSystem(["Li", "F"], table.entries(["F", "Li"]))
    energy, products = system.decompose(system.target({"Li": 0.5, "F": 0.5}))
    assert [system.phases[i].formula for i in products] == ["Li4F4"]
    assert energy < -1.0
    for row in json.loads(Path("references.json").read_text())["entries"]:
        relaxed = Structure.from_dict(row["structure"])
        own = float(load().predict_structure(relaxed, task="e")["e"]) * len(relaxed)
        assert row["energy"] == pytest.approx(own, abs=1e-3)
        assert row["parameters"]["encut"] == 520
    lif = next(r for r in json.loads(Path("references.json").read_text())["entries"] if len(r["composition"]) == 2)
    lengths = np.array(Structure.from_dict(lif["structure"]).lattice.abc)
    assert np.ptp(lengths) < 0.02  # all three axes relaxed, cubic as it was
    assert abs(lengths[0] - 4.03) > 1e-3


def test_what_others_add_to_the_file_meanwhile_is_kept(
    campaign: CampaignConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs take hours, in which somebody else computes other phases into the same file."""

    def entry(formula: str, energy: float) -> dict[str, Any]:
        composition = Composition(formula).as_dict()
        return {
            "entry_id": formula,
            "composition": composition,
            "energy": energy,
            "parameters": {"run_type": "GGA", "potcar_spec": []},
        }

    def write(*entries: dict[str, Any]) -> None:
        Path("references.json").write_text(json.dumps({"scheme": "vasp-pbe", "entries": entries}))

    def run(phases: list[Any], *_: Any) -> dict[str, str]:
        write(entry("Li2", -3.8), entry("F2", -3.7))
        return {}

    write(entry("Li2", -3.8))
    monkeypatch.setattr(competing, "_refuse_what_cannot_run", lambda *_: None)
    monkeypatch.setattr(competing, "_run", run)
    monkeypatch.setattr(references, "computed_entry", lambda _, phase, store: entry(phase.formula, -9.7))
    (tmp_path / "bulk" / "F.cif").unlink()
    code, found = invoke("compute", "r.yaml", "--structures", "bulk", "-o", "references.json")
    assert (code, found["computed"], found["without_crystal"]) == (1, 1, ["F"])  # what the other adds it does not know
    after = json.loads(Path("references.json").read_text())
    assert [row["entry_id"] for row in after["entries"]] == ["Li2", "F2", "FLi"]
    assert not list(tmp_path.glob(".references.json*"))


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
    campaign: CampaignConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(competing, "_run", lambda *_: pytest.fail("it ran"))
    result = CliRunner().invoke(refs, ["compute", "r.yaml", "--structures", "bulk", "-o", "gone/references.json"])
    assert "folder" in str(result.exception)
    assert "does not exist; create it first" in str(result.exception)


def test_the_plan_of_a_stored_campaign_is_that_of_its_file(
    campaign: CampaignConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # there is no VASP here, and references are what is missing
    monkeypatch.setattr(registration, "_engine_problems", lambda _: [])
    with connect(ScdmSettings()) as database:
        registration.register(campaign, database)
    from_file, stored = (invoke("plan", of, "--structures", "bulk", "--elements", "Li,F") for of in ("r.yaml", "r"))
    assert stored == from_file
    assert stored[1]["missing"]


def test_an_engine_that_computes_no_references_says_so(campaign: CampaignConfig, tmp_path: Path) -> None:
    data = {"name": "r", "generator": {"kind": "files", "paths": ["layer.cif"]}, "engine": {"kind": "gpaw"}}
    (tmp_path / "gpaw.yaml").write_text(json.dumps(data))
    for command in (["plan"], ["compute", "-o", "r.json"]):
        result = CliRunner().invoke(refs, [*command, "gpaw.yaml"])
        assert "only the vasp engine computes reference phases" in str(result.exception)
    assert not (tmp_path / "r.json").exists()
