"""Data sets of layers: readers (``readers``), the paper's curation (``curation``), known layers (``known``)."""

from __future__ import annotations

from scdm_models.datasets.records import (
    CuratedLayer,
    Dropped,
    LayerRecord,
    read_curated,
    write_curated,
    write_dropped,
)

__all__ = ["CuratedLayer", "Dropped", "LayerRecord", "read_curated", "write_curated", "write_dropped"]
