"""Fits the energy model on C2DB and says how good it is (``scdm refs fit``, ``scdm refs validate``).

C2DB's layers are relaxed with the force field, as candidates are, and seen by the force fields of the model; the
Gaussian process learns what C2DB's PBE says beyond the first one's energy. It learns from each layer twice: at C2DB's
geometry, which the energy belongs to, and as relaxed, with a noise that grows with how far the force field took the
layer from there. What is judged are relaxed layers alone. Every measure of the model comes from layers
whose chemical system was left out of the fit, and of the hull's conversion. Layers of 2DMatPedia in chemical systems
that C2DB has not are a test from outside: another program, functional and hull.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.config import WINDOW_EV
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_model import (
    COVERAGE,
    EXTRAPOLATED_QUANTILE,
    STABILITY,
    EnergyModel,
    ErrorByDistance,
    Inputs,
    Scaling,
    Stability,
    Variances,
    kernel,
    nearest,
)
from scdm_flows.thermo.training_layers import LEAST, Measured
from scdm_flows.thermo.validate import FOLDS, chemistry, folds_of, scores

Array = NDArray[np.float64]
DISTANCE_BINS = 8
BOOTSTRAP = 500
STABLE = 0.2  # eV/atom above hull
CORRELATED = frozenset({"V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu"})  # where force fields, which have no spin, err most


@dataclass(frozen=True)
class LeftOut:
    """Predictions for layers whose chemical system was left out: formation energy and E_hull (n,) in eV/atom, distance
    to the nearest layer of the other folds (n,), fold (n,)."""

    formation: Array
    e_above_hull: Array
    distance: Array
    fold: NDArray[np.int64]


def leave_out(rows: Inputs, truth: Array, hull: Array, folds: NDArray[np.int64], covariance: Array) -> LeftOut:
    """Each fold from the others, all out of one inverse (Rasmussen and Williams 2006, section 5.4.2).

    rows, truth, folds: (m,) of the training layers, formation energies in eV/atom; covariance: (m, m) of them with
    their noise, eV^2; hull: (n,) hull energies (conversion without the fold, eV/atom) of the first n of them, which are
    judged.
    """
    n = len(hull)
    formation = rows.formation[0] + _left_out(truth - rows.formation[0], folds, covariance)
    distance = np.zeros(n)
    for fold in np.unique(folds):
        held = folds == fold
        judged = np.flatnonzero(held[:n])
        distance[judged] = nearest(rows.coordinates[judged], rows.coordinates[~held])
    return LeftOut(formation[:n], formation[:n] - hull, distance, folds[:n])


def _covariance(rows: Inputs, variances: Variances, noise: Array | float) -> Array:
    """(m, m) of the rows, with the variances (m,) of their noise."""
    found = kernel(rows, rows, variances)
    found[np.diag_indices(len(found))] += noise
    return found


def _left_out(target: Array, folds: NDArray[np.int64], covariance: Array) -> Array:
    """(m,) of ``target``, each fold predicted from the others."""
    inverse = np.linalg.inv(covariance)
    found = np.zeros(len(target))
    for fold in np.unique(folds):
        held = folds == fold
        weights = inverse @ (target - target[~held].mean())
        found[held] = target[held] - np.linalg.solve(inverse[np.ix_(held, held)], weights[held])
    return found


def fit_stability(
    rows: Inputs, layers: Measured, folds: NDArray[np.int64], n_rows: int
) -> tuple[Stability, dict[str, Any]]:
    """What predicts DFT's phonon verdicts, and how good it is where chemical systems are left out.

    rows, folds: (n,) of the relaxed layers; n_rows: of the whole model, of which these are the first.

    Raises
    ------
    ReferenceDataError
        If fewer than 100 layers have a verdict.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    known = np.flatnonzero(np.isfinite(layers.stable))
    if len(known) < LEAST:
        raise ReferenceDataError(
            f"{len(known)} layers have a phonon verdict (dyn_stab_phonons), at least {LEAST} are needed; give the "
            "whole C2DB file"
        )
    own, truth = rows.take(known), layers.stable[known]
    verdict, covariance = 2 * truth - 1, _covariance(own, STABILITY, STABILITY.noise)
    found = _left_out(verdict, folds[known], covariance)

    def loss(curve: Array) -> float:
        p = np.clip(expit(curve[0] * found + curve[1]), 1e-9, 1 - 1e-9)
        return float(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean())

    slope, offset = minimize(loss, np.array([2.0, 0.0]), method="Nelder-Mead").x
    weights = np.zeros(n_rows)
    weights[known] = np.linalg.solve(covariance, verdict - verdict.mean())
    stability = Stability(weights, float(verdict.mean()), float(slope), float(offset))
    probability = stability.probability(found)
    correlated = np.array([bool(CORRELATED & layers.compositions[k].keys()) for k in known])
    systems = np.array(layers.systems)[known]
    everything = np.ones(len(known), dtype=bool)
    parts = {"all": everything, "with V, Cr, Mn, Fe, Co, Ni or Cu": correlated, "without these": ~correlated}
    counts = {
        name: _classification(truth[of], probability[of], systems[of])
        for name, of in parts.items()
        if of.sum() >= LEAST
    }
    bins = np.array_split(np.argsort(probability), 5)
    reliability = [[_round(probability[b].mean()), _round(truth[b].mean())] for b in bins]
    return stability, {**counts.pop("all"), "by_chemistry": counts, "said_and_true_share_by_fifths": reliability}


def _classification(truth: Array, probability: Array, systems: NDArray[np.str_]) -> dict[str, Any]:
    """Balanced accuracy at 1/2, F1 of the stable, area under the curve, Brier score; intervals over systems."""
    stable, said = truth == 1, probability >= 0.5

    def balanced(kept: Any) -> float:
        a, b = stable[kept], said[kept]
        return float((b[a].mean() + (~b)[~a].mean()) / 2)

    def area(kept: Any) -> float:
        from scipy.stats import rankdata

        a, ranks = stable[kept], rankdata(probability[kept])
        n = int(a.sum())
        return float((ranks[a].sum() - n * (n + 1) / 2) / (n * (len(a) - n)))

    drawn = _systems_drawn(systems)
    rows: dict[str, Any] = {"n": len(truth), "stable": _round(stable.mean())}
    for name, of in (("balanced_accuracy", balanced), ("auc", area)):
        rows[name] = _round(of(np.arange(len(truth))))
        rows[f"{name}_95"] = [_round(q) for q in np.quantile([of(kept) for kept in drawn], [0.025, 0.975])]
    rows["f1_of_stable"] = _round(2 * (stable & said).sum() / max(1, stable.sum() + said.sum()))
    rows["brier"] = _round(((probability - truth) ** 2).mean())
    return rows


def _systems_drawn(systems: Sequence[str] | NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """Rows of bootstrap draws of whole chemical systems."""
    names, index = np.unique(np.array(systems), return_inverse=True)
    members = [np.flatnonzero(index == k) for k in range(len(names))]
    rng = np.random.default_rng(0)
    return [np.concatenate([members[k] for k in rng.integers(0, len(names), len(names))]) for _ in range(BOOTSTRAP)]


def errors_by_distance(distance: Array, error: Array) -> ErrorByDistance:
    """Half-widths that hold ``COVERAGE`` of absolute errors (eV/atom), by isotonic regression over bins of distance."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(distance)
    parts = np.array_split(order, DISTANCE_BINS)
    points = np.array([np.median(distance[p]) for p in parts])
    widths = np.array([_conformal(error[p]) for p in parts])
    return ErrorByDistance(points, isotonic_regression(widths).x, float(np.quantile(distance, EXTRAPOLATED_QUANTILE)))


def _conformal(error: Array) -> float:
    """The quantile that holds ``COVERAGE`` of new ones, with the finite-sample correction of split conformal."""
    n = len(error)
    return float(np.quantile(error, min(1.0, np.ceil((n + 1) * COVERAGE) / n)))


def fit(
    layers: Measured,
    outside: Measured | None,
    *,
    hull_left_out: Mapping[str, float],
    hull: Callable[[Mapping[str, float]], float],
    elemental: Sequence[Mapping[str, float]],
    header: Mapping[str, Any],
    variances: Variances | None = None,
) -> EnergyModel:
    """The model of some layers, cross-validated.

    Parameters
    ----------
    layers
        C2DB's.
    outside
        2DMatPedia's, in other chemical systems; for the header alone.
    hull_left_out
        Composition's id of ``layers`` -> hull energy (eV/atom), its chemical system left out of the conversion.
    hull
        Composition -> hull energy (eV/atom relative to the elements) by the packaged references.
    elemental
        Energies of the elements (eV/atom) on each force field's scale.
    header
        ``force_field``, ``features``, ``command`` and the like.
    variances
        Of the kernel.
    """
    variances = variances or Variances()
    scaling = Scaling.of(layers.compositions, layers.given, elemental)
    relaxed = scaling.inputs(layers.compositions, layers.seen)
    rows = relaxed.join(scaling.inputs(layers.compositions, layers.given))
    truth, folds = np.tile(layers.formation, 2), np.tile(folds_of(layers.systems), 2)
    moved = variances.noise + variances.noise_by_area * layers.area_change**2
    noise = np.concatenate([moved, np.full(len(moved), variances.noise)])
    at_hull = np.array([hull_left_out[i] for i in layers.ids])
    covariance = _covariance(rows, variances, noise)
    found = leave_out(rows, truth, at_hull, folds, covariance)
    errors = errors_by_distance(found.distance, np.abs(found.e_above_hull - layers.e_above_hull))
    target = truth - rows.formation[0]
    mean = float(target.mean())
    weights = np.linalg.solve(covariance, target - mean)
    digest = hashlib.sha256(weights.round(6).tobytes() + rows.x.tobytes()).hexdigest()
    card: dict[str, Any] = {"id": "+".join(str(name).lower() for name in header["features"]) + f"-{digest[:8]}"}
    stability, verdicts = fit_stability(relaxed, layers, folds[: len(layers.ids)], len(target))
    card |= {**header, **quality_of(layers, found, at_hull), "phonon_stability": verdicts}
    model = EnergyModel(scaling, variances, rows, weights, mean, errors, stability, card)
    if outside is not None:
        card["external"] = _external(model, outside, hull)
    return model


def quality_of(layers: Measured, found: LeftOut, hull: Array) -> dict[str, Any]:
    """Errors of left-out predictions, and how often the error that is predicted for them holds them."""
    truth, value = layers.e_above_hull, found.e_above_hull
    inside, width = np.zeros(len(truth), dtype=bool), np.zeros(len(truth))
    for fold in np.unique(found.fold):  # the predicted errors of a fold come from the others
        held = found.fold == fold
        errors = errors_by_distance(found.distance[~held], np.abs(value - truth)[~held])
        width[held] = errors(found.distance[held])
        inside[held] = np.abs(value - truth)[held] <= width[held]
    thirds = np.array_split(np.argsort(found.distance), 3)
    stable = truth < STABLE
    formation = _scores(layers.formation, found.formation, layers.systems)
    e_hull = _scores(truth, value, layers.systems)
    off = np.abs(value - truth)
    by_class = {}
    for name in sorted({chemistry(c) for c in layers.compositions}):
        of_class = np.array([chemistry(c) == name for c in layers.compositions])
        by_class[name] = {"n": int(of_class.sum()), "mae": _round(off[of_class].mean())}
    return {
        "n": len(truth),
        "not_measured": len(layers.left_out),
        "folds_by_chemical_system": FOLDS,
        "hull_energy": _scores(layers.formation - truth, hull, layers.systems),
        "formation_energy": formation,
        "e_above_hull": e_hull
        | {
            "within_0.05": _round((off < 0.05).mean()),
            "share_below_0.6": _round((value <= WINDOW_EV).mean()),
            "share_below_0.2": _round((value <= STABLE).mean()),
        },
        "by_chemistry": by_class,
        "true_share_below_0.6": _round((truth <= WINDOW_EV).mean()),
        "true_share_below_0.2": _round((truth <= STABLE).mean()),
        "stable_kept_in_window": _round((value[stable] <= WINDOW_EV).mean()),
        "error_coverage_claimed": COVERAGE,
        "error_coverage": _round(inside.mean()),
        "error_coverage_by_distance": [_round(inside[t].mean()) for t in thirds],
        "errors_by_distance": [_round(np.median(width[t])) for t in thirds],
    }


def _external(model: EnergyModel, layers: Measured, hull: Callable[[Mapping[str, float]], float]) -> dict[str, Any]:
    found = model.predict(layers.compositions, layers.seen)
    value = np.array([p.formation_energy_per_atom - hull(c) for p, c in zip(found, layers.compositions, strict=True)])
    inside = np.abs(value - layers.e_above_hull) <= np.array([p.error for p in found])
    compounds = np.array([len(c) > 1 for c in layers.compositions])  # elements have no hull but themselves
    extrapolated = np.array([p.extrapolated for p in found])

    def scores_of(kept: NDArray[np.bool_]) -> dict[str, Any]:
        systems = [s for s, k in zip(layers.systems, kept, strict=True) if k]
        return {
            "n": int(kept.sum()),
            **_scores(layers.e_above_hull[kept], value[kept], systems),
            "coverage": _round(inside[kept].mean()),
            "extrapolated": _round(extrapolated[kept].mean()),
        }

    return {
        "source": "2DMatPedia, chemical systems that C2DB has not; still the same layer after relaxation",
        **scores_of(compounds & layers.same_layer),
        "also_others": scores_of(compounds),  # molecules, and what relaxes into another crystal than DFT's energy is of
    }


def _scores(truth: Array, value: Array, systems: Sequence[str]) -> dict[str, Any]:
    """``thermo.validate.scores`` and the rank correlation, with 95 % intervals by bootstrap over chemical systems."""
    from scipy.stats import spearmanr

    ranks = [spearmanr(truth[chosen], value[chosen]).statistic for chosen in _systems_drawn(systems)]
    return {
        **scores(value - truth, systems),
        "spearman": _round(spearmanr(truth, value).statistic),
        "spearman_95": [_round(q) for q in np.quantile(ranks, [0.025, 0.975])],
    }


def _round(value: Any) -> float:
    return round(float(value), 4)
