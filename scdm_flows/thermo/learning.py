"""An energy model learns from layers that have been computed since it was fitted. Pure.

The rows of its Gaussian processes come to those that it has, all weights are solved for anew, and kernels, means,
logistic curves and calibrated errors stay; these are read off at the distance to the nearest row, old or new. With n
rows that takes n^3 / 3 multiplications, a minute on one core for the packaged model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_model import PROPERTIES, EnergyModel, Inputs, Seen, kernel
from scdm_flows.thermo.properties import PropertyModel, Verdict

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """A computed layer.

    Parameters
    ----------
    key
        Says which it is; the same keys and numbers make the same model.
    composition
        Element -> atom fraction.
    seen
        Force field -> what it says of the layer, in the geometry that the energy is learned for.
    formation_energy_per_atom
        On C2DB's scale, eV/atom.
    error
        Standard error of it on that scale, eV/atom; the noise of the model's own data comes to it.
    stable, nonmetal, magnetic, direct, band_gap
        Whether phonons find it dynamically stable, whether it has a band gap, is magnetic, has a direct gap, and its
        PBE gap without spin-orbit (eV); None where not known.
    """

    key: str
    composition: Mapping[str, float]
    seen: Mapping[str, Seen]
    formation_energy_per_atom: float
    error: float = 0.0
    stable: bool | None = None
    nonmetal: bool | None = None
    magnetic: bool | None = None
    direct: bool | None = None
    band_gap: float | None = None


def learn(model: EnergyModel, findings: Sequence[Finding]) -> EnergyModel:
    """The model with some findings learned; the same where there are none.

    Findings with elements that it knows nothing of are left out.

    Raises
    ------
    ReferenceDataError
        If the model's file is of a version that kept no noise.
    """
    known = [f for f in findings if set(f.composition) <= set(model.scaling.elements)]
    if not known:
        return model
    if model.noise is None:
        raise ReferenceDataError(
            f"the energy model {model.id} was fitted by a version that kept no noise of its data, so it cannot learn; "
            "make it again with `scdm refs fit`"
        )
    own = model.scaling.inputs([f.composition for f in known], [[f.seen[n] for f in known] for n in model.force_fields])
    rows = model.rows.join(own)
    before = len(model.weights)
    formation = np.array([f.formation_energy_per_atom for f in known])
    noise = model.variances.noise + np.array([f.error for f in known]) ** 2
    covariances = kernel(rows, rows, model.variances)
    # what the weights were solved for: the targets themselves are not in the file
    old = covariances[:before, :before] @ model.weights + model.noise * model.weights
    target = np.concatenate([old, formation - own.formation[0] - model.mean])
    weights = _solved(covariances, np.concatenate([model.noise, noise]), target)
    said = "".join(f"{f.key} {f.formation_energy_per_atom:.6f}\n" for f in sorted(known, key=lambda f: f.key))
    digest = hashlib.sha256((model.id + said).encode()).hexdigest()[:8]
    header = {**model.header, "id": f"{model.id}+{len(known)}-{digest}", "learned": {"n": len(known), "from": model.id}}
    return replace(
        model,
        rows=rows,
        weights=weights,
        noise=np.concatenate([model.noise, noise]),
        properties=_properties(model, rows, known),
        header=header,
    )


def _solved(covariances: Array, noise: Array, target: Array) -> Array:
    from scipy.linalg import solve

    covariances[np.diag_indices(len(covariances))] += noise
    return np.asarray(solve(covariances, target, assume_a="pos", overwrite_a=True), dtype=float)


def _properties(model: EnergyModel, rows: Inputs, known: Sequence[Finding]) -> PropertyModel:
    now = model.properties
    verdicts: dict[str, Verdict] = {}
    for name in ("stable", "nonmetal", "magnetic", "direct"):
        verdict: Verdict | None = getattr(now, name)
        if verdict is not None:
            answers = [getattr(f, name) for f in known]
            new = [None if a is None else 2.0 * a - 1 - verdict.mean for a in answers]
            verdicts[name] = replace(verdict, weights=_learned(rows, verdict.weights, new))
    gap = now.gap
    if gap is not None:
        new = [f.band_gap - gap.mean if f.band_gap else None for f in known]
        gap = replace(gap, weights=_learned(rows, gap.weights, new))
    return replace(now, **verdicts, gap=gap)


def _learned(rows: Inputs, weights: Array, new: Sequence[float | None]) -> Array:
    """(n,) weights of all rows. weights: of the first ones; new: targets of the others less the mean, None unknown."""
    found = np.concatenate([weights, np.zeros(len(new))])
    if all(value is None for value in new):
        return found
    before, added = np.flatnonzero(weights), np.array([k for k, value in enumerate(new) if value is not None])
    used = np.concatenate([before, len(weights) + added])
    own = rows.take(used)
    covariances, n = kernel(own, own, PROPERTIES), len(before)
    old = covariances[:n, :n] @ weights[before] + PROPERTIES.noise * weights[before]
    target = np.concatenate([old, np.array([new[int(k)] for k in added], dtype=float)])
    found[used] = _solved(covariances, np.full(len(used), PROPERTIES.noise), target)
    return found
