"""Layers on their way to GPAW and back: exactly symmetric, with a vacuum of its own, atoms in their order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure
from scipy.linalg import sqrtm

from scdm_models.symmetry.lattice import vacuum_thickness

Array = NDArray[np.float64]
VACUUM_ANGSTROM = 15.0  # between a layer and its image, as in C2DB (doi:10.1088/2053-1583/aacfc1)
SYMPREC_ANGSTROM = 0.01


def symmetrised(structure: Structure, symprec: float = SYMPREC_ANGSTROM) -> Structure:
    """The layer with the symmetry that it has to ``symprec`` (angstrom) made exact; cell, order and height are kept.

    GPAW takes no symmetry that is broken by more than 1e-5, and without it computes up to twelve times the k-points.
    The metric is the mean over all operations, and each atom the mean of what they map onto it; an operation's
    translation follows from the centre of all atoms, so that the operations are a group. Where spglib finds no
    operation, the layer stays as it is.
    """
    frac, lattice = np.array(structure.frac_coords), np.array(structure.lattice.matrix)
    frac[:, 2] += 0.5 - _middle(frac[:, 2])
    cell: Any = (lattice, frac, [site.specie.Z for site in structure])
    found = spglib.get_symmetry(cell, symprec=symprec)
    if found is None:
        return structure.copy()
    kept = [
        (np.array(r, dtype=float), t)
        for r, t in zip(found["rotations"], found["translations"], strict=True)
        if not (r[:2, 2].any() or r[2, :2].any())
    ]
    metric = lattice @ lattice.T
    mean = np.mean([r.T @ metric @ r for r, _ in kept], axis=0)
    inverse = np.linalg.inv(lattice)
    stretch = np.real(sqrtm(inverse @ mean @ inverse.T))  # symmetric: the cell is not turned
    placed = np.zeros_like(frac)
    for rotation, translation in kept:
        images = frac @ rotation.T + translation
        apart = frac[:, None] - images[None]  # of atom i from the image of atom j
        apart -= np.rint(apart)
        different = [[a.specie != b.specie for b in structure] for a in structure]
        source = (np.linalg.norm(apart @ lattice, axis=-1) + 1e3 * np.array(different)).argmin(axis=1)
        moved = apart[np.arange(len(frac)), source]
        placed += frac - moved + moved.mean(axis=0)
    placed /= len(kept)
    placed[:, 2] += np.array(structure.frac_coords)[0, 2] - frac[0, 2]
    layer = Structure(Lattice(lattice @ stretch), structure.species, placed)
    for name, values in structure.site_properties.items():
        layer.add_site_property(name, values)
    return layer


def _middle(z: Array) -> float:
    """The middle of a slab by its heights in fractions of c, wherever it crosses the boundary."""
    ordered = np.sort(z % 1.0)
    gaps = np.diff(np.append(ordered, ordered[0] + 1.0))
    above = int(np.argmax(gaps))
    return float(ordered[above] - (1.0 - gaps[above]) / 2)


def geometry(structure: Structure) -> dict[str, Any]:
    """``numbers``, ``positions`` (n, 3), ``cell`` (3, 3) and ``periodic`` for the runner, angstrom.

    The slab lies in the middle of a cell with ``VACUUM_ANGSTROM``, whatever vacuum the structure has: energies do not
    depend on it, and each angstrom costs time.
    """
    c = structure.lattice.c
    height = c - vacuum_thickness(structure) + VACUUM_ANGSTROM
    frac = np.array(structure.frac_coords)
    z = (frac[:, 2] - _middle(frac[:, 2]) + 0.5) % 1.0 - 0.5
    cell = np.array(structure.lattice.matrix)
    positions = frac[:, :2] @ cell[:2]
    positions[:, 2] = z * c + height / 2
    cell[2] = (0.0, 0.0, height)
    return {
        "numbers": [int(site.specie.Z) for site in structure],
        "positions": positions.tolist(),
        "cell": cell.tolist(),
        "periodic": [True, True, False],
    }


def structure_of(answer: Mapping[str, Any], before: Structure) -> Structure:
    """What the runner made of a structure: its in-plane cell and positions, the c and the middle that it had.

    answer: ``positions``, ``cell`` and ``moments`` of the runner. The sites have the property ``magmom`` in Bohr
    magnetons, 0 where there was no spin, so that the runs that follow begin without it.
    """
    cell, positions = np.array(answer["cell"]), np.array(answer["positions"])
    frac = positions @ np.linalg.inv(cell)
    c = before.lattice.c
    z = positions[:, 2] - (positions[:, 2].min() + positions[:, 2].max()) / 2
    frac[:, 2] = z / c + _middle(np.array(before.frac_coords)[:, 2])
    cell[2] = before.lattice.matrix[2]
    moments = answer.get("moments") or [0.0] * len(before)
    return Structure(Lattice(cell), before.species, frac, site_properties={"magmom": [float(m) for m in moments]})


def moments_of(structure: Structure, wanted: Mapping[str, float], otherwise: float) -> list[float]:
    """(n,) initial moments in Bohr magnetons: a site's own ``magmom``, else its element's, else ``otherwise``."""
    own: Sequence[float | None] = structure.site_properties.get("magmom") or [None] * len(structure)
    return [
        wanted.get(str(site.specie), otherwise) if moment is None else float(moment)
        for site, moment in zip(structure, own, strict=True)
    ]
