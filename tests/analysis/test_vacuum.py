"""Vacuum levels from a planar average, on the stand-in's potential whose levels are known."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import mx2
from support.standin.potential import STEP_EV, VACUUM_EV, potential, step

from scdm_flows.analysis.vacuum import mean_height, vacuum_levels
from scdm_flows.documents.static import VacuumLevels


def janus(shift: float = 0.5, c: float = 22.0) -> Structure:
    """1H-MoSSe, Se below; its middle at fractional z = ``shift``."""
    layer = mx2("1H", a=3.25, c=c, shift=shift)
    layer.replace(2, "Se")
    return layer


def levels(layer: Structure, *, corrected: bool, points: int = 220) -> VacuumLevels | str:
    found = potential(layer, np.arange(points) / points, corrected=corrected)
    return vacuum_levels(layer, found.tolist(), 1.0, 0.0, 1.6)


@pytest.mark.parametrize("shift", [0.5, 0.02, 0.9])  # also across the boundary of the cell
def test_each_side_of_a_layer_with_a_dipole(shift: float) -> None:
    layer = janus(shift)
    found = levels(layer, corrected=True)
    assert isinstance(found, VacuumLevels)
    # by hand: electronegativities 2.16, 2.58 and 2.55 at 0, 1.565 and -1.565 angstrom; their deviations from the mean
    # do not matter as the heights' mean is zero
    rise = STEP_EV * (2.58 - 2.55) * 1.565
    assert step(layer) == pytest.approx(rise)
    assert found.above_ev - found.below_ev == pytest.approx(rise, abs=1e-4)
    assert found.mean_ev == pytest.approx(VACUUM_EV, abs=1e-4)
    assert (found.fermi_level_ev, found.valence_maximum_ev, found.conduction_minimum_ev) == (1.0, 0.0, 1.6)
    assert found.spread_ev < 1e-3


def test_a_layer_whose_atoms_crowd_on_one_side() -> None:
    # the step lies half a cell from the mean of the atoms, as VASP has it: here 1.5 angstrom off the middle of the vacuum
    heights = np.array([0.0, 0.3, 0.6, 0.9, 1.2, 6.0])
    c = 24.0
    frac = [[k / 6, k / 6, z / c] for k, z in enumerate(heights)]
    layer = Structure(Lattice.hexagonal(3.2, c), ["Mo"] * 5 + ["O"], frac)
    assert abs((mean_height(layer) - 3.0 / c + 0.5) % 1.0 - 0.5) * c > 1.4
    found = levels(layer, corrected=True, points=240)
    assert isinstance(found, VacuumLevels)
    assert found.above_ev - found.below_ev == pytest.approx(step(layer), abs=0.02)


def test_both_sides_of_a_layer_without_one_are_equal() -> None:
    found = levels(mx2("1H", c=21.0), corrected=False)
    assert isinstance(found, VacuumLevels)
    assert (found.below_ev, found.above_ev) == pytest.approx((VACUUM_EV, VACUUM_EV), abs=1e-4)


def test_there_is_no_level_where_the_potential_is_not_flat() -> None:
    layer = janus()
    layer.replace(1, "O")  # 3.44: a large dipole, and without its correction a field in the vacuum
    rise = step(layer)
    assert rise > 0.5
    words = levels(layer, corrected=False)
    assert isinstance(words, str)
    # the field times the quarter of the way to the middle that is looked at: half of 18.9 angstrom
    half = (22.0 - 3.13) / 2
    assert f"changes by {rise / 22.0 * 0.25 * half:.2f} eV" in words
    assert "dipole_correction" in words
    assert isinstance(levels(layer, corrected=True), VacuumLevels)
    assert "vacuum is too thin" in str(levels(mx2("1H", c=6.0), corrected=True))
    assert "8 points along c" in str(levels(mx2("1H"), corrected=True, points=8))
