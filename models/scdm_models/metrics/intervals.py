"""Confidence intervals of shares and means, as every table of an evaluation prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scdm_models.errors import ScdmError

CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % confidence interval.

    value, low, high: in the unit of what was estimated (shares: 0 to 1); n: number of trials or values.
    """

    value: float
    low: float
    high: float
    n: int


def share_interval(successes: int, n: int) -> Interval:
    """The share ``successes / n`` with Wilson's score interval.

    It stays within [0, 1] and holds its level at shares near 0 and 1, where mean +- 1.96 sigma does not.

    Parameters
    ----------
    successes, n
        Counts of independent trials, 0 <= successes <= n and n >= 1.

    Raises
    ------
    ScdmError
        If the counts are out of range.

    References
    ----------
    Wilson, J. Am. Stat. Assoc. 22, 209 (1927), doi:10.1080/01621459.1927.10502953; recommended by Brown, Cai and
    DasGupta, Stat. Sci. 16, 101 (2001), doi:10.1214/ss/1009213286.

    Examples
    --------
    >>> found = share_interval(81, 263)
    >>> round(found.low, 4), round(found.high, 4)
    (0.2553, 0.3662)
    """
    if n < 1:
        raise ScdmError(f"n={n} must be >= 1; a share needs at least one trial")
    if not 0 <= successes <= n:
        raise ScdmError(f"successes={successes} must be 0 to n={n}; count successes among the trials")
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    value = successes / n
    # rounding can put an end at 0 or 1 on the wrong side of the share by 1e-17
    return Interval(value, min(float(found.low), value), max(float(found.high), value), n)


def ratio_interval(share: tuple[int, int], other: tuple[int, int]) -> Interval | None:
    """The ratio of two independent shares, each (successes, trials), with an interval on its logarithm.

    None where a count of successes is 0: the ratio is 0 or has no end. n is the smaller number of trials.

    Raises
    ------
    ScdmError
        If the counts are out of range.

    References
    ----------
    Katz, Baptista, Azen and Pike, Biometrics 34, 469 (1978), doi:10.2307/2530610.

    Examples
    --------
    >>> found = ratio_interval((60, 150), (20, 150))
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (3.0, 1.91, 4.72)
    """
    for successes, n in (share, other):
        share_interval(successes, n)  # refuses counts that are out of range
    if share[0] == 0 or other[0] == 0:
        return None
    from scipy.stats.contingency import relative_risk

    found = relative_risk(*share, *other)
    low, high = found.confidence_interval(CONFIDENCE)
    return Interval(float(found.relative_risk), float(low), float(high), min(share[1], other[1]))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of independent values with a bootstrap interval (bias corrected and accelerated), in their unit.

    Parameters
    ----------
    values
        (n,) finite numbers, n >= 2; the interval needs about ten to be worth its level.
    seed
        Of the 2,000 resamples, >= 0; the same seed gives the same interval.

    Raises
    ------
    ScdmError
        If there are fewer than two values or one is not finite.

    References
    ----------
    Efron, J. Am. Stat. Assoc. 82, 171 (1987), doi:10.1080/01621459.1987.10478410.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2:
        raise ScdmError(f"values of shape {sample.shape} must be (n,) with n >= 2; one value has no interval")
    if not np.isfinite(sample).all():
        at = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise ScdmError(f"values[{at}]={sample[at]} must be a finite number; leave out what failed and say how many")
    from scipy import stats

    n, mean = len(sample), float(sample.mean())
    if np.ptp(sample) == 0:  # no spread: the resamples are all the same
        return Interval(mean, mean, mean, n)
    found = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=100,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), n)
