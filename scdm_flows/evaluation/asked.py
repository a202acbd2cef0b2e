"""How far samples are what they were asked for, beside samples of the same model that were not asked for it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from scdm_flows.evaluation.judge import Judged
from scdm_flows.evaluation.reading import Sample, SampleSet, words
from scdm_flows.evaluation.shares import ROUNDING, plain
from scdm_models.metrics.intervals import ratio_interval, share_interval

EVERYTHING = "all of it"
GUIDED = ("gap", "magnetic", "max_predicted_e_hull")  # wishes for which the guide chooses among draws


def meets(name: str, wish: Any, one: Judged, known_formulas: Collection[str]) -> bool:
    """Whether a sample is what the wish asks for.

    Properties and layer group are those of the relaxed layer; a sample that did not converge as one layer, or whose
    prediction is extrapolated, has none. Composition and number of atoms are the sample's.
    """
    sampled, relaxed = one.sampled, one.relaxed
    settled = relaxed.converged and relaxed.one_layer and not relaxed.extrapolated
    if name == "gap":
        return settled and relaxed.band_gap is not None and wish[0] <= relaxed.band_gap <= wish[1]
    if name == "magnetic":
        return settled and relaxed.magnetic is wish
    if name in ("stability", "max_predicted_e_hull"):
        return settled and relaxed.e_above_hull is not None and relaxed.e_above_hull <= wish + ROUNDING
    if name == "layer_group":
        return relaxed.converged and relaxed.one_layer and relaxed.layer_group == wish
    if sampled.formula is None:
        return False
    if name == "elements":
        return set(sampled.elements) <= set(wish)
    if name == "unknown_formulas":
        return sampled.formula not in known_formulas
    return bool({"formula": sampled.formula, "n_atoms": sampled.n_atoms}[name] == wish)


def fulfilment(
    one: SampleSet,
    sets: Sequence[SampleSet],
    judged: Mapping[str, Sequence[Judged]],
    known_formulas: Collection[str],
) -> dict[str, Any] | None:
    """What came of each wish, JSON-able; None for samples that were asked for nothing.

    Parameters
    ----------
    one
        The samples.
    sets
        All that were judged, among which those to stand beside are looked for (``beside``).
    judged
        Label -> what became of each of its samples.
    known_formulas
        Reduced formulas of known layers.

    Returns
    -------
    dict
        ``beside``: label of the others or None; ``wishes``: for each wish ``words``, ``met`` (share with interval),
        ``met_beside`` and ``ratio`` of the two (None where the others were asked for it, too, or a count is 0), and the
        same of all wishes together; ``variety`` and ``variety_beside``: ``all`` samples and those that ``met`` all
        wishes.
    """
    asked = wanted(one)
    if not asked:
        return None
    other = beside(one, sets)
    own, others = judged[one.label], [] if other is None else judged[other.label]
    apart = asked.keys() - (set() if other is None else wanted(other).keys())  # what only these were asked for
    parts = {name: {name: wish} for name, wish in asked.items()}
    if len(asked) > 1:
        parts[EVERYTHING] = asked
    rows: dict[str, Any] = {}
    for name, part in parts.items():
        met = _met(part, own, known_formulas)
        row = rows[name] = {
            "words": name if name == EVERYTHING else words(name, asked[name]),
            "met": plain(share_interval(sum(met), len(met))),
            "met_beside": None,
            "ratio": None,
        }
        if others and part.keys() & apart:
            there = _met(part, others, known_formulas)
            row["met_beside"] = plain(share_interval(sum(there), len(there)))
            ratio = ratio_interval((sum(met), len(met)), (sum(there), len(there)))
            row["ratio"] = None if ratio is None else plain(ratio)

    def varieties(of: SampleSet) -> dict[str, Any]:
        met = _met(asked, judged[of.label], known_formulas)
        return {"all": variety(of.samples), "met": variety(compress(of.samples, met))}

    return {
        "beside": None if other is None else other.label,
        "wishes": rows,
        "variety": varieties(one),
        "variety_beside": None if other is None else varieties(other),
    }


def wanted(one: SampleSet) -> dict[str, Any]:
    """The wishes of some samples; a stability that is not asked for is none."""
    return {name: wish for name, wish in one.asked.items() if wish is not None}


def beside(one: SampleSet, sets: Sequence[SampleSet]) -> SampleSet | None:
    """Of the samples of the same model and number of steps those that were asked for least; None where none were asked
    for a part of what these were."""
    asked = wanted(one)
    fewer = [
        other
        for other in sets
        if one.model_id is not None
        and (other.model_id, other.steps) == (one.model_id, one.steps)
        and wanted(other).keys() < asked.keys()
    ]
    unasked = {name: None for name in one.asked if name not in asked}
    return min(fewer, key=lambda other: (len(wanted(other)), other.asked != unasked), default=None)


def variety(samples: Iterable[Sample]) -> dict[str, int]:
    """How many samples there are, and how many different formulas, chemical systems and Wyckoff templates among them.

    They grow with the number of samples. Templates are those of samples whose file says what they were made of.
    """
    samples = list(samples)
    made = [sample.structure.composition for sample in samples if sample.structure is not None]
    return {
        "n": len(samples),
        "formulas": len({composition.reduced_formula for composition in made}),
        "systems": len({composition.chemical_system for composition in made}),
        "templates": len({sample.crystal.template for sample in samples if sample.crystal is not None}),
    }


def _met(asked: Mapping[str, Any], judged: Sequence[Judged], known_formulas: Collection[str]) -> list[bool]:
    """Whether each sample meets all wishes."""
    return [all(meets(name, wish, one, known_formulas) for name, wish in asked.items()) for one in judged]
