"""Whether a layer is dynamically stable, from its bands and a mesh in the plane. Pure.

A mode is imaginary below -0.2 THz (``THRESHOLD_THZ``). Near Gamma, within 0.1 of the zone in units of the reciprocal
lattice vectors, the criterion is looser, 0.5 THz: the flexural branch (ZA) is quadratic there and bends with the
smallest error of the forces, also when the sum rules hold (``sum_rules``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.phonons import PhononBands, PhononMesh

Array = NDArray[np.float64]
THRESHOLD_THZ = 0.2
GAMMA_THRESHOLD_THZ = 0.5
GAMMA_RADIUS = 0.1


@dataclass(frozen=True)
class DynamicStability:
    """The verdict: stable, the lowest frequency (THz, imaginary negative) and its q, the threshold, and why."""

    stable: bool
    min_frequency_thz: float
    q_of_min: tuple[float, float, float]
    threshold_thz: float
    reason: str | None


def thresholds(q_points: Array) -> Array:
    """(n,) THz: a mode below minus this is imaginary; q_points: (n, 3) fractional."""
    wrapped = q_points - np.rint(q_points)
    near_gamma = np.abs(wrapped).max(axis=1) < GAMMA_RADIUS
    return np.where(near_gamma, GAMMA_THRESHOLD_THZ, THRESHOLD_THZ)


def judge(*samples: PhononBands | PhononMesh) -> DynamicStability:
    """Whether no sample of the zone has an imaginary mode by the criterion of the module."""
    q_points = np.concatenate([s.q_points for s in samples])
    lowest = np.concatenate([s.frequencies.min(axis=1) for s in samples])
    allowed = thresholds(q_points)
    worst, k = int(np.argmin(lowest + allowed)), int(np.argmin(lowest))
    x, y, z = (float(value) for value in q_points[k])
    stable = bool((lowest >= -allowed).all())
    reason = None
    if not stable:
        where = ", ".join(f"{value:.3f}" for value in q_points[worst])
        reason = f"imaginary mode of {-lowest[worst]:.2f} THz at q = ({where}), allowed {allowed[worst]:g} THz"
    return DynamicStability(stable, float(lowest[k]), (x, y, z), THRESHOLD_THZ, reason)
