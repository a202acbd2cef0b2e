"""What is stored of a known layer: how an entry of a source becomes a row, and which columns make a valid table."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.datasets.pairing import Layer
from scdm_models.datasets.records import Dropped, LayerRecord
from scdm_models.errors import NotALayerError, ScdmError
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.encoding import symmetrize
from scdm_models.symmetry.lattice import orient_slab

SYMPREC_ANGSTROM = 0.1  # of layer groups and templates, as in the curated set
# What a source calls the energy above hull (eV/atom), whether the layer is dynamically stable, and its gap (eV).
NAMES = {
    "e_above_hull": ("e_above_hull", "e_hull", "ehull", "hull_distance", "decomposition_energy"),
    "dynamically_stable": ("dynamically_stable", "dyn_stab"),
    "band_gap": ("band_gap", "gap", "bandgap", "band_gap_ind", "optb88vdw_bandgap"),
}
STEPS = 2**16  # of a fractional coordinate
# Columns of text and of numbers; ``known.KnownLayers`` says what they hold.
TEXT = ("ids", "sources", "formulas", "templates")
DTYPES: dict[str, type[np.generic]] = {
    "groups": np.uint8,
    "sizes": np.uint16,
    "cells": np.float32,
    "numbers": np.uint8,
    "frac": np.uint16,
    "values": np.float32,
}
Properties = dict[str, float | bool | str]


@dataclass(frozen=True)
class KnownEntry:
    """One row: a layer as it is compared, with what its source and symmetry say of it.

    Fields are those of ``known.KnownMatch``; template: ``LayerCrystal.template``, empty where there is none.
    """

    id: str
    source: str
    formula: str
    layer_group: int
    template: str
    properties: Properties
    layer: Layer


def _properties(said: dict[str, Any]) -> Properties:
    """What a record says under the names of any source, in ours."""
    found: Properties = {}
    for name, others in NAMES.items():
        value = next((said[other] for other in others if said.get(other) is not None), None)
        if name == "dynamically_stable":
            if isinstance(value, bool):
                found[name] = value
        elif isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            found[name] = float(value)
    return found


def prepare(records: list[LayerRecord | Dropped]) -> list[KnownEntry | Dropped]:
    """The row of each record, or why it has none; what the readers dropped is handed on."""
    logging.getLogger("moyo").setLevel(logging.ERROR)  # it warns of every small displacement
    return [_prepare_one(record) for record in records]


def _prepare_one(record: LayerRecord | Dropped) -> KnownEntry | Dropped:
    """A record ready to be stored; never raises for a bad structure."""
    if isinstance(record, Dropped):
        return record
    try:
        layer = LayerMatcher.layer(record.structure)
        group, template = _symmetry(record.structure)
        formula = record.structure.composition.reduced_formula
        return KnownEntry(record.id, record.source, formula, group, template, _properties(record.properties), layer)
    except NotALayerError as failure:
        return Dropped(record.id, record.source, "not a layer", str(failure))
    except ScdmError as failure:
        return Dropped(record.id, record.source, "failed", str(failure))
    except Exception as failure:  # a structure can break a library in ways nobody lists
        reason = f"{type(failure).__name__}: {failure}; look at the structure"
        return Dropped(record.id, record.source, "failed", reason)


def _symmetry(structure: Structure) -> tuple[int, str]:
    """Layer group (0 where none is found) and Wyckoff template ("" where there is none)."""
    slab = orient_slab(structure)
    try:
        crystal = symmetrize(slab, SYMPREC_ANGSTROM).crystal
    except Exception:  # symmetry is information beside the layer, the look-up does not use it
        with contextlib.suppress(Exception):
            return detect_layer_group(slab, SYMPREC_ANGSTROM), ""
        return 0, ""
    return crystal.layer_group, crystal.template


def columns(entries: Sequence[KnownEntry]) -> tuple[dict[str, list[str]], dict[str, NDArray[Any]]]:
    """The columns of text and of numbers, as ``known.KnownLayers`` takes them."""
    layers = [entry.layer for entry in entries]
    none = np.zeros((0, 3))
    said = [[entry.properties.get(name, np.nan) for name in NAMES] for entry in entries]
    text = {
        "ids": [entry.id for entry in entries],
        "sources": [entry.source for entry in entries],
        "formulas": [entry.formula for entry in entries],
        "templates": [entry.template for entry in entries],
    }
    arrays = {
        "groups": np.array([entry.layer_group for entry in entries]),
        "sizes": np.array([len(layer.numbers) for layer in layers]),
        "cells": np.array([_cell(layer) for layer in layers]).reshape(-1, 4),
        "numbers": np.concatenate([none[:, 0], *(layer.numbers for layer in layers)]),
        "frac": np.round(np.concatenate([none, *(layer.frac for layer in layers)]) * STEPS) % STEPS,
        "values": np.array(said, dtype=float).reshape(-1, len(NAMES)),
    }
    return text, {name: arrays[name].astype(dtype) for name, dtype in DTYPES.items()}


def _cell(layer: Layer) -> tuple[float, float, float, float]:
    """a along x: a_x, b_x, b_y, c, angstrom."""
    length = float(layer.lengths[0])
    return length, float(layer.plane[0] @ layer.plane[1]) / length, layer.area / length, layer.c


def check_columns(text: dict[str, list[str]], arrays: dict[str, NDArray[Any]]) -> None:
    """``ValueError`` where columns do not belong together or hold no layers."""
    m, n = len(text["ids"]), int(arrays["sizes"].sum())
    shapes = {"groups": (m,), "sizes": (m,), "cells": (m, 4), "numbers": (n,), "frac": (n, 3), "values": (m, 3)}
    if any(len(text[name]) != m for name in TEXT) or any(arrays[k].shape != shape for k, shape in shapes.items()):
        raise ValueError("columns of different lengths")
    cells = arrays["cells"]
    if not (np.isfinite(cells).all() and (cells[:, [0, 2, 3]] > 0).all() and (arrays["sizes"] > 0).all()):
        raise ValueError("a cell without size or atoms")
