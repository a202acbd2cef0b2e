"""What the surrogate can and cannot say, from its measured errors. Pure: cards in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scdm_flows.query.words import EXTRAPOLATED_MARK, EXTRAPOLATED_WORDS, number, percent
from scdm_flows.report.markdown import table

if TYPE_CHECKING:
    from scdm_flows.report.study import Study


def section(study: Study) -> Iterator[str]:
    """The section of the results page."""
    yield "## What the surrogate can and cannot say"
    if not study.surrogate:
        yield "No energy of this campaign is a surrogate's."
        return
    if study.energy_model is None:
        yield "Not measured here: the energies are not those of the packaged energy model (`scdm refs show`)."
    else:
        yield from _energies(study.energy_model)
    if study.accuracy is not None:
        yield from _phonons(study.accuracy)


def _energies(card: Mapping[str, Any]) -> Iterator[str]:
    e_hull = card["e_above_hull"]
    yield (
        f"**Energies** beside C2DB's PBE values on {card['n']:,} layers ({card['not_measured']:,} more could not be "
        f"measured), relaxed with {card['force_field']} as candidates are. Each is predicted with its chemical system "
        f"left out of what the energy model and the hull's scale were fitted on ({card['folds_by_chemical_system']} "
        "folds)."
    )
    words = {
        "hull_energy": "energy of the hull at their compositions",
        "formation_energy": "formation energy",
        "e_above_hull": "E_hull",
    }
    yield table(
        ["", "mean absolute error, eV/atom", "95 % interval", "median", "bias", "rank correlation"],
        [
            [
                text,
                *(number(card[key]["mae"]), _interval(card[key]["mae_95"])),
                *(number(card[key].get(name)) for name in ("median", "bias", "spearman")),
            ]
            for key, text in words.items()
        ],
    )
    rows = [
        [
            f"E_hull ≤ {level} eV/atom",
            percent(card[f"true_share_below_{level}"], 1),
            percent(e_hull[f"share_below_{level}"], 1),
        ]
        for level in ("0.6", "0.2")
    ]
    yield table(["share of the layers", "PBE", "predicted"], rows)
    if classes := card.get("by_chemistry"):
        ordered = sorted(classes.items(), key=lambda item: -item[1]["mae"])
        yield table(
            ["E_hull by chemistry", "layers", "mean absolute error, eV/atom"],
            [[name, f"{found['n']:,}", number(found["mae"])] for name, found in ordered],
        )
    places = ("nearest", "middle", "farthest")
    by_distance = zip(places, card["errors_by_distance"], card["error_coverage_by_distance"], strict=True)
    claimed = percent(card["error_coverage_claimed"], 1)
    yield table(
        ["third of the layers by distance from those of the fit", f"error said to hold {claimed}", "holds, left out"],
        [
            [f"the {place}", f"± {number(error, 2)} (median)", percent(inside, 1)]
            for place, error, inside in by_distance
        ],
    )
    if outside := card.get("external"):
        yield (
            f"From outside, {outside['n']:,} layers ({outside['source']}): mean absolute error "
            f"{number(outside['mae'])} eV/atom ({_interval(outside['mae_95'])}), rank correlation "
            f"{number(outside['spearman'], 2)}; the errors hold {percent(outside['coverage'], 1)} of them."
        )
    yield (
        "It can say whether a layer is in the window: of layers truly below 0.2 eV/atom "
        f"{percent(card['stable_kept_in_window'], 1)} stay within 0.6. Whether a layer lies on the hull it can say "
        f"only to {number(e_hull['mae'], 2)} eV/atom on average; {percent(e_hull['within_0.05'], 1)} of the layers are "
        "within 0.05 of PBE. C2DB's layers are relaxed known prototypes: layers unlike them carry larger errors, and "
        f"those marked {EXTRAPOLATED_MARK} are {EXTRAPOLATED_WORDS}."
    )


def _interval(ends: Sequence[float]) -> str:
    return f"{number(ends[0])} to {number(ends[1])}"


def _phonons(card: Mapping[str, Any]) -> Iterator[str]:
    way = card["ways"]["bands"]
    found, other = way["all"], way["chosen_on_the_other_half"]
    right, lost = found["stable_said_stable"], found["stable_said_unstable"]
    wrong, seen = found["unstable_said_stable"], found["unstable_said_unstable"]
    yield (
        f"**Phonon stability** beside C2DB's verdict on {found['n']} of its layers, half of them stable "
        f"(`{card['command']}`), "
        "computed as in campaigns."
    )
    yield table(
        ["", "surrogate: stable", "surrogate: unstable"],
        [["C2DB: stable", str(right), str(lost)], ["C2DB: unstable", str(wrong), str(seen)]],
    )
    yield (
        f"The verdict is right for {percent(found['accuracy'], 1)} of them (95 % interval {percent(found['low'], 1)} "
        f"to {percent(found['high'], 1)}; {percent(other['accuracy'], 1)} on one half with the threshold chosen on "
        f"the other; area under the curve {number(way['auc'], 2)}). Where half of the layers are stable, one that the "
        f"surrogate calls stable is so with {percent(right, right + wrong)}, and it misses "
        f"{percent(lost, right + lost)} of the stable ones. It can sort candidates for DFT; it cannot replace DFT's "
        "phonons, and a phonon-stable layer on this page is one that is worth computing."
    )
