"""Magnetic orders of layers: which there are, by theory, and how cells and moments of them look."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import mx2

from scdm_flows.analysis.magnetism import lowest, order_of
from scdm_flows.analysis.orderings import antiferromagnetic_orderings, magnetic_sites, ordered
from scdm_flows.documents.static import MagneticOrder, StaticSummary


def with_magmom(layer: Structure, moments: list[float]) -> Structure:
    layer.add_site_property("magmom", moments)
    return layer


def triangular() -> Structure:
    """1T-FeCl2: Fe on a triangular lattice."""
    layer = mx2("1T", a=3.48, half=1.35).replace_species({"Mo": "Fe", "S": "Cl"})
    return with_magmom(layer, [3.5, 0.03, 0.03])


def honeycomb(first: float = 3.0, second: float = 3.0) -> Structure:
    lattice = Lattice.hexagonal(6.0, 20.0)
    return with_magmom(Structure(lattice, ["Cr"] * 2, [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]), [first, second])


def one_atom(lattice: Lattice) -> Structure:
    return with_magmom(Structure(lattice, ["Fe"], [[0, 0, 0.5]]), [2.0])


@pytest.mark.parametrize(
    ("layer", "cells"),
    [
        (triangular(), [2]),  # the three row-wise orders are one, turned by 60 degrees
        (honeycomb(), [1, 2, 2]),  # Neel, stripy, zigzag: Sivadas et al., Phys. Rev. B 91, 235425 (2015)
        (one_atom(Lattice.tetragonal(4.0, 20.0)), [2, 2]),  # checkerboard and rows
        (one_atom(Lattice.orthorhombic(4.0, 5.0, 20.0)), [2, 2, 2]),  # rows along either side, and the checkerboard
    ],
)
def test_the_orders_of_simple_lattices_are_those_of_theory(layer: Structure, cells: list[int]) -> None:
    found = antiferromagnetic_orderings(layer, 12)
    assert [order.cells for order in found] == cells
    for order in found:
        made = ordered(layer, order)
        assert len(made) == order.cells * len(layer)
        moments = np.array(made.site_properties["magmom"])
        assert moments.sum() == pytest.approx(0)
        assert set(np.abs(moments)) <= {0.0, max(layer.site_properties["magmom"])}
        assert made.lattice.c == layer.lattice.c
        assert np.linalg.det(made.lattice.matrix) > 0  # VASP takes no left-handed cell
    assert antiferromagnetic_orderings(layer, 1) == found[:1]


def test_neighbours_of_the_three_honeycomb_orders() -> None:
    # of an atom's three neighbours 3 (Neel), 2 (stripy) and 1 (zigzag) are antiparallel
    layer, counts = honeycomb(), []
    for order in antiferromagnetic_orderings(layer, 3):
        made = ordered(layer, order)
        moments = made.site_properties["magmom"]
        neighbours = made.get_neighbors(made[0], 6.0 / np.sqrt(3) + 0.1)
        counts.append(sum(moments[n.index] * moments[0] < 0 for n in neighbours))
        assert len(neighbours) == 3
    assert counts == [3, 2, 1]


def test_a_layer_without_moments_has_no_order_and_its_own_is_none_of_the_others() -> None:
    assert antiferromagnetic_orderings(mx2("1H"), 5) == []
    assert antiferromagnetic_orderings(with_magmom(mx2("1H"), [0.05, 0.0, 0.0]), 5) == []
    assert [order.cells for order in antiferromagnetic_orderings(honeycomb(3.0, -3.0), 5)] == [2, 2]
    # what iron induces on chlorine is no magnet of its own
    assert magnetic_sites(triangular()).tolist() == [True, False, False]


def test_two_elements_never_cancel_each_other() -> None:
    layer = honeycomb()
    layer.replace(1, "Mn", properties={"magmom": 3.0})  # Cr up and Mn down would be a ferrimagnet
    assert all(order.cells == 2 for order in antiferromagnetic_orderings(layer, 12))


def summary(energy: float, moments: list[float], folder: str) -> StaticSummary:
    return StaticSummary(energy_per_atom=energy, atom_magnetizations=moments, folder=folder)


def test_the_lowest_order_is_kept_with_the_difference() -> None:
    fm, neel = summary(-5.0, [3.0, 3.0], "fm"), summary(-5.02, [2.9, -2.9], "neel")
    rows = summary(-5.01, [3.0, 3.0, -3.0, -3.0], "rows")
    best = lowest(fm, [rows, neel])
    assert (best.magnetic_order, best.energy_per_atom, best.folder) == (MagneticOrder.AFM, -5.02, "neel")
    assert best.antiferromagnetic_ev_per_atom == pytest.approx(-0.02)
    # an order of a larger cell gives the energy; bands begin with the run in the layer's own
    best = lowest(fm, [rows])
    assert (best.magnetic_order, best.energy_per_atom, best.folder) == (MagneticOrder.AFM, -5.01, "fm")
    # begun antiferromagnetic, by a file's moments, and the ferromagnet is lower
    best = lowest(neel.model_copy(update={"energy_per_atom": -4.9}), [fm])
    assert (best.magnetic_order, best.folder) == (MagneticOrder.FM, "fm")
    assert best.antiferromagnetic_ev_per_atom == pytest.approx(0.1)
    # every other order has turned into the first
    assert lowest(fm, [fm]).antiferromagnetic_ev_per_atom is None
    assert order_of(None) is MagneticOrder.NM
