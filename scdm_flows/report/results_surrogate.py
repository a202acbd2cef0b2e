"""What the surrogate can and cannot say, from its measured errors. Pure: the calibration's header and a card in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from scdm_flows.report.markdown import number, percent, table

if TYPE_CHECKING:
    from scdm_flows.report.study import Study


def section(study: Study) -> Iterator[str]:
    """The section of the results page."""
    yield "## What the surrogate can and cannot say"
    if study.calibration is None:
        yield "No energy of this campaign is a surrogate's."
        return
    yield from _energies(study.calibration)
    if study.accuracy is not None:
        yield from _phonons(study.accuracy)


def _energies(header: Mapping[str, Any]) -> Iterator[str]:
    raw, left_out = header["raw"], header["calibrated_left_out"]
    yield (
        f"**Energies** beside C2DB's PBE values on {header['n']:,} layers. The calibration is judged on chemical "
        f"systems that it was not fitted to ({header['folds_by_chemical_system']} folds)."
    )
    words = {
        "mae": "mean absolute error of E_hull, eV/atom",
        "bias": "bias of E_hull, eV/atom",
        "spearman": "rank correlation of E_hull",
    }
    rows = [[text, number(raw[key]), number(left_out[key])] for key, text in words.items()]
    for level in ("0.6", "0.2"):
        key = f"share_below_{level}"
        true = header[f"true_share_below_{level}"]
        rows.append(
            [
                f"share of layers within {level} eV/atom (PBE: {percent(true, 1)})",
                percent(raw[key], 1),
                percent(left_out[key], 1),
            ]
        )
    yield table(["", "raw", "calibrated"], rows)
    edges, errors = header["error_edges"], header["errors"]
    claimed = percent(header["error_coverage_claimed"], 1)
    rows = [
        [f"{number(edges[k], 2)} to {number(edges[k + 1], 2)}", f"± {number(errors[k], 2)}", percent(inside, 1)]
        for k, inside in enumerate(header["error_coverage_by_value"])
    ]
    yield table(["calibrated E_hull, eV/atom", f"error said to hold {claimed}", "holds, left out"], rows)
    bias, left = raw["bias"], left_out["mae"]
    yield (
        "It can say whether a layer is in the window: of layers truly below 0.2 eV/atom "
        f"{percent(header['stable_kept_in_window'], 1)} stay within 0.6. It cannot say whether a layer lies on the "
        f"hull: the raw surrogate puts layers {number(abs(bias), 2)} eV/atom too {'low' if bias < 0 else 'high'} on "
        f"average, and after the calibration an error of {number(left, 2)} eV/atom remains. C2DB's layers are relaxed "
        "known prototypes: for layers unlike them the error may be larger than measured."
    )


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
