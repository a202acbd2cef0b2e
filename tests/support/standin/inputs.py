"""Reads INCAR, KPOINTS, POSCAR and POTCAR and refuses what VASP refuses, in the words of VASP where custodian knows them.

Beyond VASP it refuses what VASP would take and do something else with: unknown tags, potentials in another order than
the atoms, lines of k-points without a charge density, constraints on a cell whose c is not along z.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

Array = NDArray[np.float64]
DEFAULTS: dict[str, Any] = {
    "PREC": "Normal",
    "ALGO": "Normal",
    "ISTART": 0,
    "ICHARG": 2,
    "ISPIN": 1,
    "ISYM": 2,
    "ISIF": 2,
    "NSW": 0,
    "NELM": 60,
    "NELMIN": 2,
    "EDIFF": 1e-4,
    "ISMEAR": 1,
    "SIGMA": 0.2,
    "LORBIT": 0,
    "NEDOS": 301,
    "POTIM": 0.5,
    "GGA": "--",
    "LCHARG": True,
    "LWAVE": True,
    "LDIPOL": False,
    "IDIPOL": 0,
    "AMIN": 0.1,
    "LDAU": False,
    "LHFCALC": False,
    "AEXX": 0.0,
    "HFSCREEN": 0.0,
    "LUSE_VDW": False,
    "LSORBIT": False,
    "LCHIMAG": False,
    "LEPSILON": False,
    "LVHAR": False,
    "LVTOT": False,
}


class RefusedError(Exception):
    """VASP would not begin, or would not do what was meant; the text is what goes to standard output."""


@dataclass(frozen=True)
class Inputs:
    """The four files, checked."""

    incar: Incar
    poscar: Poscar
    kpoints: Kpoints
    titles: list[str]  # TITEL of each species' potential
    valences: list[float]  # ZVAL of each species' potential
    release: tuple[int, ...]  # of the VASP that is stood in for

    def __getitem__(self, tag: str) -> Any:
        """An INCAR tag, or VASP's default of it."""
        if tag == "IBRION" and tag not in self.incar:
            return 0 if self["NSW"] > 0 else -1
        if tag == "EDIFFG" and tag not in self.incar:
            return 10 * self["EDIFF"]
        return self.incar.get(tag, DEFAULTS.get(tag))

    @property
    def structure(self) -> Structure:
        """The crystal of POSCAR."""
        return self.poscar.structure

    @property
    def line(self) -> bool:
        """Whether the k-points lie on lines."""
        return self.kpoints.style == Kpoints.supported_modes.Line_mode

    @property
    def kind(self) -> str:
        """``relax``, ``static``, ``uniform`` (on a charge density) or ``line``."""
        if self["ICHARG"] < 10:
            return "relax" if self["NSW"] else "static"
        return "line" if self.line or any(self.kpoints.labels or []) else "uniform"

    @property
    def counts(self) -> list[int]:
        """Atoms of each block of POSCAR."""
        return list(self.poscar.natoms)

    @property
    def electrons(self) -> float:
        """NELECT."""
        return float(self.incar.get("NELECT", np.dot(self.valences, self.counts)))

    @property
    def bands(self) -> int:
        """NBANDS; VASP's default of it (vasp.at/wiki/NBANDS) where INCAR has none."""
        if self["LSORBIT"]:  # a band for each electron
            return int(self.incar.get("NBANDS", 1.2 * self.electrons + len(self.structure)))
        moments = self.incar.get("MAGMOM") or [1.0] * len(self.structure)
        extra = int((abs(sum(moments)) + 1) // 2) if self["ISPIN"] == 2 else 0
        usual = int(self.electrons + 2.5) // 2 + max(len(self.structure) // 2, 3)
        return int(self.incar.get("NBANDS", max(usual, int(0.6 * self.electrons)) + extra))

    @property
    def free_directions(self) -> tuple[bool, bool, bool]:
        """Cartesian directions along which the cell may change; a VASP before 6.4 does not know the tag."""
        free = self.incar.get("LATTICE_CONSTRAINTS", [True] * 3)
        return (bool(free[0]), bool(free[1]), bool(free[2])) if self.release >= (6, 4) else (True, True, True)

    @cached_property
    def points(self) -> tuple[Array, Array]:
        """(n, 3) fractional k-points, irreducible by symmetry unless ISYM <= 0, and their (n,) weights of sum 1."""
        ends = np.array(self.kpoints.kpts, dtype=float)
        if self.line:
            pairs = zip(ends[::2], ends[1::2], strict=True)
            found = np.vstack([np.linspace(a, b, self.kpoints.num_kpts) for a, b in pairs])
            return found, np.full(len(found), 1 / len(found))
        if self.kpoints.num_kpts > 0:
            weights = np.array(self.kpoints.kpts_weights, dtype=float)
            return ends, weights / weights.sum()
        mesh = ends[0].astype(int)
        even = self.kpoints.style == Kpoints.supported_modes.Monkhorst
        shift = np.array(self.kpoints.kpts_shift) + np.where(even & (mesh % 2 == 0), 0.5, 0.0)
        if self["ISYM"] > 0 and np.isin(shift, [0.0, 0.5]).all():
            irreducible = SpacegroupAnalyzer(self.structure).get_ir_reciprocal_mesh(mesh, shift * 2)
            found, weights = (np.array([pair[i] for pair in irreducible], dtype=float) for i in (0, 1))
        else:
            grid = np.stack(np.meshgrid(*(np.arange(n) for n in mesh), indexing="ij"), axis=-1).reshape(-1, 3)
            found, weights = (grid + shift) / mesh, np.ones(len(grid))
        return found - np.round(found - 1e-9), weights / weights.sum()


def read(folder: Path, release: tuple[int, ...]) -> Inputs:
    """The four files of a folder; ``RefusedError`` where VASP would stop."""
    for name in ("INCAR", "POSCAR", "POTCAR"):
        if not (folder / name).is_file():
            raise RefusedError(f"ERROR: file {name} was not found")
    incar = Incar.from_file(folder / "INCAR")
    poscar = Poscar.from_file(folder / "POSCAR", check_for_potcar=False)
    text = (folder / "POTCAR").read_text()
    titles = [title.strip() for title in re.findall(r"TITEL\s*=(.*)", text)]
    valences = [float(number) for number in re.findall(r"ZVAL\s*=\s*([\d.]+)", text)]
    kpoints = _kpoints(folder, incar, poscar.structure)
    inputs = Inputs(incar, poscar, kpoints, titles, valences, release)
    _check(inputs, folder)
    return inputs


def _kpoints(folder: Path, incar: Incar, structure: Structure) -> Kpoints:
    if (folder / "KPOINTS").is_file():
        kpoints = Kpoints.from_file(folder / "KPOINTS")
        if kpoints.style == Kpoints.supported_modes.Automatic:
            raise RefusedError("ERROR: the stand-in takes no fully automatic k-points")
        if kpoints.style == Kpoints.supported_modes.Cartesian or (kpoints.coord_type or "").startswith(("C", "c", "K")):
            raise RefusedError("ERROR: the stand-in takes k-points in reciprocal coordinates")
        return kpoints
    if "KSPACING" not in incar:
        raise RefusedError("ERROR: there is neither a file KPOINTS nor a tag KSPACING")
    lengths = np.array(structure.lattice.reciprocal_lattice.abc)
    mesh = np.maximum(1, np.ceil(lengths / incar["KSPACING"]).astype(int))
    style = Kpoints.gamma_automatic if incar.get("KGAMMA", True) else Kpoints.monkhorst_automatic
    return style(tuple(mesh.tolist()))


def _check(inputs: Inputs, folder: Path) -> None:
    species = [title.split()[1].partition("_")[0] for title in inputs.titles]
    if species != inputs.poscar.site_symbols:
        raise RefusedError(
            "ERROR: type information on POSCAR and POTCAR are incompatible: "
            f"POSCAR has {inputs.poscar.site_symbols}, POTCAR {species}"
        )
    with warnings.catch_warnings(record=True) as wrong:
        warnings.simplefilter("always")
        inputs.incar.check_params()
    if wrong:
        raise RefusedError("\n".join(f"Error reading item from file INCAR: {w.message}" for w in wrong))
    if len(inputs.incar.get("MAGMOM", inputs.structure)) != len(inputs.structure):
        raise RefusedError("Error reading item 'MAGMOM' from file INCAR.")
    if inputs.structure.lattice.volume < 0 or np.linalg.det(inputs.structure.lattice.matrix) < 0:
        raise RefusedError("ERROR: the triple product of the basis vectors is negative, exchange two basis vectors")
    if inputs.poscar.selective_dynamics is not None:
        raise RefusedError("ERROR: the stand-in moves all atoms, selective dynamics are not for it")
    _check_ions(inputs)
    _check_electrons(inputs, folder)


def _check_ions(inputs: Inputs) -> None:
    ibrion, nsw, isif = inputs["IBRION"], inputs["NSW"], inputs["ISIF"]
    if ibrion not in (-1, 1, 2):
        raise RefusedError(f"ERROR: IBRION = {ibrion}: the stand-in has IBRION = -1, 1 and 2")
    if ibrion == -1 and nsw > 0:
        raise RefusedError(f"ERROR: IBRION = {ibrion} and NSW = {nsw} contradict each other")
    if nsw and isif not in (2, 3):
        raise RefusedError(f"ERROR: ISIF = {isif}: the stand-in relaxes with ISIF = 2 and 3")
    if "LATTICE_CONSTRAINTS" in inputs.incar:
        if len(inputs.incar["LATTICE_CONSTRAINTS"]) != 3:
            raise RefusedError("Error reading item 'LATTICE_CONSTRAINTS' from file INCAR.")
        matrix = inputs.structure.lattice.matrix
        if np.abs([matrix[0, 2], matrix[1, 2], matrix[2, 0], matrix[2, 1]]).max() > 1e-6:
            raise RefusedError("ERROR: LATTICE_CONSTRAINTS acts on Cartesian directions, and c is not along z")


def _check_electrons(inputs: Inputs, folder: Path) -> None:
    charge = folder / "CHGCAR"
    if inputs["ICHARG"] >= 10:
        if not charge.is_file() or charge.stat().st_size == 0:
            raise RefusedError("ERROR: charge density could not be read from file CHGCAR for ICHARG>10")
        if Structure.from_file(charge).composition != inputs.structure.composition:
            raise RefusedError("ERROR: charge density on file CHGCAR is of another crystal")
        if inputs["NSW"] > 0:
            raise RefusedError("Spin polarized Harris functional dynamics is a good joke")
    elif inputs.line:
        raise RefusedError("ERROR: k-points on lines make no charge density; set ICHARG = 11 and supply CHGCAR")
    if inputs["ISMEAR"] == -5 and (inputs.line or len(inputs.points[0]) < 4):
        raise RefusedError(
            "VERY BAD NEWS! internal error in subroutine IBZKPT:\n Tetrahedron method fails (number of k-points < 4)"
        )
    if inputs["LDIPOL"] and inputs["IDIPOL"] not in (1, 2, 3, 4):
        raise RefusedError("ERROR: LDIPOL needs a direction, IDIPOL = 1, 2, 3 or 4")
    if inputs["LEPSILON"]:
        raise RefusedError("ERROR: the stand-in has no linear response")
    if inputs["LSORBIT"] and os.environ.get("STANDIN_VASP_BUILD") != "ncl":
        raise RefusedError(
            "ERROR: non collinear calculations require that VASP is compiled\n without the flag -DNGXhalf and -DNGZhalf"
        )
    if inputs.bands * (1 if inputs["LSORBIT"] else 2) <= inputs.electrons:
        raise RefusedError("TOO FEW BANDS")
