"""The standard orientation of slabs and the one-layer test on small explicit crystals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.dimensionality import get_structure_components
from pymatgen.core import Element, Lattice, Structure
from pymatgen.core.local_env import CutOffDictNN
from support.layers import diamond, mx2

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.datasets.readers import read_any
from scdm_models.errors import NotALayerError, StructureError
from scdm_models.symmetry.lattice import (
    BOND_FACTOR,
    covalent_radii,
    is_one_layer,
    layer_dimensionality,
    orient_slab,
    prepare_slab,
    slab_thickness,
    vacuum_thickness,
)


def near_distances(structure: Structure) -> np.ndarray:
    return np.sort(structure.get_neighbor_list(4.0)[3])


def assert_contract(slab: Structure, vacuum: float) -> None:
    matrix, z = slab.lattice.matrix, slab.frac_coords[:, 2]
    assert matrix[0, 1] == matrix[0, 2] == matrix[1, 2] == matrix[2, 0] == matrix[2, 1] == 0
    assert matrix[0, 0] > 0
    assert matrix[1, 1] > 0  # with c up this makes a, b, c right-handed
    assert (z.min() + z.max()) / 2 == pytest.approx(0.5, abs=1e-12)
    assert np.all((slab.frac_coords[:, :2] >= 0) & (slab.frac_coords[:, :2] < 1))
    assert vacuum_thickness(slab) == pytest.approx(vacuum)


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.5, 0.97])
def test_a_slab_across_the_boundary_is_joined(mos2: Structure, shift: float) -> None:
    mos2.translate_sites(range(3), [0.2, 0.7, shift])
    slab = orient_slab(mos2, vacuum=15.0)
    assert_contract(slab, 15.0)
    # the sulfur planes of 1H-MoS2 lie 2 x 1.565 angstrom apart in the fixture
    assert slab_thickness(mos2) == pytest.approx(3.13)
    assert slab.lattice.c == pytest.approx(18.13)
    np.testing.assert_allclose(near_distances(slab), near_distances(mos2), atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_vacuum_may_lie_along_any_vector(mos2: Structure, axis: int) -> None:
    order = [(axis + 1 + k) % 3 for k in range(3)]  # a cyclic exchange of the vectors
    turned = Structure(mos2.lattice.matrix[order], mos2.species, mos2.frac_coords[:, order])
    slab = orient_slab(turned)
    assert_contract(slab, 20.0)
    np.testing.assert_allclose(near_distances(slab), near_distances(mos2), atol=1e-9)


def test_a_tilted_c_is_replaced_without_changing_the_layer(mos2: Structure) -> None:
    matrix = mos2.lattice.matrix.copy()
    matrix[2] += 0.4 * matrix[0] + 1.3 * matrix[1]  # the layer is what a and b span; c only separates images
    tilted = Structure(matrix, mos2.species, mos2.cart_coords, coords_are_cartesian=True)
    rotation = np.linalg.qr(np.array([[0.3, 0.5, 0.9], [0.1, -0.8, 0.2], [0.7, 0.2, -0.4]]))[0]
    turned = Structure(matrix @ rotation, mos2.species, tilted.frac_coords)
    slab = orient_slab(turned)
    assert_contract(slab, 20.0)
    assert slab.lattice.gamma == pytest.approx(120)
    np.testing.assert_allclose(near_distances(slab), near_distances(mos2), atol=1e-9)


def test_a_left_handed_cell_keeps_its_heights() -> None:
    # Janus MoSSe with c pointing down: S lies below Mo in space whatever the sign of c
    cell = Lattice([[3.25, 0, 0], [-1.625, 2.8146, 0], [0, 0, -20.0]])
    janus = Structure(cell, ["Mo", "S", "Se"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.577], [2 / 3, 1 / 3, 0.415]])
    slab = orient_slab(janus)
    assert_contract(slab, 20.0)
    assert slab.cart_coords[1, 2] < slab.cart_coords[0, 2] < slab.cart_coords[2, 2]


def test_vacuum_none_keeps_the_gap(mos2: Structure) -> None:
    assert vacuum_thickness(orient_slab(mos2, vacuum=None)) == pytest.approx(20 - 3.13)


def test_bulk_is_refused_with_value_rule_and_remedy() -> None:
    carbon = diamond("C", 3.567)
    with pytest.raises(NotALayerError, match=r"0\.9 angstrom, a layer needs at least 5: .*give a slab"):
        orient_slab(carbon)  # planes of diamond along a cube edge are a/4 = 0.89 angstrom apart
    graphite = Structure(
        Lattice.hexagonal(2.46, 6.7),
        ["C"] * 4,
        [[0, 0, 0], [1 / 3, 2 / 3, 0], [0, 0, 0.5], [2 / 3, 1 / 3, 0.5]],
    )
    with pytest.raises(NotALayerError, match=r"3\.4 angstrom"):  # the interlayer distance of graphite
        orient_slab(graphite)


def test_what_is_no_crystal_is_refused(mos2: Structure) -> None:
    with pytest.raises(StructureError, match="no atoms"):
        orient_slab(Structure(Lattice.cubic(20), [], []))
    with pytest.raises(StructureError, match="not a finite number"):
        orient_slab(Structure(mos2.lattice, mos2.species, [[np.nan, 0, 0], [0, 0, 0.1], [0, 0, 0.2]]))
    with pytest.raises(StructureError, match=r"volume .* must be > 0"):
        orient_slab(Structure(Lattice([[3, 0, 0], [6, 0, 0], [0, 0, 20]]), ["C"], [[0, 0, 0]]))
    with pytest.raises(StructureError, match=r"vacuum=-1 .* must be > 0"):
        orient_slab(mos2, vacuum=-1)


def test_dimensionality_of_components(mos2: Structure, graphene: Structure) -> None:
    assert layer_dimensionality(mos2) == [2]
    assert is_one_layer(mos2)
    # the same bonds whatever the cell: supercells and shifts across the boundary
    shifted = mos2 * (2, 3, 1)
    shifted.translate_sites(range(len(shifted)), [0.4, 0.9, 0.5])
    assert layer_dimensionality(shifted) == [2]
    # two sheets 3.35 angstrom apart: beyond 1.3 x 2 x 0.76, so two layers
    up = graphene.copy()
    up.translate_sites([0, 1], [0, 0, 3.35 / 20])
    bilayer = Structure.from_sites([*graphene, *up])
    assert layer_dimensionality(bilayer) == [2, 2]
    assert not is_one_layer(bilayer)


def test_dimensionality_of_chains_molecules_and_bulk() -> None:
    chain = Structure(Lattice.orthorhombic(1.3, 12, 20), ["C"], [[0, 0, 0.5]])
    assert layer_dimensionality(chain) == [1]
    molecule = Structure(Lattice.orthorhombic(10, 10, 20), ["H", "H"], [[0, 0, 0.5], [0.074, 0, 0.5]])
    assert layer_dimensionality(molecule) == [0]
    assert layer_dimensionality(diamond("C", 3.567)) == [3]
    atoms = Structure(Lattice.cubic(10), ["He", "Ne"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert layer_dimensionality(atoms) == [0, 0]


def test_most_known_layers_are_one_layer(shared_data: Path) -> None:
    layers = [item.structure for item in list(read_any(shared_data / "c2db.jsonl.gz"))[::20]]
    # C2DB holds monolayers by construction; 99.7 % of the whole set pass
    assert np.mean([is_one_layer(orient_slab(s)) for s in layers]) > 0.98


def test_dimensionality_is_what_pymatgen_finds(shared_data: Path) -> None:
    # an implementation of Larsen's algorithm that is not ours, with bonds found by another neighbour search
    structures = []
    for name in ("c2db", "2dmatpedia"):
        structures += [item.structure for item in list(read_any(shared_data / f"{name}.jsonl.gz"))[::150]]
    several = 0
    for seed, structure in enumerate(structures):
        if seed % 2:
            structure.perturb(0.5, seed=seed)  # some of these fall into parts
        symbols = sorted({site.specie.symbol for site in structure})
        radius = {symbol: covalent_radii(np.array([Element(symbol).Z]))[0] for symbol in symbols}
        bonds = CutOffDictNN({(a, b): BOND_FACTOR * (radius[a] + radius[b]) for a in symbols for b in symbols})
        components = get_structure_components(bonds.get_bonded_structure(structure))
        found = sorted(layer_dimensionality(structure))
        assert found == sorted(component["dimensionality"] for component in components)
        several += len(found) > 1
    assert several > 2


@given(st.integers(-4, 4), st.integers(-4, 4), st.sampled_from(["1H", "1T"]))
def test_a_skewed_cell_becomes_the_shortest_one_and_stays_the_same_layer(p: int, q: int, polytype: str) -> None:
    layer = mx2(polytype)
    skewed = layer.copy()
    skewed.make_supercell([[1, p, 0], [q, 1 + p * q, 0], [0, 0, 1]], to_unit_cell=False)  # determinant 1
    skewed.add_site_property("magmom", [2.0, 0.1, -0.1])
    found = prepare_slab(skewed)
    assert found.lattice.a == pytest.approx(3.18)
    assert found.lattice.b == pytest.approx(3.18)
    assert found.lattice.gamma in (pytest.approx(60), pytest.approx(120))
    assert found.lattice.matrix[0, 1] == 0
    assert found.lattice.matrix[1, 1] > 0
    assert LayerMatcher().fit(found, layer)
    assert found.species == skewed.species
    assert found.site_properties["magmom"] == [2.0, 0.1, -0.1]
    # distances between atoms say that nothing was sheared
    assert np.sort(found.distance_matrix, axis=None) == pytest.approx(np.sort(layer.distance_matrix, axis=None))


def test_atoms_of_an_element_stand_together_each_with_its_own_moment() -> None:
    layer = mx2("1H")
    mixed = Structure.from_sites([layer[1], layer[0], layer[2]])  # S Mo S
    mixed.add_site_property("magmom", [0.1, 2.0, -0.1])
    found = prepare_slab(mixed)
    assert [str(specie) for specie in found.species] == ["S", "S", "Mo"]  # one block of POSCAR for each
    assert found.site_properties["magmom"] == [0.1, -0.1, 2.0]
    assert LayerMatcher().fit(found, layer)


def test_cells_that_are_the_shortest_stay_and_half_a_list_of_moments_is_none() -> None:
    layer = mx2("1H")
    assert prepare_slab(layer) == orient_slab(layer)
    layer.add_site_property("magmom", [2.0, None, 0.0])
    assert "magmom" not in prepare_slab(layer).site_properties
    assert prepare_slab(layer, 25.0).lattice.c == pytest.approx(25.0 + 2 * 1.565)
