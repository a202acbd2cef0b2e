"""Guidance: contacts end, gaps close, good crystals stay as they are, and the group is kept throughout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.layers import random_crystal

from scdm_models.model.batch import CrystalBatch, from_batch, to_batch
from scdm_models.sampling.cohesion import pull_together
from scdm_models.sampling.composition import CompositionRequest
from scdm_models.sampling.guidance import CONTACT_FACTOR, push_apart, settle
from scdm_models.sampling.sampler import SamplerOptions, generate
from scdm_models.sampling.skeletons import SkeletonRules
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode, encode
from scdm_models.symmetry.lattice import is_one_layer, layer_dimensionality
from scdm_models.symmetry.validity import shortest_distances


@pytest.fixture(scope="module")
def batch() -> CrystalBatch:
    """A random crystal of each group."""
    return to_batch([random_crystal(1 + k, seed=k) for k in range(80)])


@pytest.fixture(scope="module")
def molybdenite() -> CrystalBatch:
    """1H-MoS2: a = 3.18 and d(Mo-S) = 2.41 angstrom are far above 0.78 times the covalent radii 1.54 + 1.05."""
    return to_batch(
        [LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0, 0, 0)), Site(16, "e", (1 / 3, 2 / 3, 1.56))))]
    )


def ratios(state: CrystalBatch) -> np.ndarray:
    return np.array([shortest_distances(decode(crystal)).min_ratio for crystal in from_batch(state)])


def test_pushing_apart_ends_overlaps_and_keeps_every_group(batch: CrystalBatch) -> None:
    # random orbits overlap often; what guidance moves is what the chain moves, so the group must stay
    state = batch
    for _ in range(30):
        state, touching = push_apart(state)
    before, after = ratios(batch), ratios(state)
    assert (before < CONTACT_FACTOR).sum() > 10  # there was something to do
    assert (after >= 0.7).mean() > 0.9
    assert set(np.flatnonzero(after < CONTACT_FACTOR - 0.01)) <= set(np.flatnonzero(touching.numpy()))
    for crystal in from_batch(state):
        encode(decode(crystal), 1e-3, number=crystal.layer_group)  # raises if an operation is broken


def test_settling_makes_one_layer_of_random_crystals_and_keeps_every_group(batch: CrystalBatch) -> None:
    state = settle(batch)
    before, after = from_batch(batch), from_batch(state)
    assert sum(is_one_layer(decode(crystal)) for crystal in before) < 0.7 * len(before)  # there was something to do
    assert sum(is_one_layer(decode(crystal)) for crystal in after) > 0.9 * len(after)
    for old, new in zip(before, after, strict=True):
        assert new.template == old.template
        encode(decode(new), 1e-3, number=new.layer_group)


def test_a_good_crystal_is_left_alone(molybdenite: CrystalBatch) -> None:
    for state in (push_apart(molybdenite)[0], pull_together(molybdenite)[0], settle(molybdenite)):
        assert torch.allclose(state.params, molybdenite.params, atol=1e-6)
        assert torch.equal(state.lattice, molybdenite.lattice)


def test_a_layer_torn_across_is_pulled_together_without_bending_its_bonds() -> None:
    # two flat hexagonal BN sheets in AA stacking, 4.5 angstrom apart: [2, 2]. Cordero radii: B 0.84, N 0.71, so a
    # bond ends at 1.3 * (0.84 + 0.71) = 2.0 angstrom and the B-N bonds of 1.45 must keep their length within 0.1
    sites = (Site(5, "b", (1 / 3, 2 / 3, 2.25)), Site(7, "c", (2 / 3, 1 / 3, -2.25)))
    torn = LayerCrystal(65, (2.51, 2.51, 120.0), sites)
    assert sorted(layer_dimensionality(decode(torn))) != [2]
    (mended,) = from_batch(settle(to_batch([torn])))
    assert is_one_layer(decode(mended))
    assert mended.layer_group == 65
    assert shortest_distances(decode(mended)).min_ratio >= 0.7


def test_chains_are_pulled_together_across_and_not_along() -> None:
    # p1, one Te atom: a chain of 2.8 angstrom along a (Te-Te bonds), 6 angstrom apart along b: one-dimensional.
    # A bond of two Te ends at 1.3 * 2.76 = 3.59 angstrom; along the chain nothing needs to move
    chain = LayerCrystal(1, (2.8, 6.0, 90.0), (Site(52, "a", (0.0, 0.0, 0.0)),))
    assert layer_dimensionality(decode(chain)) == [1]
    (mended,) = from_batch(settle(to_batch([chain])))
    assert layer_dimensionality(decode(mended)) == [2]
    assert mended.lattice[0] == pytest.approx(2.8, abs=0.15)
    assert mended.lattice[1] < 3.6


def test_guidance_can_be_left_out_and_does_what_it_says() -> None:
    guided = [s.structure for s in generate(40, seed=5)]
    raw = [s.structure for s in generate(40, seed=5, options=SamplerOptions(guidance=False))]
    assert min(shortest_distances(s).min_ratio for s in guided) > 0.7
    assert min(shortest_distances(s).min_ratio for s in raw) < 0.7  # else there was nothing to do
    assert all(map(is_one_layer, guided))
    assert sum(map(is_one_layer, raw)) < 38


def test_where_nothing_holds_together_what_comes_is_mended_and_says_so() -> None:
    # one step from pure noise gives next to no bonded layers of 20 atoms; as many as asked for come all the same
    large = SkeletonRules(composition=CompositionRequest.parse(None, None, 20))
    options = SamplerOptions(steps=1, skeletons=large, prototypes=False)
    found = list(generate(12, seed=5, layer_group=2, options=options))
    assert len(found) == 12
    mended = [s for s in found if s.mended]
    assert mended
    assert sum(is_one_layer(s.structure) for s in mended) > 0.7 * len(mended)
