"""Golden input files of five layers, each tag with its reason; and what the input does for other settings.

``SCDM_WRITE_GOLDEN=1 pytest tests/engines/test_vasp_inputs.py`` writes the files anew; read the difference before it is
committed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints
from support.layers import mx2

from scdm_flows.config import VaspEngineConfig
from scdm_flows.engines.vasp.engine import VaspEngine
from scdm_flows.engines.vasp.inputs import incar_tags, input_set, is_polar, line
from scdm_models.symmetry.lattice import orient_slab

GOLDEN = Path(__file__).parent / "golden"
STAGES = ("relax_1", "relax_2", "static", "phonon", "uniform", "line")

# Why each tag is not what atomate2 (or, where it writes none, VASP) takes by default. A tag that is not here must not
# be in any file: that is the test of "nothing inherited".
WHY = {
    "GGA": "PBE, the paper's functional; atomate2's default is PBEsol (PS)",
    "ENCUT": "520 eV as the Materials Project's GGA, whose entries are the references; atomate2's 680 would not fit them",
    "PREC": "Accurate: no wrap-around errors in forces",
    "ALGO": "Fast (Davidson, then RMM-DIIS); Normal for phonons, whose tiny forces need the robust one",
    "EDIFF": "1e-6 eV, and 1e-8 for displaced supercells: 0.01 angstrom displacements make forces of 1e-3 eV/angstrom",
    "NELM": "100: slabs and magnets converge slowly; VASP's 60 is short",
    "ISMEAR": "0: Gaussian suits gapped and metallic layers; tetrahedra (-5) need k-points along c, 1 is wrong with a gap",
    "SIGMA": "0.05 eV: VASP's 0.2 smears gaps",
    "LASPH": "aspherical terms, as the Materials Project's GGA has them",
    "LREAL": "exact projectors; Auto loses accuracy in the forces of phonons",
    "LORBIT": "11: moments of atoms, which the documents hold",
    "LWAVE": "only a relaxation's next attempt reads WAVECAR, which is gone when it has ended: gigabytes",
    "LCHARG": "only the static run's charge density is read again (by uniform and line)",
    "LMAXMIX": "on-site densities of d (4, after calcium) and f (6, after barium) in CHGCAR, else bands on it are wrong",
    "ISPIN": "2 where an element may carry a moment, else 1 at half the cost",
    "MAGMOM": "high spin on d metals (5), 0.6 elsewhere; VASP's 1 everywhere often finds no moment",
    "IBRION": "2: conjugate gradients, which LATTICE_CONSTRAINTS knows",
    "ISIF": "3: the cell relaxes too ...",
    "LATTICE_CONSTRAINTS": "... but not along c, else the vacuum relaxes",
    "NSW": "100 steps of each relaxation",
    "EDIFFG": "a largest force: 0.02, then 0.005 eV/angstrom, below which phonons are sound",
    "ICHARG": "11: bands and density of states on the static run's charge density",
    "NEDOS": "2001 energies; VASP's 301 are 0.1 eV apart",
    "ISYM": "0 on lines, whose points must not be folded",
    "LDIPOL": "layers without an operation z -> -z may carry a dipole, and their images feel it ...",
    "IDIPOL": "... along c ...",
    "DIPOL": "... measured from the middle of the slab",
}


def phosphorene() -> Structure:
    """Black phosphorene, rectangular, layer group 42 (pman) (cell: Liu et al., ACS Nano 8, 4033 (2014))."""
    x, y, z = 0.0, 0.084, 1.06  # of the first atom from the inversion centre: fraction of a, of b, angstrom along c
    c = 22.1
    frac = [
        [x, y, 0.5 + z / c],
        [x, -y, 0.5 - z / c],
        [x + 0.5, 0.5 - y, 0.5 + z / c],
        [x + 0.5, 0.5 + y, 0.5 - z / c],
    ]
    return Structure(Lattice.orthorhombic(3.30, 4.62, c), ["P"] * 4, frac)


def rhenium_sulfide() -> Structure:
    """1T''-ReS2, oblique, layer group 2 (C2DB, Re4S8-627997a105e1)."""
    half = [
        ("Re", 0.001967, 0.001868, 0.49699),
        ("Re", 0.452563, 0.403619, 0.500764),
        ("S", 0.295585, 0.130562, 0.405078),
        ("S", 0.794859, 0.62358, 0.426559),
        ("S", 0.123793, 0.293172, 0.585176),
        ("S", 0.624137, 0.7859, 0.564175),
    ]
    centre = np.array([0.881774, 0.379576, 1.0])  # twice the inversion centre
    rows = [(s, *xyz) for s, *xyz in half]
    rows += [(s, *(centre - np.array(xyz))) for s, *xyz in half]
    lattice = Lattice([[6.4072593, 0, 0], [-3.1535676, 5.7005974, 0], [0, 0, 18.4418644]])
    return Structure(lattice, [r[0] for r in rows], [r[1:] for r in rows])


def janus() -> Structure:
    """1H-MoSSe, which has no operation z -> -z (layer group 69, p3m1)."""
    layer = mx2("1H", a=3.25)
    layer.replace(2, "Se")
    layer.translate_sites([2], [0, 0, -0.13], frac_coords=False)
    return layer


LAYERS = {
    "MoS2": lambda: mx2("1H"),
    "phosphorene": phosphorene,
    "ReS2": rhenium_sulfide,
    "FeCl2": lambda: mx2("1T", a=3.48, half=1.35).replace_species({"Mo": "Fe", "S": "Cl"}),
    "MoSSe": janus,
}


@pytest.fixture(scope="module")
def engine() -> VaspEngine:
    return VaspEngine(VaspEngineConfig())


def files_of(engine: VaspEngine, layer: Structure) -> dict[str, dict[str, str]]:
    """Stage -> file -> text, of the phonons the first displacement alone."""
    found = engine.input_files(orient_slab(layer))
    first = next(run for run in found if run.startswith("phonon_"))
    return {**{stage: found[stage] for stage in STAGES if stage != "phonon"}, "phonon": found[first]}


@pytest.mark.parametrize("name", LAYERS)
def test_golden_files(name: str, engine: VaspEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)  # no POTCAR may get into a repository
    for stage, files in files_of(engine, LAYERS[name]()).items():
        folder = GOLDEN / name / stage
        if os.environ.get("SCDM_WRITE_GOLDEN"):
            folder.mkdir(parents=True, exist_ok=True)
            for file, text in files.items():
                (folder / file).write_text(text)
        assert {path.name for path in folder.iterdir()} == set(files), folder
        for file, text in files.items():
            if file != "POSCAR":
                assert text == (folder / file).read_text(), f"{folder / file} differs"
                continue
            ours, golden = (Structure.from_str(t, fmt="poscar") for t in (text, (folder / file).read_text()))
            assert ours.species == golden.species
            assert np.allclose(ours.lattice.matrix, golden.lattice.matrix, atol=1e-8)
            assert np.allclose(ours.frac_coords, golden.frac_coords, atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_the_golden_files_keep_the_rules_of_slabs(name: str) -> None:
    """The checklist of DFT for slabs, held against the files themselves."""
    layer = orient_slab(LAYERS[name]())
    for stage in STAGES:
        folder = GOLDEN / name / stage
        incar, kpoints = Incar.from_file(folder / "INCAR"), Kpoints.from_file(folder / "KPOINTS")
        assert set(incar) <= set(WHY)
        assert incar["GGA"].upper() == "PE"
        assert "KSPACING" not in incar  # explicit k-points
        if stage == "line":
            assert kpoints.style is Kpoints.supported_modes.Reciprocal
            assert np.array(kpoints.kpts)[:, 2] == pytest.approx(0)
            assert len(set(kpoints.kpts_weights)) == 1
        else:
            assert kpoints.style is Kpoints.supported_modes.Gamma
            n, m, k = kpoints.kpts[0]
            assert k == 1
            cell = Structure.from_file(folder / "POSCAR").lattice.reciprocal_lattice
            spacing = 0.1 if stage == "uniform" else 0.2
            # no coarser than asked for, and no finer than one division more
            for length, count in zip(cell.abc[:2], (n, m), strict=True):
                assert length / count <= spacing + 1e-6
                assert count == 1 or length / (count - 1) > spacing - 1e-6
        if stage.startswith("relax"):
            assert incar["LATTICE_CONSTRAINTS"] == [True, True, False]
            assert (incar["ISIF"], incar["IBRION"]) == (3, 2)
        if stage == "phonon":
            supercell = Structure.from_file(folder / "POSCAR")
            assert supercell.lattice.c == pytest.approx(layer.lattice.c)  # never doubled
            n, m = (round(supercell.lattice.abc[k] / layer.lattice.abc[k]) for k in (0, 1))
            assert np.allclose(supercell.lattice.matrix, np.diag([n, m, 1]) @ layer.lattice.matrix, atol=1e-6)
            assert len(supercell) == n * m * len(layer)
        # a d metal may carry a moment, and the files are those of layers that no run has looked at
        assert incar["ISPIN"] == (1 if name == "phosphorene" else 2)
        assert ("MAGMOM" in incar) is (name != "phosphorene")
        assert incar.get("IDIPOL") == (3 if name == "MoSSe" else None)
        assert incar.get("LDIPOL", False) is (name == "MoSSe")


def test_every_tag_has_its_reason() -> None:
    written = {tag for stage in incar_tags(VaspEngineConfig()).values() for tag in stage}
    # and those that depend on the structure
    assert written | {"ISPIN", "MAGMOM", "LMAXMIX", "LDIPOL", "IDIPOL", "DIPOL"} == set(WHY)


@pytest.mark.parametrize(
    ("name", "polar"),
    [("MoS2", False), ("phosphorene", False), ("ReS2", False), ("FeCl2", False), ("MoSSe", True)],
)
def test_polar_layers_are_those_without_an_operation_that_reverses_z(name: str, polar: bool) -> None:
    # theory: 1H has the mirror, 1T, phosphorene and ReS2 inversion, a Janus layer neither
    assert is_polar(orient_slab(LAYERS[name]())) is polar


def incar(stage: str, layer: Structure, **settings: Any) -> Any:
    made = input_set(VaspEngineConfig(**settings), stage).get_input_set(layer, potcar_spec=True)
    return made.incar


def test_spin_begins_where_there_may_be_moments_and_ends_where_none_was_left() -> None:
    layer = mx2("1H")
    assert (incar("relax_1", layer)["ISPIN"], incar("relax_1", layer)["MAGMOM"]) == (2, [1.0, 0.6, 0.6])
    layer.add_site_property("magmom", [0.02, -0.01, 0.0])  # what the relaxation left: below 0.1
    assert incar("static", layer)["ISPIN"] == 1
    assert "MAGMOM" not in incar("static", layer)
    assert incar("static", layer, spin="on")["MAGMOM"] == [0.02, -0.01, 0.0]
    layer.add_site_property("magmom", [1.1, -0.05, -0.05])
    assert incar("static", layer)["MAGMOM"] == [1.1, -0.05, -0.05]
    assert incar("relax_1", mx2("1H"), spin="off")["ISPIN"] == 1
    # GaS2 has 31 + 2 x 16 electrons, an odd number; graphene 12
    assert incar("relax_1", mx2("1H").replace_species({"Mo": "Ga"}))["ISPIN"] == 2
    assert incar("relax_1", mx2("1H").replace_species({"Mo": "Ge"}))["ISPIN"] == 1


def test_settings_reach_the_input() -> None:
    layer = mx2("1H")
    relax = incar("relax_2", layer, cell_constraint="optcell", vdw="D3", spin="on", dipole_correction="on")
    assert "LATTICE_CONSTRAINTS" not in relax  # a patched VASP reads OPTCELL instead
    assert (relax["IVDW"], relax["ISPIN"], relax["LDIPOL"]) == (11, 2, True)
    assert relax["DIPOL"] == [0.5, 0.5, 0.5]
    assert incar("static", layer, sigma_ev=0.02)["SIGMA"] == 0.02
    iron = LAYERS["FeCl2"]()
    assert "MAGMOM" not in incar("static", iron, spin="off")
    assert incar("static", iron, initial_moments={"Fe": 3.5})["MAGMOM"] == [3.5, 0.6, 0.6]
    # a relaxed layer's own moments go before its elements'
    iron.add_site_property("magmom", [3.1, 0.02, 0.02])
    assert incar("static", iron)["MAGMOM"] == [3.1, 0.02, 0.02]


def test_optcell_is_written_where_it_holds_c() -> None:
    files = VaspEngine(VaspEngineConfig(cell_constraint="optcell")).input_files(mx2("1H"))
    assert {run for run, texts in files.items() if "OPTCELL" in texts} == {"relax_1", "relax_2"}
    assert files["relax_1"]["OPTCELL"] == "110\n"


def test_the_middle_of_a_slab_across_the_boundary() -> None:
    shifted = janus()
    shifted.translate_sites(range(3), [0, 0, 0.5])  # its middle is now at z = 0
    dipole = incar("static", shifted)["DIPOL"]
    assert min(dipole[2], 1 - dipole[2]) < 0.01


def test_the_path_of_a_layer_has_a_branch_for_each_piece() -> None:
    points = line(mx2("1H"), 61)
    named = [label for label in points.labels or [] if label]
    # Γ-M-K-Γ: the inner ones twice, as end and beginning, which is how pymatgen finds the branches
    assert named == ["\\Gamma", "M", "M", "K", "K", "\\Gamma"]
    oblique = line(orient_slab(rhenium_sulfide()), 61)
    assert len([label for label in oblique.labels or [] if label]) >= 8


def test_sites_keep_their_order() -> None:
    layer = mx2("1H")[1], mx2("1H")[0], mx2("1H")[2]
    shuffled = Structure.from_sites(list(layer))  # S Mo S
    made = input_set(VaspEngineConfig(), "relax_1").get_input_set(shuffled, potcar_spec=True)
    assert made.poscar.structure.species == shuffled.species
    assert made["POTCAR.spec"] == "S\nMo_pv\nS"  # a potential for each block


def test_moments_of_displaced_supercells_are_the_layers() -> None:
    iron = LAYERS["FeCl2"]()
    iron.add_site_property("magmom", [3.1, 0.02, 0.03])
    _, supercells = VaspEngine(VaspEngineConfig()).displaced(iron)
    for supercell in supercells:
        for site in supercell:
            nearest = min(
                iron,
                key=lambda s: iron.lattice.get_distance_and_image(
                    s.frac_coords, iron.lattice.get_fractional_coords(site.coords)
                )[0],
            )
            assert site.properties["magmom"] == nearest.properties["magmom"]
