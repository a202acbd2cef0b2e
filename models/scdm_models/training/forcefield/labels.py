"""Structures that the layer force field learns from, and their labels: energy, forces and stress of a teacher.

Three kinds of layers, which differ in the forces that are learned:

- ``minimum``: C2DB's layers as PBE relaxed them;
- ``displaced``: the same, atoms moved and cell strained; what is learned is the *difference* of the teacher's forces
  from those at the minimum, so that C2DB's geometry is where they vanish and the teacher says how fast they grow;
- ``free``: 2DMatPedia's layers and generated samples, moved, strained or partly relaxed; the teacher's own forces.

Atoms are moved along the phonon modes of the network as shipped (``phonopy``'s random displacements at a temperature),
in a small supercell: so soft modes, which decide on stability, move most; in the other structures they are moved at
random. Chemical systems of which nothing may be learned are left out here (``held_out``).
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_models.errors import DatasetError
from scdm_models.processes import pool

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]
HELD_OUT_PERCENT = 15
LARGEST_CELL = 18  # atoms of a labelled structure
SUPERCELLS = ([1, 0, 0, 1], [2, 0, 0, 1], [1, 0, 0, 2], [2, 0, 0, 2], [1, 1, -1, 1], [2, 1, -1, 1])
TEMPERATURES_K = (100.0, 900.0)
LARGEST_MOVE_ANGSTROM = 0.35
RATTLE_ANGSTROM = (0.01, 0.12)
STRAIN = 0.015
MODES_ATOMS = 160  # in all displaced supercells: what has less symmetry is moved at random, which takes no forces
PART = 8  # structures handed to a process at a time


def system_of(species: Sequence[str]) -> str:
    """Chemical system such as ``Mo-S``."""
    return "-".join(sorted(set(species)))


def held_out(system: str) -> bool:
    """Whether nothing is learned of a chemical system: 15 % of them, by the hash of the name."""
    return int(hashlib.sha256(system.encode()).hexdigest()[:8], 16) % 100 < HELD_OUT_PERCENT


@dataclass(frozen=True)
class Task:
    """A structure to make and label: its name, kind, the layer it is made from, how often it is made anew."""

    name: str
    kind: str
    structure: dict[str, Any]
    base: str | None
    seed: int


def plan(folder: Path, samples: Sequence[Path], seed: int = 0, *, moved: int = 2) -> list[Task]:
    """What to label, in random order.

    Parameters
    ----------
    folder
        Holds ``c2db.jsonl.gz`` and ``2dmatpedia.jsonl.gz``.
    samples
        JSON lines of generated layers (``scdm generate``).
    seed
        Of order and displacements.
    moved
        Displaced structures for each layer of C2DB.
    """
    tasks: list[Task] = []

    def add(name: str, kind: str, row: dict[str, Any], base: str | None = None) -> None:
        tasks.append(Task(name, kind, row, base, seed + len(tasks)))

    for row in _lines(folder / "c2db.jsonl.gz"):
        if held_out(system_of(row["species"])):
            continue
        add(row["id"], "minimum", row)
        if len(row["species"]) <= LARGEST_CELL:
            for k in range(moved):
                add(f"{row['id']}#{k}", "displaced", row, row["id"])
    for row in _lines(folder / "2dmatpedia.jsonl.gz"):
        if len(row["species"]) <= LARGEST_CELL and not held_out(system_of(row["species"])):
            add(row["id"], "free", row)
    for path in samples:
        for number, row in enumerate(_lines(path)):
            structure = Structure.from_dict(row["structure"])
            species = [str(site.specie) for site in structure]
            if len(species) > LARGEST_CELL + 6 or held_out(system_of(species)):
                continue
            plain = {
                "species": species,
                "lattice": structure.lattice.matrix.tolist(),
                "frac_coords": structure.frac_coords.tolist(),
            }
            add(f"{path.stem}-{number}", "sample", plain)
    order = np.random.default_rng(seed).permutation(len(tasks))
    return [tasks[i] for i in order]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; give the folder of the compact JSON lines and the samples' files")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
        for line in handle:
            yield json.loads(line)


def make(task: Task) -> Structure:
    """The structure of a task: moved, strained or partly relaxed as its kind says."""
    row = task.structure
    layer = Structure(Lattice(row["lattice"]), row["species"], row["frac_coords"])
    rng = np.random.default_rng(task.seed)
    if task.kind == "minimum":
        return layer
    if task.kind == "sample":
        return _half_relaxed(layer, rng)
    cell = _supercell(layer, rng)
    moves = _by_modes(layer, cell, rng) if task.kind == "displaced" and rng.random() < 2 / 3 else None
    large = layer.make_supercell(cell, to_unit_cell=False, in_place=False)
    if moves is None:
        sigma = np.exp(rng.uniform(*np.log(RATTLE_ANGSTROM)))
        moves = rng.normal(0, sigma, (len(large), 3))
    cart, matrix = large.cart_coords + moves, np.array(large.lattice.matrix)
    if rng.random() < 0.5:
        strain = np.eye(3)
        strain[:2, :2] += _symmetric(rng.normal(0, STRAIN, (2, 2)))
        cart, matrix = cart @ strain, matrix @ strain
    return Structure(Lattice(matrix), large.species, cart, coords_are_cartesian=True, to_unit_cell=False)


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _supercell(layer: Structure, rng: np.random.Generator) -> list[list[int]]:
    fitting = [m for m in SUPERCELLS if abs(m[0] * m[3] - m[1] * m[2]) * len(layer) <= LARGEST_CELL]
    weights = np.array([0.5 if m == SUPERCELLS[0] else 1.0 for m in fitting])
    a, b, c, d = fitting[rng.choice(len(fitting), p=weights / weights.sum())]
    return [[a, b, 0], [c, d, 0], [0, 0, 1]]


def _by_modes(layer: Structure, cell: list[list[int]], rng: np.random.Generator) -> Array | None:
    """Displacements (n, 3) in angstrom at a random temperature, sites as ``make_supercell`` orders them."""
    from phonopy import Phonopy
    from pymatgen.io.phonopy import get_phonopy_structure, get_pmg_structure

    from scdm_models.training.forcefield.network import load, predict

    model = load()
    try:
        phonon = Phonopy(get_phonopy_structure(layer), np.array(cell).T, primitive_matrix=np.eye(3), symprec=1e-3)
        phonon.generate_displacements(distance=0.05)
        cells = [phonon.supercell, *(phonon.supercells_with_displacements or [])]
        if len(cells) * len(phonon.supercell) > MODES_ATOMS:
            return None
        found = predict(model, [model.graph_converter(get_pmg_structure(c)) for c in cells])
        phonon.forces = [forces - found[0][1] for _, forces, _ in found[1:]]
        phonon.produce_force_constants()
        phonon.symmetrize_force_constants(level=1)
        phonon.init_random_displacements(cutoff_frequency=0.3, max_distance=LARGEST_MOVE_ANGSTROM)
        generator: Any = phonon.random_displacements
        generator.treat_imaginary_modes()
        moves = phonon.get_random_displacements_at_temperature(
            float(rng.uniform(*TEMPERATURES_K)), 1, random_seed=int(rng.integers(2**31))
        )[0]
        moved = get_pmg_structure(phonon.supercell)
    except Exception as error:  # no neighbours, no symmetry: such a layer is moved at random
        logger.debug("no modes of %s: %s", layer.formula, error)
        return None
    large = layer.make_supercell(cell, to_unit_cell=False, in_place=False)
    order = _matched(large, moved)
    if order is None:
        return None
    own: Array = np.asarray(moves, dtype=float)[order]
    centred: Array = own - own.mean(axis=0)
    return centred


def _matched(large: Structure, other: Structure) -> NDArray[np.int64] | None:
    """For each site of ``large`` the same site of ``other``; None where there is none."""
    delta = large.lattice.get_fractional_coords(other.cart_coords)[None] - large.frac_coords[:, None]
    delta -= np.round(delta)
    distance = np.linalg.norm(delta @ large.lattice.matrix, axis=-1)
    order = distance.argmin(axis=1)
    good = distance.min() < 0.01 and distance[np.arange(len(order)), order].max() < 0.01
    return order if good and len(set(order.tolist())) == len(order) else None


def _half_relaxed(layer: Structure, rng: np.random.Generator) -> Structure:
    """A generated layer after some steps of relaxation by the network as shipped."""
    from ase.filters import UnitCellFilter
    from ase.optimize import BFGS
    from chgnet.model.dynamics import CHGNetCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    from scdm_models.training.forcefield.network import load

    atoms = AseAtomsAdaptor.get_atoms(layer, msonable=False)
    atoms.calc = CHGNetCalculator(load(), use_device="cpu", on_isolated_atoms="error")
    steps = int(rng.choice([0, 1, 3, 6, 12, 25, 50]))
    cell: Any = UnitCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1])
    BFGS(cell, logfile=None, maxstep=0.15).run(fmax=0.02, steps=steps)
    made: Structure = AseAtomsAdaptor.get_structure(atoms)
    made.remove_site_property("magmom") if "magmom" in made.site_properties else None
    made.perturb(0.02)
    return made


def label(
    tasks: Sequence[Task],
    teacher: str,
    options: dict[str, Any],
    out: Path,
    processes: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make and label what ``out`` does not hold yet; how many it holds in the end.

    Parameters
    ----------
    tasks
        Of ``plan``.
    teacher
        Import path of an ASE calculator, such as ``package.module:Calculator``.
    options
        Its arguments.
    out
        JSON lines, appended to; a killed run goes on by the same call.
    processes
        Worker processes, one thread each.
    progress
        Called with (done, total).
    """
    done = set()
    if out.exists():
        for line in out.read_text().splitlines():
            try:
                done.add(json.loads(line)["name"])
            except ValueError:  # the last line of a run that was killed
                continue
    todo = [t for t in tasks if t.name not in done]
    parts = [todo[i : i + PART] for i in range(0, len(todo), PART)]
    with out.open("a") as handle, pool(processes, _start, teacher, options) as workers:
        handle.write("\n" if done else "")
        for rows in workers.map(_label, parts):
            for row in rows:
                done.add(row["name"])
                handle.write(json.dumps(row) + "\n")
            handle.flush()
            if progress is not None:
                progress(len(done), len(tasks))
    return len(done)


_calculator: Any = None


def _start(teacher: str, options: dict[str, Any]) -> None:
    global _calculator
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    module, _, name = teacher.partition(":")
    _calculator = getattr(importlib.import_module(module), name)(**options)


def _label(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    from pymatgen.io.ase import AseAtomsAdaptor

    rows = []
    for task in tasks:
        row: dict[str, Any] = {"name": task.name, "kind": task.kind, "base": task.base}
        try:
            made = make(task)
            atoms = AseAtomsAdaptor.get_atoms(made, msonable=False)
            atoms.calc = _calculator
            row |= {
                "species": [str(site.specie) for site in made],
                "lattice": np.round(made.lattice.matrix, 6).tolist(),
                "frac_coords": np.round(made.frac_coords, 7).tolist(),
                "energy_per_atom": round(float(atoms.get_potential_energy()) / len(atoms), 6),
                "forces": np.round(np.asarray(atoms.get_forces(), dtype=float), 5).tolist(),
                "stress": np.round(np.asarray(atoms.get_stress(voigt=False), dtype=float), 7).tolist(),
            }
        except Exception as error:  # isolated atoms; one bad structure never stops the others
            row["error"] = f"{type(error).__name__}: {error}"[:200]
        rows.append(row)
    return rows
