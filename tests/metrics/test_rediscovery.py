"""Held-out layers among samples, beside samples whose groups are shuffled."""

from __future__ import annotations

import numpy as np
import pytest

from scdm_models.errors import ScdmError
from scdm_models.metrics.rediscovery import rediscovered


def test_a_model_that_knows_which_group_a_formula_has() -> None:
    # Two families of a hundred formulas, each with its own group: sampled as they are, all are found. Shuffled, a
    # formula that was sampled once has its own group in half of all permutations (100 of 199 to 200 of the others).
    kinds = [(f"A{k}", 78 if k < 100 else 72) for k in range(200)]
    found = rediscovered(kinds, kinds)
    assert (found.n, found.held_out, found.formulas, found.found) == (200, 200, 200, 200)
    assert found.by_chance == pytest.approx(100, abs=1)
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(2, abs=0.02)
    assert 1.9 < found.ratio.low <= found.ratio.value <= found.ratio.high < 2.1


def test_a_model_that_knows_nothing_of_groups_is_as_good_as_chance() -> None:
    rng, holds = np.random.default_rng(3), 0
    for seed in range(20):
        held = [(f"A{k}", int(rng.integers(1, 81))) for k in range(100)]
        samples = [(f"A{rng.integers(200)}", int(rng.integers(1, 81))) for _ in range(5000)]
        found = rediscovered(samples, held, seed)
        # 25 samples of a formula, each with one group in 80: 1 - (79/80)^25 = 27 of 100
        assert found.by_chance == pytest.approx(27, abs=3)
        assert found.ratio is not None
        holds += found.ratio.low < 1 < found.ratio.high
    assert holds >= 16  # of 20 intervals of 95 %, 19 in the mean; fewer than 16 in one of 400 trials


def test_what_is_sampled_twice_or_held_out_twice_counts_once() -> None:
    found = rediscovered([("MoS2", 78)] * 5 + [("HfS2", 72)], [("MoS2", 78), ("MoS2", 78), ("ZrS2", 72)])
    assert (found.held_out, found.formulas, found.found) == (2, 1, 1)


def test_nothing_sampled_of_it_has_no_ratio_and_nothing_held_out_is_refused() -> None:
    assert rediscovered([("MoS2", 78)], [("ZrS2", 72)]).ratio is None
    # chance finds half of one, the samples none: a ratio of 0 whose resamples are all 0 would claim to be certain
    none = rediscovered([("MoS2", 78), ("ZrS2", 72)], [("MoS2", 72), ("ZrS2", 78)])
    assert (none.found, none.ratio) == (0, None)
    assert none.by_chance == pytest.approx(1, abs=0.1)  # both in half of the shuffles
    with pytest.raises(ScdmError, match="held_out is empty"):
        rediscovered([("MoS2", 78)], [])
