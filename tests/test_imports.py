"""What may import what, seen from a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

HEAVY = {"torch", "atomate2", "fireworks", "pymatgen", "ase", "chgnet", "maggma", "jobflow", "matplotlib", "scipy", "pandas"}


def loaded(statement: str) -> set[str]:
    """Top-level modules that a statement loads in a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'models'}"}
    code = f"{statement}\nimport sys; print(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        # the command line's start: half a second is lost with any one of these
        ("import scdm_flows.cli", HEAVY),
        ("import scdm_flows, scdm_models", HEAVY),
        ("import scdm_flows.settings", HEAVY),
        ("import scdm_flows.query", {"torch", "atomate2", "fireworks", "chgnet"}),
        ("import scdm_models.sampler, scdm_models.train, scdm_models.datasets.curation", {"scdm_flows", "jobflow", "maggma"}),
        ("import scdm_flows.runner, scdm_flows.flows, scdm_flows.builders", {"fireworks"}),
    ],
)
def test_imports(statement: str, forbidden: set[str]) -> None:
    assert not loaded(statement) & forbidden
