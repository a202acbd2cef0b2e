"""Brings formation energies of one database to the scale of another. Pure: phases and hull energies in, energies out.

Published phases are the Materials Project's with its legacy corrections (Bartel et al., npj Comput. Mater. 6, 97
(2020), doi:10.1038/s41524-020-00362-y); the scale aimed at is C2DB's: PBE of GPAW, no corrections, no +U (Gjerding et
al., 2D Mater. 8, 044002 (2021), doi:10.1088/2053-1583/ac1059). C2DB tells no energies of bulk phases, but of each layer
the energy of the hull below it. So the energy of phase p, eV/atom relative to the elements, is

    f(p) = f_published(p) - legacy(p) + g(p),

where legacy(p) is known (Jain et al., Phys. Rev. B 84, 045115 (2011), doi:10.1103/PhysRevB.84.045115; beside the newer
corrections in Wang et al., Sci. Rep. 11, 15496 (2021), doi:10.1038/s41598-021-94550-5) and g is a Gaussian process
(Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, eq. 2.25) that is seen through hulls alone:

    y_n = sum_p w_np f(p) + noise,    w_np: atoms of layer n that decompose into phase p.

The weights depend on f, so they are solved, g is fitted, and both once more. What +U does to a metal in oxides and
fluorides stays in f_published; g has a term for each such metal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

from scdm_flows.thermo.composition import Array, descriptor, element_properties, plus_u_terms
from scdm_flows.thermo.hull import Phase, PhaseSystem

# eV per atom of the anion: oxide and sulfide corrections of the legacy scheme (pymatgen, MPCompatibility.yaml)
LEGACY_ANIONS = {"O": -0.70229, "S": -0.66346}
# eV/atom: energies fitted for the elements that are gases (same file), and the PBE ones of the Materials Project
FITTED_GASES = {"H": -3.23973666138, "N": -7.95247218762, "F": -1.42055013381, "Cl": -1.25385097674}
PBE_GASES = {"H": -3.39272604, "N": -8.33649493, "F": -1.91147897, "Cl": -1.84853666}  # mp-24504, 25, 561203, 1008394
ROUNDS = 2  # of weights and fit
_BLOCK = 4000  # phases whose kernel is held at once


@dataclass(frozen=True)
class Kernel:
    """Covariance of g between two phases, (eV/atom)^2.

    Chosen by cross-validation over C2DB's chemical systems, where many do equally well; of those, one with a small
    linear term, as a larger one carries what salts say of a metal over to its alloys.

    linear: times the product of atom fractions, summed over elements. category: the same over +U metals with O, and
    with F. matern: of a Matern-5/2 term on descriptors, whose length is ``length``. noise: variance of one hull energy;
    of n layers with one composition it is divided by sqrt(n).
    """

    linear: float = 0.003
    category: float = 1.0
    matern: float = 0.03
    length: float = 0.3
    noise: float = 0.001


@dataclass(frozen=True)
class HullEnergy:
    """What one composition's hull costs on the scale aimed at: eV/atom relative to the elements; layers that say so."""

    fractions: Mapping[str, float]
    energy_per_atom: float
    n_layers: int = 1

    @property
    def system(self) -> str:
        """Chemical system, such as Mo-S."""
        return system_name(self.fractions)


def system_name(fractions: Mapping[str, float]) -> str:
    """Elements in alphabetical order, joined by hyphens."""
    return "-".join(sorted(fractions))


def chemical_potentials(
    fractions: Sequence[Mapping[str, float]], differences: Sequence[float]
) -> tuple[dict[str, float], float]:
    """Total energies of the elements that a database's formation energies refer to, and the residual, eV/atom.

    Parameters
    ----------
    fractions
        Element -> atom fraction of each of its phases.
    differences
        Total minus formation energy of each, eV/atom: ``sum_i x_i mu_i``.
    """
    elements = sorted({e for row in fractions for e in row})
    x = np.array([[row.get(e, 0.0) for e in elements] for row in fractions])
    y = np.asarray(differences, dtype=float)
    mu = np.linalg.lstsq(x, y, rcond=None)[0]
    residual = float(np.sqrt(np.mean((x @ mu - y) ** 2)))
    return {e: float(value) for e, value in zip(elements, mu, strict=True)}, residual


def legacy_correction(fractions: Mapping[str, float]) -> float:
    """What the legacy corrections of anions do to a formation energy, eV/atom; those of +U metals are left in."""
    anions = sum(x * LEGACY_ANIONS.get(e, 0.0) for e, x in fractions.items())
    return anions + sum(x * (PBE_GASES[e] - FITTED_GASES[e]) for e, x in fractions.items() if e in PBE_GASES)


class PhaseSet:
    """Phases of one published scale, as the Gaussian process sees them.

    published: (n,) eV/atom; x: (n, n_elements) atom fractions; categories: (n, 16) fractions of +U metals in oxides,
    then in fluorides; descriptors: (n, 29) standardised, of one order of magnitude together.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = list(phases)
        self.elements = sorted({e for p in phases for e in p.fractions})
        self.published = np.array([p.energy_per_atom for p in phases])
        self.x = np.array([[p.fractions.get(e, 0.0) for e in self.elements] for p in phases])
        self.categories = np.array([plus_u_terms(p.fractions) for p in phases])
        properties = element_properties()
        self.descriptors = _scaled(np.array([descriptor(p.fractions, properties) for p in phases]))
        self._members: dict[str, list[int]] = defaultdict(list)
        for i, phase in enumerate(self.phases):
            self._members[system_name(phase.fractions)].append(i)
        self._systems: dict[str, tuple[PhaseSystem, NDArray[np.int64]]] = {}

    @property
    def systems(self) -> dict[str, list[int]]:
        """Chemical system -> numbers of the phases that have all its elements."""
        return dict(self._members)

    @property
    def without_legacy(self) -> Array:
        """(n,) published energies with the legacy corrections of anions taken off, eV/atom."""
        return np.asarray(self.published - np.array([legacy_correction(p.fractions) for p in self.phases]))

    def system(self, name: str) -> tuple[PhaseSystem, NDArray[np.int64]]:
        """The phases of a chemical system with its elements at 0, and their numbers here, -1 for the elements."""
        if name not in self._systems:
            elements = name.split("-")
            subsets = ("-".join(c) for n in range(1, len(elements) + 1) for c in combinations(elements, n))
            numbers = [i for subset in subsets for i in self._members.get(subset, ())]
            corners = [Phase(e, {e: 1.0}, 0.0, e) for e in elements]
            system = PhaseSystem(elements, [*corners, *(self.phases[i] for i in numbers)])
            self._systems[name] = system, np.array([-1] * len(elements) + numbers)
        return self._systems[name]

    def hulls(self, energies: Array, fractions: Sequence[Mapping[str, float]]) -> tuple[Array, list[dict[int, float]]]:
        """(m,) hull energies of compositions with the phases at ``energies`` (n,), eV/atom; phase -> share of atoms."""
        hull, products = np.zeros(len(fractions)), []
        for row, one in enumerate(fractions):
            system, numbers = self.system(system_name(one))
            at_energies = system.with_energies(np.where(numbers >= 0, energies[numbers], 0.0))
            hull[row], found = at_energies.decompose(at_energies.target(one))
            products.append({int(numbers[k]): w for k, w in found.items() if numbers[k] >= 0})
        return hull, products

    def covariance(self, a: NDArray[np.int64], b: NDArray[np.int64], kernel: Kernel) -> Array:
        """(len(a), len(b)) covariance of g between phases."""
        total = kernel.linear * self.x[a] @ self.x[b].T + kernel.category * self.categories[a] @ self.categories[b].T
        if kernel.matern:
            # Rasmussen & Williams 2006, eq. 4.17
            r = cdist(self.descriptors[a], self.descriptors[b])
            r *= np.sqrt(5.0) / kernel.length
            decay = np.exp(-r)
            # matern * (1 + r + r^2 / 3) * decay, in the place of r: the matrices are large, and a temporary one is slow
            r += 1.5
            r *= r
            r += 0.75
            r *= kernel.matern / 3.0
            r *= decay
            total += r
        return np.asarray(total, dtype=float)


def convert(
    phases: PhaseSet,
    targets: Sequence[HullEnergy],
    kernel: Kernel | None = None,
    wanted: NDArray[np.int64] | None = None,
) -> Array:
    """(n,) energies of the phases on the scale of the targets, eV/atom relative to the elements.

    Parameters
    ----------
    phases
        Published phases, elements at 0 left out.
    targets
        Hull energies on the scale aimed at.
    kernel
        Of g.
    wanted
        Numbers of phases to convert, those in the targets' systems at least; the others keep g = 0. All when None.
    """
    kernel = kernel or Kernel()
    start = phases.without_legacy
    numbers = np.arange(len(phases.phases)) if wanted is None else np.asarray(wanted)
    compositions = [t.fractions for t in targets]
    y = np.array([t.energy_per_atom for t in targets])
    noise = kernel.noise / np.sqrt([t.n_layers for t in targets])
    g = np.zeros(len(start))
    for _ in range(ROUNDS):
        _, products = phases.hulls(start + g, compositions)
        used = np.array(sorted({i for row in products for i in row}), dtype=np.int64)
        place = {i: k for k, i in enumerate(used.tolist())}
        weights = np.zeros((len(targets), len(used)))
        for n, row in enumerate(products):
            for i, share in row.items():
                weights[n, place[i]] = share
        seen = weights @ phases.covariance(used, used, kernel) @ weights.T + np.diag(noise)
        pull = weights.T @ cho_solve(cho_factor(seen, lower=True), y - weights @ start[used])
        g = np.zeros(len(start))
        for first in range(0, len(numbers), _BLOCK):
            block = numbers[first : first + _BLOCK]
            g[block] = phases.covariance(block, used, kernel) @ pull
    return np.asarray(start + g, dtype=float)


def _scaled(raw: Array) -> Array:
    """Descriptors (n, 29) in standard deviations, so that distances are about 1."""
    deviation = raw.std(0)
    return np.asarray((raw - raw.mean(0)) / np.where(deviation > 0, deviation, 1.0) / np.sqrt(raw.shape[1]))
