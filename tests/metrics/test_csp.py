"""Distances between a crystal and its reconstruction: published values, identity, what may not change them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.core.local_env import CN_OPT_PARAMS, CrystalNN, LocalStructOrderParams
from support.layers import mx2

from scdm_models.errors import ScdmError
from scdm_models.metrics.csp import (
    CspDistances,
    _environments,
    _key,
    csp_distances,
    energy_distance,
    perturb,
    sinkhorn_distance,
    superpose_distance,
)
from scdm_models.symmetry.lattice import orient_slab

NAMES = ("sinkhorn", "superpose", "crystalnn", "xrd", "ofm")
COLUMNS = dict(zip(NAMES, ("sinkhorn_dist", "superpose_rmsd", "fingerPrint", "XRD_dist", "OFM_dist"), strict=True))


def values(found: CspDistances) -> list[float | None]:
    return [getattr(found, name) for name in NAMES]


@pytest.fixture(scope="module")
def pair() -> tuple[Structure, Structure]:
    """A 2 x 1 cell of 1H-MoS2 and the baseline made of it: six atoms, no symmetry left."""
    layer = mx2("1H") * (2, 1, 1)
    return layer, perturb(layer, seed=3)


# --- published ----------------------------------------------------------------------------------------------------


def test_published_values(shared_data: Path) -> None:
    # tables of CSPBenchMetrics (Wei et al., doi:10.1016/j.commatsci.2024.112802), printed with four decimals
    with gzip.open(shared_data / "cspbench_reference.json.gz", "rt", encoding="utf-8") as file:
        pairs = json.load(file)["pairs"]
    assert len(pairs) == 9
    for row in pairs:
        cifs = (Structure.from_str(row[f"{kind}_cif"], fmt="cif") for kind in ("ground_truth", "predicted"))
        found = csp_distances(*cifs)
        assert found.failures == {}
        for name, column in COLUMNS.items():
            assert getattr(found, name) == pytest.approx(row["expected"][column], abs=5.1e-5), (row["name"], name)


def test_published_superposition_allows_similarity_only() -> None:
    # turned, moved and doubled is the same shape; the mirror image of a chiral set of points is not
    layer = Structure(
        Lattice.cubic(30), ["C"] * 4, [[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 1]], coords_are_cartesian=True
    )
    turn = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    same = Structure(layer.lattice, layer.species, 2 * layer.cart_coords @ turn + 5, coords_are_cartesian=True)
    mirror = Structure(layer.lattice, layer.species, layer.cart_coords * [1, 1, -1], coords_are_cartesian=True)
    assert superpose_distance(layer, same) == pytest.approx(0, abs=1e-9)
    assert superpose_distance(layer, mirror) > 0.1


# --- both ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", ["published", "periodic"])
@pytest.mark.parametrize("name", ["mos2", "graphene", "silicon"])
def test_identity(name: str, definition: str, request: pytest.FixtureRequest) -> None:
    silicon = Structure(Lattice.cubic(5.43).matrix @ np.eye(3), ["Si"] * 8, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.25] * 3, [0.25, 0.75, 0.75], [0.75, 0.25, 0.75], [0.75, 0.75, 0.25]])  # fmt: skip
    crystal = silicon if name == "silicon" else request.getfixturevalue(name)
    found = csp_distances(crystal, crystal.copy(), definition=definition, energies=(-7.0, -7.0))  # type: ignore[arg-type]
    assert found.failures == {}
    assert found.energy == 0
    assert values(found) == pytest.approx([0] * 5, abs=1e-6)


def test_energy() -> None:
    assert energy_distance(-7.5, -7.2) == pytest.approx(0.3)
    layer = mx2("1H")
    found = csp_distances(layer, layer * (2, 1, 1), energies=lambda s: -0.1 * len(s))
    assert found.energy == pytest.approx(0.3)
    assert csp_distances(layer, layer).energy is None


def test_failures_are_words_and_stop_nothing() -> None:
    layer = mx2("1H")
    found = csp_distances(layer, layer * (2, 1, 1))
    assert set(found.failures) == {"sinkhorn", "superpose"}
    assert found.failures["superpose"].startswith("the structures have 3 and 6 atoms, the same number is required")
    assert None not in (found.crystalnn, found.xrd, found.ofm)

    other = layer.copy()
    other.replace_species({"S": "Se"})
    found = csp_distances(layer, other, definition="periodic")
    assert set(found.failures) == {"sinkhorn", "superpose", "crystalnn", "ofm"}
    assert "Mo1 S2 and Mo1 Se2" in found.failures["ofm"]
    assert found.xrd is not None
    assert 0 < found.xrd <= 1

    def broken(structure: Structure) -> float:
        raise RuntimeError("no neighbours\nsecond line")

    found = csp_distances(layer, layer, energies=broken)
    assert found.failures == {"energy": "RuntimeError: no neighbours"}
    assert csp_distances(layer, layer, energies=(np.nan, 0.0)).failures.keys() == {"energy"}

    half = layer.copy()
    half.replace(1, {"S": 0.5})
    assert set(csp_distances(half, layer).failures) == set(NAMES)
    with pytest.raises(ScdmError, match="'exact' is unknown"):
        csp_distances(layer, layer, definition="exact")  # type: ignore[arg-type]


def test_order_parameters_are_those_of_single_calls() -> None:
    # several order parameters are asked for in one call, which pymatgen gets right in one order only
    crystal = perturb(mx2("1T") * (2, 1, 1), seed=1)
    found = _environments(_key(crystal))[0]
    crystalnn = CrystalNN(distance_cutoffs=None, x_diff_weight=0)
    for i, site in enumerate(crystal):
        data = crystalnn.get_nn_data(crystal, i)
        expected = []
        for cn in range(1, 25):
            motifs = [("sgl_bd", None)] if cn == 1 else [(*m, None)[:2] for m in CN_OPT_PARAMS.get(cn, {}).values()]
            motifs += [(q, None) for q in ("q2", "q4", "q6")] if 9 <= cn <= 12 else []
            weight = data.cn_weights.get(cn, 0)
            expected.append(weight)
            for name, parameters in motifs:
                sites = [site, *(entry["site"] for entry in data.cn_nninfo.get(cn, []))]
                value = (
                    weight
                    and LocalStructOrderParams([name], [parameters]).get_order_parameters(
                        sites, 0, indices_neighs=list(range(1, len(sites)))
                    )[0]
                )
                expected.append(weight * (value or 0))
        assert found[i] == pytest.approx(expected, abs=1e-6)  # structures are rounded to 1e-9


# --- periodic -----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
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
        expected = distance(layer, moved, "periodic")
        assert expected > 0.1
        assert distance(layer, other, "periodic") == pytest.approx(expected, abs=1e-6)
        assert distance(other, layer, "periodic") == pytest.approx(expected, abs=1e-6)
    assert sinkhorn_distance(layer, other, "periodic") <= superpose_distance(layer, other, "periodic") + 1e-9


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
    assert superpose_distance(layer, moved, "periodic") == pytest.approx(0.6 * np.sqrt(11) / 12, abs=1e-6)
    assert sinkhorn_distance(layer, moved, "periodic") == pytest.approx(2 * 0.6 * 11 / 144, abs=1e-6)


def test_strain_is_a_distance() -> None:
    # layers that differ by an isotropic strain e of their mean cell (area A): displacements e x over a square of
    # that area, mean square e^2 A / 6
    first, second = mx2("1H", a=3.0), mx2("1H", a=3.2)
    area = 3.1**2 * np.sqrt(3) / 2
    expected = (0.2 / 3.1) * np.sqrt(area / 6)
    assert superpose_distance(first, second, "periodic") == pytest.approx(expected, abs=1e-6)
    assert sinkhorn_distance(first, second, "periodic") == pytest.approx(expected, abs=1e-6)


def test_polytypes_and_exchanged_elements_differ() -> None:
    found = csp_distances(mx2("1H"), mx2("1T"), definition="periodic")
    assert found.failures == {}
    assert min(v or 0 for v in values(found)) > 0.02
    # sites are where they were: nothing to transport, but the elements are elsewhere
    nitride = Structure(Lattice.hexagonal(2.5, 20), ["B", "N"] * 2, [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.67], [2 / 3, 1 / 3, 0.67]])  # fmt: skip
    swapped = Structure(nitride.lattice, ["B", "N", "N", "B"], nitride.frac_coords)
    assert superpose_distance(nitride, swapped, "periodic") > 0.5


def test_bulk_crystals_are_periodic_in_three_directions() -> None:
    bulk = Structure(Lattice.orthorhombic(4, 5, 6), ["Na", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.45], [0.1, 0.6, 0.9]])
    other = bulk.copy()
    other.translate_sites(range(3), [0.3, 0.6, 0.8], to_unit_cell=True)
    cycled = Structure(  # c, a, b: the same crystal, turned
        Lattice.orthorhombic(6, 4, 5), other.species, other.frac_coords[:, [2, 0, 1]]
    )
    assert values(csp_distances(bulk, cycled, definition="periodic")) == pytest.approx([0] * 5, abs=2e-3)


# --- the baseline -------------------------------------------------------------------------------------------------


def test_perturb() -> None:
    layer = mx2("1H") * (4, 4, 1)
    moved = perturb(layer, 0.15, seed=1)
    steps = moved.frac_coords - layer.frac_coords
    # 48 uniform draws reach within 10 % of the end unless with probability 2 * 0.9**48 or so
    assert 0.135 < np.abs(steps[:, :2]).max() <= 0.15
    # the range along c is the thickness, 2 * 1.565 angstrom, not the cell
    assert 0.8 * 0.15 * 3.13 < np.abs(steps[:, 2]).max() * layer.lattice.c <= 0.15 * 3.13 + 1e-9
    assert moved.lattice == layer.lattice
    assert moved.species == layer.species
    assert np.array_equal(moved.frac_coords, perturb(layer, 0.15, seed=1).frac_coords)
    assert not np.array_equal(moved.frac_coords, perturb(layer, 0.15, seed=2).frac_coords)
    assert np.array_equal(perturb(layer, 0).frac_coords, layer.frac_coords)


def test_perturb_flat_bulk_and_wrong(graphene: Structure) -> None:
    assert np.allclose(perturb(graphene, seed=1).frac_coords[:, 2], 0.5)
    bulk = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert np.all(perturb(bulk, seed=1).frac_coords != bulk.frac_coords)
    with pytest.raises(ScdmError, match="fraction=1.5 must be 0 to 0.5"):
        perturb(bulk, 1.5)
