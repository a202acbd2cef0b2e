"""Whether a layer is dynamically stable, from its bands and a mesh in the plane. Pure.

A mode is imaginary below -0.2 THz (``THRESHOLD_THZ``). That is C2DB's tolerance in other units: an eigenvalue of the
Hessian of -0.01 eV/angstrom^2 (``C2DB_MIN_HESSIAN``) makes an atom of 61 u, such as selenium or molybdenum nearly are,
vibrate with sqrt(0.01 eV/angstrom^2 / 61 u) / 2 pi = 0.2 THz.

Near Gamma, within 0.1 of the zone in units of the reciprocal lattice vectors, the flexural branch (ZA) is quadratic and
bends with the smallest error of the forces, also when the sum rules hold (``sum_rules``). The forces of a force field
have such errors, and its modes are allowed 0.5 THz there. DFT's are converged to a thousandth of an eV/angstrom and
better, the residual ones of the undisplaced supercell are taken off, and rotations cost nothing by the sum rules: what
is left of an imaginary mode belongs to the layer, and the 0.2 THz hold there too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.phonons import PhononBands, PhononMesh

Array = NDArray[np.float64]
THRESHOLD_THZ = 0.2
GAMMA_THRESHOLD_THZ = 0.5  # of force fields
DFT_GAMMA_THRESHOLD_THZ = THRESHOLD_THZ
GAMMA_RADIUS = 0.1
# eV/angstrom^2: the smallest eigenvalue of a 2 x 2 supercell's Hessian that C2DB calls stable
C2DB_MIN_HESSIAN = -0.01


@dataclass(frozen=True)
class DynamicStability:
    """The verdict: stable, the lowest frequency (THz, imaginary negative) and its q, the thresholds, and why."""

    stable: bool
    min_frequency_thz: float
    q_of_min: tuple[float, float, float]
    threshold_thz: float
    gamma_threshold_thz: float
    reason: str | None


def thresholds(q_points: Array, *, surrogate: bool) -> Array:
    """(n,) THz: a mode below minus this is imaginary.

    q_points: (n, 3) fractional; surrogate: whether the forces are a force field's.
    """
    wrapped = q_points - np.rint(q_points)
    near_gamma = np.abs(wrapped).max(axis=1) < GAMMA_RADIUS
    return np.where(near_gamma, gamma_threshold(surrogate), THRESHOLD_THZ)


def gamma_threshold(surrogate: bool) -> float:
    """The threshold near Gamma, THz."""
    return GAMMA_THRESHOLD_THZ if surrogate else DFT_GAMMA_THRESHOLD_THZ


def judge(*samples: PhononBands | PhononMesh, surrogate: bool) -> DynamicStability:
    """Whether no sample of the zone has an imaginary mode by the criterion of the module.

    surrogate: whether the forces are a force field's.
    """
    q_points = np.concatenate([s.q_points for s in samples])
    lowest = np.concatenate([s.frequencies.min(axis=1) for s in samples])
    allowed = thresholds(q_points, surrogate=surrogate)
    worst, k = int(np.argmin(lowest + allowed)), int(np.argmin(lowest))
    x, y, z = (float(value) for value in q_points[k])
    stable = bool((lowest >= -allowed).all())
    reason = None
    if not stable:
        where = ", ".join(f"{value:.3f}" for value in q_points[worst])
        reason = f"imaginary mode of {-lowest[worst]:.2f} THz at q = ({where}), allowed {allowed[worst]:g} THz"
    near = gamma_threshold(surrogate)
    return DynamicStability(stable, float(lowest[k]), (x, y, z), THRESHOLD_THZ, near, reason)


def softness(stiffness: Array) -> str | None:
    """Why a layer is unstable against strain; None where its stiffness tensor, (3, 3) N/m, is positive definite.

    C2DB's second criterion (doi:10.1088/2053-1583/ac1059).
    """
    softest = float(np.linalg.eigvalsh((stiffness + stiffness.T) / 2)[0])
    return f"the stiffness tensor has an eigenvalue of {softest:.1f} N/m, it must be positive" if softest <= 0 else None


@dataclass(frozen=True)
class SupercellStability:
    """The verdict by C2DB's two criteria.

    criterion: what it is, in words; min_hessian: smallest eigenvalue of the supercell's Hessian, eV/angstrom^2;
    stiffness: (3, 3) N/m; reason: why it is unstable.
    """

    stable: bool
    criterion: str
    min_hessian: float
    stiffness: list[list[float]]
    reason: str | None


def c2db_criteria(phonon: Any, stiffness: Array) -> SupercellStability:
    """Whether a layer lies in a minimum of its supercell's energy, and in one of its cell's.

    C2DB's criteria (Gjerding et al., 2D Mater. 8, 044002 (2021), doi:10.1088/2053-1583/ac1059): the Hessian of the
    2 x 2 supercell has no eigenvalue below -0.01 eV/angstrom^2, and the stiffness tensor is positive definite. Modes
    that do not fit in the supercell are not looked at.

    Parameters
    ----------
    phonon
        ``phonopy.Phonopy`` with force constants that obey the translational sum rule.
    stiffness
        (3, 3) N/m, Voigt order xx, yy, xy.
    """
    from phonopy.harmonic.force_constants import compact_fc_to_full_fc

    constants = np.array(phonon.force_constants)
    if len(constants) != constants.shape[1]:
        constants = compact_fc_to_full_fc(phonon.primitive, constants)
    size = 3 * len(constants)
    hessian = constants.swapaxes(1, 2).reshape(size, size)
    smallest = float(np.linalg.eigvalsh((hessian + hessian.T) / 2)[0])
    soft = softness(stiffness)
    reasons = [] if soft is None else [soft]
    if smallest < C2DB_MIN_HESSIAN:
        reasons.insert(
            0,
            f"the supercell's Hessian has an eigenvalue of {smallest:.3f} eV/angstrom^2, allowed {C2DB_MIN_HESSIAN:g}",
        )
    n, m = (int(x) for x in np.diag(phonon.supercell_matrix)[:2])
    return SupercellStability(
        not reasons,
        f"Hessian of the {n} x {m} supercell and stiffness tensor, as in C2DB",
        round(smallest, 5),
        np.round(stiffness, 3).tolist(),
        "; ".join(reasons) or None,
    )
