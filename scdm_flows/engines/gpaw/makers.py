"""atomate2's ASE makers whose calculator runs in another process: the same jobs and documents, GPAW never imported."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ase import Atoms
from atomate2.ase.jobs import AseMaker
from atomate2.ase.schemas import AseResult, AseStructureTaskDoc, AseTaskDoc, IonicStep
from jobflow import job
from pydantic import Field
from pymatgen.core import Lattice, Structure

from scdm_flows.analysis.magnetism import orders_of
from scdm_flows.analysis.stiffness import stiffness_tensor, strains
from scdm_flows.analysis.symmetrise import symmetrised
from scdm_flows.analysis.vacuum import vacuum_levels
from scdm_flows.config import GpawEngineConfig, executed
from scdm_flows.documents.static import VacuumLevels
from scdm_flows.engines.attempts import attempts
from scdm_flows.engines.forcefield.curvature import first_guess
from scdm_flows.engines.gpaw import process
from scdm_flows.engines.gpaw.inputs import fmax_of, forces_task, order_task, relax_task, static_task, stiffness_task
from scdm_flows.engines.gpaw.layers import structure_of
from scdm_flows.errors import EngineError, ProgramKilled, ScdmError, Unfinished

log = logging.getLogger(__name__)
HISTORY_DIGITS = 16  # of the hash that names a history after its input


class GpawTaskDoc(AseStructureTaskDoc):
    """atomate2's document of an ASE run, with what else GPAW says."""

    engine_version: str = Field(description="version of GPAW")
    extra_energies: list[float] = Field(
        default_factory=list, description="energies on fewer k-points that the cut-off is corrected by, eV per cell"
    )
    orders: list[GpawTaskDoc] = Field(
        default_factory=list, description="runs of other magnetic orders, each in the order's cell"
    )
    failed_orders: list[str] = Field(default_factory=list, description="why runs of other orders gave nothing")
    band_gap_ev: float | None = Field(None, description="gap on the k-points of the run, without spin-orbit, eV")
    gap_direct: bool | None = Field(None, description="whether it is direct; null for a metal")
    total_magnetization: float | None = Field(None, description="Bohr magnetons per cell; null without spin")
    vacuum: VacuumLevels | None = Field(None, description="vacuum levels, and the states of the run beside them")
    vacuum_note: str | None = Field(None, description="why there are none, where the potential was asked for")
    k_points: int | None = Field(None, description="irreducible k-points")
    soft_mixing: bool = Field(False, description="the first try did not converge, the second with softer mixing did")
    cpu_seconds: float = Field(description="of the process")


def history_of(task: Mapping[str, Any], folder: Path) -> str:
    """The name of the file that keeps a task's progress, in ``folder``, begun by an earlier attempt if there was one.

    The name follows from the input, so a task finds what was killed before.
    """
    digest = hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:HISTORY_DIGITS]
    name = f"history-{digest}.jsonl"
    earlier = [path for before in attempts().folders if (path := before / name).is_file()]
    if earlier and not (folder / name).exists():
        longest = max(earlier, key=lambda path: path.stat().st_size)
        attempts().went_on_from(longest.parent)
        shutil.copyfile(longest, folder / name)
        lines = (folder / name).read_text().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # killed while it wrote
            (folder / name).write_text("".join(lines[:-1]))
    return name


def hessian_of(task: Mapping[str, Any], history: Path | None = None) -> list[list[float]] | None:
    """Second derivatives of a task's layer by the default force field, which halve the steps of its relaxation.

    None where the force field has none; the relaxation then begins with ASE's own guess. history: of an earlier
    attempt, whose last geometry is the layer's.
    """
    kept = history.read_text().splitlines() if history is not None and history.exists() else []
    last = json.loads(kept[-1]) if kept else task
    layer = Atoms(task["numbers"], last["positions"], cell=last["cell"], pbc=task["periodic"])
    try:
        found = first_guess(layer)
    except ScdmError as error:
        log.warning("the relaxation begins without second derivatives: %s", error)
        return None
    return None if found is None else found.tolist()


@dataclass
class GpawMaker(AseMaker):
    """A single point of a layer by GPAW in a process of its own. engine: the campaign's."""

    name: str = "static"
    engine: GpawEngineConfig = field(default_factory=GpawEngineConfig)

    def _get_calculator(self) -> Any:
        return SimpleNamespace(name="GPAW")  # what documents call it

    def input_of(self, structure: Structure) -> dict[str, Any]:
        """What the runner is asked."""
        return static_task(self.engine, structure)

    def run_gpaw(self, task: dict[str, Any], structure: Structure, folder: Path) -> GpawTaskDoc:
        """Run a task of a structure in a folder."""
        answer = process.run(task, folder, walltime=executed(self.engine).walltime_s)
        return task_document(answer, structure, fmax_of(self.engine), folder)

    @job(data=["trajectory"])
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> GpawTaskDoc:
        """Run GPAW in the working folder. prev_dir: not used."""
        task, folder = self.input_of(structure), Path.cwd()
        if task["task"] == "relax":
            task["history"] = history_of(task, folder)
            task["hessian"] = hessian_of(task, folder / task["history"])
        return self.run_gpaw(task, structure, folder)


@dataclass
class GpawStaticMaker(GpawMaker):
    """The single point of a relaxed layer, and of its other magnetic orders in folders ``order-1`` and so on."""

    @job(data=["trajectory"])
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> GpawTaskDoc:
        """Run GPAW in the working folder. prev_dir: not used."""
        folder, magnetism = Path.cwd(), self.engine.magnetism
        document = self.run_gpaw(self.input_of(structure), structure, folder)
        if document.structure is None or "afm" not in magnetism.orderings:
            return document
        for number, order in enumerate(orders_of(document.structure, magnetism.max_orderings), 1):
            place = folder / f"order-{number}"
            place.mkdir(exist_ok=True)
            try:
                document.orders.append(self.run_gpaw(order_task(self.engine, order, structure), order, place))
            except (ProgramKilled, Unfinished):
                raise  # to be tried again
            except EngineError as error:
                document.failed_orders.append(str(error))
        return document


@dataclass
class GpawRelaxMaker(GpawMaker):
    """Relaxation of atoms and the in-plane cell, c held; goes on where an earlier try was killed."""

    name: str = "relax"

    def input_of(self, structure: Structure) -> dict[str, Any]:
        """What the runner is asked."""
        return relax_task(self.engine, structure)


@dataclass
class GpawForcesMaker(GpawMaker):
    """Forces of a displaced supercell. dipole: whether the layer itself has a dipole correction."""

    name: str = "forces"
    dipole: bool = False

    def input_of(self, structure: Structure) -> dict[str, Any]:
        """What the runner is asked."""
        return forces_task(self.engine, structure, dipole=self.dipole)


@dataclass
class GpawStiffnessMaker(AseMaker):
    """The in-plane stiffness tensor of a relaxed layer; goes on with the strains that an earlier try lacked."""

    name: str = "stiffness"
    engine: GpawEngineConfig = field(default_factory=GpawEngineConfig)

    @job
    def make(self, structure: Structure) -> list[list[float]]:
        """(3, 3) N/m, in Voigt order xx, yy, xy."""
        task, folder, layer = stiffness_task(self.engine, structure), Path.cwd(), symmetrised(structure)
        task |= {"history": history_of(task, folder), "hessian": hessian_of(task)}  # it keeps no geometries
        answer = process.run(task, folder, walltime=executed(self.engine).walltime_s)
        stresses = EV_PER_SQUARE_ANGSTROM * np.array(answer["stresses"])
        tensor = stiffness_tensor(layer, strains(layer, self.engine.strain), list(stresses))
        rounded: list[list[float]] = tensor.round(4).tolist()
        return rounded


EV_PER_SQUARE_ANGSTROM = 16.02176634  # in N/m


def task_document(answer: Mapping[str, Any], before: Structure, fmax: float, folder: Path) -> GpawTaskDoc:
    """atomate2's document of what the runner answered in a folder. before: the structure given; fmax: eV/angstrom."""
    after = structure_of(answer, before)
    relaxed = "converged" in answer
    history = answer.get("history") or [answer]
    result = AseResult(
        final_mol_or_struct=after,
        final_energy=answer["energy"],
        converged=answer.get("converged", True),
        is_force_converged=bool(np.linalg.norm(answer["forces"], axis=1).max() < fmax) if relaxed else None,
        energy_downhill=history[-1]["energy"] <= history[0]["energy"] if relaxed else None,
        dir_name=str(folder),
        elapsed_time=answer["seconds"],
    )
    document = AseTaskDoc.to_mol_or_struct_metadata_doc("GPAW", result, relax_cell=relaxed)
    document.output.forces = [(x, y, z) for x, y, z in answer["forces"]]
    document.output.n_steps = answer.get("steps", 1)
    document.output.ionic_steps = [
        IonicStep(energy=step["energy"], forces=step["forces"], magmoms=step["moments"]) for step in history
    ]
    vacuum = _vacuum(answer, before)
    return GpawTaskDoc(
        **{name: getattr(document, name) for name in type(document).model_fields},
        engine_version=answer["version"],
        extra_energies=answer.get("extra") or [],
        band_gap_ev=answer.get("gap"),
        gap_direct=answer.get("direct"),
        total_magnetization=answer.get("total_moment"),
        vacuum=None if isinstance(vacuum, str) else vacuum,
        vacuum_note=vacuum if isinstance(vacuum, str) else None,
        k_points=answer.get("k_points"),
        soft_mixing=answer["soft_mixing"],
        cpu_seconds=answer["cpu_seconds"],
    )


def _vacuum(answer: Mapping[str, Any], before: Structure) -> VacuumLevels | str | None:
    """Of the potential in the runner's cell, whose vacuum is its own; None where it was not asked for."""
    potential = answer.get("potential")
    if potential is None:
        return None
    layer = Structure(Lattice(answer["cell"]), before.species, answer["positions"], coords_are_cartesian=True)
    top, bottom = potential["edges"] or (None, None)
    return vacuum_levels(layer, potential["average"], potential["fermi_level"], top, bottom)
