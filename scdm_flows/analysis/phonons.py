"""Phonons of a layer in its plane: path, mesh, bands, density of states, thermal quantities, flexural branch. Pure.

Forces come from outside, as a ``phonopy.Phonopy`` whose force constants are set. q-points are fractional coordinates in
the reciprocal lattice; none has a component along the vacuum. Frequencies are in THz, imaginary ones negative. What is
stable is decided in ``stability``, the sum rules are in ``sum_rules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

Array = NDArray[np.float64]
MESH_SPACING_PER_ANGSTROM = 0.06  # 2 pi included: 40 x 40 for 1H-MoS2
DOS_POINTS = 200
TEMPERATURES_K = (0.0, 100.0, 200.0, 300.0, 500.0, 700.0, 1000.0)
REAL_THZ = 0.02  # slower modes are left out of thermal quantities: at Gamma they are zero up to rounding
# where the flexural exponent is fitted, 1/angstrom (2 pi included): below, omega^2 is lost in rounding, above, the
# branch bends away from its parabola
FLEXURAL_RANGE_PER_ANGSTROM = (0.02, 0.12)
FLEXURAL_DIRECTIONS = 6
KJ_PER_MOL_IN_EV = 0.010364269656
GAS_CONSTANT = 8.31446261815324  # J/K/mol


@dataclass(frozen=True)
class PhononBands:
    """q_points: (n, 3) fractional; distances: (n,) 1/angstrom; labels: (distance, name); frequencies: (n, m) THz."""

    q_points: Array
    distances: Array
    labels: list[tuple[float, str]]
    frequencies: Array


@dataclass(frozen=True)
class PhononMesh:
    """Modes of the irreducible points of a mesh through Gamma.

    mesh: (n, m, 1) multiples of the supercell's, so that its commensurate points are among them; q_points: (n_q, 3);
    weights: (n_q,) how many points of the mesh each stands for; frequencies: (n_q, n_modes) THz.
    """

    mesh: tuple[int, int, int]
    q_points: Array
    weights: NDArray[np.int64]
    frequencies: Array


@dataclass(frozen=True)
class Dos:
    """frequencies: (n,) THz; density: (n,) modes per THz and cell; smearing: THz."""

    frequencies: Array
    density: Array
    smearing: float


@dataclass(frozen=True)
class Thermal:
    """Per atom, each (n,): temperatures in K, free energy in eV, entropy and heat capacity in Boltzmann constants."""

    temperatures: Array
    free_energy: Array
    entropy: Array
    heat_capacity: Array


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


def restoring_forces(displaced: Sequence[Any], at_rest: Any) -> list[Array]:
    """Forces of displaced supercells without what is no restoring force, each (n_atoms, 3) eV/angstrom.

    That is the force at rest, which a relaxation has left, and the mean over the atoms, which is drift: the forces on a
    crystal sum to zero. at_rest: of the undisplaced supercell; zeros where it was not computed.
    """
    forces = [np.array(found, dtype=float) - np.array(at_rest, dtype=float) for found in displaced]
    return [found - found.mean(axis=0) for found in forces]


def phonon_bands(phonon: Any, structure: Structure) -> PhononBands:
    """Bands on the in-plane path of the unit cell."""
    q_points, distances, labels = in_plane_path(structure)
    return PhononBands(q_points, distances, labels, modes_at(phonon, q_points)[0])


def modes_at(phonon: Any, q_points: Array) -> tuple[Array, NDArray[np.complex128]]:
    """Frequencies (n, m) in THz and eigenvectors (n, m, n_atoms, 3), norm 1, at some q-points."""
    phonon.run_qpoints(q_points, with_eigenvectors=True)
    found = phonon.get_qpoints_dict()
    frequencies = np.array(found["frequencies"], dtype=float)
    vectors = np.array(found["eigenvectors"]).swapaxes(-1, -2)  # phonopy has them in columns
    return frequencies, vectors.reshape(*frequencies.shape, -1, 3)


def phonon_mesh(phonon: Any, spacing: float = MESH_SPACING_PER_ANGSTROM) -> PhononMesh:
    """Modes on an (n, m, 1) mesh at most ``spacing`` (1/angstrom, 2 pi included) apart, a multiple of the supercell."""
    reciprocal = 2 * np.pi * np.linalg.norm(np.linalg.inv(phonon.primitive.cell).T, axis=1)
    repeats = np.abs(np.diag(phonon.supercell_matrix)).astype(int)
    n, m = (int(r * np.ceil(length / spacing / r)) for r, length in zip(repeats[:2], reciprocal[:2], strict=True))
    phonon.run_mesh((n, m, 1), is_gamma_center=True)
    found = phonon.get_mesh_dict()
    return PhononMesh((n, m, 1), found["qpoints"], np.array(found["weights"]), found["frequencies"])


def density_of_states(mesh: PhononMesh, points: int = DOS_POINTS) -> Dos:
    """Modes per THz and cell, each mode a Gaussian 1.5 grid steps wide; its integral is the number of modes."""
    low, high = float(mesh.frequencies.min()), float(mesh.frequencies.max())
    smearing = 1.5 * (high - min(low, 0.0)) / points
    grid = np.linspace(min(low, 0.0) - 4 * smearing, high + 4 * smearing, points)
    share = mesh.weights / mesh.weights.sum()
    z = (grid[:, None, None] - mesh.frequencies[None]) / smearing
    gaussians = np.exp(-0.5 * z**2) / (smearing * np.sqrt(2 * np.pi))
    return Dos(grid, np.einsum("gqm,q->g", gaussians, share), smearing)


def thermal_quantities(phonon: Any, temperatures: tuple[float, ...] = TEMPERATURES_K) -> Thermal:
    """Harmonic free energy, entropy and heat capacity, by phonopy on the mesh that ``phonon_mesh`` left in it."""
    phonon.run_thermal_properties(temperatures=np.array(temperatures), cutoff_frequency=REAL_THZ)
    found = phonon.get_thermal_properties_dict()
    n = len(phonon.primitive)
    free = np.array(found["free_energy"]) * KJ_PER_MOL_IN_EV / n
    entropy, capacity = (np.array(found[k]) / GAS_CONSTANT / n for k in ("entropy", "heat_capacity"))
    return Thermal(np.array(found["temperatures"]), free, entropy, capacity)


def flexural_exponent(phonon: Any) -> float | None:
    """p of omega = c q^p of the flexural branch near Gamma, the mean over in-plane directions.

    The flexural branch is the one of the three lowest that moves most along z. 2 for a layer without stress
    (doi:10.1038/s41524-022-00920-6), 1 for a stretched one; None where a mode of it is imaginary.
    """
    radii = np.geomspace(*FLEXURAL_RANGE_PER_ANGSTROM, 6)
    exponents = []
    for angle in np.pi * np.arange(FLEXURAL_DIRECTIONS) / FLEXURAL_DIRECTIONS:
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        q_points = radii[:, None] * (direction @ phonon.primitive.cell.T / (2 * np.pi))
        frequencies, vectors = modes_at(phonon, q_points)
        along_z = (np.abs(vectors[:, :3, :, 2]) ** 2).sum(axis=-1)
        flexural = np.take_along_axis(frequencies[:, :3], along_z.argmax(axis=1)[:, None], axis=1)[:, 0]
        if flexural.min() <= 0:
            return None
        exponents.append(np.polyfit(np.log(radii), np.log(flexural), 1)[0])
    return float(np.mean(exponents))
