"""Distances between a crystal and its reconstruction: identity, failures in words, the perturbed baseline."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import mx2

from scdm_models.errors import ScdmError
from scdm_models.metrics.csp import csp_distances, energy_distance, perturb

NAMES = ("sinkhorn", "superpose", "crystalnn", "xrd", "ofm")


@pytest.mark.parametrize("definition", ["published", "periodic"])
@pytest.mark.parametrize("name", ["mos2", "graphene", "silicon"])
def test_identity(name: str, definition: str, request: pytest.FixtureRequest) -> None:
    silicon = Structure(Lattice.cubic(5.43).matrix @ np.eye(3), ["Si"] * 8, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.25] * 3, [0.25, 0.75, 0.75], [0.75, 0.25, 0.75], [0.75, 0.75, 0.25]])  # fmt: skip
    crystal = silicon if name == "silicon" else request.getfixturevalue(name)
    found = csp_distances(crystal, crystal.copy(), definition=definition, energies=(-7.0, -7.0))  # type: ignore[arg-type]
    assert found.failures == {}
    assert found.energy == 0
    assert [getattr(found, name) for name in NAMES] == pytest.approx([0] * 5, abs=1e-6)


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


# --- the baseline


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
