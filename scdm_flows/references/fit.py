"""Fits the calibration of surrogate energies on C2DB, cross-validated by chemical system (``scdm refs fit``)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.calibration import N_ELEMENTS, features
from scdm_flows.analysis.hull import Phase, energy_above_hull
from scdm_flows.errors import ReferenceDataError
from scdm_flows.references.build import _read
from scdm_flows.references.table import ReferenceTable

TREES, MIN_LEAF, FOLDS = 100, 3, 10


def _samples(data_dir: Path, table: ReferenceTable) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Feature rows, DFT energies above hull (eV/atom) and chemical systems of C2DB's layers."""
    layers = {p.name: p for phases in table.layers.values() for p in phases}
    rows, truth, systems = [], [], []
    for record in _read(data_dir / "c2db.jsonl.gz"):
        phase: Phase | None = layers.get(record["id"])
        if phase is None or record.get("e_hull") is None:
            continue
        result = energy_above_hull(phase.fractions, phase.energy_per_atom, table.entries(list(phase.fractions)))
        rows.append(features(phase.fractions, result.e_above_hull, result.formation_energy_per_atom))
        truth.append(record["e_hull"])
        systems.append("-".join(sorted(phase.fractions)))
    if len(rows) < 100:
        raise ReferenceDataError(
            f"{len(rows)} layers of {data_dir} have both energies; a calibration needs at least 100"
        )
    return np.array(rows), np.array(truth), systems


def _scores(truth: NDArray[np.float64], value: NDArray[np.float64]) -> dict[str, float]:
    from scipy.stats import spearmanr

    error = value - truth
    return {
        "mae": round(float(np.abs(error).mean()), 4),
        "bias": round(float(error.mean()), 4),
        "spearman": round(float(spearmanr(truth, value).statistic), 4),
        "share_below_0.6": round(float((value <= 0.6).mean()), 4),
        "share_below_0.2": round(float((value <= 0.2).mean()), 4),
    }


def fit_calibration(data_dir: str | Path, out: str | Path, table: ReferenceTable | None = None) -> dict[str, Any]:
    """Fit, cross-validate and write the calibration; returns its header with the measured numbers.

    Needs scikit-learn (extra ``fit``). The forest predicts ``DFT - surrogate`` of the energy above hull.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import GroupKFold

    table = table or ReferenceTable.load()
    x, truth, systems = _samples(Path(data_dir), table)
    raw = x[:, -2]

    def forest() -> Any:
        return RandomForestRegressor(TREES, min_samples_leaf=MIN_LEAF, max_features=0.5, random_state=0, n_jobs=2)

    left_out = np.zeros(len(raw))
    for training, held in GroupKFold(FOLDS).split(x, groups=systems):
        left_out[held] = raw[held] + forest().fit(x[training], (truth - raw)[training]).predict(x[held])
    edges = np.quantile(left_out, np.linspace(0, 1, 9))
    bins = np.clip(np.searchsorted(edges, left_out, side="right") - 1, 0, 7)
    errors = np.array([np.quantile(np.abs(left_out - truth)[bins == k], 0.68) for k in range(8)])
    model = forest().fit(x, truth - raw)
    parts: dict[str, list[Any]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    roots, offset = [], 0
    for estimator in model.estimators_:
        tree = estimator.tree_
        roots.append(offset)
        parts["feature"].append(np.maximum(tree.feature, 0).astype(np.uint8))
        parts["threshold"].append(tree.threshold)
        for name, children in (("left", tree.children_left), ("right", tree.children_right)):
            parts[name].append(np.where(children >= 0, children + offset, -1).astype(np.int32))
        parts["value"].append(tree.value[:, 0, 0].astype(np.float32))
        offset += tree.node_count
    header: dict[str, Any] = {
        "target": "C2DB energy above hull (PBE), eV/atom",
        "scheme": table.scheme,
        "reference_sha256": table.sha256,
        "n": len(raw),
        "folds_by_chemical_system": FOLDS,
        "command": "scdm refs fit --data DIR",
        "true_share_below_0.6": round(float((truth <= 0.6).mean()), 4),
        "true_share_below_0.2": round(float((truth <= 0.2).mean()), 4),
        "raw": _scores(truth, raw),
        "calibrated_left_out": _scores(truth, left_out),
        "stable_kept_in_window": round(float((left_out[truth < 0.2] <= 0.6).mean()), 4),
    }
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    arrays |= {
        "roots": np.array(roots),
        "elements": np.flatnonzero((x[:, :N_ELEMENTS] > 0).any(0)) + 1,
        "error_edges": edges,
        "errors": errors,
    }
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())).hexdigest()
    header["id"] = f"c2db-forest-{digest[:8]}"
    out = Path(out)
    temporary = out.with_name(out.name + ".tmp")
    with temporary.open("wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    temporary.replace(out)
    return header
