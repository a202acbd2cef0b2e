"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the compact JSON lines of the real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("SCDM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "c2db.jsonl.gz").is_file():
        pytest.skip(f"real data sets are not at {folder}; set SCDM_SHARED_DATA to their folder")
    return folder


def mx2(
    polytype: str, a: float = 3.18, half: float = 1.565, c: float = 20.0, shift: float = 0.5
) -> Structure:
    """1H- or 1T-MoS2, lengths in angstrom, its middle at fractional z = ``shift``."""
    second = (2 / 3, 1 / 3) if polytype == "1H" else (0.0, 0.0)
    frac = [[1 / 3, 2 / 3, shift], [2 / 3, 1 / 3, shift + half / c], [*second, shift - half / c]]
    return Structure(Lattice.hexagonal(a, c), ["Mo", "S", "S"], frac)


@pytest.fixture
def mos2() -> Structure:
    """1H-MoS2."""
    return mx2("1H")


@pytest.fixture
def graphene() -> Structure:
    """Graphene, a = 2.46 angstrom."""
    return Structure(Lattice.hexagonal(2.46, 20.0), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
