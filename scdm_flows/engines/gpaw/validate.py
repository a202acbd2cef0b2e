"""Measures a preset against C2DB: ``scdm refs gpaw``. Layers as C2DB has them, drawn by seed, nothing relaxed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from scdm_flows.analysis.bands import find_gap, of_path
from scdm_flows.analysis.phonons import in_plane_path
from scdm_flows.config import GpawEngineConfig
from scdm_flows.engines.gpaw import process
from scdm_flows.engines.gpaw.engine import GpawEngine
from scdm_flows.engines.gpaw.inputs import DENSITY, bands_task, static_task
from scdm_flows.engines.gpaw.presets import HARD_ELEMENTS, on_scale
from scdm_flows.errors import ScdmError
from scdm_flows.thermo.sources import LAYERS, read_lines
from scdm_flows.thermo.table import ReferenceTable

MAX_ATOMS = 6
MAGNETIC = ("FM", "AFM")


def drawn(records: Sequence[dict[str, Any]], n: int, seed: int) -> list[dict[str, Any]]:
    """``n`` of C2DB's records, a fifth of them at least magnetic and a fifth with N, O or F, in the order of the draw.

    The first n of a shuffled list, whose last ones give way where a kind is too few.
    """
    order = [records[int(k)] for k in np.random.default_rng(seed).permutation(len(records))]
    kinds: list[Callable[[dict[str, Any]], bool]] = [
        lambda record: record.get("magstate") in MAGNETIC,
        lambda record: bool(HARD_ELEMENTS.intersection(record["species"])),
    ]
    wanted: list[dict[str, Any]] = []
    for kind in kinds:
        wanted += [record for record in order if kind(record) and record not in wanted][: n // 5]
    wanted += [record for record in order if record not in wanted][: n - len(wanted)]
    return [record for record in order if record in wanted]


def candidates(data_dir: Path, engine: GpawEngine) -> list[dict[str, Any]]:
    """C2DB's records that a preset can compute: at most six atoms, with a formation energy."""
    able: dict[str, bool] = {}

    def computable(element: str) -> bool:
        if element not in able:
            able[element] = not engine.check_elements([element])
        return able[element]

    return [
        record
        for record in read_lines(data_dir / LAYERS)
        if record.get("formation_energy_per_atom") is not None
        and len(record["species"]) <= MAX_ATOMS
        and all(map(computable, set(record["species"])))
    ]


def compared(record: dict[str, Any], config: GpawEngineConfig) -> dict[str, Any]:
    """One layer beside C2DB: formation energy (eV/atom) and, of a semiconductor, gap with spin-orbit coupling (eV)."""
    layer = Structure(record["lattice"], record["species"], record["frac_coords"])
    fractions = {str(e): float(x) for e, x in layer.composition.fractional_composition.items()}
    row = {"id": record["id"], "preset": config.preset, "magstate": record.get("magstate")}
    try:
        with tempfile.TemporaryDirectory(prefix="scdm-gpaw-") as folder:
            static = process.run(static_task(config, layer), Path(folder))
            energy = on_scale(config.preset, fractions, static["energy"], static["extra"], len(layer), config.offsets)
            formation = energy - ReferenceTable.load().total_energy(fractions, 0.0)
            row |= {"formation_energy": formation, "c2db": record["formation_energy_per_atom"]}
            row |= {"moment": static["total_moment"], "cpu_seconds": static["cpu_seconds"]}
            if record.get("band_gap"):
                task = bands_task(config, layer, DENSITY)
                found = process.run(task, Path(folder))
                _, distances, labels = in_plane_path(layer, config.band_points)
                path = of_path(np.array(task["k_points"]), {"up": np.array(found["path"])}, distances, labels)
                mesh = of_path(np.array(found["mesh_k_points"]), {"up": np.array(found["mesh"])})
                row |= {"gap": find_gap(path, mesh, found["fermi_level"]).gap, "gap_c2db": record["band_gap"]}
                row["cpu_seconds"] += found["cpu_seconds"]
    except ScdmError as error:  # one that does not converge is a result, too
        row["failed"] = str(error).partition("; the run is in ")[0]
    return row


def validate(
    data_dir: Path,
    path: Path,
    config: GpawEngineConfig,
    n: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Compare ``n`` layers with C2DB, seeded; returns their rows.

    Parameters
    ----------
    data_dir
        A folder with ``c2db.jsonl.gz``.
    path
        JSON lines, a row a layer as it ends; what it has is not computed again.
    config
        Preset and settings.
    n, seed
        Of the draw.
    progress
        Called with (done, total).
    """
    have: dict[tuple[str, str], dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        have[row["id"], row["preset"]] = row
    chosen = drawn(candidates(data_dir, GpawEngine(config)), n, seed)
    rows = []
    for number, record in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen))
        row = have.get((record["id"], config.preset)) or {}
        if not row:
            row = compared(record, config)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
    return rows
