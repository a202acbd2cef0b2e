"""Distances between distributions of elements, layer groups, sizes and shapes of two sets of layers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_models.errors import ScdmError, reason_of
from scdm_models.symmetry.lattice import area_per_atom, orient_slab, slab_thickness

Array = NDArray[np.float64]
NO_LAYER_GROUP = 0  # stands for "none was found" among layer groups 1 to 80


@dataclass(frozen=True, eq=False)
class Population:
    """The distributions of a set of layers.

    Parameters
    ----------
    elements
        Symbol -> mean over the layers of its atomic fraction; every layer weighs the same, the sum is 1.
    layer_groups
        Number -> share of the layers; 0 where none was found.
    n_atoms
        (n,) atoms in the cell as given.
    area_per_atom
        (n,) in-plane area over number of atoms, angstrom^2.
    thickness
        (n,) distance of the outermost atoms along the normal, angstrom.
    failures
        Index -> why a structure is no layer; those are in none of the above.
    """

    elements: dict[str, float]
    layer_groups: dict[int, float]
    n_atoms: Array
    area_per_atom: Array
    thickness: Array
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.n_atoms)


def population(structures: Sequence[Structure | None], layer_groups: Sequence[int | None]) -> Population:
    """The distributions of a set of layers, to be compared by ``distribution_distances``.

    Parameters
    ----------
    structures
        (n,) layers, in any orientation, in cells of one kind (such as primitive) in all sets that are compared.
    layer_groups
        (n,) layer group of each, found at one tolerance in all sets that are compared; None where none was found.

    Raises
    ------
    ScdmError
        If the lengths differ or no structure is a layer.
    """
    if len(layer_groups) != len(structures):
        raise ScdmError(
            f"{len(layer_groups)} layer groups for {len(structures)} structures must be as many; give one for each"
        )
    rows: list[tuple[int, float, float]] = []
    fractions: dict[str, float] = defaultdict(float)
    groups: Counter[int] = Counter()
    failures: dict[int, str] = {}
    for i, (structure, group) in enumerate(zip(structures, layer_groups, strict=True)):
        try:
            if structure is None:
                raise ScdmError("unreadable: no structure")
            slab = orient_slab(structure)
            own = {e.symbol: float(x) for e, x in slab.composition.fractional_composition.items()}
            row = (len(slab), area_per_atom(slab), slab_thickness(slab))
        except Exception as error:  # a sample can break a library in ways nobody lists
            failures[i] = reason_of(error)
            continue
        rows.append(row)
        groups[group or NO_LAYER_GROUP] += 1
        for symbol, fraction in own.items():
            fractions[symbol] += fraction
    if not rows:
        raise ScdmError(f"none of {len(structures)} structures is a layer; a distribution needs at least one")
    n, (n_atoms, area, thickness) = len(rows), np.array(rows, dtype=float).T
    return Population(
        {symbol: fractions[symbol] / n for symbol in sorted(fractions)},
        {group: groups[group] / n for group in sorted(groups)},
        n_atoms,
        area,
        thickness,
        failures,
    )


@dataclass(frozen=True)
class DistributionDistances:
    """Distances of samples from held-out data, 0 for equal distributions.

    Parameters
    ----------
    elements_total_variation, layer_groups_total_variation
        Half the sum of |p - q|, 0 to 1.
    elements_jensen_shannon
        Square root of the Jensen-Shannon divergence in bits, 0 to 1.
    n_atoms_wasserstein
        Wasserstein-1 distance, atoms.
    area_per_atom_wasserstein_angstrom2, thickness_wasserstein_angstrom
        Wasserstein-1 distances, angstrom^2 and angstrom.
    n_samples, n_held_out
        Layers in each set. Finite sets of one distribution are not at distance 0; the distance of training from
        held-out data is the value to compare with, best at as many layers.
    """

    elements_total_variation: float
    elements_jensen_shannon: float
    n_atoms_wasserstein: float
    area_per_atom_wasserstein_angstrom2: float
    thickness_wasserstein_angstrom: float
    layer_groups_total_variation: float
    n_samples: int
    n_held_out: int


def _aligned(first: Mapping[Any, float], second: Mapping[Any, float]) -> tuple[Array, Array]:
    """(m,) and (m,) probabilities over the union of the classes."""
    classes = sorted({*first, *second})
    return np.array([first.get(c, 0.0) for c in classes]), np.array([second.get(c, 0.0) for c in classes])


def total_variation(first: Mapping[Any, float], second: Mapping[Any, float]) -> float:
    """Total variation distance of two discrete distributions, half the sum of |p - q|, 0 to 1.

    first, second: class -> probability, each summing to 1; a class that is absent has probability 0.
    """
    p, q = _aligned(first, second)
    return float(np.abs(p - q).sum() / 2)


def distribution_distances(samples: Population, held_out: Population) -> DistributionDistances:
    """Distances of the samples' distributions from the held-out data's.

    Call it a second time with the training set in place of the samples: that is how far two sets of real layers are
    apart, the value to compare the first with.

    References
    ----------
    Jensen-Shannon distance: Endres and Schindelin, IEEE Trans. Inf. Theory 49, 1858 (2003),
    doi:10.1109/TIT.2003.813506. Wasserstein distance in one dimension: Ramdas et al., Entropy 19, 47 (2017),
    doi:10.3390/e19020047.
    """
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import wasserstein_distance

    p, q = _aligned(samples.elements, held_out.elements)
    # rounding can make the divergence of equal distributions -1e-17, whose root is not a number
    divergence = float(np.nan_to_num(jensenshannon(p, q, base=2)))
    return DistributionDistances(
        total_variation(samples.elements, held_out.elements),
        min(divergence, 1.0),
        float(wasserstein_distance(samples.n_atoms, held_out.n_atoms)),
        float(wasserstein_distance(samples.area_per_atom, held_out.area_per_atom)),
        float(wasserstein_distance(samples.thickness, held_out.thickness)),
        total_variation(samples.layer_groups, held_out.layer_groups),
        len(samples),
        len(held_out),
    )
