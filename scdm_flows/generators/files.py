"""Candidates from files: bring your own structures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from scdm_flows.config import FilesGeneratorConfig
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import LayerRecord


class FilesGenerator:
    """Structures of CIF, POSCAR, extxyz and JSON files and folders, in their order."""

    def count(self, config: FilesGeneratorConfig) -> int:
        """Entries of all paths, readable or not."""
        return sum(1 for path in config.paths for _ in read_any(path))

    def generate(
        self,
        config: FilesGeneratorConfig,
        start: int,
        stop: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Entries ``start`` to ``stop - 1``; an unreadable one has ``structure`` None and its ``error``."""
        entries = (item for path in config.paths for item in read_any(path))
        records = []
        for index, item in enumerate(islice(entries, start, stop), start):
            if isinstance(item, LayerRecord):
                records.append({"index": index, "source_id": item.id, "structure": item.structure.as_dict()})
            else:
                records.append(
                    {"index": index, "source_id": item.id, "structure": None, "error": item.reason}
                )
            if progress is not None:
                progress(index - start + 1)
        return records
