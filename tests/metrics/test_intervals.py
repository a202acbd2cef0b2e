"""Confidence intervals of shares and means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scdm_models.errors import ScdmError
from scdm_models.metrics.intervals import Interval, mean_interval, ratio_interval, share_interval


# Newcombe, Stat. Med. 17, 857 (1998), Table I, method 3 (score without continuity correction)
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_the_literature(successes: int, n: int, low: float, high: float) -> None:
    found = share_interval(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert (found.value, found.n) == (successes / n, n)


@given(st.data())
def test_wilson_interval_solves_its_equation(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 20_000))
    successes = data.draw(st.integers(0, n))
    found = share_interval(successes, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    # both ends are the shares p for which the observed one is 1.96 standard errors of p away (Wilson's definition)
    z = 1.959963984540054
    for end in (found.low, found.high):
        assert (found.value - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-9)
    # what is counted the other way round is mirrored
    other = share_interval(n - successes, n)
    assert other.low == pytest.approx(1 - found.high)


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).exponential(2.0, 300)
    found = mean_interval(values.tolist(), 3)
    assert found == mean_interval(values.tolist(), 3)
    assert found != mean_interval(values.tolist(), 4)
    assert found.low < found.value < found.high
    # for 300 values the central limit theorem brings it to Student's interval within a tenth of the width; the bootstrap
    # knows that an exponential is skewed to the right and reaches further there
    half = stats.t.ppf(0.975, 299) * stats.sem(values)
    assert found.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found.high - found.value > found.value - found.low


def test_bootstrap_interval_holds_its_level() -> None:
    # of 200 normal samples of thirty 95 % should cover the mean; binomial standard error 1.5 %, and the bootstrap of
    # thirty values is known to cover about 1 % less (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 14)
    draws = np.random.default_rng(0).normal(5.0, 2.0, size=(200, 30))
    covered = [found.low <= 5.0 <= found.high for found in map(mean_interval, draws.tolist())]
    assert np.mean(covered) == pytest.approx(0.94, abs=0.045)


def test_equal_values_have_no_width() -> None:
    assert mean_interval([0.25, 0.25, 0.25]) == Interval(0.25, 0.25, 0.25, 3)


def test_interval_errors() -> None:
    with pytest.raises(ScdmError, match="n=0 must be >= 1"):
        share_interval(0, 0)
    with pytest.raises(ScdmError, match="successes=3 must be 0 to n=2"):
        share_interval(3, 2)
    with pytest.raises(ScdmError, match="n >= 2"):
        mean_interval([1.0])
    with pytest.raises(ScdmError, match=r"values\[1\]=nan must be a finite number"):
        mean_interval([1.0, math.nan])


def test_ratio_of_two_shares_has_the_interval_of_its_logarithm() -> None:
    # Katz et al. 1978: the variance of the logarithm is 1/a - 1/m + 1/b - 1/n; here 0.0533, so exp(+-1.96 * 0.2309)
    found = ratio_interval((60, 150), (20, 150))
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(3.0), 150)
    spread = math.exp(1.959963984540054 * math.sqrt(1 / 60 - 1 / 150 + 1 / 20 - 1 / 150))
    assert (found.low, found.high) == (pytest.approx(3 / spread), pytest.approx(3 * spread))
    assert ratio_interval((0, 10), (3, 10)) is None
    assert ratio_interval((3, 10), (0, 10)) is None
    with pytest.raises(ScdmError, match="successes=11 must be 0 to n=10"):
        ratio_interval((3, 10), (11, 10))
