"""Candidates from files: bring your own structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdm_flows.config import FilesGeneratorConfig
from scdm_flows.errors import DatasetError
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import Dropped, LayerRecord
from scdm_models.datasets.structure_files import UNREADABLE, open_error

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

MOST_NAMED = 5  # files that an error names


class FilesGenerator:
    """Structures of CIF, POSCAR, extxyz and JSON files and folders, in their order."""

    def count(self, config: FilesGeneratorConfig) -> int:
        """Entries of all paths, readable or not; ``DatasetError`` as in ``_read``."""
        return len(_entries(config.paths, _stamps(config.paths)))

    def check(self, config: FilesGeneratorConfig) -> list[str]:
        """Paths that do not exist, and files of which none holds a structure."""
        try:
            entries = _entries(config.paths, _stamps(config.paths))
        except DatasetError as error:
            return [str(error)]
        if any(isinstance(item, LayerRecord) for item in entries):
            return []
        reasons = "; ".join(f"{item.id}: {item.reason}" for item in entries[:MOST_NAMED] if isinstance(item, Dropped))
        return [f"none of the {len(entries)} entries of generator.paths can be read ({reasons}); give other files"]

    def given(self, config: FilesGeneratorConfig) -> Iterator[tuple[str, Structure]]:
        """Every readable entry."""
        for item in _entries(config.paths, _stamps(config.paths)):
            if isinstance(item, LayerRecord):
                yield item.id, item.structure

    def elements(self, config: FilesGeneratorConfig) -> list[str]:
        """Elements of the readable entries."""
        return sorted({str(e) for _, structure in self.given(config) for e in structure.composition})

    def generate(
        self,
        config: FilesGeneratorConfig,
        start: int,
        stop: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Entries ``start`` to ``stop - 1``; an unreadable one has ``structure`` None and its ``error``."""
        records: list[dict[str, Any]] = []
        for index, item in enumerate(_entries(config.paths, _stamps(config.paths))[start:stop], start):
            if isinstance(item, LayerRecord):
                records.append({"index": index, "source_id": item.id, "structure": item.structure})
            else:
                records.append({"index": index, "source_id": item.id, "structure": None, "error": item.reason})
            if progress is not None:
                progress(len(records))
        return records


def _read(paths: tuple[str, ...]) -> Iterator[LayerRecord | Dropped]:
    """The entries of all paths; a damaged file among several is one unreadable entry.

    Raises
    ------
    DatasetError
        If a path does not exist, naming all of those, or the only one is damaged.
    """
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise DatasetError("; ".join(f"{path} does not exist; check the path" for path in missing[:MOST_NAMED]))
    for path in paths:
        try:
            yield from read_any(path)
        except DatasetError as error:
            if len(paths) == 1:
                raise
            yield Dropped(Path(path).name, "file", UNREADABLE, str(error))


def _stamps(paths: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file, so that a changed file is read anew."""
    found = []
    for path in map(Path, paths):
        try:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    stat = file.stat()
                    found.append((str(file), stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            raise open_error(path, error) from None
    return tuple(found)


@lru_cache(maxsize=1)  # every shard of a campaign asks for the same files
def _entries(paths: tuple[str, ...], stamps: tuple[tuple[str, int, int], ...]) -> list[LayerRecord | Dropped]:
    return list(_read(paths))
