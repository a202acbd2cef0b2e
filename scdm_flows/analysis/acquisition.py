"""Which candidates are worth computing: what a surrogate says of each, with its error, against what it costs. Pure.

With e the predicted energy above hull, s its standard error and b the largest one that is looked for,

chance       P(E <= b) = Phi((b - e) / s), times the probability of the band gap that is asked for
improvement  E[max(0, b - E)] = (b - e) Phi(z) + s phi(z), z = (b - e) / s (D. R. Jones, M. Schonlau, W. J. Welch,
             J. Global Optim. 13, 455 (1998)), times the same
bound        b - (e - s), how far the lower bound lies below b (P. Auer, J. Mach. Learn. Res. 3, 397 (2002)), times the
             same, or over it where negative

The choice is greedy: the largest value comes first, and it lowers the values of those that are like it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scdm_flows.config.loop import By

Array = NDArray[np.float64]
NINE_IN_TEN = 1.6449  # standard errors on both sides that hold nine in ten of a normal distribution
SMALLEST_ERROR_EV = 1e-3
SMALLEST_CHANCE = 1e-6
LEAST_HOURS = 0.01  # below it a cost is overhead, and says nothing of what is worth while


@dataclass(frozen=True)
class Option:
    """A candidate that could be computed.

    Parameters
    ----------
    candidate_id
        Its id.
    e_above_hull, error
        Predicted, and the half-width that holds nine in ten, eV/atom.
    chemsys, template
        Chemical system and Wyckoff template.
    score
        Of the ranking, 0 to 1.
    core_hours
        Estimated cost; None where it costs next to nothing.
    fits
        Probability that it has the other properties that are asked for.
    """

    candidate_id: str
    e_above_hull: float
    error: float
    chemsys: str = ""
    template: str = ""
    score: float = 0.0
    core_hours: float | None = None
    fits: float = 1.0


def chance(options: Sequence[Option], below: float) -> Array:
    """(n,) probabilities that they are what is looked for. below: largest energy above hull, eV/atom."""
    from scipy.special import ndtr

    e, s = _energies(options)
    return np.asarray(ndtr((below - e) / s) * _fits(options), dtype=float)


def _energies(options: Sequence[Option]) -> tuple[Array, Array]:
    e = np.array([o.e_above_hull for o in options], dtype=float)
    s = np.array([o.error for o in options], dtype=float) / NINE_IN_TEN
    return e, np.maximum(s, SMALLEST_ERROR_EV)


def _fits(options: Sequence[Option]) -> Array:
    return np.array([o.fits for o in options], dtype=float)


def gap_chance(nonmetal: float | None, gap: float | None, error: float | None, asked: tuple[float, float]) -> float:
    """Probability that a band gap lies within what is asked for.

    nonmetal: that there is one; gap, error: what it then is, and the half-width that holds nine in ten, eV; what the
    model does not say counts half.
    """
    from scipy.special import ndtr

    low, high = asked
    if nonmetal is None:
        return 0.5
    metal = (1 - nonmetal) if low <= 0 else 0.0
    if gap is None or error is None:  # a metal is likelier: of the gap that it may have nothing is known
        return metal + nonmetal * 0.5 * (high > 0)
    s = max(error / NINE_IN_TEN, SMALLEST_ERROR_EV)
    return float(metal + nonmetal * (ndtr((high - gap) / s) - ndtr((low - gap) / s)))


def values(options: Sequence[Option], by: By, below: float) -> Array:
    """(n,) values, larger is better; those of ``random`` are all 1."""
    from scipy.special import ndtr

    e, s = _energies(options)
    if by == "chance":
        return chance(options, below)
    if by == "improvement":
        z = (below - e) / s
        density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return np.asarray(((below - e) * ndtr(z) + s * density) * _fits(options), dtype=float)
    if by == "bound":
        bound, fits = below - (e - s), np.maximum(_fits(options), SMALLEST_CHANCE)
        # what fits least is worth least, also where nothing is worth anything
        return np.asarray(np.where(bound < 0, bound / fits, bound * fits), dtype=float)
    if by == "rank":
        return np.array([o.score for o in options], dtype=float)
    return np.ones(len(options))


def choose(
    options: Sequence[Option],
    n: int,
    *,
    by: By,
    below: float,
    diversity: float = 1.0,
    per_hour: bool = False,
    before: Sequence[Option] = (),
    core_hours: float | None = None,
    seed: int = 0,
) -> list[tuple[Option, float]]:
    """Up to ``n`` of the options with their values, in the order of the choice; of equal ones the lower id is first.

    Parameters
    ----------
    by
        Which value.
    below
        Largest energy above hull that is looked for, eV/atom.
    diversity
        Factor on a positive value for every chosen one of the same chemical system, and its square root for every one
        of the same template; without effect on ``rank`` and ``random``, which are what they say.
    per_hour
        Value for the estimated core hours; without effect on these two either.
    before
        What earlier rounds have chosen.
    core_hours
        That all of them together may take; one that does not fit is passed over.
    seed
        Of ``random``.
    """
    order = sorted(options, key=lambda o: o.candidate_id)
    if by == "random":
        np.random.default_rng(seed).shuffle(order)
    value = values(order, by, below)
    plain = by in ("rank", "random")
    if per_hour and not plain:
        hours = np.array([max(o.core_hours or 0.0, LEAST_HOURS) for o in order])
        value = np.where(value > 0, value / hours, value * hours)
    systems, templates = Counter(o.chemsys for o in before), Counter(o.template for o in before)
    left, spent = list(range(len(order))), 0.0
    chosen: list[tuple[Option, float]] = []
    while left and len(chosen) < n:

        def worth(k: int) -> float:
            if plain or value[k] <= 0:
                return float(value[k])
            alike = systems[order[k].chemsys] + 0.5 * templates[order[k].template]
            return float(value[k] * diversity**alike)

        best = max(left, key=lambda k: (worth(k), -k))
        left.remove(best)
        option = order[best]
        cost = option.core_hours or 0.0
        if core_hours is not None and spent + cost > core_hours:
            continue
        chosen.append((option, worth(best)))
        spent += cost
        systems[option.chemsys] += 1
        templates[option.template] += 1
    return chosen


def in_words(option: Option, by: By, below: float) -> str:
    """Why an option was chosen, a sentence."""
    said = f"E_hull {option.e_above_hull:.3f} ± {option.error:.3f} eV/atom predicted"
    if by == "random":
        return f"drawn at random; {said}"
    if by == "rank":
        return f"score {option.score:.3f} in its ranking; {said}"
    p = float(chance([option], below)[0])
    cost = "" if option.core_hours is None else f", {option.core_hours:.2g} core hours"
    return f"{said}: {100 * p:.0f} % to be what is looked for{cost}"
