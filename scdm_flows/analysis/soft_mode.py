"""Where an unstable layer wants to go: its soft mode, the cell that holds it, the layer distorted along it. Pure."""

from __future__ import annotations

from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_flows.analysis.phonons import modes_at
from scdm_flows.documents.phonon import SoftMode
from scdm_flows.errors import StructureError

Array = NDArray[np.float64]
LARGEST_DENOMINATOR = 8  # q-points with larger ones need cells that nobody would relax
FRACTION_TOLERANCE = 1e-5
NEARLY_AS_SOFT = 0.8  # of modes at least this share as soft as the softest, the one with the smallest cell is followed
SAME_ANGSTROM = 1e-3


def commensurate_cell(q: Array, lattice: Lattice) -> list[list[int]] | None:
    """The smallest cell, rows in vectors of the primitive one, in which a wave of an in-plane ``q`` is periodic.

    Its size is the order of q; of the cells of that size the one with the shortest vectors, reduced. None where a
    component of q has no denominator up to ``LARGEST_DENOMINATOR``. In two dimensions what J. Lloyd-Williams and
    B. Monserrat, Phys. Rev. B 92, 184301 (2015), do in three.
    """
    parts = [Fraction(float(x)).limit_denominator(LARGEST_DENOMINATOR) for x in q[:2]]
    if any(abs(float(p) - x) > FRACTION_TOLERANCE for p, x in zip(parts, q[:2], strict=True)):
        return None
    order = lcm(*(p.denominator for p in parts))
    plane = np.array(lattice.matrix)[:2]
    best: tuple[float, NDArray[np.int64]] | None = None
    for a in (d for d in range(1, order + 1) if order % d == 0):
        for b in range(order // a):
            cell = _reduced(np.array([[a, 0], [0, order // a]]) + [[0, b], [0, 0]], plane)
            if all((int(row[0]) * parts[0] + int(row[1]) * parts[1]).denominator == 1 for row in cell):
                length = float(np.linalg.norm(cell @ plane, axis=1).max())
                if best is None or length < best[0] - SAME_ANGSTROM:
                    best = length, cell
    assert best is not None  # order x 1 and 1 x order hold it
    (m, n), (k, j) = best[1].tolist()
    return [[m, n, 0], [k, j, 0], [0, 0, 1]]


def _reduced(cell: NDArray[np.int64], plane: Array) -> NDArray[np.int64]:
    """The same lattice by its two shortest vectors (Gauss), right-handed, the first along +."""
    first, second = cell
    while True:
        if np.linalg.norm(second @ plane) < np.linalg.norm(first @ plane) - SAME_ANGSTROM:
            first, second = second, first
        a, b = first @ plane, second @ plane
        shift = int(np.rint(a @ b / (a @ a)))
        if shift == 0 or np.linalg.norm(b - shift * a) > np.linalg.norm(b) - SAME_ANGSTROM:
            break
        second = second - shift * first
    if tuple(first) < (0, 0):
        first = -first
    if first[0] * second[1] - first[1] * second[0] < 0:
        second = -second
    return np.array([first, second])


def soft_mode(phonon: Any, q_points: Array, lowest: Array, threshold: Array) -> SoftMode | None:
    """The mode to follow among q-points that fit in a supercell; None where none of them is imaginary.

    Parameters
    ----------
    phonon
        ``phonopy.Phonopy`` with its force constants.
    q_points
        (n, 3) fractional.
    lowest
        (n,) lowest frequency at each, THz.
    threshold
        (n,) a mode below minus this is imaginary, THz.
    """
    lattice = Lattice(phonon.primitive.cell)
    found: list[tuple[int, float, int, list[list[int]]]] = []
    worst = np.inf
    for k in np.argsort(lowest):
        if lowest[k] > NEARLY_AS_SOFT * min(worst, 0.0) or lowest[k] >= -threshold[k]:
            continue
        cell = commensurate_cell(q_points[k], lattice)
        if cell is not None:
            worst = min(worst, float(lowest[k]))
            if lowest[k] <= NEARLY_AS_SOFT * worst:
                found.append((round(np.linalg.det(cell)), float(lowest[k]), int(k), cell))
    if not found:
        return None
    _, frequency, k, cell = min(found, key=lambda item: (item[0], round(item[1], 4)))
    _, vectors = modes_at(phonon, q_points[k : k + 1])
    vector = _phased(vectors[0, 0])
    turns = np.array(phonon.supercell_matrix).T @ q_points[k]
    x, y, z = (float(value) for value in q_points[k])
    return SoftMode(
        q=(x, y, z),
        frequency_thz=frequency,
        eigenvector_real=[_triple(row) for row in vector.real],
        eigenvector_imag=[_triple(row) for row in vector.imag],
        supercell=cell,
        exact=bool(np.abs(turns - np.rint(turns)).max() < FRACTION_TOLERANCE),
    )


def _triple(row: Array) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 8) for value in row)
    return x, y, z


def _phased(vector: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The eigenvector with its largest component real and positive."""
    largest = vector.ravel()[np.argmax(np.abs(vector).round(6))]
    phased: NDArray[np.complex128] = vector * (np.conj(largest) / abs(largest))
    return phased


def follow(structure: Structure, mode: SoftMode, amplitude: float) -> list[Structure]:
    """The layer distorted along the mode, in the cell that holds it.

    Parameters
    ----------
    structure
        The layer whose phonons were computed, atoms in the same order.
    mode
        Its soft mode.
    amplitude
        How far the atom that moves most moves, angstrom.

    Returns
    -------
    list of Structure
        The distortion and its opposite; one where a symmetry of the undistorted layer makes them the same.

    Raises
    ------
    StructureError
        If amplitude is not positive or the mode belongs to another structure.
    """
    if not (np.isfinite(amplitude) and amplitude > 0):
        raise StructureError(f"amplitude={amplitude} must be > 0 angstrom; 0.1 to 0.3 suits most layers")
    vector = np.array(mode.eigenvector_real) + 1j * np.array(mode.eigenvector_imag)
    if len(vector) != len(structure):
        raise StructureError(
            f"the mode moves {len(vector)} atoms and the layer has {len(structure)}; give its own layer"
        )
    matrix = np.array(mode.supercell)
    cells = round(abs(np.linalg.det(matrix)))
    large = structure.make_supercell(matrix, to_unit_cell=False, in_place=False)
    owner = np.repeat(np.arange(len(structure)), cells)  # pymatgen keeps the copies of a site together
    frac = structure.lattice.get_fractional_coords(large.cart_coords)
    masses = np.array([float(site.specie.atomic_mass) for site in structure])
    wave = (vector / np.sqrt(masses)[:, None])[owner] * np.exp(2j * np.pi * frac @ np.array(mode.q))[:, None]
    moved = wave.real
    if np.abs(moved).max() < 1e-3 * np.abs(wave).max():  # a standing wave with its nodes on the atoms
        moved = wave.imag
    moved = moved * (amplitude / np.linalg.norm(moved, axis=1).max())
    signs = (1,) if _same_distortion(large, moved) else (1, -1)
    distorted = []
    for sign in signs:
        copy = large.copy()
        for k, step in enumerate(sign * moved):
            copy.translate_sites([k], step, frac_coords=False, to_unit_cell=False)
        distorted.append(copy)
    return distorted


def _same_distortion(structure: Structure, moved: Array) -> bool:
    """Whether a symmetry of the undistorted structure turns the displacements (n, 3) into their opposite."""
    import spglib

    numbers = [site.specie.Z for site in structure]
    matrix, frac = np.array(structure.lattice.matrix), np.array(structure.frac_coords)
    symmetry = spglib.get_symmetry((matrix.tolist(), frac.tolist(), numbers), symprec=SAME_ANGSTROM)
    if symmetry is None:
        return False
    steps = moved @ np.linalg.inv(matrix)
    kinds = np.array(numbers)
    for rotation, translation in zip(symmetry["rotations"], symmetry["translations"], strict=True):
        delta = (frac @ rotation.T + translation)[:, None] - frac[None]
        delta -= np.rint(delta)
        distance = np.linalg.norm(delta @ matrix, axis=-1) + 1e3 * (kinds[:, None] != kinds[None])
        image = distance.argmin(axis=1)
        turned = np.empty_like(moved)
        turned[image] = (steps @ rotation.T) @ matrix
        if np.abs(turned + moved).max() < 1e-2 * np.abs(moved).max():
            return True
    return False
