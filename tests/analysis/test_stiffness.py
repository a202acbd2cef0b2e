"""The stiffness tensor from stresses of strained cells, on models whose tensor is known."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import mx2

from scdm_flows.analysis.stability import softness
from scdm_flows.analysis.stiffness import Strain, stiffness_tensor, strains

SIZE = 0.01
A = 2.9  # angstrom
TRIANGULAR = Structure(Lattice.hexagonal(A, 20), ["Si"], [[0, 0, 0.5]])
SQUARE = Structure(Lattice.tetragonal(3.2, 20), ["Si"], [[0, 0, 0.5]])
RECTANGULAR = Structure(Lattice.orthorhombic(3.2, 4.1, 20), ["Si"], [[0, 0, 0.5]])
OBLIQUE = Structure(
    Lattice.from_parameters(3.2, 4.1, 20, 90, 90, 100),
    ["Si", "Ge", "C"],
    [[0, 0, 0.5], [0.4, 0.3, 0.55], [0.1, 0.6, 0.4]],
)


def springs(layer: Structure, k: float = 10.0) -> np.ndarray:
    """(2, 2) stress of a triangular lattice of springs at their natural length ``A``: sum of tensions over the area."""
    a, b = np.array(layer.lattice.matrix)[:2, :2]
    bonds = np.array([a, b, a + b])
    lengths = np.linalg.norm(bonds, axis=1)
    tension = k * (lengths - A) / lengths
    return np.einsum("n,ni,nj->ij", tension, bonds, bonds) / abs(np.linalg.det([a, b]))


def test_a_triangular_lattice_of_springs() -> None:
    asked = strains(TRIANGULAR, SIZE)
    assert [strain.name for strain in asked] == ["xx+", "xx-"]  # the threefold axis makes the others of them
    tensor = stiffness_tensor(TRIANGULAR, asked, [springs(strain.of(TRIANGULAR)) for strain in asked])
    # theory: Lame's constants are both sqrt(3) k / 4 (Seung and Nelson, Phys. Rev. A 38, 1005 (1988))
    lame = np.sqrt(3) / 4 * 10.0
    expected = lame * np.array([[3, 1, 0], [1, 3, 0], [0, 0, 1]])
    assert tensor == pytest.approx(expected, abs=2e-3 * lame)  # of second order in the strain
    assert softness(tensor) is None


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (mx2("1H"), "xx+ xx-"),
        (SQUARE, "xx+ xx- xy+"),
        (RECTANGULAR, "xx+ xx- yy+ yy- xy+"),
        (OBLIQUE, "xx+ xx- yy+ yy- xy+ xy-"),
    ],
    ids=["hexagonal", "square", "rectangular", "oblique"],
)
def test_symmetry_saves_strains_and_changes_nothing(layer: Structure, names: str) -> None:
    asked = strains(layer, SIZE)
    assert " ".join(strain.name for strain in asked) == names
    # the most general tensor that the layer's symmetry leaves: the mean of a random one over its operations, which the
    # strains of an oblique layer find without any
    rng = np.random.default_rng(3)
    random = rng.normal(size=(3, 3))
    random = random + random.T + 8 * np.eye(3)
    every = strains(OBLIQUE, SIZE)
    left_over, curved = 0.3 * np.eye(2), 50.0

    def stress(strain: Strain) -> np.ndarray:
        exx, eyy, exy = strain.tensor[0, 0], strain.tensor[1, 1], 2 * strain.tensor[0, 1]
        sxx, syy, sxy = random @ [exx, eyy, exy]
        even = curved * (exx**2 + eyy**2 + exy**2 / 2) * np.eye(2)  # the same for a strain and its opposite
        return np.array([[sxx, sxy], [sxy, syy]]) + left_over + even

    whole = stiffness_tensor(layer, every, [stress(strain) for strain in every])
    if names.count(" ") == 5:
        assert whole == pytest.approx(random, abs=1e-10)

    def symmetric_stress(strain: Strain) -> np.ndarray:
        exx, eyy, exy = strain.tensor[0, 0], strain.tensor[1, 1], 2 * strain.tensor[0, 1]
        sxx, syy, sxy = whole @ [exx, eyy, exy]
        return np.array([[sxx, sxy], [sxy, syy]]) + left_over

    tensor = stiffness_tensor(layer, asked, [symmetric_stress(strain) for strain in asked])
    assert tensor == pytest.approx(whole, abs=1e-9)


def test_atoms_go_with_the_strained_cell() -> None:
    layer = mx2("1H")
    layer.add_site_property("magmom", [1.0, 0.0, 0.0])
    (stretched, *_) = strains(layer, SIZE)
    found = stretched.of(layer)
    assert found.lattice.a == pytest.approx(1.01 * layer.lattice.a)
    assert found.lattice.c == layer.lattice.c
    assert found.frac_coords == pytest.approx(layer.frac_coords)
    assert found.site_properties == layer.site_properties
    assert layer.lattice.a == pytest.approx(3.18)  # untouched


def test_opposite_moments_are_different_atoms() -> None:
    doubled = SQUARE * (2, 2, 1)
    assert len(strains(doubled, SIZE)) == 3
    doubled.add_site_property("magmom", [2.0, -2.0, 2.0, -2.0])  # rows of ups beside rows of downs: no fourfold axis
    assert len(strains(doubled, SIZE)) == 5


def test_a_layer_that_gives_way_is_unstable() -> None:
    # C2DB's second criterion: the tensor is positive definite; a shear that costs nothing is too soft
    words = softness(np.array([[10.0, 12.0, 0.0], [12.0, 10.0, 0.0], [0.0, 0.0, 5.0]]))
    assert words == "the stiffness tensor has an eigenvalue of -2.0 N/m, it must be positive"
    assert softness(np.diag([10.0, 10.0, 0.0])) is not None
    assert softness(np.diag([10.0, 10.0, 0.1])) is None
