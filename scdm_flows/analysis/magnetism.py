"""How the moments of a layer stand to each other, from the runs of the orders that were tried. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scdm_flows.analysis.bands import is_magnetic
from scdm_flows.documents.static import MagneticOrder

CANCELLED = 0.1  # of the moments' sum without their signs: below, they count as cancelling


def _cancel(moments: Sequence[float], total: float) -> bool:
    """Whether moments of atoms, Bohr magnetons, cancel. total: of the cell."""
    return abs(total) < CANCELLED * float(np.abs(moments).sum())


def magnetic_order(
    moments: Sequence[float] | None, total: float | None, energy: float, tried: Sequence[Mapping[str, Any]]
) -> tuple[MagneticOrder, float | None]:
    """The lowest order, and by how much the lowest antiferromagnetic one lies above the run's own (eV per cell).

    The latter is None where no antiferromagnetic order was found: what a run began with may turn into another.

    Parameters
    ----------
    moments, total
        Of the run whose ``energy`` it is: of its atoms and of its cell, Bohr magnetons; None without spin.
    energy
        eV per cell.
    tried
        Orders beside it, each with ``energy`` (eV per the same cell) and ``moments``, or with ``failed``.
    """
    magnetic = [one for one in tried if "failed" not in one and is_magnetic(one["moments"])]
    found = [one["energy"] for one in magnetic if _cancel(one["moments"], sum(one["moments"]))]
    above = min(found) - energy if found else None
    if above is not None and above < 0:
        return MagneticOrder.AFM, above
    if moments is None or not is_magnetic(moments):
        return MagneticOrder.NM, above
    return (MagneticOrder.AFM if _cancel(moments, total or 0.0) else MagneticOrder.FM), above
