"""Fits what the energy model says besides energies, and how good that is where chemical systems are left out. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_model import COVERAGE, PROPERTIES, Inputs, kernel
from scdm_flows.thermo.left_out import covariance, errors_by_distance, left_out, rounded, systems_drawn
from scdm_flows.thermo.properties import BandGap, PropertyModel, Verdict
from scdm_flows.thermo.training_layers import LEAST, Measured
from scdm_flows.thermo.validate import scores

Array = NDArray[np.float64]
CORRELATED = frozenset({"V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu"})  # where force fields, which have no spin, err most


def fit_properties(
    rows: Inputs, layers: Measured, folds: NDArray[np.int64], distance: Array, n_rows: int
) -> tuple[PropertyModel, dict[str, Any]]:
    """The models, and what the header says of them.

    rows, folds, distance: (n,) of the relaxed layers, distance to the nearest one of another fold; n_rows: of the whole
    model, of which these are the first.

    Raises
    ------
    ReferenceDataError
        If fewer than 100 layers have a phonon verdict.
    """
    stable, said, quality = _verdict(rows, layers, layers.stable, folds, n_rows)
    if stable is None:
        raise ReferenceDataError(
            f"{said} layers have a phonon verdict (dyn_stab_phonons), at least {LEAST} are needed; give the whole C2DB "
            "file"
        )
    header = {"phonon_stability": quality}
    has_gap = np.where(np.isfinite(layers.band_gap), (layers.band_gap > 0).astype(float), np.nan)
    nonmetal, likely, quality = _verdict(rows, layers, has_gap, folds, n_rows)
    magnetic, _, magnetism = _verdict(rows, layers, layers.magnetic, folds, n_rows)
    if magnetic is not None:
        header["magnetic"] = magnetism
    gap = None
    if nonmetal is not None:
        header["nonmetal"] = quality
        gap, header["band_gap"] = _band_gap(rows, layers, likely > nonmetal.share, folds, distance, n_rows)
    direct, _, quality = _verdict(rows, layers, layers.direct, folds, n_rows)
    if direct is not None:
        header["direct_gap"] = quality
    return PropertyModel(stable, nonmetal, magnetic, gap, direct), header


def _verdict(
    rows: Inputs, layers: Measured, truth: Array, folds: NDArray[np.int64], n_rows: int
) -> tuple[Verdict | None, Any, dict[str, Any]]:
    """What tells a yes (1) from a no (0; NaN: not known), the (n,) probabilities of layers left out (NaN where it is
    not known), and how good they are; None, and how many are known, where these are too few."""
    from scipy.optimize import minimize
    from scipy.special import expit

    known = np.flatnonzero(np.isfinite(truth))
    if len(known) < LEAST or len(set(truth[known])) < 2:
        return None, len(known), {}
    own, answer = rows.take(known), truth[known]
    verdict, covariances = 2 * answer - 1, covariance(own, PROPERTIES, PROPERTIES.noise)
    found = left_out(verdict, folds[known], covariances)

    def loss(curve: Array) -> float:
        p = np.clip(expit(curve[0] * found + curve[1]), 1e-9, 1 - 1e-9)
        return float(-(answer * np.log(p) + (1 - answer) * np.log(1 - p)).mean())

    slope, offset = minimize(loss, np.array([2.0, 0.0]), method="Nelder-Mead").x
    weights = np.zeros(n_rows)
    weights[known] = np.linalg.solve(covariances, verdict - verdict.mean())
    fitted = Verdict(weights, float(verdict.mean()), float(slope), float(offset))
    probability = np.full(len(truth), np.nan)
    probability[known] = fitted.probability(found)
    return fitted, probability, _quality_of_verdict(layers, known, answer, probability[known], fitted.share)


def _quality_of_verdict(
    layers: Measured, known: NDArray[np.int64], truth: Array, probability: Array, share: float
) -> dict[str, Any]:
    correlated = np.array([bool(CORRELATED & layers.compositions[k].keys()) for k in known])
    systems = np.array(layers.systems)[known]
    everything = np.ones(len(known), dtype=bool)
    parts = {"all": everything, "with V, Cr, Mn, Fe, Co, Ni or Cu": correlated, "without these": ~correlated}
    counts = {
        name: _classification(truth[of], probability[of], systems[of], share)
        for name, of in parts.items()
        if of.sum() >= LEAST
    }
    bins = np.array_split(np.argsort(probability), 5)
    reliability = [[rounded(probability[b].mean()), rounded(truth[b].mean())] for b in bins]
    return {**counts.pop("all"), "by_chemistry": counts, "said_and_true_share_by_fifths": reliability}


def _classification(truth: Array, probability: Array, systems: NDArray[np.str_], share: float) -> dict[str, Any]:
    """Balanced accuracy of a yes above ``share``, F1 of the yes, area under the curve, Brier score; intervals over
    systems."""
    yes, said = truth == 1, probability > share

    def balanced(kept: Any) -> float:
        a, b = yes[kept], said[kept]
        return float((b[a].mean() + (~b)[~a].mean()) / 2)

    def area(kept: Any) -> float:
        from scipy.stats import rankdata

        a, ranks = yes[kept], rankdata(probability[kept])
        n = int(a.sum())
        return float((ranks[a].sum() - n * (n + 1) / 2) / (n * (len(a) - n)))

    drawn = systems_drawn(systems)
    rows: dict[str, Any] = {"n": len(truth), "share": rounded(yes.mean())}
    for name, of in (("balanced_accuracy", balanced), ("auc", area)):
        rows[name] = rounded(of(np.arange(len(truth))))
        rows[f"{name}_95"] = [rounded(q) for q in np.nanquantile([of(kept) for kept in drawn], [0.025, 0.975])]
    rows["f1"] = rounded(2 * (yes & said).sum() / max(1, yes.sum() + said.sum()))
    rows["brier"] = rounded(((probability - truth) ** 2).mean())
    return rows


def _band_gap(
    rows: Inputs, layers: Measured, likely: NDArray[np.bool_], folds: NDArray[np.int64], distance: Array, n_rows: int
) -> tuple[BandGap, dict[str, Any]]:
    """Gaps, learned from layers that have one. likely: (n,) which are said to have one, left out."""
    known = np.flatnonzero(layers.band_gap > 0)
    own, gap = rows.take(known), layers.band_gap[known]
    covariances = covariance(own, PROPERTIES, PROPERTIES.noise)
    found = np.maximum(left_out(gap, folds[known], covariances), 0.0)
    weights = np.zeros(n_rows)
    mean = float(gap.mean())
    weights[known] = np.linalg.solve(covariances, gap - mean)
    # a metal that is said to have a gap is an error, too: what its fold would have said of it
    said = np.flatnonzero(likely)
    value = _of_folds(rows, said, known, gap, folds)
    error = np.abs(value - layers.band_gap[said])
    errors = errors_by_distance(distance[said], error)
    inside = np.zeros(len(said), dtype=bool)
    for fold in np.unique(folds[said]):  # the errors that are said for a fold come from the others
        held = folds[said] == fold
        inside[held] = error[held] <= errors_by_distance(distance[said][~held], error[~held])(distance[said][held])
    return BandGap(weights, mean, errors), {
        "of_layers_with_a_gap": scores(found - gap, [layers.systems[k] for k in known]),
        "of_layers_said_to_have_one": scores(value - layers.band_gap[said], [layers.systems[k] for k in said]),
        "error_coverage_claimed": COVERAGE,
        "error_coverage": rounded(inside.mean()),
        "error_median": rounded(np.median(errors(distance[said]))),
    }


def _of_folds(
    rows: Inputs, asked: NDArray[np.int64], known: NDArray[np.int64], gap: Array, folds: NDArray[np.int64]
) -> Array:
    """(len(asked),) gaps of the layers ``asked``, each fold from the layers ``known`` of the others."""
    value = np.zeros(len(asked))
    for fold in np.unique(folds[asked]):
        held, others = folds[asked] == fold, known[folds[known] != fold]
        learned = gap[folds[known] != fold]
        matrix = covariance(rows.take(others), PROPERTIES, PROPERTIES.noise)
        weights = np.linalg.solve(matrix, learned - learned.mean())
        value[held] = learned.mean() + kernel(rows.take(asked[held]), rows.take(others), PROPERTIES) @ weights
    return np.maximum(value, 0.0)
