"""Turns surrogate energies above hull into ones comparable with DFT, and says how far off they may be.

CHGNet flatters layers: on C2DB it puts them 0.3 eV/atom too close to the hull. A random forest on element fractions,
surrogate E_hull and surrogate formation energy predicts the correction ``DFT - surrogate``; as a correction it keeps
following the surrogate energy where that is beyond all training data, so that a bad structure stays bad. The packaged
forest was fitted on C2DB by ``scdm_flows.references.fit`` and is evaluated here with numpy alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

from scdm_flows.errors import ReferenceDataError

PACKAGED = "calibration-c2db.npz"
N_ELEMENTS = 103
OUT_OF_DOMAIN_FACTOR = 2.0


@dataclass(frozen=True)
class CalibratedHull:
    """A calibrated energy above hull.

    e_above_hull: eV/atom, comparable with C2DB's; error: half-width of the interval that held 68 % of left-out
    layers with a similar value, eV/atom (doubled out of domain); in_domain: whether all elements were in the fit.
    """

    e_above_hull: float
    error: float
    in_domain: bool
    calibration_id: str


def features(fractions: Mapping[str, float], e_above_hull: float, formation_energy: float) -> NDArray[np.float64]:
    """(105,) element fractions by atomic number, surrogate E_hull and formation energy (eV/atom)."""
    row = np.zeros(N_ELEMENTS + 2)
    total = sum(fractions.values())
    for element, amount in fractions.items():
        row[Element(element).Z - 1] = amount / total
    row[-2:] = e_above_hull, formation_energy
    return row


@dataclass(frozen=True)
class Calibration:
    """A fitted forest: flat arrays of all trees.

    feature, threshold, left, right, value: (n_nodes,); roots: (n_trees,); elements: (n,) atomic numbers in the fit;
    error_edges: (n_bins + 1,) calibrated E_hull, eV/atom; errors: (n_bins,) eV/atom; header: how it was fitted.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]
    roots: NDArray[np.int64]
    elements: NDArray[np.int64]
    error_edges: NDArray[np.float64]
    errors: NDArray[np.float64]
    header: dict[str, Any]

    def correction(self, row: NDArray[np.float64]) -> float:
        """Mean prediction of the trees for one feature row, eV/atom."""
        row = row.astype(np.float32).astype(float)  # as scikit-learn compares
        node = self.roots.copy()
        while True:
            inner = self.left[node] >= 0
            if not inner.any():
                return float(self.value[node].mean())
            goes_left = row[self.feature[node]] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)

    def apply(self, fractions: Mapping[str, float], e_above_hull: float, formation_energy: float) -> CalibratedHull:
        """The calibrated value of surrogate E_hull and formation energy (eV/atom)."""
        if not (np.isfinite(e_above_hull) and np.isfinite(formation_energy)):
            raise ReferenceDataError(f"E_hull {e_above_hull} and formation energy {formation_energy} must be numbers")
        value = e_above_hull + self.correction(features(fractions, e_above_hull, formation_energy))
        k = int(np.clip(np.searchsorted(self.error_edges, value, side="right") - 1, 0, len(self.errors) - 1))
        in_domain = all(Element(e).Z in self.elements for e in fractions)
        error = float(self.errors[k]) * (1.0 if in_domain else OUT_OF_DOMAIN_FACTOR)
        return CalibratedHull(value, error, in_domain, str(self.header["id"]))


@cache
def load_calibration(path: str | None = None) -> Calibration:
    """The calibration of a file (None: the packaged one); ``ReferenceDataError`` if missing or corrupt."""
    source = files("scdm_flows.references").joinpath("data", PACKAGED) if path is None else Path(path)
    try:
        with np.load(BytesIO(source.read_bytes()), allow_pickle=False) as data:
            arrays = {name: data[name] for name in Calibration.__dataclass_fields__ if name != "header"}
            header = json.loads(str(data["header"]))
    except FileNotFoundError:
        raise ReferenceDataError("the calibration file does not exist; fit it with `scdm refs fit`") from None
    except (OSError, ValueError, KeyError) as error:
        raise ReferenceDataError(
            f"the calibration file is damaged ({error}); fit it again with `scdm refs fit`"
        ) from None
    integers = {"feature", "left", "right", "roots", "elements"}
    typed = {k: v.astype(np.int64 if k in integers else float) for k, v in arrays.items()}
    return Calibration(**typed, header=header)


def calibrate(fractions: Mapping[str, float], e_above_hull: float, formation_energy: float) -> CalibratedHull:
    """``Calibration.apply`` of the packaged calibration."""
    return load_calibration().apply(fractions, e_above_hull, formation_energy)
