"""Runs GPAW for one task and ends: ``python -P runner.py input.json output.json``, in the folder of the run.

GPAW is GPL, so this file is executed by a process of its own and never imported; it imports nothing of ours, and what
it is asked and what it answers is JSON. Lengths are in angstrom, energies in eV, forces in eV/angstrom, stresses in
eV/angstrom^3 (ASE's Voigt order xx, yy, zz, yz, xz, xy), moments in Bohr magnetons.

The input is a mapping:

======================= ==============================================================================================
task                    ``describe``, ``static``, ``relax``, ``bands`` or ``stiffness``
numbers, positions      (n,) atomic numbers; (n, 3) Cartesian
cell, periodic          (3, 3), rows are the vectors; along which of them the crystal repeats
moments                 (n,) to begin with, or null for a run without spin
cutoff                  of the plane waves, eV
kpoint_density          k-points per 1/angstrom of reciprocal lattice (2 pi included), Gamma among them
smearing                width of the Fermi-Dirac occupations, eV
convergence             GPAW's, see its manual
max_scf_steps           before a self-consistent cycle counts as not converged
once                    whether that is all: no second try with softer mixing
dipole                  correct for a dipole along c
extra                   static: list of (cutoff, kpoint_density) whose energies are wanted besides
potential               static: whether the electrostatic potential along c is wanted
density_file            static: where the density is written; bands: where it is read, computed anew where absent
fmax, steps, history    relax: largest force, largest number of geometries, file that keeps every geometry
hessian                 relax, stiffness: (3 n + 9, 3 n + 9) second derivatives to begin with, eV/angstrom^2, in the
                        coordinates of ASE's ``FrechetCellFilter``, or null
k_points, mesh_density  bands: (n_k, 3) fractional coordinates of the path; k-point density of the mesh
strains                 stiffness: (m, 2, 2) strains of the cell in its plane
======================= ==============================================================================================

The answer has what the task is about and ``version``; where it could not be done, ``error`` (``setup``, ``scf``,
``relaxation`` or ``other``) and ``message``. A self-consistent cycle that does not converge is tried once more with
softer mixing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

IN_PLANE = [True, True, False, False, False, True]  # of the cell, in Voigt order
SOFT_MIXING = 0.02  # share of the new density in each step of the second try
NOT_MAGNETIC = 0.1  # Bohr magnetons on an atom: below, the run goes on without spin, as in C2DB (Haastrup et al. 2018)
PARENT_SECONDS = 5.0  # how often this process looks whether the one that started it still lives
SPARE_BANDS = 4
BANDS_RESIDUAL = 1e-3  # eV^2 an electron, of bands at a fixed density: 1e-5 takes twice as long for 0.1 meV
EMPTY_BANDS = 8  # GPAW's default has none where an atom has few orbitals: 3 meV for fcc Ca, and no gap to be found
DOS_POINTS, DOS_WIDTH = 801, 0.05  # eV
DOS_RANGE = (-8.0, 6.0)  # eV around the Fermi level
LOG = "gpaw.txt"


def calculator(data: dict[str, Any], *, soft: bool, spin: bool, **changes: Any) -> Any:
    """A GPAW calculator of the task. soft: mix densities softly; spin: with moments; changes: to ``data``."""
    from gpaw import GPAW, PW, FermiDirac, Mixer, MixerSum

    told = {**data, **changes}
    settings: dict[str, Any] = {
        "mode": PW(told["cutoff"], dedecut="estimate"),
        "xc": "PBE",
        "kpts": {"density": told["kpoint_density"], "gamma": True},
        "occupations": FermiDirac(told["smearing"]),
        "convergence": told["convergence"],
        "nbands": -EMPTY_BANDS,
        "maxiter": told["max_scf_steps"] * (2 if soft else 1),
        "symmetry": {"symmorphic": False, "tolerance": 1e-5},
        "txt": LOG,
    }
    if soft:
        settings["mixer"] = (MixerSum if spin else Mixer)(SOFT_MIXING, 5, 100)
    if told["dipole"]:
        settings["poissonsolver"] = {"dipolelayer": "xy"}
    return GPAW(**settings)


def atoms_of(data: dict[str, Any]) -> Any:
    """The ``ase.Atoms`` of the task."""
    from ase import Atoms

    atoms = Atoms(data["numbers"], positions=data["positions"], cell=data["cell"], pbc=data["periodic"])
    if data["moments"] is not None and np.any(data["moments"]):
        atoms.set_initial_magnetic_moments(data["moments"])
    return atoms


def has_spin(atoms: Any) -> bool:
    """Whether the run has two spins."""
    return bool(np.any(atoms.get_initial_magnetic_moments()))


def ground_state(atoms: Any, data: dict[str, Any], *, soft: bool, **changes: Any) -> None:
    """Give the atoms a calculator and converge it; once more without spin where no atom has kept a moment."""
    atoms.calc = calculator(data, soft=soft, spin=has_spin(atoms), **changes)
    atoms.get_potential_energy()
    if has_spin(atoms) and np.abs(atoms.get_magnetic_moments()).max() < NOT_MAGNETIC:
        atoms.set_initial_magnetic_moments(np.zeros(len(atoms)))
        atoms.calc = calculator(data, soft=soft, spin=False, **changes)
        atoms.get_potential_energy()


def state_of(atoms: Any) -> dict[str, Any]:
    """Geometry, energy, forces and moments of converged atoms."""
    spin = has_spin(atoms)
    return {
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.tolist(),
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces().tolist(),
        "moments": atoms.get_magnetic_moments().tolist() if spin else None,
        "total_moment": float(atoms.get_magnetic_moment()) if spin else None,
    }


def static(data: dict[str, Any], *, soft: bool) -> dict[str, Any]:
    """A single point, its gap without spin-orbit coupling, and the energies of ``extra``."""
    from ase.dft.bandgap import bandgap

    atoms = atoms_of(data)
    ground_state(atoms, data, soft=soft)
    found = state_of(atoms)
    gap, top, bottom = bandgap(atoms.calc, output=None)
    found |= {"gap": max(0.0, float(gap)), "direct": bool(top[1] == bottom[1]) if gap > 0 else None}
    if data.get("potential"):
        average = atoms.calc.get_electrostatic_potential().mean(axis=(0, 1))
        edges = [float(atoms.calc.get_eigenvalues(spin=s, kpt=k)[n]) for s, k, n in (top, bottom)] if gap > 0 else None
        fermi = float(atoms.calc.get_fermi_level())
        found["potential"] = {"average": average.tolist(), "fermi_level": fermi, "edges": edges}
    found["k_points"] = len(atoms.calc.get_ibz_k_points())
    if data.get("density_file"):
        atoms.calc.write(data["density_file"], mode="")
    found["extra"] = []
    for cutoff, density in data.get("extra") or []:
        same = atoms.copy()
        same.calc = calculator(data, soft=soft, spin=has_spin(same), cutoff=cutoff, kpoint_density=density)
        found["extra"].append(float(same.get_potential_energy()))
    return found


class NotRelaxed(Exception):
    """Forces are too large after the last step; says of what."""


def bfgs(moving: Any, data: dict[str, Any], log: str) -> Any:
    """ASE's BFGS of atoms, or of atoms and cell, that begins with the task's second derivatives where it has some."""
    from ase.optimize import BFGS

    optimiser: Any = BFGS(moving, logfile=log)
    if data.get("hessian"):
        n = len(optimiser.H0)
        optimiser.H0 = np.array(data["hessian"])[:n, :n]
    return optimiser


def relax(data: dict[str, Any], *, soft: bool) -> dict[str, Any]:
    """Atoms and the in-plane cell by BFGS (doi:10.1088/1361-648X/aa680e), from the last geometry that was kept."""
    from ase.filters import FrechetCellFilter

    atoms, history = atoms_of(data), Path(data["history"])
    before = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    if before:
        atoms.set_cell(before[-1]["cell"])
        atoms.set_positions(before[-1]["positions"])
        if has_spin(atoms):
            atoms.set_initial_magnetic_moments(before[-1]["moments"] or np.zeros(len(atoms)))
    ground_state(atoms, data, soft=soft)

    def keep() -> None:
        if not before or not np.array_equal(before[-1]["positions"], atoms.positions):
            before.append(state_of(atoms))
            with history.open("a") as file:
                file.write(json.dumps(before[-1]) + "\n")

    cell_too: Any = FrechetCellFilter(atoms, mask=IN_PLANE)
    optimiser = bfgs(cell_too, data, "relax.log")
    optimiser.attach(keep)
    converged = optimiser.run(fmax=data["fmax"], steps=max(0, data["steps"] - len(before)))
    return {**state_of(atoms), "converged": bool(converged), "steps": len(before), "history": before}


def bands(data: dict[str, Any], *, soft: bool) -> dict[str, Any]:
    """Eigenvalues on a path and on a mesh, and the density of states, all with spin-orbit coupling.

    Spin-orbit coupling is added to the converged states (Olsen, Phys. Rev. B 94, 235106 (2016),
    doi:10.1103/PhysRevB.94.235106), as in C2DB.
    """
    from gpaw import GPAW
    from gpaw.dos import DOSCalculator
    from gpaw.spinorbit import soc_eigenstates

    file = data.get("density_file")
    if file and Path(file).exists():
        ground = GPAW(file, txt=None)
    else:
        atoms = atoms_of(data)
        ground_state(atoms, data, soft=soft)
        ground = atoms.calc
    occupied = ground.get_number_of_electrons() / 2
    last = int(np.ceil(1.2 * occupied)) + 4  # the bands above only help these to converge
    settings = {
        "nbands": last + SPARE_BANDS,
        "convergence": {"bands": last, "eigenstates": BANDS_RESIDUAL},
        "txt": "bands.txt",
    }
    line = ground.fixed_density(kpts=data["k_points"], symmetry="off", **settings)
    # only symmetry operations without a translation: the others are not carried through spin-orbit coupling
    mesh = ground.fixed_density(
        kpts={"density": data["mesh_density"], "gamma": True}, symmetry={"tolerance": 1e-5}, **settings
    )
    on_line, on_mesh = soc_eigenstates(line, n2=last), soc_eigenstates(mesh, n2=last)
    fermi = float(on_mesh.fermi_level)
    energies = np.linspace(*DOS_RANGE, DOS_POINTS)
    dos = DOSCalculator.from_calculator(mesh, soc=True).raw_dos(energies, width=DOS_WIDTH)
    return {
        "fermi_level": fermi,
        "path": on_line.eigenvalues(broadcast=True).tolist(),
        "mesh_k_points": mesh.get_bz_k_points().tolist(),
        "mesh": on_mesh.eigenvalues(broadcast=True).tolist(),
        "dos_energies": (energies + fermi).tolist(),
        "dos": np.asarray(dos).tolist(),
    }


def stiffness(data: dict[str, Any], *, soft: bool) -> dict[str, Any]:
    """Stresses of strained cells with relaxed atoms: (m, 2, 2), eV/angstrom^2. Each strain is kept as it ends."""
    history = Path(data["history"])
    kept = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    for strain in data["strains"][len(kept) :]:
        deformation = np.eye(3)
        deformation[:2, :2] += strain
        atoms = atoms_of(data)
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        ground_state(atoms, data, soft=soft)
        if not bfgs(atoms, data, "stiffness.log").run(fmax=data["fmax"], steps=data["steps"]):
            raise NotRelaxed(f"atoms of the strained cell {np.round(strain, 6).tolist()}")
        kept.append((atoms.get_stress(voigt=False)[:2, :2] * atoms.cell[2, 2]).tolist())
        with history.open("a") as file:
            file.write(json.dumps(kept[-1]) + "\n")
    return {"stresses": kept}


def describe() -> dict[str, Any]:
    """Elements that have a PBE setup, and whether linear algebra is compiled in and not numpy's."""
    import gpaw
    from gpaw import cgpaw

    files = [path for folder in gpaw.setup_paths for path in Path(folder).glob("*.PBE*")]
    elements = sorted({path.name.split(".")[0] for path in files if path.name.split(".")[1] == "PBE"})
    return {"elements": elements, "native": hasattr(cgpaw, "mmm")}


TASKS = {"static": static, "relax": relax, "bands": bands, "stiffness": stiffness}


def answer(data: dict[str, Any]) -> dict[str, Any]:
    """What the task gives, or why it could not be done; never raises."""
    started = time.perf_counter()
    try:
        import gpaw
    except Exception as error:
        return {"error": "missing", "message": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {"version": gpaw.__version__}
    try:
        if data["task"] == "describe":
            return found | describe()
        task = TASKS[data["task"]]
        try:
            found |= {**task(data, soft=False), "soft_mixing": False}
        except gpaw.KohnShamConvergenceError:
            if data.get("once"):
                raise
            found |= {**task(data, soft=True), "soft_mixing": True}
    except gpaw.KohnShamConvergenceError as error:
        found |= {"error": "scf", "message": str(error)}
    except NotRelaxed as error:
        found |= {"error": "relaxation", "message": str(error)}
    except FileNotFoundError as error:
        found |= {"error": "setup" if "setup" in str(error).lower() else "other", "message": str(error)}
    except Exception as error:
        found |= {"error": "other", "message": f"{type(error).__name__}: {error}"}
    return found | {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()}


def end_with_parent(parent: int) -> None:
    """Do not go on computing for a process that was killed."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    source, target = map(Path, sys.argv[1:])
    given = json.loads(source.read_text())
    text = json.dumps(answer(given))
    target.with_suffix(".part").write_text(text)
    target.with_suffix(".part").replace(target)
