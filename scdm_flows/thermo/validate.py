"""How far the converted phases reproduce C2DB's hull, for chemical systems that were left out of the fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.composition import U_METALS, Array
from scdm_flows.thermo.hull import Phase, PhaseSystem
from scdm_flows.thermo.scales import HullEnergy, Kernel, PhaseSet, convert
from scdm_flows.thermo.sources import c2db_layers, hull_energies, key, published_phases, read_lines
from scdm_flows.thermo.table import ReferenceTable

FOLDS = 10
CLOSE = 0.02  # eV/atom
RESAMPLES = 2000  # of the bootstrap
COMMON = ("KBr", "CaF2", "LaS", "HfS2", "MoO2", "CaO", "NiO")  # stable bulk phases that incomplete sets lack
Progress = Callable[[int, int], None]


def chemistry(fractions: Mapping[str, float]) -> str:
    """The class of a composition, by its most electronegative kind of element."""
    there = set(fractions)
    if len(there) == 1:
        return "elements"
    if "O" in there:
        return "oxides with a +U metal" if there & set(U_METALS) else "other oxides"
    for name, members in (
        ("fluorides", {"F"}),
        ("chlorides, bromides, iodides", {"Cl", "Br", "I"}),
        ("sulfides, selenides, tellurides", {"S", "Se", "Te"}),
        ("pnictides, carbides, borides, hydrides", {"N", "P", "As", "C", "B", "H"}),
    ):
        if there & members:
            return name
    return "intermetallics"


def folds_of(systems: Sequence[str], number: int = FOLDS) -> NDArray[np.int64]:
    """(m,) the fold of each member: whole chemical systems, the largest first, each to the smallest fold."""
    members: dict[str, list[int]] = {}
    for i, system in enumerate(systems):
        members.setdefault(system, []).append(i)
    fold, sizes = np.zeros(len(systems), dtype=np.int64), np.zeros(number)
    for _, rows in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        smallest = int(sizes.argmin())
        fold[rows] = smallest
        sizes[smallest] += len(rows)
    return fold


def left_out_hulls(
    phases: PhaseSet,
    targets: Sequence[HullEnergy],
    kernel: Kernel | None = None,
    progress: Progress | None = None,
) -> Array:
    """(m,) hull energies of the targets, eV/atom, each from a conversion that saw nothing of its chemical system."""
    found, fold = np.zeros(len(targets)), folds_of([t.system for t in targets])
    needed = np.unique(np.concatenate([phases.system(name)[1] for name in {t.system for t in targets}]))
    needed = needed[needed >= 0]
    for k in range(FOLDS):
        training, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        energies = convert(phases, [targets[i] for i in training.tolist()], kernel, needed)
        found[held], _ = phases.hulls(energies, [targets[i].fractions for i in held.tolist()])
        if progress is not None:
            progress(k + 1, FOLDS)
    return found


def hulls_left_out(data_dir: str | Path, progress: Progress | None = None) -> dict[str, float]:
    """Id of each layer of C2DB -> its hull energy, eV/atom, by a conversion that saw nothing of its chemical system."""
    layers = c2db_layers(Path(data_dir))
    targets = hull_energies(layers)
    phases = PhaseSet(published_phases(Path(data_dir), {e for layer in layers for e in layer.fractions}))
    values = left_out_hulls(phases, targets, progress=progress)
    found = {key(t.fractions): float(v) for t, v in zip(targets, values, strict=True)}
    return {layer.id: found[key(layer.fractions)] for layer in layers}


def scores(errors: Array, systems: Sequence[str]) -> dict[str, Any]:
    """Mean absolute, median absolute and mean error, eV/atom, and the share of errors that are small.

    The interval of the first holds 95 % of resamples of the chemical systems (percentile bootstrap).
    """
    names, index = np.unique(np.asarray(systems), return_inverse=True)
    total = np.bincount(index, np.abs(errors), len(names))
    count = np.bincount(index, minlength=len(names))
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    means = (drawn @ total) / np.maximum(drawn @ count, 1)
    return {
        "n": len(errors),
        "n_systems": len(names),
        "mae": round(float(np.abs(errors).mean()), 4),
        "mae_95": [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])],
        "median": round(float(np.median(np.abs(errors))), 4),
        "bias": round(float(errors.mean()), 4),
        f"share_within_{CLOSE}": round(float((np.abs(errors) <= CLOSE).mean()), 4),
    }


def cross_validate(
    phases: PhaseSet,
    targets: Sequence[HullEnergy],
    kernel: Kernel | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[int, float]]]:
    """Errors of the hull below C2DB's layers before and after the conversion; the last with the phases below each.

    A layer counts once, also where several share a composition. Errors are hull of the phases minus C2DB's, eV/atom.
    """
    counts = np.array([t.n_layers for t in targets])
    truth = np.array([t.energy_per_atom for t in targets])
    compositions = [t.fractions for t in targets]
    systems: NDArray[np.str_] = np.repeat([t.system for t in targets], counts)
    classes = np.repeat([chemistry(t.fractions) for t in targets], counts)
    as_is, _ = phases.hulls(phases.published, compositions)
    without, _ = phases.hulls(phases.without_legacy, compositions)
    errors = {
        "as it is": as_is - truth,
        "legacy corrections removed": without - truth,
        "converted, left out": left_out_hulls(phases, targets, kernel, progress) - truth,
    }
    spread = {name: np.repeat(values, counts) for name, values in errors.items()}
    found: dict[str, Any] = {name: scores(values, systems.tolist()) for name, values in spread.items()}
    left_out = spread["converted, left out"]
    found["by_chemistry"] = {}
    for name in sorted(set(classes.tolist())):
        own = classes == name
        found["by_chemistry"][name] = scores(left_out[own], systems[own].tolist())
    _, products = phases.hulls(convert(phases, targets, kernel), compositions)
    return found, products


def on_hull(table: ReferenceTable, formula: str) -> bool | str:
    """Whether a phase of this composition lies on the table's hull; why that cannot be said, where it cannot."""
    wanted = Phase.from_formula(formula, formula, 0.0)
    try:
        phases = table.entries(list(wanted.fractions))
    except ReferenceDataError as error:
        return str(error)
    own = [p for p in phases if p.name and key(p.fractions) == key(wanted.fractions)]
    if not own:
        return False
    lowest = min(p.energy_per_atom for p in own)
    return PhaseSystem(list(wanted.fractions), phases).place(wanted.fractions, lowest).e_above_hull <= 1e-6


def validate_hull(
    data_dir: str | Path, table: ReferenceTable | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """What the conversion does for chemical systems that it has not seen, and what the table holds; ready for JSON.

    Parameters
    ----------
    data_dir
        Folder with the published data.
    table
        The packaged one when None.
    progress
        Called with (done, total) folds.
    """
    data, table = Path(data_dir), table or ReferenceTable.load()
    layers = c2db_layers(data)
    targets = hull_energies(layers)
    phases = PhaseSet(published_phases(data, {e for layer in layers for e in layer.fractions}))
    found, products = cross_validate(phases, targets, None, progress)
    below = {i for row in products for i in row}
    subset = {key(_fractions(row["species"])) for row in read_lines(data / "mp_bulk_subset.jsonl.gz")}
    kept = {key(p.fractions) for i in below for p in table.entries(list(phases.phases[i].fractions))}
    keys = [key(phases.phases[i].fractions) for i in sorted(below)]
    return {
        "target": "C2DB's hull below its layers (formation energy minus energy above hull), PBE, eV/atom",
        "n_layers": sum(t.n_layers for t in targets),
        "n_compositions": len(targets),
        "folds_by_chemical_system": FOLDS,
        **found,
        "phases_below_the_layers": {
            "n": len(keys),
            "share_in_table": round(float(np.mean([k in kept for k in keys])), 4),
            "share_in_mp_bulk_subset": round(float(np.mean([k in subset for k in keys])), 4),
        },
        "present": {formula: on_hull(table, formula) for formula in COMMON},
        "table_sha256": table.sha256,
    }


def _fractions(species: Sequence[str]) -> dict[str, float]:
    return {e: species.count(e) / len(species) for e in set(species)}
