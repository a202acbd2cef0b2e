"""Relaxes many layers with one force field in memory: ASE's optimiser for each, energies for all of them in batches.

Optimiser, cell filter and criterion of convergence are ASE's; only the evaluation is shared. Measured on 24 generated
layers, the Frechet cell filter that atomate2's maker takes spends half of the time in matrix logarithms, and BFGS needs
fewer steps than its FIRE; close to a minimum both filters have the same forces. Everything here is a surrogate for DFT.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.relaxed import Relaxed
from scdm_flows.config import DEFAULT_FORCE_FIELD
from scdm_flows.engines.forcefield.potentials import Answer, ForceField, force_field
from scdm_flows.engines.forcefield.potentials.base import NOT_FINITE
from scdm_models.processes import pool

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

PART = 50  # structures handed to a process at a time
Array = NDArray[np.float64]
BATCH_ATOMS = 256  # atoms evaluated together: enough to hide the overhead of a call, little enough for the cache
# strain components of the cell that may relax: xx, yy, xy; c keeps its length and direction exactly
IN_PLANE = [1, 1, 0, 0, 0, 1]
SYMPREC_ANGSTROM = 0.01  # of the operations that ``fix_symmetry`` keeps: what atomate2's relaxer takes


def voigt(stress: Array) -> Array:
    """(6,) ASE's order xx, yy, zz, yz, xz, xy of a (3, 3) stress."""
    found: Array = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return found


@dataclass(frozen=True)
class RelaxSettings:
    """How layers are relaxed.

    fmax: forces on atoms and cell below which a relaxation ends, eV/angstrom (ASE's criterion); max_steps: steps after
    which it counts as not converged; fix_symmetry: keep the operations of the given structure; history: keep every
    step, as atomate2's documents need them; force_field, options: see ``forcefields.force_field``.
    """

    fmax: float
    max_steps: int
    fix_symmetry: bool = False
    history: bool = False
    force_field: str = DEFAULT_FORCE_FIELD
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Run:
    """One relaxation: under way, and ended.

    seconds: its share of the time that its batches took, by atoms; error: why it failed, None where it did not.
    """

    def __init__(self, structure: Structure, settings: RelaxSettings) -> None:
        from ase.constraints import FixSymmetry
        from ase.filters import UnitCellFilter
        from atomate2.ase.utils import TrajectoryObserver
        from pymatgen.io.ase import AseAtomsAdaptor

        from scdm_flows.engines.forcefield.bfgs import CholeskyBFGS, Given

        self.structure = structure
        self.atoms: Atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        if settings.fix_symmetry:
            self.atoms.set_constraint(FixSymmetry(self.atoms, symprec=SYMPREC_ANGSTROM))
        self.calculator = cast(Any, Given)(self.atoms)
        self.atoms.calc = self.calculator
        self.history = TrajectoryObserver(self.atoms) if settings.history else None
        cell: Any = UnitCellFilter(self.atoms, mask=IN_PLANE)
        self.optimizer = cast(Any, CholeskyBFGS(cell, logfile=None, maxstep=0.15))
        self.optimizer.fmax = settings.fmax  # what `run` would set
        self.max_steps = settings.max_steps
        self.steps = 0
        self.seconds = 0.0
        self.converged = False
        self.error: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        """Itself: jobflow copies a job's maker, and what has ended does not change."""
        return self

    @classmethod
    def failed(cls, structure: Structure, error: str) -> Run:
        """A run that could not even begin."""
        run = cls.__new__(cls)
        run.structure, run.error, run.steps, run.seconds, run.converged = structure, error, 0, 0.0, False
        return run

    def advance(self, energy: float, forces: Array, stress: Array) -> bool:
        """Take one step, and return whether the run has ended instead.

        energy (eV), forces (eV/angstrom) and stress ((3, 3), eV/angstrom^3) are those of the present positions.
        """
        self.calculator.results = {"energy": energy, "forces": forces, "stress": voigt(stress)}
        if self.history is not None:
            self.history()
        self.converged = bool(self.optimizer.converged())
        if self.converged or self.steps >= self.max_steps:
            return True
        self.optimizer.step()
        self.steps += 1
        return False

    def relaxed(self) -> Structure:
        """The structure as it is now, atoms in their order."""
        from pymatgen.core import Lattice, Structure

        matrix = np.array(self.atoms.cell[:])
        matrix[2] = self.structure.lattice.matrix[2]  # held by the mask up to rounding
        return Structure(Lattice(matrix), self.structure.species, self.atoms.get_scaled_positions(wrap=False))

    def result(self) -> Relaxed:
        """What came of it."""
        if self.error is not None:
            return Relaxed(None, None, False, self.steps, None, self.error)
        forces = np.linalg.norm(self.calculator.results["forces"], axis=1)
        energy = float(self.calculator.results["energy"]) / len(self.structure)
        return Relaxed(self.relaxed(), energy, self.converged, self.steps, float(forces.max()))


def relaxing(structures: Sequence[Structure], settings: RelaxSettings) -> Iterator[tuple[int, Run]]:
    """All structures relaxed in the plane, c fixed: each with its index, as soon as it has ended.

    As one ends the next one begins, so batches stay full to the last. A structure that cannot be relaxed has the reason
    in its run and stops none of the others.
    """
    model = force_field(settings.force_field, settings.options)
    waiting = list(range(len(structures)))[::-1]
    active: dict[int, Run] = {}
    while waiting or active:
        while waiting and sum(len(run.atoms) for run in active.values()) < BATCH_ATOMS:
            index = waiting.pop()
            try:
                active[index] = Run(structures[index], settings)
            except Exception as error:  # no symmetry to keep, an element that no program knows
                yield index, Run.failed(structures[index], f"{type(error).__name__}: {error}")
        ended = []
        begun, atoms = time.perf_counter(), sum(len(run.atoms) for run in active.values())
        for index, answer in _evaluate(model, active).items():
            run = active[index]
            try:
                if isinstance(answer, str):
                    run.error = answer
                if run.error is not None or run.advance(*cast(Answer, answer)):
                    ended.append(index)
            except Exception as error:  # one bad structure never stops the others
                run.error = f"{type(error).__name__}: {error}"
                ended.append(index)
        seconds = time.perf_counter() - begun
        for run in active.values():
            run.seconds += seconds * len(run.atoms) / atoms
        for index in ended:
            yield index, active.pop(index)


def relax_together(
    structures: Sequence[Structure],
    settings: RelaxSettings,
    *,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Relaxed]:
    """All structures relaxed as by ``relaxing``; in their order.

    Parameters
    ----------
    structures
        Layers.
    settings
        How they are relaxed.
    processes
        Processes, started by ``spawn``, each with the force field in memory and one thread.
    progress
        Called with the number of finished ones.
    """
    if processes > 1:
        return _side_by_side(structures, settings, processes, progress)
    found: dict[int, Relaxed] = {}
    for index, run in relaxing(structures, settings):
        found[index] = run.result()
        if progress is not None:
            progress(len(found))
    return [found[index] for index in range(len(structures))]


def _side_by_side(
    structures: Sequence[Structure],
    settings: RelaxSettings,
    processes: int,
    progress: Callable[[int], None] | None,
) -> list[Relaxed]:
    parts = [structures[i : i + PART] for i in range(0, len(structures), PART)]
    found: list[Relaxed] = []
    with pool(processes, one_thread) as workers:
        for part in workers.map(relax_together, parts, repeat(settings)):
            found += part
            if progress is not None:
                progress(len(found))
    return found


def one_thread() -> None:
    """How a worker process begins."""
    import torch

    torch.set_num_threads(1)


def _evaluate(model: ForceField, active: dict[int, Run]) -> dict[int, Answer | str]:
    """Energy, forces and stress of each run's present positions, or why there are none."""
    from pymatgen.core import Lattice, Structure

    answers: dict[int, Answer | str] = {}
    structures: dict[int, Structure] = {}
    for index, run in active.items():
        positions, cell = run.atoms.get_scaled_positions(wrap=False), np.array(run.atoms.cell[:])
        if np.isfinite(positions).all() and np.isfinite(cell).all():
            structures[index] = Structure(Lattice(cell), run.structure.species, positions)
        else:
            answers[index] = f"positions became infinite in step {run.steps}"
    for index, answer in zip(structures, model.evaluate(list(structures.values())), strict=True):
        answers[index] = f"{NOT_FINITE} in step {active[index].steps}" if answer == NOT_FINITE else answer
    return answers
