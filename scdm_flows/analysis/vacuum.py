"""Where the vacuum levels of a layer lie, from its electrostatic potential along c. Pure.

On each side the planar average of the potential is taken between the layer and where a dipole correction puts its step,
near the middle of the vacuum: far enough from the layer for its electrons to have decayed, and from the step. There it
must be flat. Of a polar layer without a dipole correction it is not, as a field of no physical meaning makes up for the
step, and there is no level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_flows.documents.static import VacuumLevels

Array = NDArray[np.float64]
WINDOW = (0.6, 0.85)  # of the way from the outermost atom to the step
FLAT_EV = 0.05  # largest difference within a window
LEAST_POINTS = 3


def vacuum_levels(
    structure: Structure,
    potential: Sequence[float],
    fermi_level: float,
    valence_maximum: float | None,
    conduction_minimum: float | None,
) -> VacuumLevels | str:
    """The levels on both sides of a layer, or in words why there are none.

    Parameters
    ----------
    structure
        The layer, c along z; it may cross the boundary of the cell.
    potential
        (n,) planar averages at the heights k c / n, of the electrostatic potential energy of an electron, eV.
    fermi_level, valence_maximum, conduction_minimum
        On the same scale, eV; the latter two of layers with a gap.
    """
    values, c = np.array(potential, dtype=float), float(structure.lattice.c)
    bottom, thickness = _extent(np.array(structure.frac_coords)[:, 2])
    heights = (np.arange(len(values)) / len(values) - bottom) % 1.0  # above the lowest atom, in units of c
    # of GPAW's correction, and of VASP's, which is half a cell from the middle of the atoms (DIPOL)
    steps = [(1.0 + thickness) / 2, (mean_height(structure) + 0.5 - bottom) % 1.0]
    upwards, downwards = max(0.0, min(steps) - thickness), max(0.0, 1.0 - max(steps))
    above, below = (
        (away >= WINDOW[0] * way) & (away <= WINDOW[1] * way)
        for away, way in ((heights - thickness, upwards), (1.0 - heights, downwards))
    )
    if min(above.sum(), below.sum()) < LEAST_POINTS or not np.isfinite(values).all():
        vacuum = (1.0 - thickness) * c
        return f"the potential has {len(values)} points along c, too few to have some in {vacuum:.1f} Å of vacuum"
    spread = max(float(np.ptp(values[side])) for side in (above, below))
    if spread > FLAT_EV:
        return (
            f"the potential in the vacuum changes by {spread:.2f} eV where it should be flat to {FLAT_EV:g}: the "
            "vacuum is too thin, or a polar layer has no dipole correction (engine.dipole_correction)"
        )
    return VacuumLevels(
        below_ev=round(float(values[below].mean()), 5),
        above_ev=round(float(values[above].mean()), 5),
        spread_ev=round(spread, 5),
        fermi_level_ev=fermi_level,
        valence_maximum_ev=valence_maximum,
        conduction_minimum_ev=conduction_minimum,
    )


def mean_height(structure: Structure) -> float:
    """The mean height of the atoms on the circle of c, as a slab may cross the boundary; in units of c, 0 to 1."""
    angle = np.angle(np.exp(2j * np.pi * np.array(structure.frac_coords)[:, 2]).mean())
    return float(angle / (2 * np.pi)) % 1.0


def _extent(heights: Array) -> tuple[float, float]:
    """The lowest atom's height and the thickness of a layer, both in units of c: what is left of the largest gap."""
    ordered = np.sort(heights % 1.0)
    gaps = np.diff([*ordered, ordered[0] + 1.0])
    widest = int(np.argmax(gaps))
    return float(ordered[(widest + 1) % len(ordered)]), float(1.0 - gaps[widest])
