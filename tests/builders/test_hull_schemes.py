"""Candidates of different schemes never share a hull document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Composition, Lattice, Structure
from support.memory import memory_database

from scdm_flows.builders import CandidateBuilder, HullBuilder
from scdm_flows.config import parse_config
from scdm_flows.documents import CampaignDoc, CandidateDoc, StageRecord
from scdm_flows.engines import engine_of
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_files import as_text
from scdm_flows.query.words import above_hull
from scdm_flows.report.content import candidate_warnings
from scdm_flows.stores import Database

GRAPHENE = Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
SULFUR = "PAW_PBE S 17Jan2003"


def entry(formula: str, energy: float) -> dict[str, Any]:
    return {
        "entry_id": f"id-{formula}",
        "composition": Composition(formula).as_dict(),
        "energy": energy,
        "parameters": {"run_type": "GGA", "potcar_spec": [{"titel": SULFUR}] if "S" in formula else []},
    }


def campaign(database: Database, name: str, folder: Path, **engine: Any) -> str:
    """A registered campaign; returns the scheme of its energies."""
    config = parse_config(
        {
            "name": name,
            "generator": {"kind": "files", "paths": ["x.cif"]},
            "engine": {"kind": "vasp", "references": str(folder / "references.json"), **engine},
        }
    )
    document = CampaignDoc(
        name=name, config=config.model_dump(mode="json"), config_hash=config.config_hash, n_requested=1
    )
    database.upsert(database.campaigns, [document.model_dump()])
    return engine_of(config.engine).scheme


def candidate(database: Database, name: str, scheme: str, potentials: dict[str, str] | None = None) -> None:
    document = CandidateDoc(
        candidate_id=f"{name}-1",
        campaign=name,
        generator="files",
        formula="MoS2",
        chemsys="Mo-S",
        elements=["Mo", "S"],
        nelements=2,
        nsites=3,
        structure={},
        energy_per_atom=-7.0,
        energy_scheme=scheme,
        potentials=potentials,
        stages={"relax": StageRecord(status="passed")},
    )
    CandidateBuilder(database)._write_candidates([document.model_dump()])


def test_each_scheme_has_its_own_hulls(tmp_path: Path) -> None:
    entries = [entry("Mo", -10.9), entry("S", -4.1), entry("MoS2", -21.3)]
    (tmp_path / "references.json").write_text(json.dumps(entries))
    database = memory_database()
    plain = campaign(database, "plain", tmp_path)
    wide = campaign(database, "wide", tmp_path, encut_ev=700)
    other = campaign(database, "tungsten", tmp_path, potcar_symbols={"W": "W"})
    assert (plain, wide, other) == ("vasp-pbe", "vasp-pbe-700eV", "vasp-pbe-W")
    candidate(database, "plain", plain, {"Mo": "any", "S": SULFUR})
    candidate(database, "wide", wide)
    candidate(database, "tungsten", other)
    HullBuilder(database).run()
    hulls = {d["energy_scheme"]: set(d["candidates"]) for d in database.hulls.query()}
    # the file is of 520 eV, so candidates of 700 eV have no hull; W has another potential, and MoS2 no W
    assert hulls == {"vasp-pbe": {"plain-1"}, "vasp-pbe-W": {"tungsten-1"}}
    values = {d["candidate_id"]: d["e_above_hull"] for d in database.candidates.query()}
    # 0.1 above the -7.1 eV/atom of MoS2
    assert {name: value and round(value, 9) for name, value in values.items()} == {
        "plain-1": 0.1,
        "wide-1": None,
        "tungsten-1": 0.1,
    }


def test_a_run_with_another_date_of_a_potential_has_no_place(tmp_path: Path) -> None:
    entries = [entry("Mo", -10.9), entry("S", -4.1), entry("MoS2", -21.3)]
    (tmp_path / "references.json").write_text(json.dumps(entries))
    database = memory_database()
    candidate(database, "plain", campaign(database, "plain", tmp_path), {"S": "PAW_PBE S 06Sep2000"})
    HullBuilder(database).run()
    (hull,) = database.hulls.query()
    assert hull["candidates"] == {}
    assert "potential of S: 'PAW_PBE S 06Sep2000' here, 'PAW_PBE S 17Jan2003'" in hull["errors"]["plain-1"]
    assert database.candidates.query_one({"candidate_id": "plain-1"})["e_above_hull"] is None


def test_a_hull_without_a_phase_that_belongs_on_it_gives_lower_bounds(tmp_path: Path) -> None:
    """Without MoS2, -7.1 eV/atom, the hull at MoS2 is the elements' (-10.9 - 2 * 4.1) / 3 eV/atom."""
    path = tmp_path / "references.json"
    path.write_text(json.dumps([entry("Mo", -10.9), entry("S", -4.1)]))
    database = memory_database()
    candidate(database, "plain", campaign(database, "plain", tmp_path))
    HullBuilder(database).run()
    found = CandidateDB(database).find()[0]
    assert found.e_above_hull == pytest.approx(-7.0 + 19.1 / 3)
    assert (found.e_above_hull_lower_bound, found.missing_competitors) == (True, ["MoS2"])
    (hull,) = database.hulls.query()
    assert hull["missing_competitors"] == ["MoS2"]
    assert any("a lower bound" in text and "MoS2" in text for text in candidate_warnings(found))
    assert "≥ −0.633" in above_hull(found)
    assert "E_hull>=-0.633" in as_text(found.model_copy(update={"structure": GRAPHENE.as_dict()}), "poscar")

    (tmp_path / "complete").mkdir()
    whole = [entry("Mo", -10.9), entry("S", -4.1), entry("MoS2", -21.3)]
    (tmp_path / "complete" / "references.json").write_text(json.dumps(whole))
    candidate(database, "complete", campaign(database, "complete", tmp_path / "complete"))
    HullBuilder(database).run()
    (found,) = CandidateDB(database).find(campaign="complete")
    assert found.e_above_hull == pytest.approx(0.1)
    assert (found.e_above_hull_lower_bound, found.missing_competitors) == (False, [])
    assert [c.campaign for c in CandidateDB(database).find(e_above_hull_lower_bound=True)] == ["plain"]
