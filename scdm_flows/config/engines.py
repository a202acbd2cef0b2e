"""What a campaign may ask of each engine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from scdm_flows.config.base import EXECUTION, FILE, Frozen

DEFAULT_FORCE_FIELD = "CHGNet"
CHGNETS = ("CHGNet",)
SEVENNETS = ("SevenNet-0", "SevenNet-l3i5", "SevenNet-MF-0")
# atomate2.forcefields.MLFF without its placeholder and without CHGNet, which is above; to import it takes seconds
ATOMATE2 = (
    "MACE",
    "MACE-MP-0",
    "MACE-MPA-0",
    "MACE-MP-0b3",
    "GAP",
    "M3GNet",
    "NEP",
    "Nequip",
    "SevenNet",
    "MatPES-r2SCAN",
    "MatPES-PBE",
    "DeepMD",
    "Allegro",
    "FAIRChem",
    "MatterSim",
    "UPET",
)
IMPORT_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


# workers run elsewhere: a relative path is taken from the folder of the command that reads the campaign's file
FilePath = Annotated[str, AfterValidator(_absolute), FILE]


def check_force_field(name: str, options: Mapping[str, Any] | None = None) -> None:
    """``ValueError``, with the remedy, for a name that no force field has, or options that it does not take."""
    known = (*CHGNETS, *SEVENNETS, *ATOMATE2)
    if ":" in name:
        if re.fullmatch(IMPORT_PATH, name) is None:
            raise ValueError(f"{name!r} is no import path of an ASE calculator; write it like ase.calculators.emt:EMT")
    elif name not in known:
        lower = {k.lower(): k for k in known}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        raise ValueError(
            f"no force field is called {name!r}; "
            + (f"did you mean {lower[near[0]]!r}? " if near else "")
            + f"There are {', '.join(known)}, and import paths such as ase.calculators.emt:EMT"
        )
    elif options and (name in SEVENNETS or (name in CHGNETS and set(options) != {"weights"})):
        taken = "weights, the path of a file," if name in CHGNETS else "no options"
        raise ValueError(
            f"{name} takes {taken} and force_field_options = {dict(options)}; leave them out, or name an ASE "
            "calculator by its import path"
        )


class ForceFieldEngineConfig(Frozen):
    """Relaxation, energies and phonons from a machine-learned force field. Its energies are surrogate energies."""

    kind: Literal["forcefield"] = "forcefield"
    force_field: str = Field(
        DEFAULT_FORCE_FIELD,
        description="CHGNet, SevenNet-0, SevenNet-l3i5, SevenNet-MF-0, a name of atomate2's such as MACE-MP-0, or the "
        "import path of an ASE calculator, package.module:Class",
    )
    force_field_options: dict[str, Any] = Field(
        default_factory=dict,
        description="keyword arguments of the calculator, for atomate2's names and import paths; of CHGNet: weights, "
        "the file of a network that was trained further",
    )
    energy_model: FilePath | None = Field(
        None,
        description="file of an energy model made by `scdm refs fit`; the packaged one of the force field when absent",
    )
    references: FilePath | None = Field(
        None,
        description="file of reference phases with energies of this force field itself, scheme = its scheme name; then "
        "no energy model is used",
    )
    fmax_ev_per_angstrom: float = Field(0.02, gt=0, description="relaxation ends below this largest force, eV/angstrom")
    max_relax_steps: int = Field(300, ge=1, description="relaxation steps before it counts as failed")
    fix_symmetry: bool = Field(
        False, description="keep the symmetry operations of the sample (to 0.01 angstrom) while it relaxes"
    )
    phonon_min_length_angstrom: float = Field(
        12.0, gt=0, description="shortest in-plane edge of the phonon supercell, angstrom"
    )
    phonon_displacement_angstrom: float = Field(
        0.05, gt=0, description="finite displacement, angstrom; CHGNet's energies are rough on the scale of 0.01"
    )

    @field_validator("force_field")
    @classmethod
    def _known(cls, name: str) -> str:
        check_force_field(name)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> ForceFieldEngineConfig:
        check_force_field(self.force_field, self.force_field_options)
        if self.energy_model is not None and self.references is not None:
            raise ValueError("energy_model and references exclude each other; give one of them")
        return self


class MagnetismConfig(Frozen):
    """Which magnetic orders of a layer are compared where its atoms keep moments."""

    orderings: tuple[Literal["fm", "afm"], ...] = Field(
        ("fm",),
        description="fm: the order that the relaxation ends in, moments parallel unless a file gives others; afm: "
        "also collinear antiferromagnetic ones in the cell and in its doubles in the plane; the lowest is kept",
    )
    max_orderings: int = Field(
        3, ge=1, le=12, description="antiferromagnetic orders that are tried, smallest cells first"
    )

    @field_validator("orderings")
    @classmethod
    def _with_fm(cls, orderings: tuple[str, ...]) -> tuple[str, ...]:
        if "fm" not in orderings or len(set(orderings)) < len(orderings):
            raise ValueError("must be [fm] or [fm, afm]: what the others are compared with is the first run's order")
        return orderings


VaspStage = Literal["relax_1", "relax_2", "static", "phonon", "strain", "uniform", "line", "hse"]
IncarValue = bool | int | float | str | tuple[int | float, ...]
# tag -> what sets it: it belongs to the energies' scheme, or the engine counts on its value
OWN_TAGS = {
    **dict.fromkeys(("GGA", "METAGGA", "LUSE_VDW", "AGGAX", "AGGAC", "ALDAC"), "nothing: energies are PBE's"),
    "LASPH": "nothing: energies have aspherical terms",
    "NELECT": "nothing: layers are neutral",
    "PSTRESS": "nothing: layers are under no pressure",
    "EFIELD": "nothing: layers are in no field",
    "LSOL": "nothing: layers are in vacuum",
    "ENCUT": "encut_ev",
    "IVDW": "vdw",
    **dict.fromkeys(("VDW_A1", "VDW_A2", "VDW_C6", "VDW_CNRADIUS", "VDW_D", "VDW_R0", "VDW_RADIUS"), "vdw"),
    **dict.fromkeys(("VDW_S6", "VDW_S8", "VDW_SR", "LVDW_EWALD", "LVDWEXPANSION", "ZAB_VDW"), "vdw"),
    **dict.fromkeys(("LDAU", "LDAUTYPE", "LDAUU", "LDAUJ", "LDAUL"), "hubbard_u_ev"),
    **dict.fromkeys(("LHFCALC", "AEXX", "HFSCREEN", "LMODELHF"), "hse_gap"),
    **dict.fromkeys(("LSORBIT", "LNONCOLLINEAR", "SAXIS"), "spin_orbit"),
    "ISPIN": "spin",
    "MAGMOM": "initial_moments",
    **dict.fromkeys(("LDIPOL", "IDIPOL", "DIPOL"), "dipole_correction"),
    **dict.fromkeys(("IBRION", "ISIF", "LATTICE_CONSTRAINTS"), "cell_constraint"),
    "NSW": "max_relax_steps",
    "EDIFFG": "fmax_ev_per_angstrom, first_fmax_ev_per_angstrom",
    **dict.fromkeys(("KSPACING", "KGAMMA"), "kpoint_spacing_per_angstrom"),
    "NBANDS": "band_nbands_factor",
    **dict.fromkeys(("ICHARG", "LCHARG"), "nothing: bands begin with the static run's density"),
    **dict.fromkeys(("NCORE", "NPAR", "KPAR"), "SCDM_VASP_RANKS on the worker"),
}


class VaspEngineConfig(Frozen):
    """VASP through atomate2's makers with input sets for slabs: PBE (``GGA = PE``) and PAW, as in the paper."""

    kind: Literal["vasp"] = "vasp"
    references: FilePath | None = Field(
        None,
        description="JSON file of computed entries (GGA, one scheme) that the energies are judged by; without one a "
        "campaign is refused",
    )

    encut_ev: float = Field(520, gt=0, description="plane-wave cut-off, eV; 520 is what Materials Project's GGA uses")
    kpoint_spacing_per_angstrom: float = Field(
        0.2, gt=0, description="largest in-plane distance of k-points, 1/angstrom, 2 pi included; 1 point along c"
    )
    dos_kpoint_spacing_per_angstrom: float = Field(
        0.1, gt=0, description="the same for the density of states, 1/angstrom"
    )
    ediff_ev: float = Field(1e-6, gt=0, description="electronic convergence of the cell, eV")
    phonon_ediff_ev: float = Field(1e-8, gt=0, description="electronic convergence of displaced supercells, eV")
    max_electronic_steps: int = Field(
        100, ge=1, description="electronic steps (NELM) before a run counts as unconverged"
    )
    fmax_ev_per_angstrom: float = Field(
        0.005, gt=0, description="largest force at the end of the second relaxation, eV/angstrom"
    )
    first_fmax_ev_per_angstrom: float = Field(
        0.02, gt=0, description="largest force at the end of the first relaxation, eV/angstrom"
    )
    max_relax_steps: int = Field(100, ge=1, description="ionic steps (NSW) of each of the two relaxations")
    smearing: Literal["gaussian", "fermi", "methfessel-paxton", "auto"] = Field(
        "gaussian",
        description="how occupations are smeared; auto: gaussian, and methfessel-paxton (order 1) once a run has found "
        "a metal; tetrahedra need k-points along c",
    )
    sigma_ev: float = Field(0.05, gt=0, description="width of the smearing, eV")
    metal_sigma_ev: float = Field(0.1, gt=0, description="the same for metals where smearing is auto, eV")
    spin: Literal["auto", "on", "off"] = Field(
        "auto",
        description="spin polarisation; auto: with d metals of groups 3 to 11, f metals or an odd number of electrons, "
        "and no longer where no atom keeps a moment",
    )
    initial_moments: dict[str, float] = Field(
        default_factory=dict,
        description="element -> initial moment in Bohr magnetons, over the defaults (high spin: 5 for Ti to Cu, Ru, "
        "Rh, Os, Ir, 7 for f metals; 1 for other d metals, 0.6 for the rest)",
    )
    magnetism: MagnetismConfig = Field(
        default_factory=MagnetismConfig, description="magnetic orders that the static run compares"
    )
    hubbard_u_ev: Literal["none", "materials-project"] | dict[str, Annotated[float, Field(gt=0, le=20)]] = Field(
        "none",
        description="+U (Dudarev): none, materials-project (its values for d metals of oxides and fluorides), or "
        "element -> U - J on its outermost d, f or p shell, eV; then references must be of that scheme",
    )
    vdw: Literal["none", "D3", "D3BJ"] = Field(
        "none",
        description="dispersion correction: none, DFT-D3 with zero damping (D3) or Becke and Johnson's (D3BJ); then "
        "references must be vasp-pbe-d3 or vasp-pbe-d3bj",
    )
    spin_orbit: Literal["auto", "on", "off"] = Field(
        "off",
        description="spin-orbit coupling in bands and density of states, on the static run's density; auto: with "
        "elements of the fifth period or heavier; needs SCDM_VASP_NCL_CMD",
    )
    hse_gap: bool = Field(
        False, description="also the HSE06 gap of layers with a PBE gap, at PBE's band edges, with PBE's k-points"
    )
    dipole_correction: Literal["auto", "on", "off"] = Field(
        "auto", description="dipole correction along c; auto: for layer groups without an operation z -> -z"
    )
    potcar_functional: Literal["PBE", "PBE_52", "PBE_54", "PBE_64"] = Field(
        "PBE", description="release of the PAW potentials; PBE is what Materials Project's GGA uses"
    )
    potcar_symbols: dict[str, str] = Field(
        default_factory=dict, description="element -> potential such as Mo_pv, over Materials Project's choice"
    )

    cell_constraint: Literal["lattice_constraints", "optcell"] = Field(
        "lattice_constraints",
        description="what holds c: LATTICE_CONSTRAINTS (VASP 6.4 or newer), or an OPTCELL file for a VASP patched to "
        "read it",
    )
    optcell: str = Field(
        "110",
        description="content of the OPTCELL file, where that holds c; patches differ, 110 is the most common form",
    )
    vasp_version: Annotated[str | None, EXECUTION] = Field(
        None, description="version of the VASP that will run, such as 6.4.3; SCDM_VASP_VERSION when absent"
    )
    min_vacuum_angstrom: float = Field(
        10.0, gt=0, description="least distance between a layer and its image along c, angstrom"
    )

    phonon_min_length_angstrom: float = Field(
        12.0, gt=0, description="shortest in-plane edge of the phonon supercell (n, m, 1), angstrom"
    )
    phonon_displacement_angstrom: float = Field(0.01, gt=0, description="finite displacement, angstrom")
    strain: float = Field(0.01, gt=0, lt=0.1, description="strain of the stiffness tensor's cells, dimensionless")
    band_points: int = Field(121, ge=11, description="k-points on the in-plane path of the bands")
    band_nbands_factor: float = Field(
        1.2, ge=1, description="bands of the band runs, as a multiple of the static run's"
    )
    dos_points: int = Field(2001, ge=101, description="energies of the density of states (NEDOS)")
    incar: dict[Literal["all"] | VaspStage, dict[str, IncarValue]] = Field(
        default_factory=dict,
        description="stage, or all -> INCAR tags and their values, over what the engine writes; tags that other keys "
        "set are refused",
    )

    walltime_s: Annotated[int | None, EXECUTION] = Field(
        None,
        gt=0,
        description="seconds that a VASP run may take before it is told to stop; a worker whose own time is shorter "
        "tells it sooner, and a relaxation goes on in the next attempt; no limit of its own when absent",
    )
    max_custodian_errors: Annotated[int, EXECUTION] = Field(
        5, ge=0, description="errors that custodian mends in one run before it gives up"
    )
    keep_files: Annotated[tuple[Literal["WAVECAR", "CHGCAR", "CHG", "LOCPOT"], ...], EXECUTION] = Field(
        (),
        description="large files that stay on disk when no later run needs them; else WAVECAR goes when a relaxation "
        "has ended, LOCPOT when the static run has, CHGCAR when the candidate's bands are done",
    )

    @field_validator("vasp_version")
    @classmethod
    def _version(cls, version: str | None) -> str | None:
        if version is not None:
            check_version(version)
        return version

    @model_validator(mode="after")
    def _magnetic(self) -> VaspEngineConfig:
        if self.spin == "off" and "afm" in self.magnetism.orderings:
            raise ValueError("magnetism.orderings = [fm, afm] needs spin: auto or on, and spin is off")
        return self

    @field_validator("incar")
    @classmethod
    def _free(cls, incar: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            stage: {name.upper(): check_tag(name, value) for name, value in tags.items()}
            for stage, tags in incar.items()
        }

    @field_validator("hubbard_u_ev")
    @classmethod
    def _shells(cls, values: str | dict[str, float]) -> str | dict[str, float]:
        from pymatgen.core import Element

        for element in values if isinstance(values, dict) else ():
            if not Element.is_valid_symbol(element):
                raise ValueError(f"{element!r} is no element; write symbols, such as {{Fe: 4.0}}")
            if Element(element).block == "s":
                raise ValueError(f"{element} has no p, d or f shell that +U could act on; leave it out")
        return values


class GpawEngineConfig(Frozen):
    """GPAW, PBE, in a process of its own: DFT without a licence, on the scale of C2DB."""

    kind: Literal["gpaw"] = "gpaw"
    preset: Literal["fast", "c2db"] = Field(
        "fast",
        description="fast: plane waves to 400 eV, 6 k-points per 1/angstrom, energies brought to C2DB's cut-off; c2db: "
        "800 eV and 12, as C2DB has them, about ten times as long",
    )
    offsets: FilePath | None = Field(
        None,
        description="file made by `scdm refs offsets`, for elements whose offset to C2DB's cut-off is not packaged",
    )
    max_atoms: int = Field(8, ge=1, description="layers with more atoms are refused, with the estimated core hours")
    fmax_ev_per_angstrom: float | None = Field(
        None, gt=0, description="relaxation ends below this largest force, eV/angstrom; the preset's when absent"
    )
    max_relax_steps: int = Field(60, ge=1, description="relaxation steps before it counts as failed")
    max_scf_steps: int = Field(
        150, ge=1, description="electronic steps before a run is tried with softer mixing, and twice as many then"
    )
    smearing_ev: float = Field(0.05, gt=0, description="width of the Fermi-Dirac occupations, eV")
    spin: Literal["auto", "on", "off"] = Field(
        "auto",
        description="spin polarisation; auto: with d metals of groups 3 to 11, f metals or an odd number of electrons, "
        "and no longer where no atom keeps a moment",
    )
    initial_moments: dict[str, float] = Field(
        default_factory=dict,
        description="element -> initial moment in Bohr magnetons, over the defaults (3 for metals that often carry a "
        "moment: Ti to Cu, Ru, Rh, Os, Ir, f metals; 1 for other d metals, 0.3 for the rest)",
    )
    magnetism: MagnetismConfig = Field(
        default_factory=lambda: MagnetismConfig(orderings=("fm", "afm")),
        description="magnetic orders that the static run compares",
    )
    dipole_correction: Literal["auto", "on", "off"] = Field(
        "auto", description="dipole correction along c; auto: for layer groups without an operation z -> -z"
    )
    band_points: int = Field(61, ge=11, description="k-points on the in-plane path of the bands")
    phonon_repeats: int = Field(
        2, ge=1, description="cells along a and b in the supercell of the phonons; 2 is what C2DB's criterion looks at"
    )
    phonon_displacement_angstrom: float = Field(0.05, gt=0, description="finite displacement, angstrom")
    strain: float = Field(0.01, gt=0, lt=0.1, description="strain of the stiffness tensor's cells, dimensionless")
    walltime_s: Annotated[int | None, EXECUTION] = Field(
        None, gt=0, description="seconds that a run of GPAW may take before it is stopped; no limit when absent"
    )


def check_tag(name: str, value: IncarValue) -> IncarValue:
    """A free INCAR tag's value; ``ValueError`` for a tag that VASP does not know or that something else sets."""
    from pymatgen.io.vasp.inputs import Incar

    tag = name.upper()
    if tag in OWN_TAGS:
        raise ValueError(f"{tag} = {value!r} is not free: it is set by {OWN_TAGS[tag]}; leave it out here")
    if tag not in Incar.INCAR_PARAMS:
        near = difflib.get_close_matches(tag, Incar.INCAR_PARAMS, n=1)
        raise ValueError(f"VASP has no tag {tag}" + (f"; did you mean {near[0]}?" if near else "; leave it out"))
    return value


def check_version(version: str) -> tuple[int, ...]:
    """Numbers of a version such as 6.4.3; ``ValueError`` where it has none."""
    match = re.match(r"\d+(\.\d+)*", version)
    if match is None:
        raise ValueError(f"{version!r} is not a version; write it like 6.4.3")
    return tuple(int(part) for part in match[0].split("."))


EngineConfig = Annotated[ForceFieldEngineConfig | GpawEngineConfig | VaspEngineConfig, Field(discriminator="kind")]
