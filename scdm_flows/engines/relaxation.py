"""Relaxes many layers with one force field in memory: ASE's optimiser for each, energies for all of them in batches.

Optimiser, cell filter and criterion of convergence are ASE's; only the evaluation is shared. Measured on 24 generated
layers, the Frechet cell filter that atomate2's maker takes spends half of the time in matrix logarithms, and BFGS needs
fewer steps than its FIRE; close to a minimum both filters have the same forces. Everything here is a surrogate for DFT.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.evaluation import Relaxed
from scdm_flows.engines.forcefield import IN_PLANE, chgnet
from scdm_models.processes import pool

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

PART = 50  # structures handed to a process at a time
Array = NDArray[np.float64]
BATCH_ATOMS = 256  # atoms evaluated together: enough to hide the overhead of a call, little enough for the cache


class _Run:
    """One relaxation under way."""

    def __init__(self, structure: Structure, fmax: float) -> None:
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.filters import UnitCellFilter
        from ase.optimize import BFGS
        from pymatgen.io.ase import AseAtomsAdaptor

        self.structure = structure
        self.atoms: Atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        self.calculator = SinglePointCalculator(self.atoms)
        self.atoms.calc = self.calculator
        cell: Any = UnitCellFilter(self.atoms, mask=IN_PLANE)
        self.optimizer = cast(Any, BFGS(cell, logfile=None, maxstep=0.15))
        self.optimizer.fmax = fmax  # what `run` would set
        self.steps = 0

    def set(self, energy: float, forces: Array, stress: Array) -> None:
        """Hands over energy (eV), forces (eV/angstrom) and stress ((3, 3), eV/angstrom^3) of the present positions."""
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        self.calculator.atoms = self.atoms.copy()
        self.calculator.results = {"energy": energy, "forces": forces, "stress": voigt}

    def converged(self) -> bool:
        """By ASE's criterion."""
        return bool(self.optimizer.converged())

    def step(self) -> None:
        """One step of the optimiser."""
        self.optimizer.step()
        self.steps += 1

    def result(self, converged: bool) -> Relaxed:
        """What it is now."""
        from pymatgen.core import Lattice, Structure

        matrix = np.array(self.atoms.cell[:])
        matrix[2] = self.structure.lattice.matrix[2]  # held by the mask up to rounding
        relaxed = Structure(Lattice(matrix), self.structure.species, self.atoms.get_scaled_positions(wrap=False))
        forces = np.linalg.norm(self.calculator.results["forces"], axis=1)
        energy = float(self.calculator.results["energy"]) / len(relaxed)
        return Relaxed(relaxed, energy, converged, self.steps, float(forces.max()))


def relax_together(
    structures: Sequence[Structure],
    *,
    fmax: float,
    max_steps: int,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Relaxed]:
    """All structures relaxed in the plane with CHGNet, c fixed; in their order.

    A structure that cannot be relaxed gets the reason and stops none of the others.

    Parameters
    ----------
    structures
        Layers.
    fmax
        Forces on atoms and cell below which a relaxation ends, eV/angstrom (ASE's criterion).
    max_steps
        Steps after which a relaxation counts as not converged.
    processes
        Processes, started by ``spawn``, each with the force field in memory and one thread.
    progress
        Called with the number of finished ones.
    """
    if processes > 1:
        return _side_by_side(structures, fmax, max_steps, processes, progress)
    found: list[Relaxed | None] = [None] * len(structures)
    waiting = list(range(len(structures)))[::-1]
    active: dict[int, _Run] = {}
    done = 0

    def finish(index: int, result: Relaxed) -> None:
        nonlocal done
        found[index] = result
        active.pop(index, None)
        done += 1
        if progress is not None:
            progress(done)

    while waiting or active:
        while waiting and sum(len(run.atoms) for run in active.values()) < BATCH_ATOMS:
            index = waiting.pop()
            active[index] = _Run(structures[index], fmax)
        for index, answer in _evaluate(active).items():
            run = active[index]
            if isinstance(answer, str):
                finish(index, Relaxed(None, None, False, run.steps, None, answer))
                continue
            try:
                run.set(*answer)
                converged = run.converged()
                if converged or run.steps >= max_steps:
                    finish(index, run.result(converged))
                else:
                    run.step()
            except Exception as error:  # one bad structure never stops the others
                finish(index, Relaxed(None, None, False, run.steps, None, f"{type(error).__name__}: {error}"))
    return [result for result in found if result is not None]


def _side_by_side(
    structures: Sequence[Structure],
    fmax: float,
    max_steps: int,
    processes: int,
    progress: Callable[[int], None] | None,
) -> list[Relaxed]:
    parts = [structures[i : i + PART] for i in range(0, len(structures), PART)]
    found: list[Relaxed] = []
    with pool(processes, one_thread) as workers:
        for part in workers.map(_part, parts, repeat(fmax), repeat(max_steps)):
            found += part
            if progress is not None:
                progress(len(found))
    return found


def one_thread() -> None:
    """How a worker process begins."""
    import torch

    torch.set_num_threads(1)


def _part(structures: Sequence[Structure], fmax: float, max_steps: int) -> list[Relaxed]:
    return relax_together(structures, fmax=fmax, max_steps=max_steps)


def _evaluate(active: dict[int, _Run]) -> dict[int, str | tuple[float, Array, Array]]:
    """Energy, forces and stress of each run's present positions, or why there are none."""
    from pymatgen.core import Lattice, Structure

    converter = chgnet().graph_converter
    answers: dict[int, str | tuple[float, Array, Array]] = {}
    graphs, order = [], []
    for index, run in active.items():
        positions, cell = run.atoms.get_scaled_positions(wrap=False), np.array(run.atoms.cell[:])
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            answers[index] = f"positions became infinite in step {run.steps}"
            continue
        try:
            graphs.append(converter(Structure(Lattice(cell), run.structure.species, positions)))
        except Exception as error:  # an isolated atom, or neighbours without end
            answers[index] = f"{type(error).__name__}: {error}"
        else:
            order.append(index)
    for index, found in zip(order, energies_forces_stresses(graphs) if graphs else [], strict=True):
        finite = all(np.isfinite(value).all() for value in found)
        answers[index] = found if finite else f"the force field gave no finite energy in step {active[index].steps}"
    return answers


def energies_forces_stresses(graphs: Sequence[Any]) -> list[tuple[float, Array, Array]]:
    """Energy (eV), forces ((n, 3), eV/angstrom) and stress ((3, 3), eV/angstrom^3) of each CHGNet graph.

    What ``CHGNet.predict_graph`` gives, for a third of its time: there forces and stresses are two backward passes that
    keep their own graph for training; here they are one that does not.
    """
    import torch
    from chgnet.model.model import BatchedGraph

    model = chgnet()
    with warnings.catch_warnings():  # its volumes are made of tensors with a gradient, which nobody asks for
        warnings.simplefilter("ignore", UserWarning)
        batch = BatchedGraph.from_graphs(
            graphs,
            bond_basis_expansion=model.bond_basis_expansion,
            angle_basis_expansion=model.angle_basis_expansion,
            compute_stress=True,
        )
    sizes = torch.bincount(batch.atom_owners)
    energy = model._compute(batch)["e"] * (sizes if model.is_intensive else 1)
    gradients = torch.autograd.grad(energy.sum(), [*batch.atom_positions, *batch.strains])
    per_atom = model.composition_model(graphs).detach() if model.composition_model is not None else 0 * sizes
    total = (energy.detach() + per_atom * sizes).double().numpy()
    volumes = torch.stack(list(batch.volumes)).detach().double().numpy()
    n = len(graphs)
    return [
        (float(total[i]), -gradients[i].double().numpy(), gradients[n + i].double().numpy() / volumes[i])
        for i in range(n)
    ]
