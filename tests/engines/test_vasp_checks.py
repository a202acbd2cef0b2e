"""Bad input of VASP campaigns is told in words before any job exists: by the doctor, at submission, in the screen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import SETTINGS, Composition, Lattice, Structure
from support.layers import mx2
from support.memory import memory_database
from support.standin.potcars import fake_potcars, use_potcars

from scdm_flows.campaigns.registration import obstacles, refusals, register, registered
from scdm_flows.cli import cli, doctor
from scdm_flows.cli.common import run
from scdm_flows.config import CampaignConfig, VaspEngineConfig, parse_config
from scdm_flows.engines.vasp import checks as vasp_checks
from scdm_flows.engines.vasp.cost import ionic_step
from scdm_flows.engines.vasp.engine import VaspEngine
from scdm_flows.errors import CampaignError, ConfigError, EngineError, ReferenceDataError
from scdm_flows.thermo.entries import load_entries
from scdm_models.symmetry.lattice import vacuum_thickness

VARIABLES = ("SCDM_VASP_CMD", "SCDM_VASP_GAMMA_CMD", "SCDM_VASP_VERSION", "SCDM_MONGO_URI", "SCDM_DATA_DIR")


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set up."""
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


def entry(formula: str, energy: float, **parameters: Any) -> dict[str, Any]:
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedEntry",
        "entry_id": f"mp-{formula}",
        "composition": Composition(formula).as_dict(),
        "energy": energy,
        "correction": 0.0,
        "parameters": {"run_type": "GGA", **parameters},
    }


MO_S = [entry("Mo", -10.9), entry("S", -4.1), entry("MoS2", -21.8)]


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is set up for Mo and S; the folder of the structures."""
    monkeypatch.setenv("SCDM_VASP_CMD", "true")
    monkeypatch.setenv("SCDM_VASP_VERSION", "6.4.3")
    use_potcars(monkeypatch, fake_potcars(tmp_path / "potcars", ["Mo", "S"]))
    (tmp_path / "references.json").write_text(json.dumps(MO_S))
    folder = tmp_path / "in"
    folder.mkdir()
    mx2("1H").to(filename=str(folder / "a.cif"))
    return folder


def campaign(folder: Path, **engine: Any) -> CampaignConfig:
    return parse_config(
        {
            "name": "v",
            "generator": {"kind": "files", "paths": [str(folder)]},
            "engine": {"kind": "vasp", "references": str(folder.parent / "references.json"), **engine},
        }
    )


def test_nothing_is_in_the_way_of_a_good_campaign(ready: Path) -> None:
    assert obstacles(campaign(ready)) == []


def test_everything_that_is_missing_is_told_at_once() -> None:
    told = VaspEngine(VaspEngineConfig()).check()
    for words in ("SCDM_VASP_CMD is not set", "SCDM_VASP_VERSION", "PMG_VASP_PSP_DIR is not set", "engine.references"):
        assert any(words in text for text in told), words
    assert all("; " in text for text in told)  # what; remedy


def test_the_same_science_is_the_same_campaign_however_it_is_executed(ready: Path, tmp_path: Path) -> None:
    database, config = memory_database(), campaign(ready, walltime_s=60)
    name, first = config.config_hash, registered(config, database)
    references = Path(str(config.engine.references))  # type: ignore[union-attr]
    moved = references.rename(tmp_path / "moved.json")
    other = campaign(ready, walltime_s=7200, references=str(moved))
    assert refusals(other, database) == []
    assert not register(other, database)
    now = registered(other, database)
    assert now.config_hash == first.config_hash == name
    assert now.engine == other.engine
    with pytest.raises(EngineError, match=r"VASP 5\.4 ignores"):  # it is asked whether it can run
        register(campaign(ready, references=str(moved), vasp_version="5.4"), database)
    moved.write_text(moved.read_text() + "\n")
    database.mongo["outputs"].insert_one({"metadata": {"campaign": "v"}})
    with pytest.raises(CampaignError, match=r"another configuration \(engine\.references: 'sha256 \w+' there"):
        register(other, database)


def test_a_wall_time_shorter_than_an_ionic_step(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # by hand 0.9 core seconds a k-point and electronic step (the docstring of cost); 19 k-points, 15 steps
    assert ionic_step(mx2("1H"), VaspEngineConfig(spin="off")) == pytest.approx(0.9 * 19 * 15, rel=0.3)
    monkeypatch.setenv("SCDM_VASP_CMD", "true -n 4")
    (told,) = obstacles(campaign(ready, walltime_s=10))
    assert re.search(r"walltime_s = 10 is shorter than one ionic step, about \d+ s on 4 cores .*; raise it", told)
    assert obstacles(campaign(ready, walltime_s=100)) == []
    monkeypatch.setenv("SCDM_VASP_CMD", "true")  # may be many cores
    assert obstacles(campaign(ready, walltime_s=10)) == []


def test_a_command_that_is_not_there(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_VASP_CMD", "no_such_mpirun -n 4 vasp_std")
    with pytest.raises(EngineError, match="no_such_mpirun is not on the PATH"):
        register(campaign(ready), memory_database())
    monkeypatch.setenv("SCDM_VASP_CMD", "true")
    monkeypatch.setenv("SCDM_VASP_GAMMA_CMD", "no_such_gamma")
    assert "SCDM_VASP_GAMMA_CMD" in (vasp_checks.command_problem() or "")


@pytest.mark.parametrize(
    ("version", "constraint", "held"),
    [
        ("6.4.3", "lattice_constraints", True),
        ("6.5.0", "lattice_constraints", True),
        ("6.3.2", "lattice_constraints", False),  # takes the tag and relaxes c all the same
        ("5.4.4.18Apr17", "lattice_constraints", False),
        ("5.4.4.18Apr17", "optcell", True),  # a patched one reads OPTCELL
    ],
)
def test_a_vasp_that_does_not_hold_c_is_refused(ready: Path, version: str, constraint: str, held: bool) -> None:
    told = obstacles(campaign(ready, vasp_version=version, cell_constraint=constraint))
    assert (told == []) is held
    if not held:
        assert f"VASP {version} ignores LATTICE_CONSTRAINTS" in told[0]


def test_a_version_that_is_none(ready: Path) -> None:
    with pytest.raises(ConfigError, match="is not a version"):
        campaign(ready, vasp_version="newest")


def test_spin_orbit_coupling_needs_the_noncollinear_build(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = obstacles(campaign(ready, spin_orbit="auto"))
    assert len(told) == 1
    assert "SCDM_VASP_NCL_CMD is not set; set it to the command that runs it, such as 'srun vasp_ncl'" in told[0]
    monkeypatch.setenv("SCDM_VASP_NCL_CMD", "no_such_ncl")
    assert "no_such_ncl is not on the PATH" in obstacles(campaign(ready, spin_orbit="on"))[0]
    monkeypatch.setenv("SCDM_VASP_NCL_CMD", "true")
    assert obstacles(campaign(ready, spin_orbit="on")) == []


def test_plus_u_of_an_element_that_no_layer_has(ready: Path) -> None:
    write(ready.parent / "references.json", {"scheme": "vasp-pbe-U3Mo", "entries": MO_S})
    assert obstacles(campaign(ready, hubbard_u_ev={"Mo": 3})) == []
    told = obstacles(campaign(ready, hubbard_u_ev={"Mo": 3, "Fe": 4}))
    assert any("+U to Fe (Fe: 4 eV), which the layers lack; leave the values out" in text for text in told)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"incar": {"static": {"ENCUT": 400}}}, "ENCUT = 400 is not free: it is set by encut_ev"),
        ({"incar": {"all": {"KPAR": 4}}}, "SCDM_VASP_RANKS"),
        # these change the energy, and the scheme would not say so
        ({"incar": {"static": {"NELECT": 25}}}, "NELECT = 25 is not free: it is set by nothing: layers are neutral"),
        ({"incar": {"all": {"PSTRESS": 10}}}, "no pressure"),
        ({"incar": {"all": {"EFIELD": 0.1}}}, "no field"),
        ({"incar": {"all": {"LSOL": True}}}, "in vacuum"),
        ({"incar": {"all": {"lasph": False}}}, "LASPH = False is not free"),
        ({"incar": {"hse": {"LMODELHF": True}}}, "hse_gap"),
        ({"incar": {"all": {"AGGAC": 0.0}}}, "energies are PBE's"),
        ({"incar": {"all": {"ALDAC": 0.0}}}, "energies are PBE's"),
        ({"incar": {"all": {"VDW_S8": 0.7}}}, "VDW_S8 = 0.7 is not free: it is set by vdw"),
        ({"incar": {"all": {"VDW_RADIUS": 50}}}, "set by vdw"),
        ({"incar": {"static": {"AMIXX": 0.1}}}, "VASP has no tag AMIXX; did you mean AMIX"),
        ({"incar": {"relax": {"AMIX": 0.1}}}, "relax_1"),
        ({"hubbard_u_ev": {"Fe": -1}}, "greater than 0"),
        ({"hubbard_u_ev": {"Xx": 1}}, "'Xx' is no element"),
        ({"hubbard_u_ev": {"Na": 1}}, "Na has no p, d or f shell"),
        ({"magnetism": {"orderings": ["afm"]}}, r"must be \[fm\] or \[fm, afm\]"),
        ({"magnetism": {"orderings": ["fm", "afm"]}, "spin": "off"}, "needs spin: auto or on"),
    ],
)
def test_options_that_cannot_be_meant(ready: Path, engine: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        campaign(ready, **engine)


def test_an_element_without_potcar_or_reference(ready: Path) -> None:
    mx2("1H").replace_species({"Mo": "W"}).to(filename=str(ready / "b.cif"))
    told = obstacles(campaign(ready))
    assert any("no PBE POTCAR for W (W_pv)" in text for text in told)
    assert any("no vasp-pbe reference energy for W" in text for text in told)


def test_potcars_other_than_those_of_the_references_are_refused_before_a_job_exists(ready: Path) -> None:
    """Energies of two dates of one potential are of two schemes; MP's sulfur is of 2003, that of PBE_54 of 2000."""
    sulfur = entry("S", -4.1, potcar_spec=[{"titel": "PAW_PBE S 17Jan2003"}])
    write(ready.parent / "references.json", [MO_S[0], sulfur, MO_S[2]])
    (told,) = obstacles(campaign(ready))
    assert "potential of S: 'PAW_PBE S stand-in' here, 'PAW_PBE S 17Jan2003' in the references" in told
    own = entry("S", -4.1, potcar_spec=[{"titel": "PAW_PBE S stand-in"}])
    write(ready.parent / "references.json", [MO_S[0], own, MO_S[2]])
    assert obstacles(campaign(ready)) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"potcar_functional": "PBE_54"}, "release of the potentials PBE there, PBE_54 here"),
        ({"encut_ev": 300}, "cut-off 520 eV there, 300 eV here"),
        ({"encut_ev": 700}, "cut-off 520 eV there, 700 eV here"),
    ],
)
def test_settings_of_another_scheme_than_the_references_are_refused(
    ready: Path, changed: dict[str, Any], words: str
) -> None:
    assert any(words in text for text in obstacles(campaign(ready, **changed)))


def test_a_potcar_folder_that_is_not_there(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_potcars(monkeypatch, ready / "gone")
    assert any("is not a folder" in text for text in obstacles(campaign(ready)))


def test_a_tilted_cell_and_a_thin_vacuum_are_mended_and_a_bulk_crystal_is_named_with_its_file(ready: Path) -> None:
    mx2("1T", c=12.0).to(filename=str(ready / "thin.cif"))
    straight = mx2("1H")
    lattice = Lattice.from_parameters(3.18, 3.18, 20.0, 84.0, 90.0, 120.0)
    Structure(lattice, straight.species, straight.frac_coords).to(filename=str(ready / "tilted.cif"))
    assert obstacles(campaign(ready)) == []
    mx2("1T", c=6.0).to(filename=str(ready / "bulk.cif"))
    with pytest.raises(EngineError) as error:
        register(campaign(ready), database := memory_database())
    # 6 angstrom less the 3.13 between the sulfur planes
    assert "bulk.cif: the widest empty gap is 2.9 angstrom, a layer needs at least 5" in str(error.value)
    assert database.campaign("v") is None  # nothing was written
    assert database.job_store.docs_store.count() == 0


def test_of_many_bad_layers_a_few_are_named(ready: Path) -> None:
    for number in range(8):
        mx2("1T", c=6.0, a=3.1 + number / 50).to(filename=str(ready / f"bulk{number}.cif"))
    told = obstacles(campaign(ready))
    assert len(told) == 6
    assert told[-1] == "and 3 more"


@pytest.mark.parametrize("asked", [10, 26])
def test_the_screen_gives_every_layer_the_vacuum_that_is_asked_for(
    asked: float, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobflow import run_locally

    from scdm_flows.flows.campaign import screen
    from scdm_models.datasets.known import KnownLayers

    monkeypatch.setattr(KnownLayers, "load", classmethod(lambda cls, path=None: cls.build([])[0]))
    config = campaign(ready, min_vacuum_angstrom=asked)
    job = screen(config.model_dump(mode="json"), 0, [{"index": 0, "structure": mx2("1H").as_dict()}])
    output = run_locally(job, store=memory_database().job_store, log=False)[job.uuid][1].output
    (verdict,) = output.candidates
    assert verdict.accepted, verdict.reason
    assert vacuum_thickness(verdict.structure) == pytest.approx(max(asked, 20.0))


def test_what_no_reference_or_potcar_is_there_for_ends_at_the_screen(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobflow import run_locally

    from scdm_flows.flows.campaign import screen
    from scdm_models.datasets.known import KnownLayers

    monkeypatch.setattr(KnownLayers, "load", classmethod(lambda cls, path=None: cls.build([])[0]))
    config = campaign(ready)
    layers = [mx2("1H"), mx2("1H").replace_species({"Mo": "W"})]
    records = [{"index": k, "structure": layer.as_dict()} for k, layer in enumerate(layers)]
    job = screen(config.model_dump(mode="json"), 0, records)
    store = memory_database().job_store
    good, bad = run_locally(job, store=store, log=False)[job.uuid][1].output.candidates
    assert good.accepted, good.reason
    assert not bad.accepted
    for words in ("no PBE POTCAR for W", "no vasp-pbe reference energy for W"):
        assert words in (bad.reason or "")
    (ready.parent / "references.json").unlink()
    with pytest.raises(ReferenceDataError, match="does not exist here"):
        run_locally(screen(config.model_dump(mode="json"), 0, records), store=store, log=False, raise_immediately=True)


def test_a_cell_that_was_turned_is_no_slab_for_the_job() -> None:
    straight = mx2("1H")
    turned = Structure(Lattice(straight.lattice.matrix[:, [2, 0, 1]]), straight.species, straight.frac_coords)
    assert vasp_checks.layer_problems(straight, 10) == []
    assert "does not lie along z" in vasp_checks.layer_problems(turned, 10)[0]


# ------------------------------------------------------------------------------------------------ the doctor


def _finding(name: str) -> doctor.Finding:
    return next(f for f in doctor.examine() if f.what == name)


def test_the_doctor_tells_the_same(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [
        ("VASP", False, doctor._vasp), ("version", False, doctor._vasp_version), ("POTCAR", False, doctor._potcars),
    ])  # fmt: skip
    assert _finding("VASP").ok
    assert _finding("version").ok
    potcars = _finding("POTCAR")  # only Mo and S are there
    assert "has no PBE POTCAR for Ac, Ag, Al" in potcars.detail
    assert potcars.remedy
    monkeypatch.setenv("SCDM_VASP_VERSION", "6.2.1")
    assert "VASP 6.2.1 ignores LATTICE_CONSTRAINTS" in _finding("version").detail
    assert _finding("version").remedy
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR")
    assert "PMG_VASP_PSP_DIR is not set" in _finding("POTCAR").detail


# ------------------------------------------------------------------------------------------ reference entries


def write(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_references_are_read_without_their_corrections(tmp_path: Path) -> None:
    # MP2020 adds -0.503 eV to each sulfur of a sulfide; candidates have no such thing
    corrected = {**MO_S[2], "correction": -1.006}
    table = load_entries(write(tmp_path / "r.json", [*MO_S[:2], corrected]))
    assert (table.scheme, table.surrogate) == ("vasp-pbe", False)
    assert table.header["corrections_taken_off"] == 1
    (sulfide,) = table.phases["Mo-S"]
    assert sulfide.energy_per_atom == pytest.approx(-21.8 / 3)
    assert {p.name for p in table.entries(["Mo", "S"])} == {"mp-Mo", "mp-S", "mp-MoS2"}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"run_type": "GGA+U", "is_hubbard": True}, "run_type GGA+U, with U that are not said: mp-MoS2 (MoS2)"),
        ({"hubbards": {"Mo": 4.38}}, "+U: Mo 4.38 eV where ours is none (run_type GGA): mp-MoS2"),
        ({"run_type": "r2SCAN"}, "run_type r2SCAN"),
        ({"run_type": None}, "run_type is not said"),
    ],
)
def test_a_mixture_of_schemes_is_refused_with_names(tmp_path: Path, parameters: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "r.json", [*MO_S[:2], entry("MoS2", -21.8, **parameters)])
    with pytest.raises(ReferenceDataError, match="mixes schemes") as error:
        load_entries(path)
    assert words in str(error.value)


def test_a_dispersion_correction_needs_references_with_it(ready: Path) -> None:
    told = obstacles(campaign(ready, vdw="D3"))
    assert len(told) == 1
    assert "holds energies of scheme vasp-pbe, those of vasp-pbe-d3 are needed" in told[0]
    write(ready.parent / "references.json", {"scheme": "vasp-pbe-d3", "entries": MO_S})
    assert obstacles(campaign(ready, vdw="D3")) == []


def test_a_file_of_another_scheme_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceDataError, match="of scheme chgnet-0.3.0"):
        load_entries(write(tmp_path / "a.json", {"scheme": "chgnet-0.3.0", "entries": MO_S}))
    for number, content in enumerate(([], {}, [{"energy": 1}], "x")):
        with pytest.raises(ReferenceDataError):
            load_entries(write(tmp_path / f"b{number}.json", content))
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ReferenceDataError, match="is not a JSON file"):
        load_entries(tmp_path / "c.json")
    with pytest.raises(ReferenceDataError, match="does not exist"):
        load_entries(tmp_path / "gone.json")


# ------------------------------------------------------------------------------------------- the command line


def scdm(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        run(cli, list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_inputs_of_a_structure_file_without_vasp_or_potcars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mx2("1H").to(filename=str(tmp_path / "a.cif"))
    code, out, _ = scdm(capsys, "campaign", "inputs", "a.cif", "-o", "files", "--json")
    assert code == 0
    runs = json.loads(out)["files"]
    strained = ["strain_xx+", "strain_xx-"]  # of a layer with a threefold axis
    others = [r for r in runs if not r.startswith("phonon")]
    assert others == ["relax_1", "relax_2", "static", *strained, "uniform", "line"]
    for name in runs:
        assert {p.name for p in (tmp_path / "files" / name).iterdir()} == {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"}
    assert "POTCARs are not installed" in (tmp_path / "files" / "README.txt").read_text()
    code, _, err = scdm(capsys, "campaign", "inputs", "a.cif", "-o", "files")
    assert code == 2  # nothing is overwritten unasked
    assert "--force" in err


def test_inputs_of_a_campaign_file_with_potcars(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mx2("1T").to(filename=str(ready / "b.cif"))
    (ready.parent / "c.yaml").write_text(campaign(ready, encut_ev=400).model_dump_json())
    code, out, _ = scdm(capsys, "campaign", "inputs", "c.yaml", "-o", "files", "--json")
    assert code == 0
    assert len(json.loads(out)) == 2
    relax = ready.parent / "files" / "a.cif" / "relax_1"
    assert "ENCUT = 400" in (relax / "INCAR").read_text()
    assert "stand-in, not a pseudopotential" in (relax / "POTCAR").read_text()


def test_inputs_of_layers_of_one_file_name_have_a_folder_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder for each layer with a POSCAR in it is how most people keep them."""
    for name, metal in (("MoS2", "Mo"), ("WS2", "W")):
        (tmp_path / "layers" / name).mkdir(parents=True)
        layer = mx2("1H").replace_species({"Mo": metal})
        layer.to(filename=str(tmp_path / "layers" / name / "POSCAR"), fmt="poscar")
    code, out, _ = scdm(capsys, "campaign", "inputs", "layers", "-o", "files", "--json")
    assert code == 0
    assert list(json.loads(out)) == ["files/MoS2_POSCAR", "files/WS2_POSCAR"]
    for name, metal in (("MoS2", "Mo"), ("WS2", "W")):
        poscar = (tmp_path / "files" / f"{name}_POSCAR" / "static" / "POSCAR").read_text()
        assert poscar.splitlines()[5].split() == [metal, "S"]


@pytest.mark.parametrize("paths", [["MoS2/POSCAR", "WS2/POSCAR"], ["layers"]])
def test_inputs_of_layers_that_no_folder_name_tells_apart_are_refused(
    paths: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --force the last one would take the place of the others, and nobody would know."""
    (tmp_path / "layers").mkdir()
    for name in ("a+b", "a b"):
        mx2("1H").to(filename=str(tmp_path / "layers" / f"{name}.cif"))
    for name in ("MoS2", "WS2"):
        (tmp_path / name).mkdir()
        mx2("1H").to(filename=str(tmp_path / name / "POSCAR"), fmt="poscar")
    (tmp_path / "c.yaml").write_text(
        json.dumps({"name": "c", "generator": {"kind": "files", "paths": paths}, "engine": {"kind": "vasp"}})
    )
    code, _, err = scdm(capsys, "campaign", "inputs", "c.yaml", "-o", "files", "--force")
    assert code == 2
    assert "would both be written to the folder" in err
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("wrong", ["layer", "file"])
def test_inputs_are_all_checked_before_one_is_written(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "layers").mkdir()
    mx2("1H").to(filename=str(tmp_path / "layers" / "a.cif"))
    last = mx2("1T") if wrong == "file" else Structure(Lattice.cubic(2.83), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    last.to(filename=str(tmp_path / "layers" / "b.cif"))
    there = tmp_path / "files" / "b.cif" / "static" / "INCAR"
    if wrong == "file":
        there.parent.mkdir(parents=True)
        there.write_text("mine")
    code, _, err = scdm(capsys, "campaign", "inputs", "layers", "-o", "files")
    assert (code, "exists" in err) == (2, wrong == "file")
    found = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert found == ([there] if wrong == "file" else [])


@pytest.mark.parametrize(
    ("argument", "words"),
    [("gone.cif", "does not exist"), ("gone.yaml", "does not exist"), ("made-later.yaml", "makes structures later")],
)
def test_inputs_of_nothing(argument: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made-later.yaml").write_text(
        '{"name": "s", "generator": {"kind": "scdm"}, "engine": {"kind": "vasp"}}'
    )
    code, _, err = scdm(capsys, "campaign", "inputs", argument, "-o", "files")
    assert code == 2
    assert words in err


def test_a_dry_run_tells_what_each_stage_costs(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ready.parent / "c.yaml").write_text(campaign(ready).model_dump_json())
    code, out, _ = scdm(capsys, "campaign", "submit", "c.yaml", "--dry-run", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["missing"] == []
    (layer,) = facts["costs"]
    stages = {s["stage"]: s for s in layer["stages"]}
    # 12 x 12 points of a layer with the symmetry of graphite's mesh: 19 are irreducible (as VASP's IBZKPT has it)
    assert stages["static"]["k_points"] == 19
    # 24 electrons with Mo_pv (12) and S (6): (24 + 2) / 2 + max(3 / 2, 3) = 16, VASP's default (vasp.at/wiki/NBANDS)
    assert stages["static"]["bands"] == 16
    assert (stages["phonon"]["atoms"], stages["phonon"]["runs"]) == (75, 4)  # three displacements, and none
    assert (stages["strain"]["atoms"], stages["strain"]["runs"]) == (
        3,
        2,
    )  # xx and -xx are enough with a threefold axis
    assert stages["strain"]["k_points"] > stages["static"]["k_points"]  # which the strain has not
    assert stages["phonon"]["core_hours"] > stages["static"]["core_hours"] * 100
    assert layer["core_hours"] == pytest.approx(sum(s["core_hours"] for s in layer["stages"]), rel=0.05)


def test_a_dry_run_of_structures_to_come_shows_typical_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text('{"name": "s", "generator": {"kind": "scdm"}, "engine": {"kind": "vasp"}}')
    code, out, err = scdm(capsys, "campaign", "run", "c.yaml", "--dry-run")
    assert code == 2  # it would be refused
    assert "a layer of 12 atoms" in out
    assert "SCDM_VASP_CMD is not set" in err


def test_candidates_of_a_vasp_campaign_compete_on_its_own_references(tmp_path: Path) -> None:
    """Two layers below the references' hull: the lower one becomes part of the hull of the other."""
    from scdm_flows.builders import build_all
    from scdm_flows.builders.hulls import pending_token
    from scdm_flows.documents import CampaignDoc, CandidateDoc, StageRecord
    from scdm_flows.query import CandidateDB

    write(tmp_path / "references.json", MO_S)  # MoS2 at -21.8 / 3 eV/atom
    database = memory_database()
    config = campaign(tmp_path / "in").model_dump(mode="json")
    document = CampaignDoc(name="v", config=config, config_hash="0" * 64, n_requested=2)
    database.upsert(database.campaigns, [document.model_dump()])
    candidates = [
        CandidateDoc(
            candidate_id=name, campaign="v", generator="files", formula="MoS2", chemsys="Mo-S", elements=["Mo", "S"],
            nelements=2, nsites=3, structure=mx2("1H").as_dict(), energy_per_atom=-21.8 / 3 - below, one_layer=True,
            energy_scheme="vasp-pbe", surrogate=False, stages={"relax": StageRecord(status="passed")},
        )
        for name, below in (("low", 0.3), ("high", 0.1))
    ]  # fmt: skip
    documents = [c.model_dump() for c in candidates]
    database.upsert(database.candidates, [d | {"hull_pending": pending_token(d)} for d in documents])
    build_all(database)
    found = {d["candidate_id"]: d["e_above_hull"] for d in database.candidates.query({})}
    assert found["low"] == pytest.approx(
        -0.2
    )  # below the hull of all others, of which the other candidate is the lowest
    assert found["high"] == pytest.approx(0.2)  # no longer below it: the other candidate is lower
    hull = CandidateDB(database).hull("Mo-S", energy_scheme="vasp-pbe")
    assert hull is not None
    assert {p.name for p in hull.points if p.candidate and p.stable} == {"low"}
    assert set(build_all(database).values()) == {0}
    (tmp_path / "references.json").unlink()
    build_all(database)  # the file is not on this machine: what is known stays
    assert {d["candidate_id"]: d["e_above_hull"] for d in database.candidates.query({})} == found
