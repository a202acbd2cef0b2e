"""Writes samples one by one to the formats other programs read. Owns formats; knows no model and no database."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdm_flows.errors import OutputError

if TYPE_CHECKING:
    from scdm_models.sampling.sampler import GeneratedRecord

FORMATS = {
    ".jsonl": "JSON lines: all of each record; what `scdm screen` and `scdm evaluate` read",
    ".extxyz": "extended XYZ (ASE, OVITO); groups, seed, index, draw, steps and what was asked in the comment line",
    ".zip": "one CIF for each sample, and samples.csv with groups, seed, index, draw, steps and what was asked",
}
_COLUMNS = (
    "layer_group_requested",
    "layer_group_detected",
    "space_group_detected",
    "seed",
    "index",
    "model_id",
    "draw",
    "mended",
    "steps",
    "asked",
)


@contextmanager
def sample_writer(path: Path) -> Iterator[Callable[[GeneratedRecord], None]]:
    """A function that appends one sample to ``path``, in the format its name ends in; memory does not grow.

    Raises
    ------
    OutputError
        If the name ends in none of ``FORMATS``.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise OutputError(f"{path} has no known format; its name must end in {', '.join(FORMATS)}")
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            table = io.StringIO()
            rows = csv.writer(table, lineterminator="\n")
            rows.writerow(("file", *_COLUMNS))

            def write_cif(sample: GeneratedRecord) -> None:
                name = f"{sample.index:07d}-{sample.structure.composition.reduced_formula}.cif"
                archive.writestr(name, sample.structure.to(fmt="cif"))
                rows.writerow([name, *_values(sample).values()])

            yield write_cif
            archive.writestr("samples.csv", table.getvalue())
        return
    with path.open("w", encoding="utf-8") as handle:
        if suffix == ".jsonl":

            def write_json(sample: GeneratedRecord) -> None:
                handle.write(json.dumps(sample.to_dict()) + "\n")

            yield write_json
            return
        from ase.io.extxyz import write_extxyz
        from pymatgen.io.ase import AseAtomsAdaptor

        def write_xyz(sample: GeneratedRecord) -> None:
            atoms = AseAtomsAdaptor.get_atoms(sample.structure, msonable=False)
            atoms.pbc = (True, True, False)
            atoms.info = {key: value for key, value in _values(sample).items() if value is not None}
            write_extxyz(handle, [atoms])

        yield write_xyz


def record_of(data: dict[str, Any]) -> GeneratedRecord:
    """The sample whose ``to_dict`` gave ``data``."""
    from pymatgen.core import Structure

    from scdm_models.sampling.sampler import GeneratedRecord
    from scdm_models.symmetry.encoding import LayerCrystal

    made = {"structure": Structure.from_dict(data["structure"]), "crystal": LayerCrystal.from_dict(data["crystal"])}
    return GeneratedRecord(**{**data, **made})


def _values(sample: GeneratedRecord) -> dict[str, int | str | None]:
    """The columns; what was asked as JSON, empty where nothing was."""
    asked = json.dumps(dict(sample.asked)) if sample.asked else None
    return {name: getattr(sample, name) for name in _COLUMNS[:-1]} | {_COLUMNS[-1]: asked}
