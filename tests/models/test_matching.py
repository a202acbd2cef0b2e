"""The 2D-safe matcher on the cases in which the plain StructureMatcher fails, and on what must stay equal."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from scdm_models.errors import NotALayerError, StructureError
from scdm_models.matching import LayerMatcher, primitive_in_plane

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


@pytest.mark.parametrize("c", [15.0, 20.0, 30.0])
def test_1h_and_1t_differ(matcher: LayerMatcher, c: float) -> None:
    assert not matcher.fit(mos2("1H", c=c), mos2("1T", c=c))
    assert matcher.rms(mos2("1H", c=c), mos2("1T", c=c)) is None


def test_the_plain_matcher_is_unsafe() -> None:
    # why this module exists; if this fails the library has changed and the module should be looked at again
    plain = StructureMatcher()
    assert plain.fit(mos2("1H", c=25), mos2("1T", c=25))
    assert not plain.fit(mos2("1H", c=15), mos2("1H", c=25))


def test_the_vacuum_does_not_matter(matcher: LayerMatcher) -> None:
    assert matcher.rms(mos2("1H", c=15), mos2("1H", c=20)) == pytest.approx(0, abs=1e-9)


def test_flat_and_buckled_silicene_differ(matcher: LayerMatcher) -> None:
    # silicene buckles by 0.44 angstrom (Cahangirov et al., PRL 102, 236804 (2009))
    assert not matcher.fit(silicene(0.0), silicene(0.44))
    assert matcher.fit(silicene(0.40), silicene(0.44))


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
    assert matcher.rms(mos2("1H"), other) is None
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


def test_primitive_in_plane() -> None:
    base = mos2("1T")
    for supercell in (
        [2, 1, 1],
        [3, 3, 1],
        [[2, 1, 0], [-1, 1, 0], [0, 0, 1]],
        [[1, 4, 0], [0, 2, 0], [0, 0, 1]],
    ):
        large = base.copy()
        large.make_supercell(supercell)
        small = primitive_in_plane(large)
        assert small.composition == base.composition
        assert small.lattice.volume == pytest.approx(base.lattice.volume)
        assert sorted(small.lattice.abc) == pytest.approx(sorted(base.lattice.abc))
    rattled = base * (3, 3, 1)
    rattled.perturb(0.05, seed=1)
    assert len(primitive_in_plane(rattled)) == 3
    rattled.replace(0, "W")  # now nothing smaller is the same layer
    assert len(primitive_in_plane(rattled)) == 27


def test_group(matcher: LayerMatcher) -> None:
    bulk = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    layers = [mos2("1H"), silicene(0.44), mos2("1T"), mos2("1H", c=30), bulk, silicene(0.40), bulk]
    # a structure that is no layer equals nothing, not even itself, and does not stop the others
    assert matcher.group(layers) == [[0, 3], [1, 5], [2], [4], [6]]
    assert matcher.group(layers, keys=[78, 72, 72, 77, 0, 72, 0]) == [[0], [1, 5], [2], [3], [4], [6]]
    assert matcher.group([]) == []


def test_errors(matcher: LayerMatcher) -> None:
    bulk = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    with pytest.raises(NotALayerError, match="bulk crystal"):
        matcher.fit(silicene(0.4), bulk)
    with pytest.raises(StructureError, match="stol=-1 and ltol=0.1 must be > 0"):
        LayerMatcher(stol=-1)
