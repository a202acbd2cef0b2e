"""Phonons of many layers with one force field in memory: displaced supercells of all of them in the same batches.

Displacements and force constants are phonopy's, sum rules and verdict are in ``analysis``; only the evaluation is
shared. Everything here is a surrogate for DFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.phonons import phonon_supercell
from scdm_flows.documents.phonon import PhononDoc
from scdm_flows.engines.base import PHONON_SYMPREC_ANGSTROM, phonon_document
from scdm_flows.engines.chgnet import chgnet, energies_forces_stresses
from scdm_flows.engines.forcefield import ForceFieldEngine
from scdm_flows.engines.relaxation import one_thread
from scdm_models.processes import pool

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from scdm_flows.config import ForceFieldEngineConfig

Array = NDArray[np.float64]
BATCH_ATOMS = 300  # atoms evaluated together: enough to hide the overhead of a call, little enough for the cache
PART = 5  # layers handed to a process at a time


@dataclass(frozen=True)
class Vibrations:
    """phonon: ``phonopy.Phonopy`` with force constants; virial: (3, 3) stress times the cell's volume, eV."""

    phonon: Any
    virial: Array


def vibrations(
    structures: Sequence[Structure], *, displacement: float, min_length: float | None = None, repeats: int | None = None
) -> Iterator[Vibrations | str]:
    """Force constants of each structure by CHGNet, or why there are none; in their order.

    Parameters
    ----------
    structures
        Relaxed layers.
    displacement
        How far an atom is moved, angstrom.
    min_length, repeats
        The supercell: at least this long in the plane (angstrom), or so many cells along a and b.
    """
    waiting: list[tuple[Any, list[Any]] | str] = []
    atoms = 0
    for structure in structures:
        made = _displaced(structure, displacement, min_length, repeats)
        waiting.append(made)
        atoms += 0 if isinstance(made, str) else sum(graph.atom_frac_coord.shape[0] for graph in made[1])
        if atoms >= BATCH_ATOMS:
            yield from _evaluated(waiting)
            waiting, atoms = [], 0
    yield from _evaluated(waiting)


def _displaced(
    structure: Structure, displacement: float, min_length: float | None, repeats: int | None
) -> tuple[Any, list[Any]] | str:
    """A ``phonopy.Phonopy`` and the CHGNet graphs of its supercell and displaced supercells, or what is wrong."""
    from phonopy import Phonopy
    from pymatgen.io.phonopy import get_phonopy_structure, get_pmg_structure

    if repeats is not None:
        supercell = [[repeats, 0, 0], [0, repeats, 0], [0, 0, 1]]
    else:
        supercell = phonon_supercell(structure, min_length or 0.0)
    try:
        phonon = Phonopy(
            get_phonopy_structure(structure), supercell, primitive_matrix=np.eye(3), symprec=PHONON_SYMPREC_ANGSTROM
        )
        phonon.generate_displacements(distance=displacement)
        cells = [phonon.supercell, *(phonon.supercells_with_displacements or [])]
        convert = chgnet().graph_converter
        return phonon, [convert(get_pmg_structure(cell)) for cell in cells]
    except Exception as error:  # an isolated atom, a symmetry search that fails
        return f"{type(error).__name__}: {error}"


def _evaluated(waiting: Sequence[tuple[Any, list[Any]] | str]) -> Iterator[Vibrations | str]:
    """Force constants of what waits, the forces computed in batches across structures."""
    graphs = [graph for made in waiting if not isinstance(made, str) for graph in made[1]]
    answers: list[tuple[float, Array, Array]] = []
    batch: list[Any] = []
    for graph in graphs:
        batch.append(graph)
        if sum(g.atom_frac_coord.shape[0] for g in batch) >= BATCH_ATOMS:
            answers += energies_forces_stresses(batch)
            batch = []
    if batch:
        answers += energies_forces_stresses(batch)
    start = 0
    for made in waiting:
        if isinstance(made, str):
            yield made
            continue
        phonon, own = made
        rest, *displaced = answers[start : start + len(own)]
        start += len(own)
        try:
            # the residual force of the undisplaced supercell is no restoring force
            phonon.forces = [forces - rest[1] for _, forces, _ in displaced]
            phonon.produce_force_constants()
            phonon.symmetrize_force_constants(level=2)
        except Exception as error:  # forces that are not numbers
            yield f"{type(error).__name__}: {error}"
            continue
        yield Vibrations(phonon, rest[2] * phonon.primitive.volume)


def phonons_together(
    layers: Sequence[tuple[str, Structure]],
    config: ForceFieldEngineConfig,
    campaign: str,
    *,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[PhononDoc | str]:
    """Phonons of every layer, or why there are none; in their order.

    Parameters
    ----------
    layers
        (candidate_id, relaxed structure).
    config
        Displacement and supercell.
    campaign
        Goes into the documents.
    processes
        Processes, started by ``spawn``, each with the force field in memory and one thread.
    progress
        Called with the number of finished ones.
    """
    found: list[PhononDoc | str] = []
    if processes > 1:
        parts = [layers[i : i + PART] for i in range(0, len(layers), PART)]
        with pool(processes, one_thread) as workers:
            for part in workers.map(phonons_together, parts, repeat(config), repeat(campaign)):
                found += part
                if progress is not None:
                    progress(len(found))
        return found
    displacement, length = config.phonon_displacement_angstrom, config.phonon_min_length_angstrom
    made = vibrations([structure for _, structure in layers], displacement=displacement, min_length=length)
    for (candidate_id, structure), vibration in zip(layers, made, strict=True):
        if isinstance(vibration, str):
            found.append(vibration)
        else:
            found.append(
                phonon_document(
                    vibration.phonon,
                    structure,
                    candidate_id=candidate_id,
                    campaign=campaign,
                    scheme=ForceFieldEngine.scheme,
                    surrogate=ForceFieldEngine.surrogate,
                    displacement=displacement,
                    n_displacements=len(vibration.phonon.supercells_with_displacements),
                    virial=vibration.virial,
                )
            )
        if progress is not None:
            progress(len(found))
    return found
