"""Phonon bands of a layer on its in-plane path, and whether it is dynamically stable. Pure: forces come from outside.

A layer has three acoustic branches, one of them (flexural, ZA) quadratic at Gamma; small force errors make it dip
below zero there. The criterion therefore is looser near Gamma: imaginary modes beyond 0.5 THz within 0.1 of the
zone (in units of the reciprocal lattice vectors), and beyond 0.2 THz elsewhere, make a layer unstable. Measured with
CHGNet: the dip of stable layers such as 1H-MoS2 is 0.09 THz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

Array = NDArray[np.float64]
THRESHOLD_THZ = 0.2
GAMMA_THRESHOLD_THZ = 0.5
GAMMA_RADIUS = 0.1


@dataclass(frozen=True)
class PhononBands:
    """q_points: (n, 3) fractional; distances: (n,) 1/angstrom; labels: (distance, name); frequencies: (n, m) THz."""

    q_points: Array
    distances: Array
    labels: list[tuple[float, str]]
    frequencies: Array


@dataclass(frozen=True)
class DynamicStability:
    """The verdict: stable, the lowest frequency (THz, imaginary negative) and its q, the threshold, and why."""

    stable: bool
    min_frequency_thz: float
    q_of_min: tuple[float, float, float]
    threshold_thz: float
    reason: str | None


def in_plane_path(structure: Structure, points: int = 101) -> tuple[Array, Array, list[tuple[float, str]]]:
    """q-points (n, 3), distances (n,) in 1/angstrom and labels of the in-plane high-symmetry path.

    From ASE's two-dimensional Bravais lattices (``cell.bandpath(pbc=[1, 1, 0])``).
    """
    from ase.cell import Cell

    path = Cell(np.array(structure.lattice.matrix)).bandpath(npoints=points, pbc=[True, True, False], eps=1e-3)
    x, ticks, names = path.get_linear_kpoint_axis()
    labels = [(float(t), "Γ" if n == "G" else str(n)) for t, n in zip(ticks, names, strict=True)]
    return np.array(path.kpts, dtype=float), np.array(x, dtype=float), labels


def phonon_supercell(structure: Structure, min_length: float) -> list[list[int]]:
    """Diagonal (n, m, 1) supercell whose in-plane edges are at least ``min_length`` angstrom."""
    a, b, gamma = structure.lattice.a, structure.lattice.b, structure.lattice.gamma
    sine = np.sin(np.deg2rad(gamma))
    n, m = (max(1, int(np.ceil(min_length / (length * sine) - 1e-6))) for length in (a, b))
    return [[n, 0, 0], [0, m, 0], [0, 0, 1]]


def phonon_bands(phonon: Any, structure: Structure) -> PhononBands:
    """Bands of a ``phonopy.Phonopy`` whose force constants are set, on the in-plane path of its unit cell."""
    q_points, distances, labels = in_plane_path(structure)
    phonon.run_qpoints(q_points)
    frequencies = np.array(phonon.get_qpoints_dict()["frequencies"], dtype=float)
    return PhononBands(q_points, distances, labels, frequencies)


def judge(bands: PhononBands) -> DynamicStability:
    """Whether the bands have no imaginary mode beyond the thresholds of the module docstring."""
    lowest = bands.frequencies.min(axis=1)
    wrapped = bands.q_points - np.round(bands.q_points)
    near_gamma = np.abs(wrapped).max(axis=1) < GAMMA_RADIUS
    threshold = np.where(near_gamma, GAMMA_THRESHOLD_THZ, THRESHOLD_THZ)
    worst = int(np.argmin(lowest + threshold))
    k = int(np.argmin(lowest))
    q = tuple(float(x) for x in bands.q_points[k])
    stable = bool((lowest >= -threshold).all())
    reason = None
    if not stable:
        where = ", ".join(f"{x:.3f}" for x in bands.q_points[worst])
        reason = f"imaginary mode of {-lowest[worst]:.2f} THz at q = ({where}), allowed {threshold[worst]:g} THz"
    return DynamicStability(stable, float(lowest[k]), (q[0], q[1], q[2]), THRESHOLD_THZ, reason)
