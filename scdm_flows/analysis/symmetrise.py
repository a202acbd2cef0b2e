"""Layers with the symmetry that they nearly have. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure
from scipy.linalg import sqrtm

Array = NDArray[np.float64]
SYMPREC_ANGSTROM = 0.01


def symmetrised(structure: Structure, symprec: float = SYMPREC_ANGSTROM) -> Structure:
    """The layer with the symmetry that it has to ``symprec`` (angstrom) made exact; cell, order and height are kept.

    VASP and GPAW take no symmetry that is broken by more than 1e-5, and without it compute up to twelve times the
    k-points: two in three layers that a force field has relaxed have less then.
    The metric is the mean over all operations, and each atom the mean of what they map onto it; an operation's
    translation follows from the centre of all atoms, so that the operations are a group. Where spglib finds no
    operation, the layer stays as it is.
    """
    frac, lattice = np.array(structure.frac_coords), np.array(structure.lattice.matrix)
    frac[:, 2] += 0.5 - middle(frac[:, 2])
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
    layer.properties = dict(structure.properties)
    return layer


def middle(z: Array) -> float:
    """The middle of a slab by its heights in fractions of c, wherever it crosses the boundary."""
    ordered = np.sort(z % 1.0)
    gaps = np.diff(np.append(ordered, ordered[0] + 1.0))
    above = int(np.argmax(gaps))
    return float(ordered[above] - (1.0 - gaps[above]) / 2)
