"""The periodic distances: what may not change them, and lengths that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from support.layers import mx2

from scdm_models.metrics.csp import CspDistances, csp_distances, perturb
from scdm_models.metrics.csp_converged import sinkhorn_distance, superpose_distance
from scdm_models.symmetry.lattice import orient_slab


def values(found: CspDistances) -> list[float | None]:
    return [found.sinkhorn, found.superpose, found.crystalnn, found.xrd, found.ofm]


@pytest.fixture(scope="module")
def pair() -> tuple[Structure, Structure]:
    """A 2 x 1 cell of 1H-MoS2 and the baseline made of it: six atoms, no symmetry left."""
    layer = mx2("1H") * (2, 1, 1)
    return layer, perturb(layer, seed=3)


@settings(max_examples=20)
@given(
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-0.5, 0.5)),
    order=st.permutations(range(6)),
    cell=st.sampled_from([[[1, 0], [0, 1]], [[1, 1], [0, 1]], [[0, 1], [-1, 0]], [[2, 1], [1, 1]], [[1, 0], [0, -1]]]),
    vacuum=st.floats(12, 40),
    seed=st.integers(0, 5),
)
def test_positions_do_not_know_the_description(
    shift: tuple[float, float, float], order: list[int], cell: list[list[int]], vacuum: float, seed: int
) -> None:
    # the same crystal with another origin, order, cell, vacuum; atoms anywhere in the cell
    layer = mx2("1H") * (2, 1, 1)
    moved = perturb(layer, seed=seed)
    plane = np.eye(3)
    plane[:2, :2] = cell
    other = orient_slab(moved, vacuum)
    other = Structure(
        Lattice(plane @ other.lattice.matrix),
        [other[i].specie for i in order],
        other.cart_coords[order],
        coords_are_cartesian=True,
    )
    other.translate_sites(range(6), shift, to_unit_cell=True)
    for distance in (superpose_distance, sinkhorn_distance):
        expected = distance(layer, moved)
        assert expected > 0.1
        assert distance(layer, other) == pytest.approx(expected, abs=1e-6)
        assert distance(other, layer) == pytest.approx(expected, abs=1e-6)
    assert sinkhorn_distance(layer, other) <= superpose_distance(layer, other) + 1e-9


def test_fingerprints_do_not_know_the_description(pair: tuple[Structure, Structure]) -> None:
    layer, moved = pair
    other = orient_slab(moved, 31.0)
    other = Structure.from_sites([other[i] for i in (1, 0, 5, 3, 4, 2)])
    other.translate_sites(range(6), [0.4, 0.7, 0.3], to_unit_cell=True)
    expected = csp_distances(layer, moved, definition="periodic")
    assert min(v or 0 for v in values(expected)) > 0.1
    assert values(csp_distances(layer, other, definition="periodic")) == pytest.approx(values(expected), abs=1e-4)
    # and the description alone is no distance; CrystalNN rounds its weights to three decimals
    assert values(csp_distances(moved, other, definition="periodic")) == pytest.approx([0] * 5, abs=2e-3)


def test_one_atom_moved_by_a_known_length() -> None:
    # of n atoms one moves by d: the centre moves by d/n, so d (n - 1)/n and d/n remain; their squares' mean is
    # d^2 (n - 1)/n^2, their mean 2 d (n - 1)/n^2
    layer = mx2("1H") * (2, 2, 1)
    moved = layer.copy()
    moved.translate_sites([0], [0, 0, 0.6], frac_coords=False)
    assert superpose_distance(layer, moved) == pytest.approx(0.6 * np.sqrt(11) / 12, abs=1e-6)
    assert sinkhorn_distance(layer, moved) == pytest.approx(2 * 0.6 * 11 / 144, abs=1e-6)


def test_strain_is_a_distance() -> None:
    # layers that differ by an isotropic strain e of their mean cell (area A): displacements e x over a square of
    # that area, mean square e^2 A / 6
    first, second = mx2("1H", a=3.0), mx2("1H", a=3.2)
    area = 3.1**2 * np.sqrt(3) / 2
    expected = (0.2 / 3.1) * np.sqrt(area / 6)
    assert superpose_distance(first, second) == pytest.approx(expected, abs=1e-6)
    assert sinkhorn_distance(first, second) == pytest.approx(expected, abs=1e-6)


def test_polytypes_and_exchanged_elements_differ() -> None:
    found = csp_distances(mx2("1H"), mx2("1T"), definition="periodic")
    assert found.failures == {}
    assert min(v or 0 for v in values(found)) > 0.02
    # sites are where they were: nothing to transport, but the elements are elsewhere
    nitride = Structure(Lattice.hexagonal(2.5, 20), ["B", "N"] * 2, [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.67], [2 / 3, 1 / 3, 0.67]])  # fmt: skip
    swapped = Structure(nitride.lattice, ["B", "N", "N", "B"], nitride.frac_coords)
    assert superpose_distance(nitride, swapped) > 0.5


def test_bulk_crystals_are_periodic_in_three_directions() -> None:
    bulk = Structure(Lattice.orthorhombic(4, 5, 6), ["Na", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.45], [0.1, 0.6, 0.9]])
    other = bulk.copy()
    other.translate_sites(range(3), [0.3, 0.6, 0.8], to_unit_cell=True)
    cycled = Structure(  # c, a, b: the same crystal, turned
        Lattice.orthorhombic(6, 4, 5), other.species, other.frac_coords[:, [2, 0, 1]]
    )
    assert values(csp_distances(bulk, cycled, definition="periodic")) == pytest.approx([0] * 5, abs=2e-3)
