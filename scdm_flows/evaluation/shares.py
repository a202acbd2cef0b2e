"""From verdicts on single samples to shares with intervals, per kept sample and per 1,000 raw draws.

Every share is recounted from its verdicts: yes over yes and no; a sample that is not asked has none. Shares have
Wilson's interval, means the bootstrap's, and a share estimated from two counts that of ``product_interval``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scdm_flows.evaluation.judge import Judged
from scdm_flows.evaluation.protocol import Protocol
from scdm_models.metrics.intervals import CONFIDENCE, Interval, mean_interval, share_interval

Verdicts = dict[str, bool | None]
PER_DRAWS = 1000
PRODUCT_DRAWS = 100_000
ROUNDING = 1e-9  # eV/atom

# What each verdict says, in the order of the table; energies are a surrogate's.
MEASURES: dict[str, str] = {
    "valid_distance": "no atoms closer than 0.5 Å",
    "valid_radii": "no atoms closer than 0.7 covalent radii",
    "one_layer_sampled": "one connected layer as sampled",
    "composition_valid": "composition valid (SMACT)",
    "valid": "valid: all four",
    "new_sampled": "no known layer, before relaxing",
    "converged": "relaxation converged",
    "one_layer": "one connected layer after relaxing",
    "group_kept": "layer group kept or raised on relaxing",
    "unique": "unique after relaxing (falls with n)",
    "new": "new: no known layer, after relaxing",
    "extrapolated": "surrogate energy extrapolated: not stable",
    "stable_0": "surrogate E_hull ≤ 0",
    "stable_0.05": "surrogate E_hull ≤ 0.05 eV/atom",
    "stable_0.1": "surrogate E_hull ≤ 0.1 eV/atom",
    "sun_0": "S.U.N., surrogate E_hull ≤ 0",
    "sun_0.05": "S.U.N., surrogate E_hull ≤ 0.05 eV/atom",
    "sun_0.1": "MetaS.U.N., surrogate E_hull ≤ 0.1 eV/atom",
    "phonon_stable": "surrogate phonons stable, of those drawn",
    "sun_phonon": "MetaS.U.N. with stable surrogate phonons",
    "not_above_known": "surrogate energy not above known polymorphs",
    "rmsd_angstrom": "RMSD to relaxed, Å",
}
LENGTHS = ("rmsd_angstrom",)  # all others are shares
OF_SOME = ("phonon_stable", "not_above_known")  # shares of the samples that are asked


def verdicts(
    judged: Sequence[Judged],
    known_sampled: Sequence[Sequence[str] | None],
    known: Sequence[Sequence[str] | None],
    same_as: Sequence[int | None],
    has_known: Sequence[bool],
    lowest_known: Mapping[str, float],
    phonons: Mapping[int, Mapping[str, Any]],
    protocol: Protocol,
) -> list[Verdicts]:
    """The verdicts on each sample of one model, by the names in ``MEASURES``.

    Parameters
    ----------
    judged
        (n,) samples.
    known_sampled, known
        (n,) known layers that each is, as sampled and relaxed; None where it could not be compared.
    same_as
        (n,) index of the first relaxed sample that is the same layer; None where it could not be compared.
    has_known
        (n,) whether a known layer has its formula; a sample that failed then is above all of them.
    lowest_known
        Reduced formula -> energy above hull of its lowest known polymorph, by the same surrogate, eV/atom.
    phonons
        Index -> what ``phonon_part`` says of a sample that was drawn.
    protocol
        Whose windows and tolerance count.
    """
    found: list[Verdicts] = []
    for i, one in enumerate(judged):
        sampled, relaxed = one.sampled, one.relaxed
        valid = (sampled.valid_distance, sampled.valid_radii, sampled.one_layer, bool(sampled.composition_valid))
        settled = relaxed.converged and relaxed.one_layer and relaxed.e_above_hull is not None
        energy = relaxed.e_above_hull if settled and relaxed.e_above_hull is not None else np.inf
        lowest = lowest_known.get(sampled.formula or "")
        compared = has_known[i] and not (settled and lowest is None)
        found.append(
            {
                **dict(zip(("valid_distance", "valid_radii", "one_layer_sampled", "composition_valid"), valid)),  # noqa: B905
                "valid": all(valid),
                "new_sampled": known_sampled[i] == [],
                "converged": relaxed.converged,
                "one_layer": relaxed.one_layer,
                "group_kept": relaxed.group_kept,
                "unique": same_as[i] == i,
                "new": known[i] == [],
                "extrapolated": bool(relaxed.extrapolated),
                **{
                    f"stable_{window:g}": energy <= window + ROUNDING and not relaxed.extrapolated
                    for window in protocol.windows
                },
                "phonon_stable": phonons[i]["stable"] if i in phonons else None,
                "not_above_known": None
                if not compared
                else lowest is not None and energy <= lowest + protocol.polymorph_tolerance,
            }
        )
    for window in protocol.windows:
        seen: set[int | None] = {None}
        for i, own in enumerate(found):
            # of equal layers that are stable and new the first counts
            own[f"sun_{window:g}"] = bool(own[f"stable_{window:g}"] and own["new"] and same_as[i] not in seen)
            if own[f"sun_{window:g}"]:
                seen.add(same_as[i])
    return found


def measures(
    found: Sequence[Verdicts], rmsd: Sequence[float | None], protocol: Protocol, seed: int
) -> dict[str, dict[str, Any]]:
    """Name -> value, low, high (95 %) and n of every measure that can be had, from the verdicts on one model's samples.

    rmsd: (n,) angstrom; None where a sample was not relaxed.
    """
    intervals: dict[str, Interval] = {}
    for name in MEASURES:
        asked = [own[name] for own in found if own.get(name) is not None]
        if asked:
            intervals[name] = share_interval(sum(map(bool, asked)), len(asked))
    meta, phonon = f"sun_{protocol.phonon_window:g}", [own["phonon_stable"] for own in found]
    drawn = [flag for flag in phonon if flag is not None]
    n_meta = sum(bool(own[meta]) for own in found)
    if found and len(drawn) == n_meta:  # all of them: a share like any other
        intervals["sun_phonon"] = share_interval(sum(map(bool, drawn)), len(found))
    elif drawn:
        intervals["sun_phonon"] = product_interval((n_meta, len(found)), (sum(map(bool, drawn)), len(drawn)), seed)
    moved = [value for value in rmsd if value is not None]
    if len(moved) > 1:
        intervals["rmsd_angstrom"] = mean_interval(moved, seed)
    return {name: plain(intervals[name]) for name in MEASURES if name in intervals}


def per_thousand_draws(found: Mapping[str, Mapping[str, Any]], n: int, draws: int) -> dict[str, dict[str, Any]]:
    """The measures of shares of all samples as counts per 1,000 raw draws, passed-over draws counted as no.

    found: what ``measures`` gives for ``n`` samples out of ``draws`` draws.
    """
    scaled = {}
    for name, share in found.items():
        if name in LENGTHS or name in OF_SOME:
            continue
        if name == "sun_phonon" and share["n"] != n:
            ends = [share[key] * n / draws for key in ("value", "low", "high")]
            interval = Interval(ends[0], ends[1], ends[2], draws)
        else:
            interval = share_interval(round(share["value"] * n), draws)
        scaled[name] = {
            key: PER_DRAWS * value if key != "n" else value for key, value in plain(interval).items()
        }  # fmt: skip
    return scaled


def product_interval(first: tuple[int, int], second: tuple[int, int], seed: int = 0) -> Interval:
    """The product of two independent shares, each (successes, trials), with a 95 % interval.

    The interval is that of the product of two Beta distributions, the posteriors of the shares for Jeffreys' prior
    (Brown, Cai and DasGupta, Stat. Sci. 16, 101 (2001), doi:10.1214/ss/1009213286), by 100,000 seeded draws; it begins
    at 0 where a count is 0. n is the number of trials of the second, which limits it.
    """
    rng = np.random.default_rng(seed)
    draws = np.prod([rng.beta(k + 0.5, n - k + 0.5, PRODUCT_DRAWS) for k, n in (first, second)], axis=0)
    low, high = (float(x) for x in np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    value = first[0] / first[1] * second[0] / second[1]
    return Interval(value, 0.0 if value == 0 else min(low, value), max(high, value), second[1])


def plain(interval: Interval) -> dict[str, Any]:
    """The interval for JSON."""
    return asdict(interval)
