"""Gaussian processes judged by what was left out of them, and how large their errors are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.thermo.energy_model import COVERAGE, EXTRAPOLATED_QUANTILE, Inputs, Variances, kernel
from scdm_flows.thermo.properties import ErrorByDistance

Array = NDArray[np.float64]
DISTANCE_BINS = 8
BOOTSTRAP = 500


def covariance(rows: Inputs, variances: Variances, noise: Array | float) -> Array:
    """(m, m) of the rows, with the variances (m,) of their noise."""
    found = kernel(rows, rows, variances)
    found[np.diag_indices(len(found))] += noise
    return found


def left_out(target: Array, folds: NDArray[np.int64], covariance: Array) -> Array:
    """(m,) of ``target``, each fold predicted from the others."""
    inverse = np.linalg.inv(covariance)
    found = np.zeros(len(target))
    for fold in np.unique(folds):
        held = folds == fold
        weights = inverse @ (target - target[~held].mean())
        found[held] = target[held] - np.linalg.solve(inverse[np.ix_(held, held)], weights[held])
    return found


def systems_drawn(systems: Sequence[str] | NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """Rows of bootstrap draws of whole chemical systems."""
    names, index = np.unique(np.array(systems), return_inverse=True)
    members = [np.flatnonzero(index == k) for k in range(len(names))]
    rng = np.random.default_rng(0)
    return [np.concatenate([members[k] for k in rng.integers(0, len(names), len(names))]) for _ in range(BOOTSTRAP)]


def errors_by_distance(distance: Array, error: Array) -> ErrorByDistance:
    """Half-widths that hold ``COVERAGE`` of absolute errors (eV/atom), by isotonic regression over bins of distance."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(distance)
    parts = np.array_split(order, DISTANCE_BINS)
    points = np.array([np.median(distance[p]) for p in parts])
    widths = np.array([conformal_quantile(error[p]) for p in parts])
    return ErrorByDistance(points, isotonic_regression(widths).x, float(np.quantile(distance, EXTRAPOLATED_QUANTILE)))


def conformal_quantile(error: Array) -> float:
    """The quantile that holds ``COVERAGE`` of new ones, with the finite-sample correction of split conformal."""
    n = len(error)
    return float(np.quantile(error, min(1.0, np.ceil((n + 1) * COVERAGE) / n)))


def rounded(value: Any) -> float:
    """Four digits behind the point, for headers."""
    return round(float(value), 4)
