"""Force constants of a layer made to obey what they must: translation, exchange of the atoms, rotation. Pure.

Force constants from finite displacements break the rotational sum rules a little (cut-offs, noise, a supercell that
ends). A bulk crystal forgives that; a layer does not: its flexural branch (ZA), which is quadratic at Gamma because a
rotation of the whole layer costs nothing, becomes linear or imaginary. Here the force constants are replaced by the
nearest ones (least squares) that obey

- translation and the exchange of the two atoms,
- Born-Huang: a rigid rotation causes no force,
- Huang: the elastic energy of a strain does not depend on how the strain is put together from rotations; under stress
  the difference of the two sides is the stress,

as crystals of every dimension have to (M. Born and K. Huang, Dynamical Theory of Crystal Lattices (1954), chapter V;
C. Lin, S. Ponce, N. Marzari, npj Comput. Mater. 8, 236 (2022), doi:10.1038/s41524-022-00920-6). The constraints are a
linear space that every symmetry of the crystal maps onto itself, and so does the distance: what was symmetric stays so.

hiphive enforces the same rules, but on its own parameters: it wants a cluster space with a cut-off below half of the
supercell, refits to it, and brings numba, sympy and pandas along. Projecting the numbers that are there is short.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import EngineError

Array = NDArray[np.float64]
PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # xx, yy, zz, yz, xz, xy
RANK = 1e-12  # eigenvalues of the (scaled) constraints below this share of the largest are dependent rules
# What a relaxation leaves of stress is no property of the layer: below this virial, eV per cell, it counts as none. The
# flexural branch that it would bend stays below 0.1 THz in the supercells used here.
LEFT_OVER_VIRIAL_EV = 0.3


@dataclass(frozen=True)
class Pairs:
    """Pairs of an atom i of the cell and an atom j of the supercell; at equal distances images share a pair.

    constants: (n_cell, n_super, 3, 3) eV/angstrom^2, rows of the atoms of the cell; vectors: (n_cell, n_super, 3) mean
    vector from i to j over the nearest images, angstrom; squares: (n_cell, n_super, 3, 3) mean of its dyadic square,
    angstrom^2; partner: (n_cell, n_super, 2) the pair (j, i) moved into the cell.
    """

    constants: Array
    vectors: Array
    squares: Array
    partner: NDArray[np.int64]


@dataclass(frozen=True)
class Enforced:
    """Force constants that obey the rules, and what that took.

    constants: (n_cell, n_super, 3, 3) eV/angstrom^2; violation_before, violation_after: how far the worst rule is
    missed, each divided by the norm of its coefficients, eV/angstrom^2; relative_change: norm of the change over the
    norm.
    """

    constants: Array
    violation_before: float
    violation_after: float
    relative_change: float


def pairs_of(phonon: Any) -> Pairs:
    """The pairs of a ``phonopy.Phonopy`` whose force constants are set."""
    cell = phonon.primitive
    constants = np.array(phonon.force_constants, dtype=float)
    if len(constants) != len(cell):
        constants = constants[cell.p2s_map]
    n_super, n_cell = constants.shape[1], constants.shape[0]
    images, counts = cell.get_smallest_vectors()
    owner = np.array([cell.p2p_map[k] for k in cell.s2p_map])  # atom of the supercell -> atom of the cell
    vectors, squares = np.zeros((n_cell, n_super, 3)), np.zeros((n_cell, n_super, 3, 3))
    partner = np.zeros((n_cell, n_super, 2), dtype=np.int64)
    for j in range(n_super):
        # the translation of the supercell that brings j into the cell
        (translation, *_) = np.flatnonzero(cell.atomic_permutations[:, j] == cell.p2s_map[owner[j]])
        for i in range(n_cell):
            count, first = counts[j, i]
            near = images[first : first + count] @ cell.cell
            vectors[i, j] = near.mean(axis=0)
            squares[i, j] = near.T @ near / count
            partner[i, j] = owner[j], cell.atomic_permutations[translation, cell.p2s_map[i]]
    return Pairs(constants, vectors, squares, partner)


def enforce(pairs: Pairs, virial: Array | None = None) -> Enforced:
    """The nearest force constants that obey translation, exchange, Born-Huang and Huang.

    Parameters
    ----------
    pairs
        Force constants and geometry.
    virial
        (3, 3) stress times the volume of the cell, eV, positive under tension; below ``LEFT_OVER_VIRIAL_EV``, or None,
        the layer counts as free of stress.

    Raises
    ------
    EngineError
        If the force constants are not finite.
    """
    if not np.isfinite(pairs.constants).all():
        raise EngineError("the force constants must be numbers; the forces of a displaced supercell were not finite")
    from scipy.linalg import eigh

    rules, target = _rules(pairs, np.zeros((3, 3)) if virial is None else virial)
    start = _exchanged(pairs.constants, pairs.partner)
    # rules only see, and corrections only touch, what is symmetric under exchange
    rules = (rules + rules @ _exchange(pairs)) / 2
    norms = np.sqrt(np.asarray(rules.multiply(rules).sum(axis=1)).ravel())
    used = norms > 1e-9
    rules, target = rules[used].multiply(1 / norms[used, None]).tocsr(), target[used] / norms[used]
    values, modes = eigh((rules @ rules.T).toarray())
    modes, values = modes[:, values > RANK * values[-1]], values[values > RANK * values[-1]]
    found = start.ravel()
    for _ in range(2):  # the second time takes off the rounding of the first
        found = found + rules.T @ (modes @ ((modes.T @ (target - rules @ found)) / values))
    constants = found.reshape(start.shape)
    return Enforced(
        constants,
        float(np.abs(rules @ pairs.constants.ravel() - target).max()),
        float(np.abs(rules @ found - target).max()),
        float(np.linalg.norm(constants - pairs.constants) / np.linalg.norm(pairs.constants)),
    )


def _exchanged(constants: Array, partner: NDArray[np.int64]) -> Array:
    """Mean of the constants of (i, j) and the transposed ones of (j, i)."""
    other = constants[partner[..., 0], partner[..., 1]].swapaxes(-1, -2)
    mean: Array = (constants + other) / 2
    return mean


def _exchange(pairs: Pairs) -> Any:
    """(n, n) sparse permutation of the flattened constants that exchanges the atoms of every pair."""
    from scipy.sparse import csr_array

    shape = pairs.constants.shape
    index = np.arange(pairs.constants.size).reshape(shape)
    other = index[pairs.partner[..., 0], pairs.partner[..., 1]].swapaxes(-1, -2)
    n = pairs.constants.size
    return csr_array((np.ones(n), (index.ravel(), other.ravel())), shape=(n, n))


def _rules(pairs: Pairs, virial: Array) -> tuple[Any, Array]:
    """Sparse (n_rules, n) coefficients of the flattened constants, and (n_rules,) what the sums must be."""
    from scipy.sparse import csr_array

    n_cell = len(pairs.constants)
    index = np.arange(pairs.constants.size).reshape(pairs.constants.shape)
    columns: list[NDArray[np.int64]] = []
    coefficients: list[Array] = []
    targets: list[float] = []

    def add(*terms: tuple[NDArray[np.int64], Array], target: float = 0.0) -> None:
        columns.append(np.concatenate([c.ravel() for c, _ in terms]))
        coefficients.append(np.concatenate([np.broadcast_to(x, c.shape).ravel() for c, x in terms]))
        targets.append(target)

    one = np.ones(1)
    for i in range(n_cell):
        for a in range(3):
            for b in range(3):
                add((index[i, :, a, b], one))
            for b, c in combinations(range(3), 2):
                add((index[i, :, a, b], pairs.vectors[i, :, c]), (index[i, :, a, c], -pairs.vectors[i, :, b]))
    stress = virial if np.abs(virial).max() > LEFT_OVER_VIRIAL_EV else np.zeros((3, 3))
    for (a, b), (c, d) in combinations(PAIRS, 2):
        # [ab, cd] = -1/2 sum Phi_ab r_c r_d; under stress [ab, cd] - [cd, ab] = S_cd delta_ab - S_ab delta_cd, of which
        # the in-plane case is a stretched membrane: rho omega^2 = S q^2
        difference = stress[c, d] * (a == b) - stress[a, b] * (c == d)
        terms = (index[:, :, a, b], pairs.squares[:, :, c, d]), (index[:, :, c, d], -pairs.squares[:, :, a, b])
        add(*terms, target=-2 * difference)
    rows = np.repeat(np.arange(len(columns)), [len(c) for c in columns])
    shape = (len(columns), pairs.constants.size)
    return csr_array((np.concatenate(coefficients), (rows, np.concatenate(columns))), shape=shape), np.array(targets)
