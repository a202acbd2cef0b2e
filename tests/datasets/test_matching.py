"""The 2D-safe matcher on the cases in which the plain StructureMatcher fails, and on what must stay equal."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from support.layers import diamond

from scdm_models.datasets.matching import LayerMatcher, supercells
from scdm_models.datasets.pairing import Layer, displacement
from scdm_models.errors import NotALayerError, StructureError

THIRDS = [(1 / 3, 2 / 3), (2 / 3, 1 / 3), (0.0, 0.0)]


def stack(a: float, c: float, sheets: list[tuple[str, int, float]]) -> Structure:
    """A hexagonal layer of (element, lateral position 0-2, height in angstrom above the middle)."""
    frac = [[*THIRDS[k], 0.5 + z / c] for _, k, z in sheets]
    return Structure(Lattice.hexagonal(a, c), [element for element, _, _ in sheets], frac)


def mos2(polytype: str, a: float = 3.18, c: float = 20.0) -> Structure:
    return stack(a, c, [("Mo", 0, 0), ("S", 1, 1.565), ("S", 1 if polytype == "1H" else 2, -1.565)])


def silicene(buckling: float, a: float = 3.87) -> Structure:
    return stack(a, 20.0, [("Si", 0, buckling / 2), ("Si", 1, -buckling / 2)])


@pytest.fixture(scope="module")
def matcher() -> LayerMatcher:
    return LayerMatcher()


def apart(matcher: LayerMatcher, first: Structure, second: Structure) -> float | None:
    return matcher.displacement(matcher.layer(first), matcher.layer(second))


@pytest.mark.parametrize("c", [15.0, 20.0, 30.0])
def test_1h_and_1t_differ(matcher: LayerMatcher, c: float) -> None:
    assert not matcher.fit(mos2("1H", c=c), mos2("1T", c=c))
    assert apart(matcher, mos2("1H", c=c), mos2("1T", c=c)) is None


def test_the_plain_matcher_is_unsafe() -> None:
    # why this module exists; if this fails the library has changed and the module should be looked at again
    plain = StructureMatcher()
    assert plain.fit(mos2("1H", c=25), mos2("1T", c=25))
    assert not plain.fit(mos2("1H", c=15), mos2("1H", c=25))


def test_the_vacuum_does_not_matter(matcher: LayerMatcher) -> None:
    assert apart(matcher, mos2("1H", c=15), mos2("1H", c=20)) == pytest.approx(0, abs=1e-6)


def test_flat_and_buckled_silicene_differ(matcher: LayerMatcher) -> None:
    # silicene buckles by 0.44 angstrom (Cahangirov et al., PRL 102, 236804 (2009))
    assert not matcher.fit(silicene(0.0), silicene(0.44))
    assert matcher.fit(silicene(0.40), silicene(0.44))


def test_the_displacement_of_moved_atoms(matcher: LayerMatcher) -> None:
    # both atoms 0.02 angstrom higher or lower than their partners, whatever that does to the thickness
    assert apart(matcher, silicene(0.40), silicene(0.44)) == pytest.approx(0.02, abs=1e-6)
    # one of n atoms moved by d: it stays d (n - 1) / n off the centre, the others d / n; together d sqrt(n - 1) / n
    for n, d, large in ((3, 0.2, mos2("1H")), (12, 0.28, mos2("1H") * (2, 2, 1)), (6, 0.28, mos2("1T") * (1, 2, 1))):
        moved = large.copy()
        moved.translate_sites([n - 1], [0, d, 0], frac_coords=False)
        assert len(matcher.layer(moved).numbers) == n  # too far for a translation of the lattice: no smaller cell
        for first, second in ((large, moved), (moved, large)):
            assert apart(matcher, first, second) == pytest.approx(d * np.sqrt(n - 1) / n, abs=1e-6)
    # strain does not count
    assert apart(matcher, mos2("1H"), mos2("1H", a=3.18 * 1.03)) == pytest.approx(0, abs=1e-6)


def test_supercells_are_all_sublattices() -> None:
    # Z^2 has sigma(k) sublattices of index k: the sum of the divisors of k
    cell = [[3.1, 0, 0], [0.7, 4.3, 0], [0, 0, 25]]
    layer = LayerMatcher.layer(Structure(cell, ["Ge", "S"], [[0, 0, 0], [0.3, 0.4, 0.02]]))
    for k, expected in {1: 1, 2: 3, 3: 4, 4: 7, 6: 12}.items():
        found = list(supercells(layer, k))
        shapes = {(*np.round(cell.lengths, 6).tolist(), round(cell.angle, 6)) for cell in found}
        assert len(found) == len(shapes) == expected
        for cell in found:
            assert cell.area == pytest.approx(k * layer.area)
            assert cell.numbers.tolist() == [16] * k + [32] * k  # S before Ge
            # each germanium has its sulphur where it was
            ge, s = cell.frac[k:] @ _matrix(cell), cell.frac[:k] @ _matrix(cell)
            images = np.array([[i, j, 0] for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ _matrix(cell)
            bonds = np.linalg.norm(ge[:, None] - s + images[:, None, None], axis=-1)
            # 0.3 a + 0.4 b is (1.21, 1.72), and 0.5 higher
            assert bonds.min((0, 2)) == pytest.approx([np.sqrt(1.21**2 + 1.72**2 + 0.5**2)] * k, abs=1e-6)


def _matrix(layer: Layer) -> np.ndarray:
    matrix = np.diag([0.0, 0.0, layer.c])
    matrix[:2, :2] = layer.plane
    return matrix


def test_a_supercell_is_compared_in_every_shape(matcher: LayerMatcher) -> None:
    # moved so far that no translation holds; the square root of three, a skewed cell, a long one
    for form in ([[1, 1], [-1, 2]], [[2, 1], [0, 2]], [[5, 0], [0, 1]]):
        matrix = np.eye(3, dtype=int)
        matrix[:2, :2] = form
        large = mos2("1T")
        large.make_supercell(matrix)
        large.perturb(0.15, seed=3)
        assert len(matcher.layer(large).numbers) == len(large)
        assert apart(matcher, large, mos2("1T")) == apart(matcher, mos2("1T"), large)
        assert 0 < (apart(matcher, large, mos2("1T")) or 0) < 0.15  # a mean of ways of which none is longer
        assert apart(matcher, large, mos2("1H")) is None
        # which copy of an atom is put in place does not matter
        one, other = matcher.layer(mos2("1T")), matcher.layer(large)
        ways = [displacement(cell, other, matcher.tolerance) for cell in supercells(one, len(large) // 3)]
        assert min(way for way in ways if way is not None) == pytest.approx(apart(matcher, large, mos2("1T")))


def test_moved_turned_enlarged_and_mirrored_layers_are_equal(matcher: LayerMatcher) -> None:
    janus = stack(3.25, 20.0, [("Mo", 0, 0), ("S", 1, 1.53), ("Se", 1, -1.70)])
    moved = janus.copy()
    moved.translate_sites(range(3), [0.31, 0.12, 0.47])
    assert matcher.fit(janus, moved)
    assert matcher.fit(janus, janus * (3, 2, 1))
    skew = janus.copy()
    skew.make_supercell([[2, 1, 0], [-1, 1, 0], [0, 0, 1]])
    assert matcher.fit(janus, skew)
    assert matcher.fit(skew, janus * (2, 2, 1))
    mirrored = Structure(janus.lattice, janus.species, janus.frac_coords * [1, 1, -1])
    assert matcher.fit(janus, mirrored)
    turned = Structure(
        janus.lattice.matrix @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]), janus.species, janus.frac_coords
    )
    assert matcher.fit(janus, turned)


def test_lattice_tolerance(matcher: LayerMatcher) -> None:
    assert matcher.fit(mos2("1H"), mos2("1H", a=3.18 * 1.05))
    assert not matcher.fit(mos2("1H"), mos2("1H", a=3.18 * 1.15))


def test_other_formulas_are_not_compared(matcher: LayerMatcher) -> None:
    other = mos2("1H")
    other.replace_species({"S": "Se"})
    assert not matcher.fit(mos2("1H"), other)
    assert apart(matcher, mos2("1H"), other) is None
    # one formula, different numbers of atoms per cell that no supercell explains
    assert not matcher.fit(silicene(0.0), stack(3.87, 20, [("Si", 0, 0.0)]))


def test_the_order_of_the_sheets_counts(matcher: LayerMatcher) -> None:
    # GaSe is Se-Ga-Ga-Se; with the selenium inside the gaps (3.4 angstrom) hide the difference from a periodic match
    inside = stack(3.8, 25, [("Se", 0, -2.4), ("Ga", 1, -1.2), ("Ga", 1, 1.2), ("Se", 0, 2.4)])
    outside = stack(3.8, 25, [("Ga", 1, -2.9), ("Se", 0, -1.7), ("Se", 0, 1.7), ("Ga", 1, 2.9)])
    assert not matcher.fit(inside, outside)
    # two sheets of carbon 3.4 angstrom apart are not one sheet
    double = stack(2.46, 25, [("C", 0, 1.7), ("C", 1, 1.7), ("C", 0, -1.7), ("C", 1, -1.7)])
    assert not matcher.fit(double, stack(2.46, 25, [("C", 0, 0), ("C", 1, 0)]))


def test_primitive_in_plane(matcher: LayerMatcher) -> None:
    base = mos2("1T")
    for supercell in (
        [2, 1, 1],
        [3, 3, 1],
        [[2, 1, 0], [-1, 1, 0], [0, 0, 1]],
        [[1, 4, 0], [0, 2, 0], [0, 0, 1]],
    ):
        large = base.copy()
        large.make_supercell(supercell)
        small = matcher.layer(large)
        assert small.numbers.tolist() == [16, 16, 42]
        assert small.lengths == pytest.approx(base.lattice.abc[:2])
        assert small.area == pytest.approx(base.lattice.volume / base.lattice.c)
    rattled = base * (3, 3, 1)
    rattled.perturb(0.05, seed=1)
    assert len(matcher.layer(rattled).numbers) == 3
    rattled.replace(0, "W")  # now nothing smaller is the same layer
    assert len(matcher.layer(rattled).numbers) == 27
    # moved so far that some translations hold and others do not: they are no lattice, and the cell stays as it is
    graphene = stack(2.46, 20, [("C", 1, 0), ("C", 2, 0)]) * (7, 7, 1)
    graphene.perturb(0.12, seed=1)
    assert len(matcher.layer(graphene).numbers) == 98


def test_group(matcher: LayerMatcher) -> None:
    bulk = diamond("Si", 5.43)
    layers = [mos2("1H"), silicene(0.44), mos2("1T"), mos2("1H", c=30), bulk, silicene(0.40), bulk]
    # a structure that is no layer equals nothing, not even itself, and does not stop the others
    assert matcher.group(layers) == [[0, 3], [1, 5], [2], [4], [6]]
    assert matcher.group([]) == []


def test_errors(matcher: LayerMatcher) -> None:
    bulk = diamond("Si", 5.43)
    with pytest.raises(NotALayerError, match="bulk crystal"):
        matcher.fit(silicene(0.4), bulk)
    with pytest.raises(StructureError, match="stol=-1 and ltol=0.1 must be > 0"):
        LayerMatcher(stol=-1)
