"""Whom a round chooses: formulas against numerical integrals, and what diversity, cost and budget do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from scdm_flows.analysis.acquisition import NINE_IN_TEN, Option, chance, choose, gap_chance, values

BELOW = 0.1


def option(name: str, e: float, error: float = 0.08, **more: object) -> Option:
    return Option(name, e, error, **more)  # type: ignore[arg-type]


def normal(e: float, error: float) -> stats.rv_continuous:
    return stats.norm(e, error / NINE_IN_TEN)


@given(st.floats(-1, 1), st.floats(0.01, 1))
def test_chance_and_improvement_are_what_they_are_defined_as(e: float, error: float) -> None:
    one, of = [option("a", e, error)], normal(e, error)
    assert chance(one, BELOW)[0] == pytest.approx(of.cdf(BELOW), abs=1e-9)
    # E[max(0, b - E)], by numerical integration over the values below b
    low = min(e, BELOW) - 10 * error
    expected, _ = integrate.quad(lambda x: (BELOW - x) * of.pdf(x), low, BELOW, points=[min(e, BELOW)], limit=200)
    assert values(one, "improvement", BELOW)[0] == pytest.approx(expected, abs=1e-6)
    assert values(one, "bound", BELOW)[0] == pytest.approx(BELOW - of.ppf(stats.norm.cdf(-1)), abs=1e-9)


def test_what_hardly_fits_is_worth_least_also_where_nothing_is_worth_anything() -> None:
    far, near = option("far", 0.5, 0.1, fits=0.01), option("near", 0.2, 0.1, fits=0.99)
    never = option("never", 0.2, 0.1, fits=0.0)
    bound = dict(zip(("far", "near", "never"), values([far, near, never], "bound", 0.05), strict=True))
    assert bound["near"] > bound["far"] > bound["never"]


def test_nine_in_ten_lie_within_the_error() -> None:
    of = normal(0.3, 0.1)
    assert of.cdf(0.4) - of.cdf(0.2) == pytest.approx(0.9, abs=1e-4)


def test_the_chance_of_a_band_gap() -> None:
    # the gap is 1.5 +- 0.5 eV where there is one, which is so in 0.8 of the cases
    of = normal(1.5, 0.5)
    assert gap_chance(0.8, 1.5, 0.5, (1.0, 2.0)) == pytest.approx(0.8 * (of.cdf(2.0) - of.cdf(1.0)), abs=1e-9)
    assert gap_chance(0.1, 0.0, None, (0.0, 0.0)) == pytest.approx(0.9)  # a metal was asked for
    assert gap_chance(None, None, None, (1.0, 2.0)) == 0.5  # a model that says nothing


def test_the_likeliest_come_first_and_diversity_passes_over_what_is_alike() -> None:
    options = [option("a", 0.0, chemsys="Mo-S"), option("b", 0.01, chemsys="Mo-S"), option("c", 0.06, chemsys="V-Se")]
    plain = choose(options, 2, by="chance", below=BELOW)
    assert [o.candidate_id for o, _ in plain] == ["a", "b"]
    diverse = choose(options, 2, by="chance", below=BELOW, diversity=0.5)
    assert [o.candidate_id for o, _ in diverse] == ["a", "c"]
    # what earlier rounds have chosen counts as well
    later = choose(options[1:], 1, by="chance", below=BELOW, diversity=0.5, before=options[:1])
    assert [o.candidate_id for o, _ in later] == ["c"]
    # the ranking and a draw are what they are called
    assert [o.candidate_id for o, _ in choose(options, 3, by="rank", below=BELOW, diversity=0.1)] == ["a", "b", "c"]


def test_value_for_the_hours_and_a_budget() -> None:
    options = [option("dear", 0.0, core_hours=4.0), option("cheap", 0.05, core_hours=0.5)]
    assert choose(options, 1, by="chance", below=BELOW)[0][0].candidate_id == "dear"
    assert choose(options, 1, by="chance", below=BELOW, per_hour=True)[0][0].candidate_id == "cheap"
    # one that does not fit is passed over, and a smaller one still goes
    within = choose(options, 2, by="chance", below=BELOW, core_hours=1.0)
    assert [o.candidate_id for o, _ in within] == ["cheap"]
    # of what lies above its bound the dear one is the worse
    hopeless = [option("x", 0.9, 0.1, core_hours=4.0), option("y", 0.9, 0.1, core_hours=0.5)]
    assert choose(hopeless, 1, by="bound", below=BELOW, per_hour=True)[0][0].candidate_id == "y"


@given(st.integers(0, 2**31), st.sampled_from(["chance", "improvement", "bound", "rank", "random"]))
def test_the_order_of_the_options_changes_nothing(seed: int, by: str) -> None:
    rng = np.random.default_rng(seed)
    options = [
        option(f"c{k}", float(rng.normal(0.2, 0.2)), chemsys="ab"[k % 2], score=float(rng.random())) for k in range(8)
    ]
    shuffled = [options[int(k)] for k in rng.permutation(8)]
    both = [choose(of, 4, by=by, below=BELOW, diversity=0.5, seed=3) for of in (options, shuffled)]  # type: ignore[arg-type]
    assert both[0] == both[1]
    assert len({o.candidate_id for o, _ in both[0]}) == 4
