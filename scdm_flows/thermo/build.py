"""Makes the packaged reference table: CHGNet energies of known bulk phases, elements and layers.

Run by ``scdm refs build --data DIR`` on a folder with the compact JSON lines (``mp_bulk_subset.jsonl.gz``,
``2dmatpedia.jsonl.gz``, ``c2db.jsonl.gz``, ``mp_elemental_refs.json.gz``). Energies are surrogate energies: single
points of CHGNet 0.3.0 at the source's geometry. Bulk phases within 0.05 eV/atom of the source's hull are taken; an
element without a structure takes the Materials Project's energy (CHGNet was trained on those), marked ``mp``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scdm_flows.errors import ReferenceDataError
from scdm_models.processes import pool

BULK_WINDOW = 0.05  # eV/atom above the source's hull
SCHEME = "chgnet-0.3.0"
COLUMNS = ("source_id", "formula", "energy_per_atom", "kind")
_CHUNK = 128
_model: Any = None


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ReferenceDataError(f"{path} does not exist; give the folder that holds the compact JSON lines")
    with gzip.open(path, "rt") as handle:
        for line in handle:
            yield json.loads(line)


def _start(threads: int) -> None:
    global _model
    import torch
    from chgnet.model import CHGNet

    torch.set_num_threads(threads)
    _model = CHGNet.load(use_device="cpu", verbose=False)


def _energies(rows: list[dict[str, Any]]) -> list[tuple[str, str, float | None, str]]:
    """(id, cell formula, energy per atom or None, kind) of each row; None where CHGNet cannot (isolated atoms)."""
    from pymatgen.core import Structure

    structures = [Structure(r["lattice"], r["species"], r["frac_coords"]) for r in rows]
    kinds = [r["kind"] for r in rows]
    formulas = [s.composition.formula.replace(" ", "") for s in structures]

    def predict(chunk: list[Structure]) -> list[float]:
        predictions = _model.predict_structure(chunk, task="e", batch_size=32)
        if isinstance(predictions, dict):  # CHGNet unwraps a list of one
            predictions = [predictions]
        return [float(p["e"]) for p in predictions]

    try:
        energies: list[float | None] = list(predict(structures))
    except Exception:  # one structure with an isolated atom spoils the batch: take them one by one
        energies = []
        for structure in structures:
            try:
                energies += predict([structure])
            except Exception:
                energies.append(None)
    return [(r["id"], f, e, k) for r, f, e, k in zip(rows, formulas, energies, kinds, strict=True)]


def build_reference_table(
    data_dir: str | Path,
    out: str | Path,
    *,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compute all energies and write the table; returns its header (counts, hashes, command).

    Parameters
    ----------
    data_dir
        Folder with the compact JSON lines.
    out
        The ``.csv.gz`` to write; its header goes to the first, commented line.
    processes
        Worker processes, one thread each.
    progress
        Called with (done, total) structures.
    """
    data, out = Path(data_dir), Path(out)
    rows: list[dict[str, Any]] = []
    for row in _read(data / "mp_bulk_subset.jsonl.gz"):
        if row["e_above_hull"] < BULK_WINDOW:
            rows.append(row | {"kind": "bulk"})
    for name in ("2dmatpedia", "c2db"):
        rows += [row | {"kind": "layer"} for row in _read(data / f"{name}.jsonl.gz")]
    rows.sort(key=lambda r: len(r["species"]))
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    results: list[tuple[str, str, float | None, str]] = []
    with pool(processes, _start, 1) as workers:
        for part in workers.map(_energies, chunks):
            results += part
            if progress is not None:
                progress(len(results), len(rows))
    return write_table(results, data, out)


def write_table(results: list[tuple[str, str, float | None, str]], data: Path, out: Path) -> dict[str, Any]:
    """Write (id, formula, energy per atom or None, kind) rows and the missing elements; returns the header."""
    skipped = sorted(i for i, _, e, _ in results if e is None)
    table = sorted(r for r in results if r[2] is not None)
    elements = {f.rstrip("0123456789") for _, f, _, kind in table if kind == "bulk" and _is_element(f)}
    with gzip.open(data / "mp_elemental_refs.json.gz", "rt") as handle:
        refs = json.load(handle)
    for symbol, entry in refs.items():
        if symbol not in elements:
            table.append((f"{entry['material_id']}:mp", f"{symbol}1", entry["energy_per_atom"], "element"))
    names = ("mp_bulk_subset.jsonl.gz", "2dmatpedia.jsonl.gz", "c2db.jsonl.gz", "mp_elemental_refs.json.gz")
    kinds = [kind for *_, kind in table]
    header = {
        "scheme": SCHEME,
        "surrogate": True,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "scdm refs build --data DIR",
        "bulk_window_ev_per_atom": BULK_WINDOW,
        "counts": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "skipped_isolated_atoms": skipped,
        "inputs_sha256": {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in names},
    }
    text = io.StringIO()
    text.write("# " + json.dumps(header) + "\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for source, formula, energy, kind in table:
        writer.writerow((source, formula, f"{energy:.5f}", kind))
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    temporary.replace(out)
    return header


def _is_element(formula: str) -> bool:
    return sum(c.isupper() for c in formula) == 1
