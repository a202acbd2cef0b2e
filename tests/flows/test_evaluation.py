"""Which symmetry a relaxation kept, and what counts as stable, unique and new."""

from __future__ import annotations

import numpy as np

from scdm_flows.analysis.evaluation import Relaxed, SampleEnergy, judge_relaxed, operations_kept, sun, window_shares
from scdm_flows.calibration.model import PredictedEnergy
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.encoding import LayerCrystal, Site, decode

MOS2 = decode(LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0, 0, 0)), Site(16, "e", (1 / 3, 2 / 3, 1.56)))))


def energy(value: float | None, one_layer: bool = True, extrapolated: bool = False) -> SampleEnergy:
    return SampleEnergy(value, extrapolated, True, one_layer, True, 0.0)


def test_operations_are_kept_by_scaling_and_lost_by_breaking() -> None:
    strained = MOS2.copy()
    strained.apply_strain([0.03, 0.03, 0])  # biaxial: hexagonal as before
    assert operations_kept(MOS2, strained)
    buckled = MOS2.copy()
    buckled.translate_sites([1], [0, 0, 0.3 / MOS2.lattice.c])  # one S moves by 0.3 angstrom: the mirror is gone
    assert not operations_kept(MOS2, buckled)
    sheared = MOS2.copy()
    sheared.apply_strain([0.08, -0.08, 0])  # no longer hexagonal
    assert not operations_kept(MOS2, sheared)
    assert operations_kept(buckled, MOS2)  # gaining symmetry loses none


def test_windows_and_sun() -> None:
    energies = [energy(-0.01), energy(0.08), energy(0.08), energy(0.3), energy(None), energy(0.05, one_layer=False)]
    windows = window_shares(energies)
    assert windows["e_hull_0"].tolist() == [True, False, False, False, False, False]
    assert windows["e_hull_0.1"].tolist() == [True, True, True, False, False, True]
    assert windows["e_hull_0.6"].sum() == 5
    # the third equals the second, the first is known, the last fell apart
    assert sun(energies, [False, True, True, True, None, True], [0, 1, 1, 3, None, 5]).tolist() == [
        False, True, False, False, False, False,
    ]  # fmt: skip
    # what lies outside the energy model's knowledge is never called stable
    assert not sun([energy(0.01, extrapolated=True)], [True], [0]).any()


def test_what_could_not_be_relaxed_keeps_its_reason() -> None:
    table = ReferenceTable.load()
    predicted = PredictedEnergy(-0.9, 0.05, 0.1, False, "by-hand")
    failed = judge_relaxed(MOS2, Relaxed(None, None, False, 3, None, "isolated atom"), table, "not relaxed")
    assert (failed.e_above_hull, failed.group_kept, failed.reason) == (None, False, "isolated atom")
    foreign = MOS2.copy()
    foreign.replace_species({"Mo": "Og"})
    no_reference = judge_relaxed(foreign, Relaxed(foreign, -5.0, True, 3, 0.01), table, predicted)
    assert no_reference.e_above_hull is None
    assert no_reference.reason is not None
    unseen = judge_relaxed(MOS2, Relaxed(MOS2, -7.0, True, 3, 0.01), table, "Og is in none of the layers")
    assert (unseen.e_above_hull, unseen.reason) == (None, "Og is in none of the layers")
    known = judge_relaxed(MOS2, Relaxed(MOS2, -7.0, True, 3, 0.01), table, predicted)
    assert known.e_above_hull is not None
    assert np.isfinite(known.e_above_hull)
