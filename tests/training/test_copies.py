"""Copies and what they copy: in one setting, near each other, and noise that a chain can take away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.layers import random_crystal

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.model.batch import to_batch
from scdm_models.model.corruption import Noise, Scales, corrupt
from scdm_models.model.prototypes import START, Prototypes
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode, in_plane_matrix
from scdm_models.symmetry.normalizer import normalizer
from scdm_models.symmetry.tables import first_points, layer_group, wrap
from scdm_models.training.copies import align, pairs


def moved(crystal: LayerCrystal, axes: np.ndarray, origin: np.ndarray, point: int) -> LayerCrystal:
    """The same crystal by other axes and another origin, each site by another of its points."""
    group = crystal.group
    matrix = np.linalg.inv(axes[:2, :2]).T @ in_plane_matrix(*crystal.lattice)
    a, b = np.linalg.norm(matrix, axis=1)
    sites = []
    for site in crystal.sites:
        orbit = group.positions[group.index(site.letter)].orbit(np.array(site.xyz)) @ axes.T + origin
        on = [  # representatives lie on the first point of their position
            (p.letter, q)
            for k, p in enumerate(group.positions)
            if p.multiplicity == len(orbit)
            for q in orbit
            if on_first(group.number, k, q)
        ]
        letter, (x, y, z) = on[point % len(on)]
        sites.append(Site(site.element, letter, (float(x), float(y), float(z))))
    gamma = float(np.rad2deg(np.arccos(matrix[0] @ matrix[1] / (a * b))))
    return LayerCrystal(group.number, (float(a), float(b), gamma), tuple(sites))


def on_first(number: int, index: int, point: np.ndarray) -> bool:
    position = layer_group(number).positions[index]
    free = first_points(number).parameters(index, point)
    return bool(np.abs(wrap(position.rotations[0] @ free + position.translations[0] - point)).max() < 1e-6)


@settings(max_examples=80)
@given(st.integers(1, 80), st.integers(0, 10**6), st.integers(0, 23), st.floats(0, 1), st.data())
def test_what_was_only_moved_comes_back(number: int, seed: int, point: int, shift: float, data: st.DataObject) -> None:
    crystal = random_crystal(number, seed)
    axes, origin = data.draw(st.sampled_from(normalizer(number)))
    rotations = layer_group(number).general.rotations
    # along an axis that every operation keeps the origin may be anywhere
    free = [k for k in (0, 1) if all((r[:, k] == np.eye(3)[k]).all() for r in rotations)]
    found = align(moved(crystal, axes, origin + shift * np.isin(np.arange(3), free), point), crystal)
    assert found is not None
    assert [(s.element, s.letter) for s in found.sites] == [(s.element, s.letter) for s in crystal.sites]
    apart = wrap(np.array([s.xyz for s in found.sites]) - np.array([s.xyz for s in crystal.sites]))
    assert np.abs(apart).max() < 1e-6
    assert found.lattice == pytest.approx(crystal.lattice, abs=1e-6)


@settings(max_examples=40)
@given(st.integers(1, 80), st.integers(0, 10**6))
def test_noise_of_a_copy_is_the_copy_at_the_time_where_a_chain_begins(number: int, seed: int) -> None:
    crystal = random_crystal(number, seed)
    a, b, gamma = crystal.lattice
    bent = replace(
        crystal,
        lattice=(1.03 * a, 1.03 * b, gamma),
        sites=tuple(replace(s, xyz=(*s.xyz[:2], 1.1 * s.xyz[2])) for s in crystal.sites),
    )
    aligned = align(crystal, bent)
    assert aligned is not None
    assert LayerMatcher().fit(decode(aligned), decode(crystal))
    truth, copy = to_batch([aligned]), to_batch([bent])
    scales = Scales(1.3, (1.2, 0.0, 0.0), (0.15, 0.1, 0.1))
    noisy, plane, height, lattice = corrupt(
        truth, torch.full((1,), START), scales, Noise.towards(truth, copy, START, scales)
    )
    assert torch.allclose(noisy.params[..., 2], copy.params[..., 2], atol=1e-5)
    difference = noisy.params[..., :2] - copy.params[..., :2]
    assert float((difference - torch.round(difference)).abs().max()) < 1e-5
    assert torch.allclose(noisy.lattice[:, 0], copy.lattice[:, 0], atol=1e-5)
    assert all(torch.isfinite(x).all() for x in (plane, height, lattice))


def test_pairs_are_of_other_systems_and_near() -> None:
    def layer(metal: int, anion: int, a: float, z: float) -> LayerCrystal:
        sites = (Site(metal, "a", (0.0, 0.0, 0.0)), Site(anion, "c", (1 / 3, 2 / 3, z)))
        return LayerCrystal(72, (a, a, 120.0), sites)

    layers = [layer(22, 16, 3.42, 1.41), layer(40, 34, 3.80, 1.60), layer(22, 34, 3.54, 1.55)]
    found = pairs(Prototypes.of(layers), layers, 2)
    assert len(found) == 6  # each from the two others
    for crystal, copy in found:
        assert crystal.sites[0].element == copy.sites[0].element
        assert crystal.lattice != copy.lattice
        assert copy.lattice[0] == pytest.approx(crystal.lattice[0], rel=0.1)
    # of a layer so large, nothing is a likeness
    far = [layers[0], layer(40, 34, 9.9, 1.60)]
    assert pairs(Prototypes.of(far[:1]), far[1:], 2) == [] or align(far[1], layers[0]) is None
    assert pairs(Prototypes.of(layers), layers, 0) == []
