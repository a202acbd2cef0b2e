"""VASP's input files for slabs: one table of INCAR tags for each stage, in-plane k-points, nothing inherited.

Every tag that is written stands here or in the campaign's ``VaspEngineConfig``: atomate2's and pymatgen's own
defaults (PBEsol, ENCUT 680, +U, automatic smearing, k-points along c) are not used. Sites keep their order, so that
relaxed structures can be compared with samples site by site, and forces belong to phonopy's atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from atomate2.vasp.sets.base import VaspInputGenerator
from pymatgen.io.vasp.inputs import Kpoints

from scdm_flows.analysis.phonons import in_plane_path
from scdm_flows.config import VaspEngineConfig
from scdm_flows.engines.spin import F_METALS, OFTEN_MAGNETIC, OTHER_D_METALS, with_spin
from scdm_flows.engines.vasp.checks import potcar_symbols, standard_potcars
from scdm_flows.errors import EngineError
from scdm_models.errors import SymmetryError
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.tables import layer_group

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

SYMPREC = 0.05  # angstrom, as for relaxed layers in the gate
D_MOMENT, F_MOMENT, OTHER_D_MOMENT = 5.0, 7.0, 1.0  # Bohr magnetons; pymatgen gives the rest 0.6
SMEARING = {"gaussian": 0, "fermi": -1, "methfessel-paxton": 1}
MOMENTS = {
    **dict.fromkeys(OTHER_D_METALS, OTHER_D_MOMENT),
    **dict.fromkeys(OFTEN_MAGNETIC, D_MOMENT),
    **dict.fromkeys(F_METALS, F_MOMENT),
}
LATTICE_CONSTRAINTS = ".TRUE. .TRUE. .FALSE."
GAMMA = "\\Gamma"  # as pymatgen writes it in KPOINTS


def incar_tags(config: VaspEngineConfig) -> dict[str, dict[str, Any]]:
    """Stage -> the INCAR tags that do not depend on the structure."""
    common = {
        "GGA": "PE",
        "PREC": "Accurate",
        "ALGO": "Fast",
        "ENCUT": config.encut_ev,
        "EDIFF": config.ediff_ev,
        "NELM": config.max_electronic_steps,
        "ISMEAR": SMEARING[config.smearing],
        "SIGMA": config.sigma_ev,
        "LASPH": True,
        "LREAL": False,
        "LORBIT": 11,
        "LWAVE": False,
        "LCHARG": False,
    }
    if config.vdw == "D3":
        common["IVDW"] = 11
    relax = {**common, "IBRION": 2, "ISIF": 3, "NSW": config.max_relax_steps, "LWAVE": True}
    if config.cell_constraint == "lattice_constraints":
        relax["LATTICE_CONSTRAINTS"] = LATTICE_CONSTRAINTS
    static = {**common, "NSW": 0}
    bands = {**static, "ICHARG": 11}
    return {
        "relax_1": {**relax, "EDIFFG": -config.first_fmax_ev_per_angstrom},
        "relax_2": {**relax, "EDIFFG": -config.fmax_ev_per_angstrom},
        "static": {**static, "LCHARG": True},
        "phonon": {**static, "ALGO": "Normal", "EDIFF": config.phonon_ediff_ev},
        "uniform": {**bands, "NEDOS": config.dos_points},
        "line": {**bands, "ISYM": 0},
    }


def mesh(structure: Structure, spacing: float) -> Kpoints:
    """Gamma-centred (n, m, 1) k-points at most ``spacing`` (1/angstrom, 2 pi included) apart in the plane."""
    lengths = np.array(structure.lattice.reciprocal_lattice.abc[:2])
    n, m = (max(1, int(np.ceil(length / spacing - 1e-6))) for length in lengths)
    return Kpoints(
        comment=f"in-plane, at most {spacing:g} 1/angstrom apart; one point along c", num_kpts=0, kpts=((n, m, 1),)
    )


def line(structure: Structure, points: int) -> Kpoints:
    """The in-plane path as explicit k-points of equal weight.

    A labelled point inside the path comes twice, as the end of one branch and the beginning of the next, which is
    how pymatgen tells branches apart.
    """
    k_points, distances, labels = in_plane_path(structure, points)
    names: dict[int, list[str]] = {}
    for distance, name in labels:
        index = int(np.argmin(np.abs(distances - distance)))
        while index in names and index + 1 < len(distances) and np.isclose(distances[index + 1], distance):
            index += 1  # a jump of the path: two points at one distance
        names.setdefault(index, []).append(GAMMA if name == "Γ" else name)
    rows: list[tuple[float, ...]] = []
    written: list[str] = []
    for index, k in enumerate(k_points):
        point = (round(float(k[0]), 8), round(float(k[1]), 8), 0.0)
        name = names.get(index, [""])[0]
        jump = index + 1 in names or index - 1 in names
        copies = 2 if name and not jump and 0 < index < len(k_points) - 1 else 1
        rows += [point] * copies
        written += [name] * copies
    return Kpoints(
        comment="in-plane path of the layer",
        style=Kpoints.supported_modes.Reciprocal,
        num_kpts=len(rows),
        kpts=rows,
        kpts_weights=[1] * len(rows),
        labels=written,
    )


def is_polar(structure: Structure) -> bool:
    """Whether no operation of the layer maps z to -z, so that it may carry a dipole; True where no group is found."""
    try:
        return not layer_group(detect_layer_group(structure, SYMPREC)).reverses_z
    except SymmetryError:
        return True


def corrects_dipole(choice: str, layer: Structure) -> bool:
    """Whether a run has the dipole correction along c; choice: ``dipole_correction`` of ``VaspEngineConfig``."""
    return choice == "on" or (choice == "auto" and is_polar(layer))


def _base() -> dict[str, Any]:
    return {"INCAR": {}, "KPOINTS": {}, "POTCAR": standard_potcars(), "POTCAR_FUNCTIONAL": "PBE"}


@dataclass
class SlabSetGenerator(VaspInputGenerator):
    """Input of one stage of a layer, as pymatgen and atomate2 take it.

    stage: a key of ``incar_tags``; spacing: of k-points, 1/angstrom, or None for the in-plane path of ``points``
    points; spin, dipole: auto, on or off; moments: element -> Bohr magnetons; nbands_factor: bands as a multiple of
    the previous run's. A site's own ``magmom`` goes before its element's.
    """

    config_dict: dict[str, Any] = field(default_factory=_base)
    sort_structure: bool = False
    auto_ismear: bool = False
    auto_metal_kpoints: bool = False
    inherit_incar: bool | list[str] = False
    mode: str = "uniform"  # set by atomate2's NonSCFMaker
    stage: str = "static"
    spacing: float | None = 0.2
    points: int = 121
    spin: str = "auto"
    dipole: str = "auto"
    nbands_factor: float | None = None

    def _layer(self) -> Structure:
        if self.structure is None:
            raise EngineError("the input of a layer depends on its structure; give the input set one")
        return self.structure

    @property
    def kpoints_updates(self) -> Any:
        """No k-points along c."""
        if self.spacing is None:
            return line(self._layer(), self.points)
        return mesh(self._layer(), self.spacing)

    @property
    def incar_updates(self) -> dict[str, Any]:
        """Tags that depend on the structure or on the run before."""
        layer = self._layer()
        tags: dict[str, Any] = {"ISPIN": 2 if with_spin(self.spin, layer) else 1}
        if corrects_dipole(self.dipole, layer):
            z = np.array(layer.frac_coords)[:, 2]
            angle = np.angle(np.exp(2j * np.pi * z).mean())  # mean on the circle: the slab may cross the boundary
            tags |= {"LDIPOL": True, "IDIPOL": 3, "DIPOL": [0.5, 0.5, round(float(angle / (2 * np.pi)) % 1.0, 4)]}
        if self.nbands_factor is not None and self.prev_vasprun is not None:
            before = int(self.prev_vasprun.parameters["NBANDS"])
            tags["NBANDS"] = int(np.ceil(before * self.nbands_factor))
        return tags


def input_set(config: VaspEngineConfig, stage: str, *, dipole: bool | None = None) -> SlabSetGenerator:
    """The generator of a stage: relax_1, relax_2, static, phonon, uniform or line.

    dipole: decided elsewhere, for displaced supercells, whose symmetry is not the layer's.
    """
    spacing: float | None = config.kpoint_spacing_per_angstrom
    if stage in ("uniform", "line"):
        spacing = config.dos_kpoint_spacing_per_angstrom if stage == "uniform" else None
    return SlabSetGenerator(
        config_dict={
            "INCAR": {**incar_tags(config)[stage], "MAGMOM": {**MOMENTS, **config.initial_moments}},
            "KPOINTS": {},
            "POTCAR": potcar_symbols(config),
            "POTCAR_FUNCTIONAL": config.potcar_functional,
        },
        user_potcar_functional=config.potcar_functional,
        stage=stage,
        mode="line" if stage == "line" else "uniform",
        spacing=spacing,
        points=config.band_points,
        spin=config.spin,
        dipole=config.dipole_correction if dipole is None else ("on" if dipole else "off"),
        nbands_factor=config.band_nbands_factor if stage in ("uniform", "line") else None,
    )
