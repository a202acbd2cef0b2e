"""What the energy model says of a layer besides its energy: stable, metallic, magnetic, band gap, direct or not. Pure.

Gaussian processes on the energy model's rows, with its kernel and other variances. A yes or no is learned as +1 or -1,
and a logistic curve makes a probability of the answer (J. Platt, Adv. Large Margin Classifiers 10, 61 (1999)). The band
gap is learned from layers that have one; where a metal is more likely it is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NINE_IN_TEN = float(np.log(10))  # half-width of Laplace's distribution that holds nine in ten, in its scale


@dataclass(frozen=True)
class ErrorByDistance:
    """distances: (n,) increasing; half_widths: (n,) not decreasing, of the unit of what is predicted; farthest: beyond
    it is extrapolated."""

    distances: Array
    half_widths: Array
    farthest: float

    def __call__(self, distance: Array) -> Array:
        """(m,) half-widths: linear between the points, and in proportion to the distance beyond the last."""
        inside = np.interp(distance, self.distances, self.half_widths)
        beyond = np.maximum(distance / self.distances[-1], 1.0)
        return np.asarray(inside * beyond, dtype=float)

    def arrays(self, name: str) -> dict[str, Array]:
        """As arrays of a file."""
        return {
            f"{name}distances": self.distances,
            f"{name}half_widths": self.half_widths,
            f"{name}farthest": np.array([self.farthest]),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array], name: str) -> ErrorByDistance:
        """From what ``arrays`` gave."""
        return cls(arrays[f"{name}distances"], arrays[f"{name}half_widths"], float(arrays[f"{name}farthest"][0]))


@dataclass(frozen=True)
class Verdict:
    """A yes or no. weights: (n,) of the rows, 0 for those of which it is not known; mean: of +1 and -1 over these;
    slope, offset: of the logistic curve."""

    weights: Array
    mean: float
    slope: float
    offset: float

    @property
    def share(self) -> float:
        """Of yes among the rows. A layer is more likely a yes than the rows are where its probability is above it."""
        return (1 + self.mean) / 2

    def probability(self, verdict: Array) -> Array:
        """Of predicted verdicts, about -1 to 1."""
        from scipy.special import expit

        return np.asarray(expit(self.slope * verdict + self.offset), dtype=float)

    def of(self, covariances: Array) -> Array:
        """(m,) probabilities. covariances: (m, n) with the rows."""
        return self.probability(self.mean + covariances @ self.weights)

    def arrays(self, name: str) -> dict[str, Array]:
        """As arrays of a file."""
        return {f"{name}_weights": self.weights, name: np.array([self.mean, self.slope, self.offset])}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array], name: str) -> Verdict | None:
        """From what ``arrays`` gave; None where the file has no such verdict."""
        return cls(arrays[f"{name}_weights"], *arrays[name].tolist()) if name in arrays else None


@dataclass(frozen=True)
class BandGap:
    """PBE band gaps without spin-orbit, eV. weights: (n,) of the rows, 0 for metals; mean: of the others; errors: of
    layers that are said to have a gap."""

    weights: Array
    mean: float
    errors: ErrorByDistance

    def of(self, covariances: Array) -> Array:
        """(m,) gaps of layers that have one, eV, at least 0. covariances: (m, n) with the rows."""
        return np.maximum(self.mean + covariances @ self.weights, 0.0)

    def arrays(self) -> dict[str, Array]:
        """As arrays of a file."""
        return {"gap_weights": self.weights, "gap": np.array([self.mean]), **self.errors.arrays("gap_")}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> BandGap | None:
        """From what ``arrays`` gave; None where the file has no band gaps."""
        if "gap" not in arrays:
            return None
        return cls(arrays["gap_weights"], float(arrays["gap"][0]), ErrorByDistance.of_arrays(arrays, "gap_"))


@dataclass(frozen=True)
class PredictedProperties:
    """Of a layer; None where the model was not fitted for it.

    stable_probability: that it is dynamically stable by C2DB's phonons; nonmetal_probability: that PBE gives it a band
    gap; magnetic_probability: that PBE gives it magnetic moments; band_gap: by PBE without spin-orbit, eV, 0 where a
    metal is more likely; band_gap_error: half-width that holds nine in ten of the layers that are said to have a gap,
    eV, None where a metal is more likely; magnetic: whether it is likelier than among the layers of the fit;
    gap_if_nonmetal, gap_if_nonmetal_error: the gap and its half-width if it has one, eV, however likely that is;
    direct_gap_probability: that the gap is direct if it has one.
    """

    stable_probability: float
    nonmetal_probability: float | None = None
    magnetic_probability: float | None = None
    band_gap: float | None = None
    band_gap_error: float | None = None
    magnetic: bool | None = None
    gap_if_nonmetal: float | None = None
    gap_if_nonmetal_error: float | None = None
    direct_gap_probability: float | None = None

    def gap_probability(self, low: float, high: float) -> float | None:
        """That PBE's gap lies in [low, high], eV, 0 for a metal; None where gaps were not fitted.

        Gaps are spread around the predicted one as Laplace's distribution says, whose half-width for nine in ten is the
        error: nearer to the errors of left-out layers, whose median is a quarter of it, than a normal distribution.
        """
        if self.nonmetal_probability is None or self.gap_if_nonmetal is None or self.gap_if_nonmetal_error is None:
            return None
        from scipy.stats import laplace

        spread = laplace(self.gap_if_nonmetal, self.gap_if_nonmetal_error / NINE_IN_TEN)
        below = 0.0 if low == 0 else float(spread.cdf(low))
        metal = 1 - self.nonmetal_probability if low == 0 else 0.0
        return metal + self.nonmetal_probability * max(0.0, (float(spread.cdf(high)) if high > 0 else 0.0) - below)


def best_gap_probability(error: float, low: float, high: float) -> float:
    """The largest that ``gap_probability`` can be, where the error of the gap is ``error``, eV."""
    return 1.0 if low == 0 else 1 - float(np.exp(-(high - low) / 2 / (error / NINE_IN_TEN)))


@dataclass(frozen=True)
class PropertyModel:
    """stable: by C2DB's phonons; nonmetal, magnetic, gap, direct (of layers with a gap): by PBE, None where they were
    not fitted."""

    stable: Verdict
    nonmetal: Verdict | None = None
    magnetic: Verdict | None = None
    gap: BandGap | None = None
    direct: Verdict | None = None

    def predict(self, covariances: Array, distance: Array) -> list[PredictedProperties]:
        """Of layers. covariances: (m, n) with the rows; distance: (m,) to the nearest row."""
        stable = self.stable.of(covariances)
        nonmetal, magnetic = (None if v is None else v.of(covariances) for v in (self.nonmetal, self.magnetic))
        found = [PredictedProperties(float(probability)) for probability in stable]
        if magnetic is not None and self.magnetic is not None:
            for k, likely in enumerate(magnetic.tolist()):
                found[k] = replace(found[k], magnetic_probability=likely, magnetic=likely > self.magnetic.share)
        if self.direct is not None:
            direct = self.direct.of(covariances).tolist()
            found = [replace(one, direct_gap_probability=p) for one, p in zip(found, direct, strict=True)]
        if nonmetal is None or self.nonmetal is None:
            return found
        found = [replace(one, nonmetal_probability=float(p)) for one, p in zip(found, nonmetal, strict=True)]
        if self.gap is None:
            return found
        for k, (gap, error) in enumerate(zip(self.gap.of(covariances), self.gap.errors(distance), strict=True)):
            there = bool(nonmetal[k] > self.nonmetal.share)
            found[k] = replace(
                found[k],
                band_gap=float(gap) if there else 0.0,
                band_gap_error=float(error) if there else None,
                gap_if_nonmetal=float(gap),
                gap_if_nonmetal_error=float(error),
            )
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays of a file."""
        found = self.stable.arrays("stability")
        for name, verdict in (("nonmetal", self.nonmetal), ("magnetic", self.magnetic), ("direct", self.direct)):
            found |= verdict.arrays(name) if verdict is not None else {}
        return found | (self.gap.arrays() if self.gap is not None else {})

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> PropertyModel:
        """From what ``arrays`` gave; files of earlier versions know stability alone."""
        stable = Verdict(arrays["stability_weights"], *arrays["stability"].tolist())
        nonmetal, magnetic, direct = (Verdict.of_arrays(arrays, name) for name in ("nonmetal", "magnetic", "direct"))
        return cls(stable, nonmetal, magnetic, BandGap.of_arrays(arrays), direct)
