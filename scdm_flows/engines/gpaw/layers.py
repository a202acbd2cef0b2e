"""Layers on their way to GPAW and back: with a vacuum of its own, atoms in their order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_flows.analysis.symmetrise import middle
from scdm_models.symmetry.lattice import vacuum_thickness

Array = NDArray[np.float64]
VACUUM_ANGSTROM = 15.0  # between a layer and its image, as in C2DB (doi:10.1088/2053-1583/aacfc1)


def geometry(structure: Structure) -> dict[str, Any]:
    """``numbers``, ``positions`` (n, 3), ``cell`` (3, 3) and ``periodic`` for the runner, angstrom.

    The slab lies in the middle of a cell with ``VACUUM_ANGSTROM``, whatever vacuum the structure has: energies do not
    depend on it, and each angstrom costs time.
    """
    c = structure.lattice.c
    height = c - vacuum_thickness(structure) + VACUUM_ANGSTROM
    frac = np.array(structure.frac_coords)
    z = (frac[:, 2] - middle(frac[:, 2]) + 0.5) % 1.0 - 0.5
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
    frac[:, 2] = z / c + middle(np.array(before.frac_coords)[:, 2])
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
