"""Which layers that a model never saw are among its samples, by formula and layer group, beside chance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scdm_models.errors import ScdmError
from scdm_models.metrics.intervals import BOOTSTRAP_RESAMPLES, CONFIDENCE, Interval

Kind = tuple[str, int]  # reduced formula and layer group
SHUFFLES = 1000
CODES = 100  # more than there are layer groups
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rediscovery:
    """What of the held-out layers was found.

    Parameters
    ----------
    n
        Samples.
    held_out
        Different kinds of held-out layers, by formula and group.
    formulas
        How many of them have the formula of some sample.
    found
        How many of them are among the samples.
    by_chance
        The same when the samples' groups are shuffled among their formulas, the mean over ``SHUFFLES``.
    ratio
        ``found / by_chance``, with an interval by resampling the held-out kinds; None where chance finds nothing, or
        nothing is found at all, of which resamples say nothing.
    """

    n: int
    held_out: int
    formulas: int
    found: int
    by_chance: float
    ratio: Interval | None


def rediscovered(samples: Sequence[Kind], held_out: Collection[Kind], seed: int = 0) -> Rediscovery:
    """Count the held-out kinds of layers among samples, and among samples with shuffled groups.

    Shuffling keeps which formulas and how many of each group were drawn, and takes away what the groups know of the
    formulas; a ratio above 1 is knowledge of that.

    Parameters
    ----------
    samples
        Formula and layer group of each sample.
    held_out
        Those of the layers that the model never saw; each counts once.
    seed
        Of the shuffles and of the resampling.

    Raises
    ------
    ScdmError
        If nothing is held out.
    """
    kinds = sorted(set(held_out))
    if not kinds:
        raise ScdmError("held_out is empty; give the layers that the model never saw")
    rng, groups = np.random.default_rng(seed), np.array([group for _, group in samples], dtype=int)
    number = {formula: k for k, formula in enumerate(sorted({formula for formula, _ in kinds}))}
    rows = [row for row, (formula, _) in enumerate(samples) if formula in number]  # of formulas that are held out
    codes = np.array([number[samples[row][0]] * CODES for row in rows], dtype=int)
    wanted = np.array([number[formula] * CODES + group for formula, group in kinds])

    def among(shuffled: Ints) -> NDArray[np.bool_]:
        return np.isin(wanted, codes + shuffled[rows])

    found = among(groups)
    chance: NDArray[np.float64] = np.mean([among(rng.permutation(groups)) for _ in range(SHUFFLES)], axis=0)
    ratio = None
    if found.any() and chance.sum() > 0:
        drawn = rng.integers(len(kinds), size=(BOOTSTRAP_RESAMPLES, len(kinds)))
        expected = chance[drawn].sum(1)
        ratios = found[drawn].sum(1)[expected > 0] / expected[expected > 0]
        low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
        ratio = Interval(float(found.sum() / chance.sum()), low, high, len(kinds))
    return Rediscovery(
        n=len(samples),
        held_out=len(kinds),
        formulas=int(np.isin(wanted // CODES, codes // CODES).sum()),
        found=int(found.sum()),
        by_chance=float(chance.sum()),
        ratio=ratio,
    )
