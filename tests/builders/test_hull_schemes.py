"""Which references a candidate is judged by: candidates of different schemes never share a hull document."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Composition, Lattice, Structure
from support.memory import memory_database

from scdm_flows.builders import CandidateBuilder, HullBuilder
from scdm_flows.config import as_registered, parse_config
from scdm_flows.documents import CampaignDoc, CandidateDoc, StageRecord
from scdm_flows.engines import engine_of
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_files import as_text
from scdm_flows.query.words import above_hull
from scdm_flows.report.content import candidate_warnings
from scdm_flows.stores import Database
from scdm_flows.thermo.table import ReferenceTable

GRAPHENE = Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
SULFUR = "PAW_PBE S 17Jan2003"


def entry(formula: str, energy: float) -> dict[str, Any]:
    return {
        "entry_id": f"id-{formula}",
        "composition": Composition(formula).as_dict(),
        "energy": energy,
        "parameters": {"run_type": "GGA", "potcar_spec": [{"titel": SULFUR}] if "S" in formula else []},
    }


def references(folder: Path, mos2: float = -21.3) -> Path:
    """A file of elements and MoS2, eV per formula unit."""
    folder.mkdir(exist_ok=True)
    path = folder / "references.json"
    path.write_text(json.dumps([entry("Mo", -10.9), entry("S", -4.1), entry("MoS2", mos2)]))
    return path


def campaign(database: Database, name: str, folder: Path, *, noted: bool = True, **engine: Any) -> str:
    """A registered campaign; returns the scheme of its energies. noted: with the content of its files."""
    config = parse_config(
        {
            "name": name,
            "generator": {"kind": "files", "paths": ["x.cif"]},
            "engine": {"kind": "vasp", "references": str(folder / "references.json"), **engine},
        }
    )
    if noted:
        config = as_registered(config)
    document = CampaignDoc(
        name=name, config=config.model_dump(mode="json"), config_hash=config.config_hash, n_requested=1
    )
    database.upsert(database.campaigns, [document.model_dump()])
    return engine_of(config.engine).scheme


def candidate(
    database: Database,
    name: str,
    scheme: str,
    potentials: dict[str, str] | None = None,
    *,
    number: int = 1,
    energy: float = -7.0,
    **fields: Any,
) -> None:
    mos2: dict[str, Any] = {"formula": "MoS2", "chemsys": "Mo-S", "elements": ["Mo", "S"], "nelements": 2}
    document = CandidateDoc(
        candidate_id=f"{name}-{number}",
        campaign=name,
        generator="files",
        nsites=3,
        structure={},
        energy_per_atom=energy,
        energy_scheme=scheme,
        potentials=potentials,
        stages={"relax": StageRecord(status="passed")},
        **(mos2 | fields),
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


def stored(database: Database, candidate_id: str) -> CandidateDoc:
    return CandidateDB(database).get(candidate_id)


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("older", [False, True])
def test_a_build_repairs_the_energies_of_a_file_that_changed(tmp_path: Path, everything: bool, older: bool) -> None:
    """Campaigns from before contents were noted take the file as it is. older: so do candidates that name no hull."""
    references(tmp_path)
    database = memory_database()
    scheme = campaign(database, "plain", tmp_path, noted=False)
    candidate(database, "plain", scheme)
    HullBuilder(database).run()
    candidate(database, "plain", scheme, number=2, energy=-6.9)
    HullBuilder(database).run()  # the hull's second revision
    before = stored(database, "plain-1")
    assert before.e_above_hull == pytest.approx(0.1)
    if older:
        database.mongo["candidates"].update_many({}, {"$unset": {"hull_id": ""}})
    references(tmp_path, mos2=-21.6)
    builder = HullBuilder(database, everything=everything)
    builder.run()
    # the new file's MoS2 has -7.2 eV/atom; its hull is in its first revision, which is less than that of the old one
    for number, above in ((1, 0.2), (2, 0.3)):
        found = stored(database, f"plain-{number}")
        assert found.e_above_hull == pytest.approx(above)
        assert found.hull_revision == 1
        assert found.hull_id not in (None, before.hull_id)
    assert builder.written == 3
    assert list(HullBuilder(database).get_items()) == []


def test_candidates_of_before_learn_which_hull_they_are_on(tmp_path: Path) -> None:
    references(tmp_path)
    database = memory_database()
    candidate(database, "plain", campaign(database, "plain", tmp_path))
    HullBuilder(database).run()
    before = stored(database, "plain-1")
    database.mongo["candidates"].update_many({}, {"$unset": {"hull_id": ""}})
    builder = HullBuilder(database)
    builder.run()
    after = stored(database, "plain-1")
    assert after.hull_id == before.hull_id is not None
    assert (after.e_above_hull, after.hull_revision, builder.written) == (before.e_above_hull, 1, 1)


def test_what_has_no_place_on_the_new_hull_is_not_tried_again_and_again(tmp_path: Path) -> None:
    """It keeps what it has from the old hull, so that it goes on naming that one."""
    references(tmp_path)
    database = memory_database()
    candidate(database, "plain", campaign(database, "plain", tmp_path, noted=False))
    HullBuilder(database).run()
    before = stored(database, "plain-1")
    (tmp_path / "references.json").write_text(json.dumps([entry("Mo", -10.9)]))
    builder = HullBuilder(database)
    builder.run()
    assert any("S" in text for text in builder.errors.values())
    after = stored(database, "plain-1")
    assert (after.e_above_hull, after.hull_id) == (before.e_above_hull, before.hull_id)
    assert list(HullBuilder(database).get_items()) == []


def test_a_campaign_whose_file_changed_since_its_registration_keeps_its_energies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As its gate refuses that file. A campaign that was registered with it is judged by it."""
    path = references(tmp_path)
    database = memory_database()
    scheme = campaign(database, "first", tmp_path)
    candidate(database, "first", scheme)
    references(tmp_path / "copy")
    candidate(database, "copy", campaign(database, "copy", tmp_path / "copy"))
    HullBuilder(database).run()
    before = stored(database, "first-1")
    references(tmp_path, mos2=-21.6)
    campaign(database, "second", tmp_path)
    candidate(database, "second", scheme)
    candidate(database, "copy", scheme, number=2, energy=-7.3)  # 0.2 eV/atom below the first file's MoS2
    candidate(database, "first", scheme, number=2)  # computed, but not on a hull before the file changed
    with caplog.at_level(logging.WARNING):
        HullBuilder(database).run()
    (said,) = [record.getMessage() for record in caplog.records if "another content" in record.getMessage()]
    assert said.startswith(f"candidates of first keep their energies above hull: engine.references: {path} has another")
    assert "put the file back" in said
    assert stored(database, "second-1").e_above_hull == pytest.approx(0.2)
    assert stored(database, "copy-1").e_above_hull == pytest.approx(0.3)
    after = stored(database, "first-1")
    assert (after.e_above_hull, after.hull_id) == (before.e_above_hull, before.hull_id)
    assert stored(database, "first-2").hull_id is None

    references(tmp_path)  # put back: the first competes again with whatever has come since
    HullBuilder(database).run()
    assert [stored(database, f"first-{k}").e_above_hull for k in (1, 2)] == pytest.approx([0.3, 0.3])
    assert set(CandidateDB(database).hull_of(after).candidates) == {"copy-1", "copy-2", "first-1", "first-2"}


def test_equal_files_at_two_paths_are_one_basis(tmp_path: Path) -> None:
    database = memory_database()
    for name, energy in (("one", -7.0), ("two", -7.3)):
        references(tmp_path / name)
        candidate(database, name, campaign(database, name, tmp_path / name), energy=energy)
    HullBuilder(database).run()
    (hull,) = database.hulls.query()
    assert set(hull["candidates"]) == {"one-1", "two-1"}
    # the references' MoS2 has -7.1 eV/atom, so "two" lies 0.2 below it and "one" 0.3 above "two"
    assert stored(database, "one-1").e_above_hull == pytest.approx(0.3)
    assert stored(database, "two-1").e_above_hull == pytest.approx(-0.2)
    assert {d["hull_pending"] for d in database.candidates.query()} == {None}


def test_layers_computed_by_gpaw_compete_with_each_other_alone() -> None:
    """The packaged phases are on the scale of GPAW's energies; surrogates on the same scale are no DFT."""
    table, mos2 = ReferenceTable.load(), {"Mo": 1 / 3, "S": 2 / 3}
    hull = table.total_energy(mos2, table.hull_energy(mos2))
    database = memory_database()
    candidate(database, "dft", "gpaw-pbe-c2db", number=1, energy=hull + 0.2, surrogate=False)
    candidate(database, "dft", "gpaw-pbe-c2db", number=2, energy=hull - 0.1, surrogate=False)
    candidate(database, "ml", "c2db-pbe", energy=hull - 0.4, surrogate=True)
    HullBuilder(database).run()
    high, low, predicted = (stored(database, name) for name in ("dft-1", "dft-2", "ml-1"))
    assert (high.e_above_hull, low.e_above_hull, predicted.e_above_hull) == pytest.approx((0.3, -0.1, -0.4))
    assert high.e_above_same_composition == pytest.approx(0.3)
    assert high.computed_competitors == ["dft-2"]
    assert predicted.computed_competitors == low.computed_competitors == []
    assert (high.hull_pending, low.hull_pending) == (None, None)
    assert (high.missing_competitors, high.e_above_hull_lower_bound) == ([], False)
    found = CandidateDB(database).hull_of(high)
    assert found is not None
    assert (found.energy_scheme, found.surrogate, set(found.candidates)) == ("gpaw-pbe-c2db", False, {"dft-1", "dft-2"})


def test_the_packaged_phases_lack_nothing_for_gpaw_either() -> None:
    """An element that the packaged table has not is no phase that somebody could add to it; there is no hull at all."""
    assert "Pu" not in ReferenceTable.load().elements
    database = memory_database()
    oxide: dict[str, Any] = {"formula": "PuO2", "chemsys": "O-Pu", "elements": ["O", "Pu"]}
    candidate(database, "dft", "gpaw-pbe-c2db", **oxide)
    HullBuilder(database).run()
    (hull,) = database.hulls.query()
    assert (hull["missing_competitors"], list(hull["errors"])) == ([], ["dft-1"])
