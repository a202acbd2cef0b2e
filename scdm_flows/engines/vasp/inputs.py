"""VASP's input files for slabs: INCAR tags for each stage (``tags``), in-plane k-points, nothing inherited.

Every tag that is written stands here or in the campaign's ``VaspEngineConfig``: atomate2's and pymatgen's own
defaults (PBEsol, ENCUT 680, +U, automatic smearing, k-points along c) are not used. Sites keep their order, so that
relaxed structures can be compared with samples site by site, and forces belong to phonopy's atoms.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from atomate2.vasp.sets.base import VaspInputGenerator
from numpy.typing import NDArray
from pymatgen.io.vasp.inputs import Incar, Kpoints

from scdm_flows.analysis.magnetism import kinds_of_atoms
from scdm_flows.analysis.phonons import in_plane_path
from scdm_flows.analysis.symmetrise import symmetrised
from scdm_flows.analysis.vacuum import mean_height
from scdm_flows.config import VaspEngineConfig
from scdm_flows.config.settings import get_settings
from scdm_flows.engines.spin import F_METALS, OFTEN_MAGNETIC, OTHER_D_METALS, with_spin
from scdm_flows.engines.vasp.checks import potcar_symbols
from scdm_flows.engines.vasp.tags import SMEARING, incar_tags, own_tags, parallel_tags, with_spin_orbit
from scdm_flows.errors import EngineError
from scdm_models.errors import SymmetryError
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.tables import layer_group

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

SYMPREC = 0.05  # angstrom, as for relaxed layers in the gate
MESH_SYMPREC = 1e-5  # angstrom, of the mesh's irreducible k-points: VASP's own default, whose group a list must fit
D_MOMENT, F_MOMENT, OTHER_D_MOMENT, REST_MOMENT = 5.0, 7.0, 1.0, 0.6  # Bohr magnetons; the rest is pymatgen's
MOMENTS = {
    **dict.fromkeys(OTHER_D_METALS, OTHER_D_MOMENT),
    **dict.fromkeys(OFTEN_MAGNETIC, D_MOMENT),
    **dict.fromkeys(F_METALS, F_MOMENT),
}
GAMMA = "\\Gamma"  # as pymatgen writes it in KPOINTS
ON_OFF = {True: "on", False: "off"}
BAND_GAP = "band_gap_ev"  # property of a structure: what the run that left it found


def in_blocks(structure: Structure) -> Structure:
    """The structure with the atoms of each element together, in their order otherwise.

    VASP takes each block of POSCAR for a species of its own: with A B A it would miss the operations that map the As on
    each other. Later runs take the order of the first.
    """
    symbols = [site.specie for site in structure]
    if len(list(groupby(symbols))) == len(set(symbols)):
        return structure
    found: Structure = structure.get_sorted_structure(key=lambda site: symbols.index(site.specie))
    return found


def as_begun(layer: Structure) -> Structure:
    """What the first relaxation of a layer begins with: elements in blocks, the symmetry that it nearly has exact."""
    return symmetrised(in_blocks(layer))


def divisions_of(structure: Structure, spacing: float) -> tuple[int, int]:
    """How many k-points along a and b lie at most ``spacing`` (1/angstrom, 2 pi included) apart."""
    lengths = np.array(structure.lattice.reciprocal_lattice.abc[:2])
    n, m = (max(1, int(np.ceil(length / spacing - 1e-6))) for length in lengths)
    return n, m


def mesh(structure: Structure, spacing: float, divisions: Sequence[int] | None = None) -> Kpoints:
    """Gamma-centred (n, m, 1) k-points at most ``spacing`` apart in the plane; divisions: n and m, where given."""
    n, m = divisions or divisions_of(structure, spacing)
    return Kpoints(
        comment=f"in-plane, at most {spacing:g} 1/angstrom apart; one point along c", num_kpts=0, kpts=((n, m, 1),)
    )


def irreducible(
    structure: Structure, spacing: float, divisions: Sequence[int] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k-points (n, 3) of ``mesh`` that symmetry and time reversal leave, and how many each stands for (n,).

    Atoms of one element whose moments (site property ``magmom``) are opposite are different atoms.
    """
    import spglib

    n, m = divisions or divisions_of(structure, spacing)
    cell: Any = (np.array(structure.lattice.matrix), np.array(structure.frac_coords), kinds_of_atoms(structure))
    mapping, grid = spglib.get_ir_reciprocal_mesh((int(n), int(m), 1), cell, symprec=MESH_SYMPREC)
    points, counts = np.unique(mapping, return_counts=True)
    return np.array(grid)[points] / [n, m, 1], counts


def mesh_with(structure: Structure, spacing: float, extra: Sequence[Sequence[float]]) -> Kpoints:
    """The irreducible k-points of ``mesh`` with their weights, then ``extra`` ones (fractional) of weight zero."""
    points, counts = irreducible(structure, spacing)
    rows = [tuple(round(float(x), 8) for x in k) for k in (*points, *extra)]
    return Kpoints(
        comment=f"{len(points)} irreducible k-points of the mesh, and {len(extra)} of weight zero",
        style=Kpoints.supported_modes.Reciprocal,
        num_kpts=len(rows),
        kpts=rows,
        kpts_weights=[*map(int, counts), *[0] * len(extra)],
        labels=None,
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


def with_moments(config: VaspEngineConfig, structure: Structure) -> Structure:
    """The layer with the moments that its runs begin with: its own, else those of its elements."""
    found, wanted = structure.copy(), {**MOMENTS, **config.initial_moments}
    if not structure.site_properties.get("magmom"):
        found.add_site_property("magmom", [wanted.get(str(site.specie), REST_MOMENT) for site in structure])
    return found


def _tables(config: VaspEngineConfig, stage: str) -> dict[str, Any]:
    return {
        "INCAR": {**incar_tags(config)[stage], "MAGMOM": {**MOMENTS, **config.initial_moments}},
        "KPOINTS": {},
        "POTCAR": potcar_symbols(config),
        "POTCAR_FUNCTIONAL": config.potcar_functional,
    }


@dataclass
class SlabSetGenerator(VaspInputGenerator):
    """Input of one stage of a layer, as pymatgen and atomate2 take it.

    Without arguments it is that of a static run with the default configuration.

    stage: a key of ``incar_tags``; spacing: of k-points, 1/angstrom, or None for the in-plane path of ``points``
    points; divisions: of the mesh along a and b, instead of ``spacing``'s; extra_points: further k-points of weight
    zero, fractional; spin, dipole, spin_orbit: auto, on or off;
    nbands_factor: bands as a multiple of the previous run's; metal_sigma: width (eV) of Methfessel and Paxton's
    smearing for layers that the run before left as metals (property ``band_gap_ev``), None for the same smearing
    everywhere. A site's own ``magmom`` goes before its element's.
    """

    config_dict: dict[str, Any] = field(default_factory=lambda: _tables(VaspEngineConfig(), "static"))
    sort_structure: bool = False
    auto_ismear: bool = False
    auto_metal_kpoints: bool = False
    inherit_incar: bool | list[str] = False
    mode: str = "uniform"  # set by atomate2's NonSCFMaker
    stage: str = "static"
    spacing: float | None = 0.2
    points: int = 121
    divisions: tuple[int, int] | None = None
    extra_points: list[list[float]] | None = None
    spin: str = "auto"
    dipole: str = "auto"
    nbands_factor: float | None = None
    spin_orbit: str = "off"
    metal_sigma: float | None = None

    def copy_for(self, structure: Structure) -> SlabSetGenerator:
        """The same for a structure, without the run before."""
        found = copy.copy(self)
        found.structure = structure
        return found

    def _layer(self) -> Structure:
        if self.structure is None:
            raise EngineError("the input of a layer depends on its structure; give the input set one")
        return self.structure

    @property
    def kpoints_updates(self) -> Any:
        """No k-points along c."""
        if self.spacing is None:
            return line(self._layer(), self.points)
        if self.extra_points is not None:
            return mesh_with(self._layer(), self.spacing, self.extra_points)
        return mesh(self._layer(), self.spacing, self.divisions)

    @property
    def couples_spin(self) -> bool:
        """Whether the run has spin-orbit coupling, which needs VASP's noncollinear build."""
        return with_spin_orbit(self.spin_orbit, [str(e) for e in self._layer().composition])

    @property
    def incar_updates(self) -> dict[str, Any]:
        """Tags that depend on the structure or on the run before."""
        layer = self._layer()
        tags: dict[str, Any] = {"ISPIN": 2 if with_spin(self.spin, layer) else 1}
        if self.metal_sigma is not None and layer.properties.get(BAND_GAP) == 0:
            tags |= {"ISMEAR": SMEARING["methfessel-paxton"], "SIGMA": self.metal_sigma}
        if corrects_dipole(self.dipole, layer):
            tags |= {"LDIPOL": True, "IDIPOL": 3, "DIPOL": [0.5, 0.5, round(mean_height(layer), 4)]}
        if self.nbands_factor is not None and self.prev_vasprun is not None:
            before = int(self.prev_vasprun.parameters["NBANDS"])
            spins = 2 if self.couples_spin else 1  # of which each band then holds one
            tags["NBANDS"] = int(np.ceil(before * self.nbands_factor)) * spins
        return tags

    @property
    def incar(self) -> Incar:
        """All tags: those of spin-orbit coupling and of the worker's ranks besides.

        With spin-orbit coupling the moments, which lie along z, are written out: without them VASP begins with one
        Bohr magneton on each atom along x, y and z.
        """
        found: Incar = super().incar
        layer, own = self._layer(), self.user_incar_settings
        if self.couples_spin:
            moments = found.get("MAGMOM") or [0.0] * len(layer)
            found.pop("ISPIN", None)  # collinear spins are none of a noncollinear run
            found.update({"LSORBIT": True, "MAGMOM": [[0.0, 0.0, float(m)] for m in moments]})
            found["ISYM"] = own.get("ISYM", -1)  # vasp.at/wiki/LSORBIT
        points = self.kpoints
        if points is not None and get_settings().vasp_ranks is not None:
            number = points.num_kpts or len(irreducible(layer, float(self.spacing or 0), self.divisions)[0])
            found.update(parallel_tags(get_settings().vasp_ranks, number, hybrid=bool(found.get("LHFCALC"))))
        return found


def input_set(config: VaspEngineConfig, stage: str, *, of: Structure | None = None) -> SlabSetGenerator:
    """The generator of a stage: relax_1, relax_2, static, phonon, strain, uniform, line or hse.

    of: the layer of displaced supercells and strained cells, which decides on dipole correction and spin, as these have
    another symmetry and another number of electrons, and of strained cells on the mesh, so that stresses differ by the
    strain alone.
    """
    bands = stage in ("uniform", "line")
    spacing: float | None = config.kpoint_spacing_per_angstrom
    if bands:
        spacing = config.dos_kpoint_spacing_per_angstrom if stage == "uniform" else None
    return SlabSetGenerator(
        config_dict=_tables(config, stage),
        user_incar_settings=own_tags(config, stage),
        user_potcar_functional=config.potcar_functional,
        user_potcar_settings=config.potcar_symbols,  # pymatgen replaces W_pv of PBE_54 unless it is named here
        stage=stage,
        mode="line" if stage == "line" else "uniform",
        spacing=spacing,
        points=config.band_points,
        divisions=divisions_of(of, spacing) if stage == "strain" and of is not None and spacing is not None else None,
        extra_points=[] if stage == "hse" else None,
        spin=config.spin if of is None else ON_OFF[with_spin(config.spin, of)],
        dipole=config.dipole_correction if of is None else ON_OFF[corrects_dipole(config.dipole_correction, of)],
        nbands_factor=config.band_nbands_factor if bands else None,
        spin_orbit=config.spin_orbit if bands else "off",
        metal_sigma=config.metal_sigma_ev if config.smearing == "auto" else None,
    )
