"""Turns surrogate energies above hull into ones comparable with DFT, and says how far off they may be.

CHGNet flatters layers: on C2DB it puts them 0.3 eV/atom too close to the hull. Boosted regression trees on the energies
that the surrogate gives, on what the elements are and on the shape of the layer predict the correction
``DFT - surrogate``; as a correction it keeps following the surrogate energy where that is beyond all training data, so
that a bad structure stays bad. The packaged trees were fitted on C2DB's relaxed layers by ``scdm_flows.calibration.fit``
and are evaluated here with numpy alone.
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
from pymatgen.core import Element, Structure

from scdm_flows.errors import ReferenceDataError
from scdm_models.lattice import slab_thickness

Array = NDArray[np.float64]
PACKAGED = "calibration-c2db.npz"
N_ELEMENTS = 103
PROPERTIES = ("X", "row", "group", "atomic_radius", "mendeleev_no")  # of pymatgen's elements; Pauling, angstrom
COVERAGE = 0.9
OUT_OF_DOMAIN_FACTOR = 2.0


@dataclass(frozen=True)
class LayerShape:
    """Area per atom (angstrom^2) and thickness (angstrom, between the outermost atoms) of a relaxed layer."""

    area_per_atom: float
    thickness: float

    @classmethod
    def of(cls, structure: Structure) -> LayerShape:
        """Of a slab with c along z."""
        area = structure.volume / structure.lattice.c / len(structure)
        return cls(float(area), float(slab_thickness(structure)))


@dataclass(frozen=True)
class CalibratedHull:
    """A calibrated energy above hull.

    e_above_hull: eV/atom, comparable with C2DB's; error: half-width of the interval that holds 90 % of left-out layers
    with a similar value, eV/atom (doubled out of domain); in_domain: whether all elements were in the fit.
    """

    e_above_hull: float
    error: float
    in_domain: bool
    calibration_id: str


def element_properties() -> Array:
    """(103, 5) ``PROPERTIES`` of the elements by atomic number, 0 where an element has none."""
    rows = [[getattr(Element.from_Z(z), name) for name in PROPERTIES] for z in range(1, N_ELEMENTS + 1)]
    return np.array([[0.0 if v is None or v != v else float(v) for v in row] for row in rows])


def features(
    fractions: Mapping[str, float], e_above_hull: float, formation_energy: float, shape: LayerShape, properties: Array
) -> Array:
    """(25,) surrogate E_hull and formation energy (eV/atom), shape, number of elements, and of each property its mean
    over the atoms, smallest, largest and mean deviation.

    properties: (103, 5) by atomic number.
    """
    amounts = np.array(list(fractions.values()), dtype=float)
    amounts = amounts / amounts.sum()
    values = properties[[Element(e).Z - 1 for e in fractions]]  # (m, 5)
    mean = amounts @ values
    spread = amounts @ np.abs(values - mean)
    head = [e_above_hull, formation_energy, shape.area_per_atom, shape.thickness, len(amounts)]
    return np.concatenate([head, mean, values.min(0), values.max(0), spread])


@dataclass(frozen=True)
class Calibration:
    """Fitted trees as flat arrays.

    feature, threshold, left, right, value: (n_nodes,); roots: (n_trees,); baseline: (1,) eV/atom; properties: (103, 5)
    of the elements, as at the fit; elements: (n,) atomic numbers in the fit; error_edges: (n_bins + 1,) calibrated
    E_hull, eV/atom; errors: (n_bins,) eV/atom; header: how it was fitted.
    """

    feature: NDArray[np.int64]
    threshold: Array
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Array
    roots: NDArray[np.int64]
    baseline: Array
    properties: Array
    elements: NDArray[np.int64]
    error_edges: Array
    errors: Array
    header: dict[str, Any]

    def correction(self, row: Array) -> float:
        """Baseline and the sum over the trees for one feature row, eV/atom."""
        node = self.roots.copy()
        while True:
            inner = self.left[node] >= 0
            if not inner.any():
                return float(self.baseline[0] + self.value[node].sum())
            goes_left = row[self.feature[node]] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)

    def error(self, e_above_hull: float) -> float:
        """Half-width of the interval that holds 90 %, of layers with elements of the fit, eV/atom."""
        k = int(np.searchsorted(self.error_edges, e_above_hull, side="right")) - 1
        return float(self.errors[min(max(k, 0), len(self.errors) - 1)])

    def apply(
        self, fractions: Mapping[str, float], e_above_hull: float, formation_energy: float, shape: LayerShape
    ) -> CalibratedHull:
        """The calibrated value of a relaxed layer's surrogate E_hull and formation energy (eV/atom)."""
        numbers = (e_above_hull, formation_energy, shape.area_per_atom, shape.thickness)
        if not np.isfinite(numbers).all():
            raise ReferenceDataError(
                f"E_hull {numbers[0]} and formation energy {numbers[1]} eV/atom, area per atom {numbers[2]} angstrom^2 "
                f"and thickness {numbers[3]} angstrom must be numbers; check the run"
            )
        row = features(fractions, e_above_hull, formation_energy, shape, self.properties)
        value = e_above_hull + self.correction(row)
        in_domain = all(Element(e).Z in self.elements for e in fractions)
        error = self.error(value) * (1.0 if in_domain else OUT_OF_DOMAIN_FACTOR)
        return CalibratedHull(value, error, in_domain, str(self.header["id"]))


@cache
def load_calibration(path: str | None = None) -> Calibration:
    """The calibration of a file (None: the packaged one); ``ReferenceDataError`` if missing or corrupt."""
    source = files("scdm_flows.calibration").joinpath("data", PACKAGED) if path is None else Path(path)
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


def calibrate(
    fractions: Mapping[str, float], e_above_hull: float, formation_energy: float, shape: LayerShape
) -> CalibratedHull:
    """``Calibration.apply`` of the packaged calibration."""
    return load_calibration().apply(fractions, e_above_hull, formation_energy, shape)
