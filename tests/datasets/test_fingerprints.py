"""Fingerprints: what must not change them, and what must."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from scdm_models.datasets.fingerprints import distance, fingerprint

THIRDS = [(1 / 3, 2 / 3), (2 / 3, 1 / 3), (0.0, 0.0)]


def stack(a: float, sheets: list[tuple[str, int, float]], c: float = 20.0) -> Structure:
    """A hexagonal layer of (element, lateral position 0-2, height in angstrom above the middle)."""
    frac = [[*THIRDS[k], 0.5 + z / c] for _, k, z in sheets]
    return Structure(Lattice.hexagonal(a, c), [element for element, _, _ in sheets], frac)


H = stack(3.18, [("Mo", 0, 0), ("S", 1, 1.565), ("S", 1, -1.565)])
T = stack(3.18, [("Mo", 0, 0), ("S", 1, 1.565), ("S", 2, -1.565)])
GRAPHENE = stack(2.46, [("C", 0, 0), ("C", 1, 0)])


def test_the_numbers_of_graphene() -> None:
    values = fingerprint(GRAPHENE)
    assert values.shape == (12 + 3,)
    # shells of the honeycomb: 3 at a/sqrt(3), 6 at a, 3 at 2a/sqrt(3)
    expected = [2.46 / np.sqrt(3)] * 3 + [2.46] * 6 + [2 * 2.46 / np.sqrt(3)] * 3
    np.testing.assert_allclose(values[:12], expected, atol=1e-6)
    np.testing.assert_allclose(values[12:], 0, atol=1e-9)  # flat


def test_the_numbers_of_mos2() -> None:
    values = fingerprint(H)
    assert values.shape == (12 * 4 + 3 * 2,)
    # elements by atomic number: S (16) before Mo (42); rows run over the neighbour first: S-S, Mo-S, S-Mo, Mo-Mo
    ss, mo_s, s_mo, mo_mo = values[:48].reshape(4, 12)
    bond = np.hypot(3.18 / np.sqrt(3), 1.565)
    assert ss[0] == pytest.approx(3.13)  # across the layer, shorter than the six at a = 3.18
    assert ss[1:7] == pytest.approx([3.18] * 6)
    assert mo_s[:6] == pytest.approx([bond] * 6)  # trigonal prism
    assert s_mo[:3] == pytest.approx([bond] * 3)
    assert mo_mo[:6] == pytest.approx([3.18] * 6)
    assert values[48:] == pytest.approx([1.565] * 3 + [0] * 3, abs=1e-9)


@pytest.mark.parametrize("base", [H, T, GRAPHENE])
def test_what_does_not_change_a_layer(base: Structure) -> None:
    values = fingerprint(base)
    moved = base.copy()
    moved.translate_sites(range(len(base)), [0.3, 0.8, 0.49])
    large = base.copy()
    large.make_supercell([[2, 1, 0], [-1, 3, 0], [0, 0, 1]])
    mirrored = Structure(base.lattice, base.species, base.frac_coords * [1, 1, -1])
    thick = Structure(Lattice.hexagonal(base.lattice.a, 31), base.species, base.cart_coords, coords_are_cartesian=True)
    skew = Structure(base.lattice.matrix + [[0] * 3, 3 * base.lattice.matrix[0], [0] * 3], base.species, base.cart_coords, coords_are_cartesian=True)  # fmt: skip
    for same in (moved, large, mirrored, thick, skew):
        assert distance(values, fingerprint(same)) < 1e-9


def test_what_changes_it() -> None:
    # the eighth S neighbour of an S atom: hypot(3.18, 3.13) = 4.46 in 1H, hypot(3.18 / sqrt(3), 3.13) = 3.63 in 1T
    assert distance(fingerprint(H), fingerprint(T)) >= 2 * (4.46 - 3.63) / (4.46 + 3.63)
    wide = Structure(Lattice.hexagonal(3.18 * 1.02, 20), H.species, H.frac_coords)
    # every in-plane distance grows by 2 %; |d - d'| / mean = 0.0198
    assert distance(fingerprint(H), fingerprint(wide)) == pytest.approx(0.0198, abs=1e-3)
    # buckling moves each atom by 0.22 angstrom, which counts 0.3 per angstrom
    buckled = stack(2.46, [("C", 0, 0.22), ("C", 1, -0.22)])
    assert distance(fingerprint(GRAPHENE), fingerprint(buckled)) >= 0.3 * 0.22 - 1e-9


def test_long_cells_and_many_atoms_are_exact() -> None:
    # the search must reach 12 neighbours of the rare element however long the cell: compare with a supercell
    rng = np.random.default_rng(3)
    frac = np.column_stack([rng.random((9, 2)), 0.5 + rng.random(9) * 0.1])
    long = Structure([[3.1, 0, 0], [11.3, 29.0, 0], [0, 0, 25]], ["O"] * 8 + ["W"], frac)
    assert distance(fingerprint(long), fingerprint(long * (5, 1, 1))) < 1e-9
