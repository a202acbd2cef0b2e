"""Crystals of bulk phases from whatever holds some: files, folders, data sets, fetched entries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.bulk_compounds import reduced_formula
from scdm_flows.thermo.entries import read_document
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import LayerRecord

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

logger = logging.getLogger(__name__)


def bulk_structures(paths: Iterable[Path]) -> dict[str, tuple[str, Structure]]:
    """Reduced formula -> name and crystal, of structure files, folders, data sets and files of ``scdm refs fetch``.

    Of several crystals of one composition the one with the lowest ``e_above_hull`` is taken where the source says it,
    else the first.
    """
    found: dict[str, tuple[float, str, Structure]] = {}
    for path in paths:
        for name, structure, above in _crystals(path):
            try:
                formula = reduced_formula(structure.composition.formula.replace(" ", ""))
            except ReferenceDataError as error:  # partial occupation
                logger.warning("%s of %s is passed over: %s", name, path, error)
                continue
            if formula not in found or above < found[formula][0]:
                found[formula] = (above, name, structure)
    return {formula: (name, structure) for formula, (_, name, structure) in found.items()}


def _crystals(path: Path) -> Iterator[tuple[str, Structure, float]]:
    """Name, crystal, and eV/atom above the hull of its source, 0 where that says nothing."""
    from pymatgen.core.structure import Structure

    if not path.exists():
        raise ReferenceDataError(f"{path} does not exist; give files or folders with crystals of bulk phases")
    if path.name.endswith((".json", ".json.gz")):
        document = read_document(path)
        rows = [*(document.get("entries") or []), *(document.get("left_out") or [])]
        if any(isinstance(row, dict) and "composition" in row for row in rows):
            for row in rows:
                if row.get("structure"):
                    yield str(row.get("entry_id")), Structure.from_dict(row["structure"]), 0.0
            return
    for item in read_any(path):
        if isinstance(item, LayerRecord):
            yield item.id, item.structure, float(item.properties.get("e_above_hull") or 0.0)
        else:
            logger.warning("%s of %s is passed over: %s", item.id, path, item.reason)
