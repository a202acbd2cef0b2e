"""Vacuum levels and stiffness through the VASP engine's own makers and the stand-in, whose models are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Structure
from support.layers import mx2
from support.memory import memory_database
from support.standin.potential import VACUUM_EV, step

from scdm_flows.config import VaspEngineConfig
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines.vasp.disk import LARGE
from scdm_flows.engines.vasp.engine import VaspEngine
from scdm_flows.engines.vasp.strained import StrainRun, stiffness_of
from scdm_flows.execution.jobs import hushed

pytestmark = pytest.mark.usefixtures("standin_vasp")


def static(layer: Structure, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> StaticSummary:
    """What the static run of a layer says."""
    engine = VaspEngine(VaspEngineConfig(kpoint_spacing_per_angstrom=0.8, spin="off", **settings))
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SCDM_VASP_POLL_SECONDS", "0.1")
    maker: Any = engine.static_maker()
    with hushed():
        task = maker.make(layer).run(memory_database().job_store).output
    return engine.static_summary(task)


def test_the_vacuum_levels_of_a_polar_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = mx2("1H", c=23.0)
    layer.replace(1, "O")  # on top, 3.44 on Pauling's scale beside sulfur's 2.58
    assert step(layer) > 0.5
    found = static(layer, tmp_path / "corrected", monkeypatch)
    assert found.vacuum is not None
    assert found.vacuum.above_ev - found.vacuum.below_ev == pytest.approx(step(layer), abs=1e-3)
    assert found.vacuum.mean_ev == pytest.approx(VACUUM_EV, abs=1e-3)
    # the model's valence bands end at 0 eV, its gap is 4 eV for each unit of electronegativity (Mo 2.16, O 3.44)
    assert found.vacuum.valence_maximum_ev == pytest.approx(0, abs=1e-3)
    assert found.vacuum.conduction_minimum_ev == pytest.approx(4 * (3.44 - 2.16), abs=1e-3)
    left = {path.name.removesuffix(".gz") for path in (tmp_path / "corrected").iterdir()}
    assert left & set(LARGE) == {"CHGCAR"}  # for the bands; the potential has been read
    # without the correction there is a field in the vacuum, so no level
    found = static(layer, tmp_path / "plain", monkeypatch, dipole_correction="off", keep_files=("LOCPOT",))
    assert found.vacuum is None
    assert "a polar layer has no dipole correction (engine.dipole_correction)" in (found.vacuum_note or "")
    assert list((tmp_path / "plain").glob("LOCPOT*"))


def test_a_run_whose_potential_is_another_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # with exchange and correlation in it, the potential decays slowly, and differs between spins
    found = static(mx2("1H"), tmp_path / "run", monkeypatch, incar={"static": {"LVTOT": True}})
    assert (found.vacuum, found.vacuum_note) == (None, None)


def test_a_strain_that_failed_is_named() -> None:
    layer, one = mx2("1H"), StrainRun(stress_n_per_m=np.eye(2).tolist())
    tensor, note = stiffness_of(layer, 0.01, [one, StrainRun(failed="electronic steps did not converge")])
    assert tensor is None
    assert note == "strain xx-: electronic steps did not converge"
