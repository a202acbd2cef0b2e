"""The published definitions give the published numbers; the periodic ones know images, permutations and shifts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from scdm_models.encoding import LayerCrystal, Site, decode
from scdm_models.metrics.distances import csp_distances, perturb, sinkhorn_distance, superposition_distance

MOS2 = decode(LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0, 0, 0)), Site(16, "e", (1 / 3, 2 / 3, 1.56)))))
NAMES = {"sinkhorn": "sinkhorn_dist", "superpose": "superpose_rmsd", "crystalnn": "fingerPrint", "xrd": "XRD_dist", "ofm": "OFM_dist"}  # fmt: skip


def test_published_definitions_reproduce_the_published_values(shared_data: Path) -> None:
    # tables of Wei et al., Comput. Mater. Sci. 235, 112802 (2024), as their repository holds them: 4 decimals
    with gzip.open(shared_data / "cspbench_reference.json.gz", "rt") as handle:
        pairs = json.load(handle)["pairs"]
    assert len(pairs) == 9
    for pair in pairs:
        truth = Structure.from_str(pair["ground_truth_cif"], fmt="cif")
        predicted = Structure.from_str(pair["predicted_cif"], fmt="cif")
        found = csp_distances(truth, predicted, "published")
        assert set(found.failures) == {"energy"}
        for ours, theirs in NAMES.items():
            assert getattr(found, ours) == pytest.approx(pair["expected"][theirs], abs=6e-5), (pair["name"], ours)


@pytest.mark.parametrize("definition", ["published", "periodic"])
def test_a_crystal_is_at_distance_zero_from_itself(definition: str) -> None:
    found = csp_distances(MOS2, MOS2.copy(), definition, energies=(-1.5, -1.5))
    assert found.failures == {}
    for name in ("energy", "sinkhorn", "superpose", "crystalnn", "xrd", "ofm"):
        assert getattr(found, name) == pytest.approx(0, abs=1e-6), name


@settings(max_examples=25, deadline=None)
@given(
    shift=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-0.2, 0.2)),
    order=st.permutations(range(6)),
)
def test_periodic_distances_know_images_order_and_origin(shift: tuple[float, float, float], order: list[int]) -> None:
    # the same crystal, shifted across the boundary and with its atoms listed in another order
    cell = MOS2 * (2, 1, 1)
    other = Structure(cell.lattice, [cell[i].specie for i in order], [cell[i].frac_coords + shift for i in order])
    assert superposition_distance(cell, other, "periodic") == pytest.approx(0, abs=1e-6)
    assert sinkhorn_distance(cell, other, "periodic") == pytest.approx(0, abs=1e-6)


def test_one_atom_moved_by_a_known_length() -> None:
    # of 12 atoms in a 2 x 2 cell one moves by 0.6 angstrom along z: mean cost and RMSD follow in closed form. The best
    # shift takes 0.6/12 off that atom and adds it to the 11 others
    cell = MOS2 * (2, 2, 1)
    moved = cell.copy()
    moved.translate_sites([0], [0, 0, 0.6 / cell.lattice.c])
    mean = 0.6 / 12
    expected = np.sqrt(((0.6 - mean) ** 2 + 11 * mean**2) / 12)
    assert superposition_distance(cell, moved, "periodic") == pytest.approx(expected, abs=1e-6)
    assert sinkhorn_distance(cell, moved, "periodic") == pytest.approx(((0.6 - mean) + 11 * mean) / 12, abs=1e-6)


def test_what_cannot_be_compared_says_why() -> None:
    # other elements cannot be transported onto each other; fingerprints still compare
    other = MOS2.copy()
    other.replace_species({"Mo": "W"})
    found = csp_distances(MOS2, other, "periodic")
    assert found.sinkhorn is None
    assert "composition" in found.failures["sinkhorn"]
    assert found.xrd is not None
    assert found.xrd > 0
    lonely = Structure(Lattice.cubic(30), ["He"], [[0, 0, 0.5]])
    assert csp_distances(lonely, lonely, "published").failures.keys() >= {"energy"}


def test_the_baseline_moves_by_its_fraction_and_leaves_cell_and_vacuum() -> None:
    moved = perturb(MOS2 * (3, 3, 1), 0.15, seed=1)
    delta = moved.frac_coords - (MOS2 * (3, 3, 1)).frac_coords
    assert np.abs(delta[:, :2]).max() <= 0.15
    assert np.abs(delta[:, :2]).max() > 0.1
    # thickness of MoS2 here: 2 * 1.56 angstrom
    assert np.abs(delta[:, 2] * moved.lattice.c).max() <= 0.15 * 3.12 + 1e-9
    assert moved.lattice == (MOS2 * (3, 3, 1)).lattice
    assert np.array_equal(perturb(MOS2, seed=2).frac_coords, perturb(MOS2, seed=2).frac_coords)
