"""How the moments of a layer stand to each other, from the runs of the orders that were tried. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scdm_flows.analysis.bands import is_magnetic
from scdm_flows.documents.static import MagneticOrder

CANCELLED = 0.1  # of the moments' sum without their signs: below, they count as cancelling


def cancel(moments: Sequence[float]) -> bool:
    """Whether there are moments (Bohr magnetons) and they cancel."""
    size = float(np.abs(moments).sum())
    return is_magnetic(moments) and abs(float(np.sum(moments))) < CANCELLED * size


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
    found = [one["energy"] for one in tried if "failed" not in one and cancel(one["moments"])]
    above = min(found) - energy if found else None
    if above is not None and above < 0:
        return MagneticOrder.AFM, above
    if moments is None or not is_magnetic(moments):
        return MagneticOrder.NM, above
    size = float(np.abs(moments).sum())
    return (MagneticOrder.AFM if abs(total or 0.0) < CANCELLED * size else MagneticOrder.FM), above
