"""Golden input files of twelve layers, each tag with its reason; and what the input does for other settings.

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

from scdm_flows.analysis.gate import rmsd
from scdm_flows.config import VaspEngineConfig
from scdm_flows.engines.vasp.bulk import bulk_input_set
from scdm_flows.engines.vasp.engine import VaspEngine
from scdm_flows.engines.vasp.inputs import in_blocks, input_set, irreducible, is_polar, line, mesh_with
from scdm_flows.engines.vasp.tags import incar_tags, parallel_tags
from scdm_models.symmetry.lattice import orient_slab

GOLDEN = Path(__file__).parent / "golden"
STAGES = ("relax_1", "relax_2", "static", "phonon", "strain", "uniform", "line")

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
    "LVHAR": "the electrostatic potential, whose vacuum levels work functions and band edges refer to, goes to LOCPOT",
    "LMAXMIX": "on-site densities of d (4, after calcium) and f (6, after barium) in CHGCAR, else bands on it are wrong",
    "ISPIN": "2 where an element may carry a moment, else 1 at half the cost",
    "MAGMOM": "high spin on d metals (5), 0.6 elsewhere; VASP's 1 everywhere often finds no moment",
    "IBRION": "2: conjugate gradients, which LATTICE_CONSTRAINTS knows",
    "ISIF": "3: the cell relaxes too, 2 where it is strained and held ...",
    "LATTICE_CONSTRAINTS": "... but not along c, else the vacuum relaxes",
    "NSW": "100 steps of each relaxation",
    "EDIFFG": "a largest force: 0.02, then 0.005 eV/angstrom, below which phonons are sound",
    "IVDW": "12: D3 with Becke and Johnson's damping, where the campaign asks for it",
    **dict.fromkeys(("LDAU", "LDAUTYPE", "LDAUU", "LDAUJ", "LDAUL"), "+U, where the campaign asks for it"),
    "LSORBIT": "spin-orbit coupling of bands, where the campaign asks for it",
    **dict.fromkeys(("LHFCALC", "AEXX", "HFSCREEN"), "HSE06 (doi:10.1063/1.2404663), where the campaign asks for it"),
    "PRECFOCK": "Fast: the Materials Project's choice for HSE06",
    "NELMIN": "5: k-points of weight zero converge too, which do not count in the energy",
    "AMIX": "the user's own tag",
    "ICHARG": "11: bands and density of states on the static run's charge density",
    "NEDOS": "2001 energies; VASP's 301 are 0.1 eV apart",
    "ISYM": "0 on lines, whose points must not be folded; -1 with spin-orbit coupling (vasp.at/wiki/LSORBIT)",
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


def chromium_iodide() -> Structure:
    """CrI3, a honeycomb of Cr between close-packed I (a of the bulk: McGuire et al., Chem. Mater. 27, 612 (2015))."""
    c, half, x = 23.0, 1.57, 0.35
    up = [[x, 0, 0.5 + half / c], [0, x, 0.5 + half / c], [-x, -x, 0.5 + half / c]]
    down = [[-u, -v, 1 - w] for u, v, w in up]
    frac = [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5], *up, *down]
    return Structure(Lattice.hexagonal(6.867, c), ["Cr"] * 2 + ["I"] * 6, frac)


def tungsten_telluride() -> Structure:
    """1T'-WTe2: a layer of the bulk, made centrosymmetric (Mar, Jobic, Ibers, JACS 114, 8963 (1992))."""
    half = [("W", 0.0, 0.0398, 0.0152), ("Te", 0.0, 0.64631, 0.11112), ("Te", 0.5, 0.14239, 0.15525)]
    rows = [(s, np.array(xyz)) for s, *xyz in half]
    rows += [(s, np.array([0.5, 0.43918, 0.0152]) - xyz) for s, xyz in rows]  # twice the inversion centre
    bulk = 14.018  # of two layers
    frac = [[x, y, 0.5 + z * bulk / 24.0] for _, (x, y, z) in rows]
    return Structure(Lattice.orthorhombic(3.477, 6.249, 24.0), [s for s, _ in rows], frac)


def graphyne4() -> Structure:
    """Graphyne with four triple bonds between the rings (Ivanovskii, Prog. Solid State Chem. 41, 1 (2013)): 30 atoms."""
    ring, out, triple, single = 1.43, 1.40, 1.23, 1.34
    along = np.cumsum([ring, out, *[triple, single] * 3, triple])  # from the centre of a ring to that of the next
    a = float(along[-1] + out + ring)
    frac = [np.outer(along / a, v) for v in ([1, 0, 0], [0, 1, 0], [1, 1, 0])]
    # the three chains; each begins and ends with an atom of a ring
    ends = [np.outer([1 - ring / a], v) for v in ([1, 0, 0], [0, 1, 0], [1, 1, 0])]
    frac = np.concatenate([*frac, *ends]) % 1.0 + [0, 0, 0.5]
    return Structure(Lattice.hexagonal(a, 20.0), ["C"] * len(frac), frac)


def oblique() -> Structure:
    """Four elements without any symmetry: layer group 1 (made up)."""
    lattice = Lattice.from_parameters(4.0, 4.6, 23.0, 90, 90, 101)
    frac = [[0.02, 0.05, 0.5], [0.51, 0.13, 0.565], [0.47, 0.62, 0.44], [0.05, 0.57, 0.55]]
    return Structure(lattice, ["Ge", "S", "Se", "P"], frac)


LAYERS = {
    "MoS2": lambda: mx2("1H"),
    "phosphorene": phosphorene,
    "ReS2": rhenium_sulfide,
    "FeCl2": lambda: mx2("1T", a=3.48, half=1.35).replace_species({"Mo": "Fe", "S": "Cl"}),
    "MoSSe": janus,
    "CrI3": chromium_iodide,
    "CrI3-afm": chromium_iodide,
    "WTe2-spin-orbit": tungsten_telluride,
    "graphyne-4": graphyne4,
    "GePSSe": oblique,
    "VCl2": lambda: mx2("1T", a=3.57, half=1.37).replace_species({"Mo": "V", "S": "Cl"}),
    "MnO2-options": lambda: mx2("1T", a=2.88, half=0.96).replace_species({"Mo": "Mn", "S": "O"}),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "CrI3-afm": {"magnetism": {"orderings": ["fm", "afm"]}},
    "WTe2-spin-orbit": {"spin_orbit": "auto"},
    "MnO2-options": {
        "hubbard_u_ev": "materials-project",
        "vdw": "D3BJ",
        "hse_gap": True,
        "incar": {"static": {"amix": 0.1}},
    },
}
ORDERS = ("static_order_1", "static_order_2", "static_order_3")
MORE_RUNS = {"CrI3-afm": ORDERS, "MnO2-options": ("hse",)}
# even numbers of electrons, no d metal; and Ge + S + Se + P have 32 + 16 + 34 + 15, an odd number
WITHOUT_SPIN = {"phosphorene", "graphyne-4"}
POLAR = {"MoSSe", "GePSSe"}


def n_atoms(folder: Path) -> int:
    return len(Structure.from_file(folder / "POSCAR"))


def runs_of(name: str) -> tuple[str, ...]:
    return (*STAGES, *MORE_RUNS.get(name, ()))


def files_of(name: str) -> dict[str, dict[str, str]]:
    """Run -> file -> text, of the phonons the first displacement alone, and of the strains the first one."""
    engine = VaspEngine(VaspEngineConfig(**SETTINGS.get(name, {})))
    found = engine.input_files(orient_slab(LAYERS[name]()))
    first = {next(run for run in found if run.startswith(f"{kind}_")): kind for kind in ("phonon", "strain")}
    runs = {first.get(run, run): texts for run, texts in found.items() if run}
    return {run: texts for run, texts in runs.items() if not run.startswith(("phonon_", "strain_"))}


@pytest.mark.parametrize("name", LAYERS)
def test_golden_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)  # no POTCAR may get into a repository
    written = files_of(name)
    assert set(written) == set(runs_of(name))
    for stage, files in written.items():
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
    coupled = name == "WTe2-spin-orbit"
    for stage in runs_of(name):
        folder = GOLDEN / name / stage
        incar, kpoints = Incar.from_file(folder / "INCAR"), Kpoints.from_file(folder / "KPOINTS")
        assert set(incar) <= set(WHY)
        assert incar["GGA"].upper() == "PE"
        assert "KSPACING" not in incar  # explicit k-points
        if stage in ("line", "hse"):
            assert kpoints.style is Kpoints.supported_modes.Reciprocal
            assert np.array(kpoints.kpts)[:, 2] == pytest.approx(0)
            assert stage == "hse" or len(set(kpoints.kpts_weights)) == 1
        else:
            assert kpoints.style is Kpoints.supported_modes.Gamma
            n, m, k = kpoints.kpts[0]
            assert k == 1
            # strained cells have the layer's own mesh
            cell = (layer if stage == "strain" else Structure.from_file(folder / "POSCAR")).lattice.reciprocal_lattice
            spacing = 0.1 if stage == "uniform" else 0.2
            # no coarser than asked for, and no finer than one division more
            for length, count in zip(cell.abc[:2], (n, m), strict=True):
                assert length / count <= spacing + 1e-6
                assert count == 1 or length / (count - 1) > spacing - 1e-6
        if stage.startswith("relax"):
            assert incar["LATTICE_CONSTRAINTS"] == [True, True, False]
            assert (incar["ISIF"], incar["IBRION"]) == (3, 2)
        if stage == "strain":
            assert "LATTICE_CONSTRAINTS" not in incar
            assert (incar["ISIF"], incar["IBRION"]) == (2, 2)
            strained = Structure.from_file(folder / "POSCAR")
            assert strained.lattice.matrix[:, 0] == pytest.approx(1.01 * layer.lattice.matrix[:, 0], abs=1e-6)
            assert strained.lattice.matrix[:, 1:] == pytest.approx(layer.lattice.matrix[:, 1:], abs=1e-6)
        assert incar.get("LVHAR", False) is (stage == "static" or (stage in ORDERS and len(layer) == n_atoms(folder)))
        if stage == "phonon":
            supercell = Structure.from_file(folder / "POSCAR")
            assert supercell.lattice.c == pytest.approx(layer.lattice.c)  # never doubled
            n, m = (round(supercell.lattice.abc[k] / layer.lattice.abc[k]) for k in (0, 1))
            assert np.allclose(supercell.lattice.matrix, np.diag([n, m, 1]) @ layer.lattice.matrix, atol=1e-6)
            assert len(supercell) == n * m * len(layer)
        # a d metal may carry a moment, and the files are those of layers that no run has looked at
        noncollinear = coupled and stage in ("uniform", "line")
        assert incar.get("LSORBIT", False) is noncollinear
        assert incar.get("ISPIN") == (None if noncollinear else 1 if name in WITHOUT_SPIN else 2)
        assert ("MAGMOM" in incar) is (name not in WITHOUT_SPIN)
        assert incar.get("IDIPOL") == (3 if name in POLAR else None)
        assert incar.get("LDIPOL", False) is (name in POLAR)


def test_every_tag_has_its_reason() -> None:
    written = {tag for stage in incar_tags(VaspEngineConfig()).values() for tag in stage}
    # and those that depend on the structure
    of_structure = {"ISPIN", "MAGMOM", "LMAXMIX", "LDIPOL", "IDIPOL", "DIPOL", "LSORBIT"}
    asked_for = {"IVDW", "LDAU", "LDAUTYPE", "LDAUU", "LDAUJ", "LDAUL", "AMIX"}
    assert written | of_structure | asked_for == set(WHY)


@pytest.mark.parametrize(
    ("name", "polar"),
    [(name, name in POLAR) for name in LAYERS],
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


def test_metals_are_smeared_as_metals_where_that_is_asked_for() -> None:
    layer = mx2("1T").replace_species({"Mo": "Nb"})
    assert incar("relax_1", layer, smearing="auto")["ISMEAR"] == 0  # nobody knows yet
    layer.properties["band_gap_ev"] = 0.0  # what the run before found
    found = incar("relax_2", layer, smearing="auto", metal_sigma_ev=0.15)
    assert (found["ISMEAR"], found["SIGMA"]) == (1, 0.15)  # order 1 of Methfessel and Paxton
    _, supercells = VaspEngine(VaspEngineConfig(smearing="auto")).displaced(layer)
    assert incar("phonon", supercells[0], smearing="auto")["ISMEAR"] == 1
    assert incar("static", layer)["ISMEAR"] == 0
    layer.properties["band_gap_ev"] = 0.3
    assert incar("static", layer, smearing="auto")["ISMEAR"] == 0


def test_free_tags_go_over_the_others_and_a_stages_own_over_those_of_all() -> None:
    tags = {"all": {"algo": "Normal", "AMIX": 0.2}, "static": {"AMIX": 0.1}}
    static, relax = (incar(stage, mx2("1H"), incar=tags) for stage in ("static", "relax_1"))
    assert (static["ALGO"], static["AMIX"]) == ("Normal", 0.1)
    assert (relax["ALGO"], relax["AMIX"]) == ("Normal", 0.2)


def test_plus_u_by_hand_and_by_the_materials_project() -> None:
    oxide = LAYERS["MnO2-options"]()
    by_hand = incar("static", oxide, hubbard_u_ev={"Mn": 3.0})
    assert (by_hand["LDAUU"], by_hand["LDAUL"], by_hand["LDAUTYPE"]) == ([3.0, 0], [2, 0], 2)
    # the Materials Project gives manganese 3.9 eV in oxides and fluorides, and sulfides none
    assert incar("static", oxide, hubbard_u_ev="materials-project")["LDAUU"] == [3.9, 0]
    sulfide = oxide.replace_species({"O": "S"})
    assert "LDAU" not in incar("static", sulfide, hubbard_u_ev="materials-project")
    schemes = [VaspEngine(VaspEngineConfig(**s)).scheme for s in ({}, {"hubbard_u_ev": {"Mn": 3.0}, "vdw": "D3BJ"})]
    assert schemes == ["vasp-pbe", "vasp-pbe-d3bj-U3Mn"]


def test_displaced_supercells_have_the_spin_of_the_layer() -> None:
    layer = orient_slab(oblique())  # 97 electrons; a supercell of an even number of cells has an even number
    engine = VaspEngine(VaspEngineConfig())
    maker = engine.displacement_maker(layer)
    _, supercells = engine.displaced(layer)
    assert maker.input_set_generator.get_input_set(supercells[0], potcar_spec=True).incar["ISPIN"] == 2
    layer.add_site_property("magmom", [0.0] * 4)  # what the relaxation left
    maker = engine.displacement_maker(layer)
    assert maker.input_set_generator.get_input_set(supercells[0], potcar_spec=True).incar["ISPIN"] == 1


def test_ranks_are_shared_between_k_points_and_bands() -> None:
    assert parallel_tags(None, 19) == {}
    # the largest divisor of 64 below 19 k-points, and of the 4 ranks of each the square root
    assert parallel_tags(64, 19) == {"KPAR": 16, "NCORE": 2}
    assert parallel_tags(48, 1) == {"KPAR": 1, "NCORE": 6}
    assert parallel_tags(48, 1, hybrid=True) == {"KPAR": 1, "NCORE": 1}


def test_the_worker_says_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "KPAR" not in incar("static", mx2("1H"))
    monkeypatch.setenv("SCDM_VASP_RANKS", "64")
    assert (incar("static", mx2("1H"))["KPAR"], incar("static", mx2("1H"))["NCORE"]) == (16, 2)


def test_options_have_their_cost() -> None:
    config = VaspEngineConfig(magnetism={"orderings": ["fm", "afm"]}, hse_gap=True)
    found = {cost.stage: cost for cost in VaspEngine(config).cost(chromium_iodide())}
    assert (found["static_orders"].runs, found["static_orders"].atoms) == (3, 16)  # Neel, stripy, zigzag
    assert found["hse"].core_hours > 100 * found["static"].core_hours  # exact exchange
    assert {"static_orders", "hse"} & {cost.stage for cost in VaspEngine(VaspEngineConfig()).cost(mx2("1H"))} == set()


def test_the_mesh_of_a_hybrid_run_knows_opposite_moments() -> None:
    layer = chromium_iodide()
    same, counts = irreducible(layer, 0.2)
    assert counts.sum() == 36  # 6 x 6
    layer.add_site_property("magmom", [3.0, -3.0] + [0.0] * 6)
    opposite, _ = irreducible(layer, 0.2)
    assert len(opposite) >= len(same)
    points = mesh_with(layer, 0.2, [[1 / 3, 1 / 3, 0.0]])
    assert points.kpts_weights[-1] == 0
    assert sum(points.kpts_weights) == 36


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


def test_atoms_of_an_element_come_to_vasp_in_one_block() -> None:
    layer = mx2("1H")
    layer.add_site_property("magmom", [1.0, 0.1, 0.2])
    layer.properties["mark"] = 1
    assert in_blocks(layer) is layer
    mixed = Structure.from_sites([layer[1], layer[0], layer[2]], properties={"mark": 1})  # S Mo S
    found = in_blocks(mixed)
    assert [str(s) for s in found.species] == ["S", "S", "Mo"]
    assert found.site_properties["magmom"] == [0.1, 0.2, 1.0]
    assert found.properties == {"mark": 1}
    poscar = VaspEngine(VaspEngineConfig()).input_files(mixed)["relax_1"]["POSCAR"]
    assert poscar.splitlines()[5:7] == ["S Mo", "2 1"]


def test_a_relaxation_begins_with_the_symmetry_that_a_layer_nearly_has() -> None:
    """As a force field leaves it: to 0.01 angstrom, of which VASP, to 1e-5, would see nothing."""
    exact, rough = mx2("1H"), mx2("1H")
    rough.perturb(0.001)
    engine = VaspEngine(VaspEngineConfig())
    begun = Structure.from_str(engine.input_files(rough)["relax_1"]["POSCAR"], fmt="poscar")
    assert len(irreducible(begun, 0.2)[0]) == len(irreducible(exact, 0.2)[0]) < len(irreducible(rough, 0.2)[0])
    assert np.allclose(begun.lattice.abc, rough.lattice.abc, atol=1e-3)
    assert rmsd(rough, begun) < 0.002
    assert [c.k_points for c in engine.cost(rough)] == [c.k_points for c in engine.cost(exact)]


def test_k_points_of_a_list_fit_the_symmetry_that_vasp_finds() -> None:
    """Its SYMPREC is 1e-5: of a layer that is symmetric to 1e-4 alone it takes all k-points but for time reversal."""
    layer, strained = mx2("1H"), mx2("1H")
    strained.apply_strain([1e-4, 0, 0])
    assert len(irreducible(layer, 0.2)[0]) < len(irreducible(strained, 0.2)[0])


def test_bulk_crystals_begin_with_spin_and_go_on_by_their_moments() -> None:
    # solid oxygen: triplets, an even number of electrons and no metal
    oxygen = Structure(Lattice.tetragonal(3.3, 4.2), ["O", "O"], [[0, 0, 0.36], [0, 0, 0.64]])

    def spin(structure: Structure, **settings: Any) -> int:
        generator = bulk_input_set(VaspEngineConfig(**settings), "static")
        return int(generator.get_input_set(structure, potcar_spec=True).incar["ISPIN"])

    assert incar("static", oxygen)["ISPIN"] == 1  # of a layer: C2DB has no such magnet
    assert spin(oxygen) == 2
    assert spin(oxygen, spin="off") == 1
    oxygen.add_site_property("magmom", [0.0, 0.01])
    assert spin(oxygen) == 1


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
