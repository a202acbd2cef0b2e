"""Shortest distances, the paper's threshold and the covalent-radii check."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from scdm_models.errors import StructureError
from scdm_models.symmetry.lattice import covalent_radii
from scdm_models.symmetry.validity import check_distances, shortest_distances, valid_radii


def brute_force(structure: Structure, reach: int = 6) -> tuple[float, float]:
    """Shortest distance and ratio by going through all images of a small cell."""
    cart, matrix = structure.cart_coords, structure.lattice.matrix
    radii = covalent_radii(np.array([s.specie.Z for s in structure]))
    best, ratio = np.inf, np.inf
    for image in itertools.product(range(-reach, reach + 1), repeat=3):
        d = np.linalg.norm(cart[:, None] - cart[None] + np.array(image) @ matrix, axis=-1)
        d[d < 1e-9] = np.inf  # an atom and itself
        best, ratio = min(best, d.min()), min(ratio, (d / (radii[:, None] + radii[None])).min())
    return float(best), float(ratio)


def test_known_distances(mos2: Structure, graphene: Structure) -> None:
    # the bond of graphene is a / sqrt(3); both carbon radii are 0.76 angstrom (Cordero 2008, sp2 0.73, sp3 0.76)
    found = shortest_distances(graphene)
    assert found.min_distance == pytest.approx(2.46 / np.sqrt(3))
    assert found.min_ratio == pytest.approx(2.46 / np.sqrt(3) / 1.52)
    # Mo-S: the in-plane offset is a / sqrt(3), the height 1.565; radii 1.54 and 1.05
    bond = np.hypot(3.18 / np.sqrt(3), 1.565)
    found = shortest_distances(mos2)
    assert found.min_distance == pytest.approx(bond)
    assert found.min_ratio == pytest.approx(bond / 2.59)


def test_the_smallest_ratio_may_belong_to_a_longer_pair() -> None:
    # H-H at 0.9 angstrom is 1.45 of its radii, Cs-Cs at 3.5 angstrom only 0.72 of 2 x 2.44
    cell = Lattice.orthorhombic(15, 15, 20)
    s = Structure(
        cell,
        ["H", "H", "Cs", "Cs"],
        [[0, 0, 0.5], [0.06, 0, 0.5], [0.5, 0.5, 0.5], [0.5 + 3.5 / 15, 0.5, 0.5]],
    )
    found = shortest_distances(s)
    assert found.min_distance == pytest.approx(0.9)
    assert found.min_ratio == pytest.approx(3.5 / 4.88)


@pytest.mark.parametrize("seed", range(6))
def test_skewed_cells_agree_with_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.array([[3.0, 0, 0], [rng.uniform(-9, 9), 2.5, 0], [rng.uniform(-6, 6), rng.uniform(-6, 6), 9.0]])
    s = Structure(matrix, ["Na", "Cl", "O"], rng.random((3, 3)))
    found = shortest_distances(s)
    assert (found.min_distance, found.min_ratio) == pytest.approx(brute_force(s))


def test_single_atoms_and_coinciding_atoms() -> None:
    # alone in its cell an atom's nearest neighbour is its own image
    for structure, expected in (
        (Structure(Lattice.orthorhombic(0.4, 5, 20), ["Fe"], [[0, 0, 0]]), 0.4),
        (Structure(Lattice.cubic(40), ["Fe"], [[0, 0, 0]]), 40),
        (Structure(Lattice.cubic(5), ["Fe", "Fe"], [[0, 0, 0], [0, 0, 1]]), 0),
    ):
        assert shortest_distances(structure).min_distance == pytest.approx(expected)


def test_verdicts_and_reasons(mos2: Structure) -> None:
    good = check_distances(mos2)
    assert (good.valid_distance, good.valid_radii, good.reason) == (True, True, None)
    # half-size MoS2: 1.2 angstrom passes the paper's 0.5 and fails the radii (0.93 / 2)
    small = Structure(Lattice(mos2.lattice.matrix * [[0.5], [0.5], [1]]), mos2.species, mos2.frac_coords)
    close = check_distances(Structure(small.lattice, small.species, (small.frac_coords - 0.5) * [1, 1, 0.5] + 0.5))
    assert (close.valid_distance, close.valid_radii) == (True, False)
    assert close.reason is not None
    assert "at least 0.7 is required" in close.reason
    overlap = check_distances(Structure(Lattice.cubic(8), ["O", "O"], [[0, 0, 0], [0.05, 0, 0]]))
    assert (overlap.valid_distance, overlap.valid_radii) == (False, False)
    assert overlap.reason == "atoms 0.400 angstrom apart, at least 0.5 are required"
    assert not check_distances(mos2, threshold=2.6).valid_distance
    assert not valid_radii(mos2, factor=1.0)


def test_wrong_numbers_are_refused(mos2: Structure) -> None:
    with pytest.raises(StructureError, match=r"threshold=-1 must be >= 0; the paper uses 0\.5"):
        check_distances(mos2, -1)
    with pytest.raises(StructureError, match="factor=nan must be >= 0"):
        check_distances(mos2, factor=float("nan"))
    with pytest.raises(StructureError, match="no atoms"):
        shortest_distances(Structure(Lattice.cubic(5), [], []))
    with pytest.raises(StructureError, match="not a finite number"):
        shortest_distances(Structure(Lattice.cubic(5), ["O"], [[np.nan, 0, 0]]))


def test_nearly_all_known_layers_pass_and_it_is_fast(shared_data: Path) -> None:
    from scdm_models.datasets.readers import read_any

    layers = [item.structure for name in ("2dmatpedia", "c2db") for item in read_any(shared_data / f"{name}.jsonl.gz")]
    layers = layers[::10]
    start = time.perf_counter()
    verdicts = [check_distances(s) for s in layers]
    assert time.perf_counter() - start < 3  # about 0.1 ms each: 10,000 in a second or two
    assert all(v.valid_distance for v in verdicts)
    assert np.mean([v.valid_radii for v in verdicts]) > 0.99  # 99.8 % of the whole sets
