"""Which code made a result: package versions and the commit of a source tree."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scdm_flows.documents.base import Provenance

PACKAGES = (
    "scdm-flows",
    "torch",
    "pymatgen",
    "atomate2",
    "jobflow",
    "fireworks",
    "maggma",
    "chgnet",
    "sevenn",
    "phonopy",
    "moyopy",
    "spglib",
)


@cache
def versions() -> dict[str, str]:
    """Package name -> installed version, of the packages that shape results."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """Commit of the source tree this package runs from; None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def made_here(**known: Any) -> Provenance:
    """The provenance of a document that the code running here makes; known: its other fields."""
    return Provenance(versions=versions(), git_commit=git_commit(), **known)
