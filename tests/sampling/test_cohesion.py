"""Which crystals are bonded layers: bounds by pair of elements, parts that nothing binds, and the known layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from scdm_models.errors import NotALayerError
from scdm_models.model.batch import to_batch
from scdm_models.sampling.cohesion import bonded_layers
from scdm_models.sampling.guidance import settle
from scdm_models.symmetry.encoding import MAX_ATOMS, LayerCrystal, Site
from scdm_models.symmetry.lattice import is_one_layer, orient_slab


def honeycomb(first: int, second: int, bond: float) -> LayerCrystal:
    """A flat honeycomb of two elements (atomic numbers) with bonds of this length, angstrom."""
    a = bond * 3**0.5
    return LayerCrystal(78, (a, a, 120.0), (Site(first, "a", (0, 0, 0)), Site(second, "b", (1 / 3, 2 / 3, 0))))


THIRD = (1 / 3, 2 / 3)
# two flat hexagonal BN sheets in AA stacking, 4.5 angstrom apart
TWO_SHEETS = LayerCrystal(
    65, (2.51, 2.51, 120.0), (Site(5, "b", (1 / 3, 2 / 3, 2.25)), Site(7, "c", (2 / 3, 1 / 3, -2.25)))
)


def test_bonds_are_neither_too_short_nor_too_long() -> None:
    # Cordero radii B 0.84 + N 0.71 = 1.55 angstrom; the bond of hexagonal BN is a / sqrt(3), 1.448 as measured
    bonds = [0.79 * 1.55, 0.81 * 1.55, 1.448, 1.24 * 1.55, 1.26 * 1.55]
    sheets = to_batch([honeycomb(5, 7, bond) for bond in bonds])
    assert bonded_layers(sheets).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("first", "second", "bond", "bonded"),
    [
        (
            23,
            8,
            1.577,
            True,
        ),  # vanadyl of V2O5 (Enjalbert and Galy, Acta Cryst. C 42, 1467 (1986)): 0.72 of 1.53 + 0.66
        (23, 8, 1.48, False),  # 0.68
        (29, 8, 1.43, False),  # 0.72 of 1.32 + 0.66: no multiple bonds to oxygen right of group 8
        (34, 8, 1.36, False),  # 0.73 of 1.20 + 0.66: nor is selenium a d metal
        (6, 7, 1.157, True),  # cyanide: 0.79 of 0.76 + 0.71
        (74, 74, 2.46, True),  # 0.76 of 2 x 1.62
        (74, 74, 2.40, False),  # 0.74
        (34, 34, 1.90, False),  # 0.79 of 2 x 1.20
    ],
)
def test_some_pairs_bond_closer_than_others(first: int, second: int, bond: float, bonded: bool) -> None:
    assert bonded_layers(to_batch([honeycomb(first, second, bond)])).item() is bonded


def test_sheets_that_nothing_binds_are_no_layer_until_they_are_pulled_together() -> None:
    torn = to_batch([TWO_SHEETS])
    assert not bonded_layers(torn).item()
    assert bonded_layers(settle(torn)).item()


@pytest.mark.parametrize("half", [2.75, 3.25, 5.0])
def test_sheets_are_no_layer_however_far_apart(half: float) -> None:
    """Also where nothing is within reach, four times the sum of the radii."""
    low, high = (Site(z, p, (*xy, h)) for z, p, xy, h in ((5, "b", THIRD, half), (7, "c", THIRD[::-1], -half)))
    assert not bonded_layers(to_batch([LayerCrystal(65, (2.51, 2.51, 120.0), (low, high))])).item()


def test_an_atom_alone_in_its_cell_is_no_layer() -> None:
    assert not bonded_layers(to_batch([LayerCrystal(1, (12.0, 12.0, 90.0), (Site(1, "a", (0, 0, 0)),))])).item()


def without_symmetry(structure: Structure) -> LayerCrystal:
    """The layer in p1, so that no detection of symmetry moves an atom."""
    slab = orient_slab(structure)
    height = (slab.frac_coords[:, 2] - 0.5) * slab.lattice.c
    sites = tuple(
        Site(site.specie.Z, "a", (float(x), float(y), float(z)))
        for site, (x, y, _), z in zip(slab, slab.frac_coords, height, strict=True)
    )
    return LayerCrystal(1, (slab.lattice.a, slab.lattice.b, slab.lattice.gamma), sites)


def test_nearly_all_known_layers_are_bonded_layers(shared_data: Path) -> None:
    from scdm_models.datasets.readers import read_any
    from scdm_models.datasets.records import LayerRecord

    crystals = []
    for name in ("2dmatpedia", "c2db"):
        for item in list(read_any(shared_data / f"{name}.jsonl.gz"))[::10]:
            assert isinstance(item, LayerRecord)
            try:
                if len(item.structure) <= MAX_ATOMS and is_one_layer(item.structure):
                    crystals.append(without_symmetry(item.structure))
            except NotALayerError:  # a bulk crystal among them
                continue
    assert len(crystals) > 900
    bonded = np.array([bonded_layers(to_batch([crystal])).item() for crystal in crystals])
    large = np.array([len(crystal.sites) >= 15 for crystal in crystals])
    assert bonded.mean() > 0.965  # 97.4 % of all 9,366
    assert bonded[large].mean() > 0.93  # 95.5 %
