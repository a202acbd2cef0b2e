"""What is said of one sample beside what relaxation made of it."""

from __future__ import annotations

import numpy as np
import pytest

from scdm_flows.analysis.relaxed import Relaxed, judge_relaxed
from scdm_flows.thermo.energy_model import PredictedEnergy
from scdm_flows.thermo.properties import PredictedProperties
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode

MOS2 = decode(LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0, 0, 0)), Site(16, "e", (1 / 3, 2 / 3, 1.56)))))
TABLE = ReferenceTable.load()
PREDICTED = PredictedEnergy(-0.9, 0.05, 0.1, False, "by-hand", PredictedProperties(0.5))


def group_kept(before, after) -> bool:  # type: ignore[no-untyped-def]
    return judge_relaxed(before, Relaxed(after, -7.0, True, 3, 0.01), TABLE, PREDICTED, 0.05).group_kept


def test_groups_are_kept_by_scaling_and_lost_by_breaking() -> None:
    strained = MOS2.copy()
    strained.apply_strain([0.03, 0.03, 0])  # biaxial: hexagonal as before
    assert group_kept(MOS2, strained)
    buckled = MOS2.copy()
    buckled.translate_sites([1], [0, 0, 0.3 / MOS2.lattice.c])  # one S moves by 0.3 angstrom: the mirror is gone
    assert not group_kept(MOS2, buckled)
    sheared = MOS2.copy()
    sheared.apply_strain([0.08, -0.08, 0])  # no longer hexagonal
    assert not group_kept(MOS2, sheared)
    assert group_kept(buckled, MOS2)  # gaining symmetry loses none


def test_energies_of_a_relaxed_layer() -> None:
    found = judge_relaxed(MOS2, Relaxed(MOS2, -7.0, True, 3, 0.01), TABLE, PREDICTED, 0.05)
    assert found.formation_energy == pytest.approx(-0.9)
    assert found.energy_error == 0.05
    assert found.e_above_hull is not None
    assert np.isfinite(found.e_above_hull)
    assert (found.layer_group_sampled, found.layer_group, found.rmsd_angstrom) == (78, 78, 0.0)
    assert found.one_layer


def test_what_could_not_be_relaxed_keeps_its_reason() -> None:
    failed = judge_relaxed(MOS2, Relaxed(None, None, False, 3, None, "isolated atom"), TABLE, "not relaxed", 0.05)
    assert (failed.e_above_hull, failed.group_kept, failed.reason) == (None, False, "isolated atom")
    foreign = MOS2.copy()
    foreign.replace_species({"Mo": "Og"})
    no_reference = judge_relaxed(foreign, Relaxed(foreign, -5.0, True, 3, 0.01), TABLE, PREDICTED, 0.05)
    assert no_reference.e_above_hull is None
    assert no_reference.reason is not None
    unseen = judge_relaxed(MOS2, Relaxed(MOS2, -7.0, True, 3, 0.01), TABLE, "Og is in none of the layers", 0.05)
    assert (unseen.e_above_hull, unseen.reason) == (None, "Og is in none of the layers")
    assert unseen.one_layer
