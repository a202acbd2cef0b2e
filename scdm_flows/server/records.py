"""OPTIMADE entries that are part of the program: what candidates owe themselves to, and the root of the links."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

_WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)

REFERENCES: list[dict[str, Any]] = [
    {
        "id": "scdm",
        "last_modified": _WRITTEN,
        "title": "Discovery of 2D Materials via Symmetry-Constrained Diffusion Model",
        "authors": [{"name": "Xu et al."}],
        "journal": "J. Phys. Chem. C",
        "year": "2024",
        "doi": "10.1021/acs.jpcc.4c08681",
    },
    {
        "id": "chgnet",
        "last_modified": _WRITTEN,
        "title": "CHGNet as a pretrained universal neural network potential for charge-informed atomistic modelling",
        "authors": [{"name": "Deng et al."}],
        "journal": "Nat. Mach. Intell.",
        "volume": "5",
        "pages": "1031",
        "year": "2023",
        "doi": "10.1038/s42256-023-00716-3",
    },
    {
        "id": "sevennet",
        "last_modified": _WRITTEN,
        "title": "Scalable Parallel Algorithm for Graph Neural Network Interatomic Potentials in Molecular Dynamics "
        "Simulations",
        "authors": [{"name": "Park et al."}],
        "journal": "J. Chem. Theory Comput.",
        "volume": "20",
        "pages": "4857",
        "year": "2024",
        "doi": "10.1021/acs.jctc.4c00190",
    },
]
LINKS: list[dict[str, Any]] = [
    {
        "id": "scdm",
        "name": "scdm-flows",
        "description": "Generated two-dimensional crystals: relaxed, screened and ranked candidates",
        "base_url": None,
        "homepage": None,
        "link_type": "root",
    }
]
