"""Layer-group tables against PyXtal and group theory; detection against known layers."""

from __future__ import annotations

import numpy as np
import pytest
from support.layers import mx2

from scdm_models.errors import SymmetryError
from scdm_models.symmetry import layer_group
from scdm_models.symmetry.detect import detect_layer_group, detect_layer_group_spglib, detect_space_group

ALL = range(1, 81)


@pytest.mark.parametrize("number", ALL)
def test_operations_form_a_group(number: int) -> None:
    # closure: the product of two operations is again one of the list, up to lattice translations in the plane
    general = layer_group(number).general
    known = {
        (*r.ravel().round(3), *(t.round(4) % 1.0)) for r, t in zip(general.rotations, general.translations, strict=True)
    }
    for r, t in zip(general.rotations, general.translations, strict=True):
        for r2, t2 in zip(general.rotations, general.translations, strict=True):
            product = (*(r @ r2 + 0.0).ravel().round(3), *((r @ t2 + t).round(4) % 1.0))
            assert product in known


@pytest.mark.parametrize("number", ALL)
def test_z_never_mixes_with_the_plane(number: int) -> None:
    # a layer group maps the plane onto itself, so z goes to z or -z without translation
    for position in layer_group(number).positions:
        assert np.all(position.rotations[:, 2, :2] == 0)
        assert np.all(position.rotations[:, :2, 2] == 0)
        assert np.all(position.translations[:, 2] == 0)


@pytest.mark.parametrize("number", ALL)
def test_orbits_are_closed_and_of_the_stated_size(number: int) -> None:
    group = layer_group(number)
    u = np.array([0.137, 0.291, 0.083])
    for position in group.positions:
        points = position.orbit(u)
        images = np.einsum("kij,nj->kni", group.general.rotations, points) + group.general.translations[:, None]
        delta = images.reshape(-1, 1, 3) - points[None]
        delta[..., :2] -= np.round(delta[..., :2])
        nearest = np.abs(delta).max(-1)
        assert nearest.min(1).max() < 1e-4, position.letter
        pair = points[:, None] - points[None]
        pair[..., :2] -= np.round(pair[..., :2])
        distance = np.abs(pair).max(-1) + np.eye(len(points))
        assert distance.min() > 1e-3, position.letter


def test_tables_equal_pyxtals() -> None:
    pyxtal = pytest.importorskip("pyxtal.symmetry", reason="PyXtal is a development tool")
    for number in (1, 10, 32, 48, 64, 72, 78, 80):
        theirs = {w.letter: (w.multiplicity, int(w.get_dof())) for w in pyxtal.Group(number, dim=2)}
        ours = {p.letter: (p.multiplicity, len(p.free)) for p in layer_group(number).positions}
        assert ours == theirs


# point-group orders of ITE volume E: the general position of a primitive group
@pytest.mark.parametrize(("number", "order"), [(1, 1), (2, 2), (37, 8), (61, 16), (72, 12), (78, 12), (80, 24)])
def test_general_multiplicity(number: int, order: int) -> None:
    assert layer_group(number).general.multiplicity == order


@pytest.mark.parametrize("number", [0, 81, -3])
def test_unknown_group_is_refused(number: int) -> None:
    with pytest.raises(SymmetryError, match="1 to 80"):
        layer_group(number)


# 1H is p-6m2 (78), 1T is p-3m1 (72): C2DB's layer groups of the two MoS2 polytypes
@pytest.mark.parametrize(("polytype", "group", "space"), [("1H", 78, 187), ("1T", 72, 164)])
@pytest.mark.parametrize("shift", [0.0, 0.5, 0.9])
def test_detection_by_both_tools_at_every_height(polytype: str, group: int, space: int, shift: float) -> None:
    structure = mx2(polytype, shift=shift)
    assert detect_layer_group(structure) == group
    assert detect_layer_group_spglib(structure) == group
    assert detect_space_group(structure) == space


def test_symprec_must_be_positive(mos2) -> None:
    with pytest.raises(SymmetryError, match="symprec=0 must be > 0"):
        detect_layer_group(mos2, 0)
