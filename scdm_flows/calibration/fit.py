"""Measures a surrogate on C2DB and fits its calibration (``scdm refs validate``, ``scdm refs fit``).

C2DB's layers are relaxed with the surrogate, as candidates are, and placed on the hull of the reference table; the
trees learn what C2DB's PBE says beyond that. Everything that is told of the calibration comes from layers whose
chemical system was left out of the fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from scdm_flows.calibration.model import COVERAGE, LayerShape, element_properties, features
from scdm_flows.thermo.hull import PhaseSystem
from scdm_flows.errors import ReferenceDataError, ScdmError
from scdm_flows.thermo.build import _read
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.lattice import orient_slab

Array = NDArray[np.float64]
FOLDS, BINS = 10, 8
TREES = {
    "max_iter": 500,
    "learning_rate": 0.06,
    "max_leaf_nodes": 31,
    "min_samples_leaf": 8,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
FMAX, MAX_STEPS = 0.05, 200  # of the relaxations: eV/angstrom, steps
PART = 64  # layers relaxed together and written
LEAST = 100  # layers without which a calibration says nothing


@dataclass(frozen=True)
class Measured:
    """C2DB's layers as the surrogate sees them.

    x: (n, 25) features; truth, formation_truth: (n,) C2DB's energies above hull and of formation, eV/atom; systems:
    chemical systems; elements: atomic numbers that occur; left_out: ids without a value, with the reason.
    """

    x: Array
    truth: Array
    formation_truth: Array
    systems: list[str]
    elements: list[int]
    left_out: dict[str, str]

    @property
    def raw(self) -> Array:
        """(n,) the surrogate's energy above hull, eV/atom."""
        return self.x[:, 0]


def relax_c2db(
    data_dir: Path, relaxed: Path, processes: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, Any]]:
    """C2DB's layers relaxed with CHGNet: id -> energy_per_atom (eV/atom) and structure, None where it failed.

    They are kept as JSON lines in ``relaxed``; what it holds is not computed again.
    """
    from scdm_flows.engines.relaxation import RelaxSettings, relax_together

    known: dict[str, dict[str, Any]] = {}
    if relaxed.exists():
        for line in relaxed.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            known[row["id"]] = row
    records = [r for r in _read(data_dir / "c2db.jsonl.gz") if r.get("e_hull") is not None]
    todo = [r for r in records if r["id"] not in known]
    with relaxed.open("a") as handle:
        handle.write("" if not known else "\n")  # after half a line
        for first in range(0, len(todo), PART):
            rows = todo[first : first + PART]
            layers = [orient_slab(Structure(r["lattice"], r["species"], r["frac_coords"])) for r in rows]
            found = relax_together(layers, RelaxSettings(FMAX, MAX_STEPS), processes=processes)
            for row, one in zip(rows, found, strict=True):
                structure = None if one.structure is None else one.structure.as_dict()
                known[row["id"]] = {
                    "id": row["id"],
                    "energy_per_atom": one.energy_per_atom,
                    "structure": structure,
                    "error": one.error,
                }
                handle.write(json.dumps(known[row["id"]]) + "\n")
            handle.flush()
            if progress is not None:
                progress(len(records) - len(todo) + first + len(rows), len(records))
    return known


def measure(data_dir: Path, relaxed: dict[str, dict[str, Any]], table: ReferenceTable) -> Measured:
    """C2DB's layers on the hull of the table.

    Raises
    ------
    ReferenceDataError
        If fewer than 100 layers have both energies.
    """
    properties, systems = element_properties(), {}
    rows, truth, formation, names, left_out = [], [], [], [], {}
    numbers: set[int] = set()
    for record in _read(data_dir / "c2db.jsonl.gz"):
        if record.get("e_hull") is None:
            continue
        found = relaxed.get(record["id"]) or {}
        if found.get("structure") is None:
            left_out[record["id"]] = str(found.get("error") or "not relaxed")
            continue
        structure = Structure.from_dict(found["structure"])
        fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
        name = "-".join(sorted(fractions))
        try:
            if name not in systems:
                systems[name] = PhaseSystem(list(fractions), table.entries(list(fractions)))
            hull = systems[name].place(fractions, found["energy_per_atom"])
        except ScdmError as error:
            left_out[record["id"]] = str(error)
            continue
        shape = LayerShape.of(structure)
        rows.append(features(fractions, hull.e_above_hull, hull.formation_energy_per_atom, shape, properties))
        truth.append(record["e_hull"])
        formation.append(record["formation_energy_per_atom"])
        names.append(name)
        numbers |= {Element(e).Z for e in fractions}
    if len(rows) < LEAST:
        raise ReferenceDataError(
            f"{len(rows)} layers of {data_dir} have both energies; a calibration needs at least {LEAST}"
        )
    return Measured(np.array(rows), np.array(truth), np.array(formation), names, sorted(numbers), left_out)


def cross_validate(measured: Measured) -> dict[str, Any]:
    """What the calibration does for chemical systems that it has not seen, and how honest its errors are."""
    from sklearn.model_selection import GroupKFold

    raw, truth, formation = measured.raw, measured.truth, measured.x[:, 1]
    left_out, fold = np.zeros(len(raw)), np.zeros(len(raw), dtype=int)
    for number, (training, held) in enumerate(GroupKFold(FOLDS).split(measured.x, groups=measured.systems)):
        trees = _trees().fit(measured.x[training], (truth - raw)[training])
        left_out[held], fold[held] = raw[held] + trees.predict(measured.x[held]), number
    inside = np.zeros(len(raw), dtype=bool)
    for number in range(FOLDS):  # the errors told of a fold come from the others
        held = fold == number
        edges, errors = _errors(left_out[~held], truth[~held])
        inside[held] = np.abs(left_out - truth)[held] <= errors[_bin(left_out[held], edges)]
    edges, errors = _errors(left_out, truth)
    bins = _bin(left_out, edges)
    stable = truth < 0.2
    return {
        "n": len(raw),
        "not_measured": len(measured.left_out),
        "folds_by_chemical_system": FOLDS,
        "true_share_below_0.6": round(float((truth <= 0.6).mean()), 4),
        "true_share_below_0.2": round(float((truth <= 0.2).mean()), 4),
        "raw": _scores(truth, raw),
        "calibrated_left_out": _scores(truth, left_out),
        "formation_energy_raw": _scores(measured.formation_truth, formation, windows=False),
        "formation_energy_left_out": _scores(
            measured.formation_truth, measured.x[:, 1] + left_out - raw, windows=False
        ),
        "stable_kept_in_window": round(float((left_out[stable] <= 0.6).mean()), 4),
        "error_coverage_claimed": COVERAGE,
        "error_coverage": round(float(inside.mean()), 4),
        "error_coverage_by_value": [round(float(inside[bins == k].mean()), 3) for k in range(BINS)],
        "error_edges": edges.round(4).tolist(),
        "errors": errors.round(4).tolist(),
    }


def fit_calibration(measured: Measured, table: ReferenceTable, out: str | Path) -> dict[str, Any]:
    """Cross-validate, fit on all layers and write the calibration; returns its header with the measured numbers.

    Needs scikit-learn (extra ``fit``).
    """
    header = {
        "target": "C2DB energy above hull (PBE), eV/atom",
        "scheme": table.scheme,
        "reference_sha256": table.sha256,
        "relaxed": f"to {FMAX} eV/angstrom in at most {MAX_STEPS} steps",
        "command": "scdm refs fit --data DIR",
        **cross_validate(measured),
    }
    model = _trees().fit(measured.x, measured.truth - measured.raw)
    arrays = flat_trees(model) | {
        "properties": element_properties(),
        "elements": np.array(measured.elements),
        "error_edges": np.array(header["error_edges"]),
        "errors": np.array(header["errors"]),
    }
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())).hexdigest()
    header["id"] = f"c2db-trees-{digest[:8]}"
    out = Path(out)
    temporary = out.with_name(out.name + ".tmp")
    with temporary.open("wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    temporary.replace(out)
    return header


def flat_trees(model: Any) -> dict[str, NDArray[Any]]:
    """Nodes of a fitted ``HistGradientBoostingRegressor`` as ``Calibration`` holds them."""
    parts: dict[str, list[Any]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    roots, offset = [], 0
    for (predictor,) in model._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        roots.append(offset)
        parts["feature"].append(np.where(leaf, 0, nodes["feature_idx"]).astype(np.uint8))
        parts["threshold"].append(np.where(leaf, 0.0, nodes["num_threshold"]))
        for name in ("left", "right"):
            parts[name].append(np.where(leaf, -1, nodes[name].astype(np.int64) + offset).astype(np.int32))
        parts["value"].append(np.where(leaf, nodes["value"], 0.0).astype(np.float32))
        offset += len(nodes)
    baseline = np.ravel(model._baseline_prediction).astype(float)
    return {name: np.concatenate(values) for name, values in parts.items()} | {
        "roots": np.array(roots),
        "baseline": baseline,
    }


def _trees() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(**TREES)


def _errors(value: Array, truth: Array) -> tuple[Array, Array]:
    """(BINS + 1,) edges of calibrated values and (BINS,) half-widths that hold ``COVERAGE`` of each bin, eV/atom."""
    edges = np.quantile(value, np.linspace(0, 1, BINS + 1))
    bins, off = _bin(value, edges), np.abs(value - truth)
    return edges, np.array([np.quantile(off[bins == k], COVERAGE) for k in range(BINS)])


def _bin(value: Array, edges: Array) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, BINS - 1)
    return found


def _scores(truth: Array, value: Array, windows: bool = True) -> dict[str, float]:
    from scipy.stats import spearmanr

    off = value - truth
    found = {
        "mae": round(float(np.abs(off).mean()), 4),
        "bias": round(float(off.mean()), 4),
        "spearman": round(float(spearmanr(truth, value).statistic), 4),
    }
    return found | (_shares(value, (0.6, 0.2)) if windows else {})


def _shares(value: Array, windows: Iterable[float]) -> dict[str, float]:
    return {f"share_below_{w:g}": round(float((value <= w).mean()), 4) for w in windows}
