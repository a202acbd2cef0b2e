"""A model of electrons whose band gap is known beforehand, for records that look like those of a real run.

Every band is ``edge -+ WIDTH * (1 - f(k))`` with ``f`` the mean of cos(k·R) over the shortest vectors R of the layer: 1
at Gamma, with the full symmetry of the lattice and flat along the vacuum. Valence bands end at 0 eV, conduction bands
begin at the gap, both at Gamma; the gap is 4 eV for each unit of the largest difference of Pauling electronegativities.
Layers of one element, whose conduction bands run half an eV above their valence bands, are metals; so are layers with
an odd number of electrons and no spin. In a square or hexagonal layer the masses at Gamma are 2 hbar^2 / (WIDTH a^2).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.special import erfc
from support.standin.inputs import Inputs

Array = NDArray[np.float64]
WIDTH_EV = 1.0
SPACING_EV = 1.0  # between the edges of bands that follow each other
GAP_EV_PER_ELECTRONEGATIVITY = 4.0
HYBRID = 1.5  # the gap with HSE06, as a multiple
METAL_EV = 0.5  # between the bands of a layer of one element; both fall from Gamma, and they overlap
ORBITALS = ("s", "py", "pz", "px", "dxy", "dyz", "dz2", "dxz", "x2-y2")


def band_gap(structure: Structure) -> float:
    """The gap of a crystal in eV, direct at Gamma; 0 where the bands overlap."""
    values = [element.X for element in structure.composition.elements]
    difference = max(values) - min(values)
    return GAP_EV_PER_ELECTRONEGATIVITY * difference if difference > 0.1 else 0.0


def dispersion(structure: Structure, kpoints: Array) -> Array:
    """f at (n, 3) fractional k-points: (n,), 1 at Gamma."""
    a, b = structure.lattice.matrix[:2]
    reach = 1.05 * max(np.linalg.norm(a), np.linalg.norm(b))
    shell = [(i, j) for i, j in product(range(-3, 4), repeat=2) if (i or j) and np.linalg.norm(i * a + j * b) <= reach]
    return np.cos(2 * np.pi * kpoints[:, :2] @ np.array(shell).T).mean(axis=1)


@dataclass(frozen=True)
class Electrons:
    """Bands at the k-points of a run, with their occupation."""

    kpoints: Array  # (nk, 3)
    weights: Array  # (nk,)
    energies: Array  # (ispin, nk, nbands), eV
    occupations: Array  # the same shape, 0 to 1
    fermi: float  # eV
    smearing: float  # eV
    moment: float  # mu_B of the cell
    per_band: float  # electrons in a full band: 2, or 1 with spin
    shares: Array  # (2, n_atoms, 9): of atoms and orbitals in valence and in conduction bands

    def density(self, points: int) -> tuple[Array, Array, Array]:
        """Energies (points,), states per eV (ispin, points) and their integral, with the smearing of the run."""
        grid = np.linspace(self.energies.min() - 2, self.energies.max() + 2, points)
        x = (grid[None, :] - self.energies.reshape(len(self.energies), -1)[..., None]) / self.smearing
        weights = np.repeat(self.weights, self.energies.shape[2])[None, :, None] * self.per_band
        states = (weights * np.exp(-(x**2))).sum(1) / (self.smearing * np.sqrt(np.pi))
        return grid, states, (weights * erfc(-x) / 2).sum(1)


def electrons(inputs: Inputs, structure: Structure, moment: float) -> Electrons:
    """The bands of a crystal.

    Parameters
    ----------
    inputs
        The run.
    structure
        The crystal after it.
    moment
        Magnetic moment of the cell in mu_B; rounded to what closes the shells of both spins.
    """
    kpoints, weights = inputs.points
    number, spins, gap = inputs.electrons, inputs["ISPIN"], band_gap(structure)
    if inputs["LHFCALC"]:
        gap *= HYBRID
    if inputs["LSORBIT"]:
        filled, moment = [number], 0.0
    elif spins == 2:
        moment = 2 * round((moment - number % 2) / 2) + number % 2
        filled = [(number + moment) / 2, (number - moment) / 2]
    else:
        filled, moment = [number / 2], 0.0
    down = WIDTH_EV * (1 - dispersion(structure, kpoints))[:, None]
    energies = []
    for full in filled:
        valence = -SPACING_EV * np.arange(int(np.ceil(full))) - down
        conduction = SPACING_EV * np.arange(inputs.bands - valence.shape[1]) + (gap + down if gap else METAL_EV - down)
        energies.append(np.sort(np.hstack([valence, conduction]), axis=1))
    bands, per_band = np.array(energies), 1.0 if inputs["LSORBIT"] else 2.0 / spins
    smearing = float(inputs["SIGMA"]) if inputs["ISMEAR"] >= -1 else 0.05

    def occupied(level: float) -> Array:
        return erfc((bands - level) / smearing) / 2

    low, high = bands.min() - 1, bands.max() + 1
    for _ in range(60):
        middle = (low + high) / 2
        count = per_band * (occupied(middle) * weights[:, None]).sum()
        low, high = (middle, high) if count < number else (low, middle)
    odd = number % 2 and spins == 1 and not inputs["LSORBIT"]
    fermi = middle if gap == 0 or odd else gap / 2
    occupations = occupied(fermi)
    if spins == 2:
        moment = float(((occupations[0] - occupations[1]) * weights[:, None]).sum())
    return Electrons(kpoints, weights, bands, occupations, fermi, smearing, moment, per_band, _shares(structure))


def _shares(structure: Structure) -> Array:
    """Valence bands are p states of the most electronegative atoms, conduction bands d (else s) of the least.

    A tenth is spread over everything, as no orbital is empty in a real run.
    """
    negativity = np.array([site.specie.X for site in structure])
    shares = np.zeros((2, len(structure), len(ORBITALS)))
    shares[0, negativity == negativity.max(), 1:4] = 1
    for i in np.flatnonzero(negativity == negativity.min()):
        shares[1, i, slice(4, 9) if structure[i].specie.block == "d" else slice(0, 1)] = 1
    return 0.9 * shares / shares.sum(axis=(1, 2), keepdims=True) + 0.1 / shares[0].size
