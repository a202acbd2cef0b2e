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
from scdm_flows.thermo.energy_model import COVERAGE, EnergyModel, Inputs, Scaling, Variances, nearest
from scdm_flows.thermo.left_out import covariance, errors_by_distance, left_out, rounded, systems_drawn
from scdm_flows.thermo.property_fit import fit_properties
from scdm_flows.thermo.training_layers import Measured
from scdm_flows.thermo.validate import FOLDS, chemistry, folds_of, scores

Array = NDArray[np.float64]
STABLE = 0.2  # eV/atom above hull


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
    formation = rows.formation[0] + left_out(truth - rows.formation[0], folds, covariance)
    distance = np.zeros(n)
    for fold in np.unique(folds):
        held = folds == fold
        judged = np.flatnonzero(held[:n])
        distance[judged] = nearest(rows.coordinates[judged], rows.coordinates[~held])
    return LeftOut(formation[:n], formation[:n] - hull, distance, folds[:n])


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
    covariances = covariance(rows, variances, noise)
    found = leave_out(rows, truth, at_hull, folds, covariances)
    errors = errors_by_distance(found.distance, np.abs(found.e_above_hull - layers.e_above_hull))
    target = truth - rows.formation[0]
    mean = float(target.mean())
    weights = np.linalg.solve(covariances, target - mean)
    digest = hashlib.sha256(weights.round(6).tobytes() + rows.x.tobytes()).hexdigest()
    card: dict[str, Any] = {"id": "+".join(str(name).lower() for name in header["features"]) + f"-{digest[:8]}"}
    properties, quality = fit_properties(relaxed, layers, folds[: len(layers.ids)], found.distance, len(target))
    card |= {**header, **quality_of(layers, found, at_hull), **quality}
    model = EnergyModel(scaling, variances, rows, weights, mean, errors, properties, card, noise)
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
        by_class[name] = {"n": int(of_class.sum()), "mae": rounded(off[of_class].mean())}
    return {
        "n": len(truth),
        "not_measured": len(layers.left_out),
        "folds_by_chemical_system": FOLDS,
        "hull_energy": _scores(layers.formation - truth, hull, layers.systems),
        "formation_energy": formation,
        "e_above_hull": e_hull
        | {
            "within_0.05": rounded((off < 0.05).mean()),
            "share_below_0.6": rounded((value <= WINDOW_EV).mean()),
            "share_below_0.2": rounded((value <= STABLE).mean()),
        },
        "by_chemistry": by_class,
        "true_share_below_0.6": rounded((truth <= WINDOW_EV).mean()),
        "true_share_below_0.2": rounded((truth <= STABLE).mean()),
        "stable_kept_in_window": rounded((value[stable] <= WINDOW_EV).mean()),
        "error_coverage_claimed": COVERAGE,
        "error_coverage": rounded(inside.mean()),
        "error_coverage_by_distance": [rounded(inside[t].mean()) for t in thirds],
        "errors_by_distance": [rounded(np.median(width[t])) for t in thirds],
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
            "coverage": rounded(inside[kept].mean()),
            "extrapolated": rounded(extrapolated[kept].mean()),
        }

    return {
        "source": "2DMatPedia, chemical systems that C2DB has not; still the same layer after relaxation",
        **scores_of(compounds & layers.same_layer),
        "also_others": scores_of(compounds),  # molecules, and what relaxes into another crystal than DFT's energy is of
    }


def _scores(truth: Array, value: Array, systems: Sequence[str]) -> dict[str, Any]:
    """``thermo.validate.scores`` and the rank correlation, with 95 % intervals by bootstrap over chemical systems."""
    from scipy.stats import spearmanr

    ranks = [spearmanr(truth[chosen], value[chosen]).statistic for chosen in systems_drawn(systems)]
    return {
        **scores(value - truth, systems),
        "spearman": rounded(spearmanr(truth, value).statistic),
        "spearman_95": [rounded(q) for q in np.quantile(ranks, [0.025, 0.975])],
    }
