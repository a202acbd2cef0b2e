"""Energies above hull of known layers, as labels for training. DFT where a layer has it, the energy model elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pymatgen.core import Structure

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.datasets.curation import E_HULL
from scdm_models.datasets.records import CuratedLayer

Predict = Callable[[Sequence[Structure]], Iterable[PredictedEnergy | str]]


def stability_labels(
    layers: Sequence[CuratedLayer],
    table: ReferenceTable,
    predict: Predict,
    kept: Path,
    model: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[float | None], dict[str, int]]:
    """Energy above hull of each layer in eV/atom, and how many came from where.

    C2DB's own value (DFT) where the layer has one; else the predicted energy of the layer as it is, on the hull of the
    table; None where that is extrapolated or the table lacks one of its elements.

    Parameters
    ----------
    layers
        Known layers.
    table
        Competing phases on the scale of the predictions.
    predict
        Energies of layers, or why there is none.
    kept
        File of JSON lines that takes every prediction as it comes; what it holds of the same layer, table and model is
        not predicted again.
    model
        Id of what predicts.
    progress
        Called with (done, total) of those that are predicted.
    """
    labels: list[float | None] = [layer.properties.get(E_HULL) for layer in layers]
    counts = {"dft": sum(value is not None for value in labels), "surrogate": 0, "none": 0}
    unknown = [k for k, value in enumerate(labels) if value is None]
    names = {k: _name(layers[k], table, model) for k in unknown}
    found = _read(kept)
    todo = [k for k in unknown if names[k] not in found]
    with kept.open("a") as file:
        file.write("\n" if file.tell() else "")  # after half a line
        answers = predict([layers[k].structure for k in todo])
        for done, (k, answer) in enumerate(zip(todo, answers, strict=True), len(unknown) - len(todo) + 1):
            found[names[k]] = label = _label(layers[k].structure, answer, table)
            file.write(json.dumps({"id": layers[k].id, "name": names[k], "e_above_hull": label}) + "\n")
            file.flush()
            if progress is not None:
                progress(done, len(unknown))
    for k in unknown:
        labels[k] = found[names[k]]
        counts["none" if labels[k] is None else "surrogate"] += 1
    return labels, counts


def _name(layer: CuratedLayer, table: ReferenceTable, model: str) -> str:
    """The same where a prediction is: of one crystal by one model on one table."""
    text = json.dumps([layer.id, layer.crystal.to_dict(), table.sha256, model], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(kept: Path) -> dict[str, float | None]:
    """What a file holds: ``_name`` -> energy above hull; rows of older versions have none."""
    found: dict[str, float | None] = {}
    for line in kept.read_text().splitlines() if kept.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        if "name" in row:
            found[row["name"]] = row["e_above_hull"]
    return found


def _label(structure: Structure, found: PredictedEnergy | str, table: ReferenceTable) -> float | None:
    if isinstance(found, str) or found.extrapolated:
        return None
    fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
    try:
        return float(found.formation_energy_per_atom - table.hull_energy(fractions))
    except ReferenceDataError:
        return None
