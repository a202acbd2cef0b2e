"""Makes the packaged reference table: competing phases without holes, on C2DB's scale.

Run by ``scdm refs build --data DIR`` on a folder with the published data (``sources``). Bulk phases are the Materials
Project's ground states of all compositions, converted by ``scales``; elements lie at C2DB's chemical potentials (La,
Ce and Tc, which C2DB has not, at the Materials Project's energies); layers of C2DB that C2DB finds stable join where
they lie on the bulk phases' hull or below it. Layers of 2DMatPedia do not: it gives stable ones a decomposition energy
of 0 however far below the hull they lie, which is no energy.

The packaged list of compositions that are known as bulk compounds is made here too (``scdm refs compositions``).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scdm_flows.thermo.bulk_compounds import reduced_formula
from scdm_flows.thermo.composition import Array
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.scales import ROUNDS, Kernel, PhaseSet, chemical_potentials, convert
from scdm_flows.thermo.sources import (
    LAYERS,
    PHASES,
    Layer,
    c2db_layers,
    hull_energies,
    key,
    open_text,
    published_phases,
    read_lines,
)
from scdm_flows.thermo.table import COLUMNS, SCHEME
from scdm_flows.thermo.validate import FOLDS, Progress, cross_validate

WINDOW = 0.03  # eV/atom above the converted hull
SAME_PHASE = 0.05  # eV/atom above the hull of its own database up to which a structure gives a composition its id
NAMELESS = "mp"  # of phases whose id is in none of the files
SUBSET, ELEMENTS = "mp_bulk_subset.jsonl.gz", "mp_elemental_refs.json.gz"
OTHER_LAYERS = "2dmatpedia.jsonl.gz"
Row = tuple[str, str, float, str]  # as ``COLUMNS``


def build_reference_table(data_dir: str | Path, out: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Convert all phases, measure how well that went, and write the table; returns its header.

    Parameters
    ----------
    data_dir
        Folder with the published data.
    out
        The ``.csv.gz`` to write; its header goes to the first, commented line.
    progress
        Called with (done, total) folds of the cross-validation, which is most of the work.
    """
    data, out = Path(data_dir), Path(out)
    layers = c2db_layers(data)
    mu, residual = chemical_potentials(
        [layer.fractions for layer in layers],
        [layer.energy_per_atom - layer.formation_energy_per_atom for layer in layers],
    )
    own = sorted(mu)
    mu = elsewhere(data, mu) | mu
    phases, targets = PhaseSet(published_phases(data, set(mu))), hull_energies(layers)
    validation, _ = cross_validate(phases, targets, Kernel(), progress)
    energies = convert(phases, targets, Kernel())
    rows = table_rows(data, layers, mu, phases, energies)
    del validation["by_chemistry"]
    inputs = (PHASES, LAYERS, SUBSET, ELEMENTS, OTHER_LAYERS)
    header = {
        "scheme": SCHEME,
        "surrogate": False,
        "created": datetime.now(UTC).date().isoformat(),
        "command": "scdm refs build --data DIR",
        "counts": dict(sorted(Counter(kind for *_, kind in rows).items())),
        "bulk_window_ev_per_atom": WINDOW,
        "source_id": f"'{NAMELESS}' where the structure of a phase is in none of the inputs",
        "conversion": {
            "from": "Materials Project with legacy corrections, doi:10.1038/s41524-020-00362-y",
            "to": "C2DB, PBE (GPAW), uncorrected, doi:10.1088/2053-1583/ac1059",
            "prior": "legacy corrections of O, S, H, N, F, Cl taken off, +U kept; doi:10.1103/PhysRevB.84.045115",
            "kernel": "linear in atom fractions + linear in +U metals with O or F + Matern-5/2 of the composition",
            "hyperparameters": asdict(Kernel()),
            "rounds": ROUNDS,
            "seen": "hull energies below C2DB's layers",
            "n_compositions": len(targets),
            "chemical_potentials_residual_ev_per_atom": round(residual, 5),
            "elements_of_the_materials_project": sorted(set(mu) - set(own)),
        },
        "validation": {"target": "C2DB's hull below its layers", "folds_by_chemical_system": FOLDS, **validation},
        "inputs_sha256": {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in inputs},
    }
    write_table(rows, header, out)
    return header


def build_compositions(data_dir: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the compositions of all published phases, whatever their energy (``compositions``); returns the header.

    Parameters
    ----------
    data_dir
        Folder with the published data.
    out
        The ``.txt.gz`` to write; its header goes to the first, commented line.

    Raises
    ------
    ReferenceDataError
        If the folder does not hold them.
    """
    data = Path(data_dir)
    with open_text(data / PHASES) as handle:
        formulas = sorted({reduced_formula(row["formula"]) for row in csv.DictReader(handle)})
    header = {
        "compositions": len(formulas),
        "of": "Materials Project, ground states of two and more elements, doi:10.1038/s41524-020-00362-y",
        "created": datetime.now(UTC).date().isoformat(),
        "command": "scdm refs compositions --data DIR",
        "inputs_sha256": {PHASES: hashlib.sha256((data / PHASES).read_bytes()).hexdigest()},
    }
    _write("\n".join(["# " + json.dumps(header), *formulas, ""]), Path(out))
    return header


def elsewhere(data: Path, mu: Mapping[str, float]) -> dict[str, float]:
    """Elements of 2DMatPedia's layers that C2DB has not -> the Materials Project's energies, eV/atom.

    Formation energies of their compounds are converted like all others, so hulls are right; total energies of C2DB's
    scale would need its own energies of these elements.
    """
    wanted = {e for row in read_lines(data / OTHER_LAYERS) for e in row["species"]} - set(mu)
    with gzip.open(data / ELEMENTS, "rt") as handle:
        return {e: float(entry["energy_per_atom"]) for e, entry in json.load(handle).items() if e in wanted}


def table_rows(
    data: Path, layers: Sequence[Layer], mu: Mapping[str, float], phases: PhaseSet, energies: Array
) -> list[Row]:
    """The table's rows: elements, bulk phases near the hull, stable layers; total energies in eV/atom.

    mu: element -> eV/atom; energies: (n,) of the phases, converted, relative to the elements.
    """
    names, element_names = _ids(data)
    rows: list[Row] = [(element_names[e], f"{e}1", value, "element") for e, value in mu.items()]
    for i in near_hull(phases, energies):
        phase = phases.phases[i]
        name = names.get(key(phase.fractions), NAMELESS)
        rows.append((name, phase.formula, float(energies[i]) + _elements(phase.fractions, mu), "bulk"))
    rows += [
        (one.id, one.formula, one.formation_energy_per_atom + _elements(one.fractions, mu), "layer")
        for one in stable_layers(layers, phases, energies)
    ]
    return rows


def near_hull(phases: PhaseSet, energies: Array) -> list[int]:
    """Numbers of the phases at most ``WINDOW`` above the hull of all phases at ``energies`` ((n,), eV/atom)."""
    found = []
    for _, members in sorted(phases.systems.items()):
        hull, _ = phases.hulls(energies, [phases.phases[i].fractions for i in members])
        found += [i for i, lowest in zip(members, hull, strict=True) if energies[i] - lowest <= WINDOW]
    return found


def stable_layers(layers: Sequence[Layer], phases: PhaseSet, energies: Array) -> list[Layer]:
    """Layers that C2DB finds stable and that lie on the hull of the bulk phases or below; none of one element alone.

    A layer of an element never becomes the element's reference, which is C2DB's own.
    """
    claimed = [layer for layer in layers if layer.e_hull <= 0 and len(layer.fractions) > 1]
    hull, _ = phases.hulls(energies, [layer.fractions for layer in claimed])
    return [one for one, lowest in zip(claimed, hull, strict=True) if one.formation_energy_per_atom <= lowest + 1e-6]


def write_table(rows: Sequence[Row], header: Mapping[str, Any], out: Path) -> None:
    """Write the rows, by chemical system, behind their header; the same bytes for the same rows."""
    text = io.StringIO()
    text.write("# " + json.dumps(header) + "\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for source, formula, energy, kind in sorted(rows, key=lambda row: (_system(row[1]), row[1], row[0])):
        writer.writerow((source, formula, f"{energy:.5f}", kind))
    _write(text.getvalue(), out)


def _write(text: str, out: Path) -> None:
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
    temporary.replace(out)


def _system(formula: str) -> str:
    return "-".join(sorted(Phase.from_formula("", formula, 0.0).fractions))


def _elements(fractions: Mapping[str, float], mu: Mapping[str, float]) -> float:
    """What the elements cost, eV/atom."""
    return sum(x * mu[e] for e, x in fractions.items())


def _ids(data: Path) -> tuple[dict[tuple[tuple[str, float], ...], str], dict[str, str]]:
    """Composition -> mp-id of its lowest structure, as far as that is near the hull; element -> mp-id."""
    lowest: dict[tuple[tuple[str, float], ...], tuple[float, str]] = {}
    for row in read_lines(data / SUBSET):
        if row["e_above_hull"] <= SAME_PHASE:
            counts = Counter(row["species"])
            composition = key({e: n / len(row["species"]) for e, n in counts.items()})
            here = (row["formation_energy_per_atom"], row["id"])
            lowest[composition] = min(here, lowest.get(composition, here))
    with gzip.open(data / ELEMENTS, "rt") as handle:
        elements = {e: str(entry["material_id"]) for e, entry in json.load(handle).items()}
    return {composition: name for composition, (_, name) in lowest.items()}, elements
