"""Phonons of many layers with one force field in memory: displaced supercells of all of them in the same batches.

Displacements and force constants are phonopy's, sum rules and verdict are in ``analysis``; only the evaluation is
shared. Everything here is a surrogate for DFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.phonons import phonon_supercell, restoring_forces
from scdm_flows.config import DEFAULT_FORCE_FIELD
from scdm_flows.documents.phonon import PhononDoc
from scdm_flows.engines.base import layer_phonopy, phonon_document
from scdm_flows.engines.forcefield import potentials as forcefields
from scdm_flows.engines.forcefield.potentials import Answer, ForceField
from scdm_flows.engines.forcefield.relaxation import one_thread
from scdm_models.processes import pool

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from scdm_flows.config import ForceFieldEngineConfig

Array = NDArray[np.float64]
BATCH_ATOMS = 300  # atoms handed to the force field together, at least: it makes full batches of them
PART = 5  # layers handed to a process at a time


@dataclass(frozen=True)
class Vibrations:
    """phonon: ``phonopy.Phonopy`` with force constants; virial: (3, 3) stress times the cell's volume, eV.

    at_rest: (n_atoms, 3) forces of the undisplaced supercell, which were taken off, eV/angstrom.
    """

    phonon: Any
    virial: Array
    at_rest: Array


def vibrations(
    structures: Sequence[Structure],
    force_field: str = DEFAULT_FORCE_FIELD,
    *,
    displacement: float,
    min_length: float | None = None,
    repeats: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Vibrations | str]:
    """Force constants of each structure, or why there are none; in their order.

    Parameters
    ----------
    structures
        Relaxed layers.
    force_field, options
        See ``forcefields.force_field``.
    displacement
        How far an atom is moved, angstrom.
    min_length, repeats
        The supercell: at least this long in the plane (angstrom), or so many cells along a and b.
    """
    model = forcefields.force_field(force_field, options)
    waiting: list[tuple[Any, list[Structure]] | str] = []
    atoms = 0
    for structure in structures:
        made = _displaced(structure, displacement, min_length, repeats)
        waiting.append(made)
        atoms += 0 if isinstance(made, str) else sum(len(cell) for cell in made[1])
        if atoms >= BATCH_ATOMS:
            yield from _evaluated(model, waiting)
            waiting, atoms = [], 0
    yield from _evaluated(model, waiting)


def _displaced(
    structure: Structure, displacement: float, min_length: float | None, repeats: int | None
) -> tuple[Any, list[Structure]] | str:
    """A ``phonopy.Phonopy``, its supercell and displaced supercells, or what is wrong."""
    from pymatgen.io.phonopy import get_pmg_structure

    if repeats is not None:
        supercell = [[repeats, 0, 0], [0, repeats, 0], [0, 0, 1]]
    else:
        supercell = phonon_supercell(structure, min_length or 0.0)
    try:
        phonon = layer_phonopy(structure, supercell)
        phonon.generate_displacements(distance=displacement)
        cells = [phonon.supercell, *(phonon.supercells_with_displacements or [])]
        return phonon, [get_pmg_structure(cell) for cell in cells]
    except Exception as error:  # a symmetry search that fails
        return f"{type(error).__name__}: {error}"


def _evaluated(model: ForceField, waiting: Sequence[tuple[Any, list[Structure]] | str]) -> Iterator[Vibrations | str]:
    """Force constants of what waits, the forces computed in batches across structures."""
    answers = model.evaluate([cell for made in waiting if not isinstance(made, str) for cell in made[1]])
    start = 0
    for made in waiting:
        if isinstance(made, str):
            yield made
            continue
        phonon, own = made
        found = answers[start : start + len(own)]
        start += len(own)
        failed = next((answer for answer in found if isinstance(answer, str)), None)
        if failed is not None:
            yield failed
            continue
        rest, *displaced = cast(list[Answer], found)
        try:
            phonon.forces = restoring_forces([forces for _, forces, _ in displaced], rest[1])
            phonon.produce_force_constants()
            phonon.symmetrize_force_constants(level=2)
        except Exception as error:  # forces that are not numbers
            yield f"{type(error).__name__}: {error}"
            continue
        yield Vibrations(phonon, rest[2] * phonon.primitive.volume, rest[1])


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
        Force field, displacement and supercell.
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
    name, options = config.force_field, config.force_field_options
    structures = [structure for _, structure in layers]
    made = vibrations(structures, name, displacement=displacement, min_length=length, options=options)
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
                    scheme=forcefields.scheme_of(name, options),  # forces are its own, whatever energies are made of
                    surrogate=True,
                    displacement=displacement,
                    n_displacements=len(vibration.phonon.supercells_with_displacements),
                    virial=vibration.virial,
                    at_rest=vibration.at_rest,
                )
            )
        if progress is not None:
            progress(len(found))
    return found
