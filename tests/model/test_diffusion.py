"""The forward process stays on the Wyckoff set; the network is equivariant; losses and steps are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.layers import random_crystal

from scdm_models.model.batch import (
    CrystalBatch,
    from_batch,
    lattice_free,
    lattice_matrix,
    n_atoms,
    to_batch,
    wyckoff_tensors,
)
from scdm_models.model.corruption import Noise, Scales, corrupt, displacement_scale, wrapped_displacement
from scdm_models.model.denoiser import MOST_CELLS, NetworkConfig, neighbours
from scdm_models.model.diffusion import Scdm, exhausted_letters
from scdm_models.model.schedules import plane_sigma, signal_noise
from scdm_models.symmetry.encoding import decode, encode

CONFIG = NetworkConfig(width=32, skeleton_layers=1, geometry_layers=2, heads=2, radial=8)


@pytest.fixture(scope="module")
def batch() -> CrystalBatch:
    return to_batch([random_crystal(n, seed=n) for n in range(1, 81)])


@pytest.fixture(scope="module")
def model(batch: CrystalBatch) -> Scdm:
    torch.manual_seed(0)
    return Scdm(CONFIG, Scales.of(batch)).eval()


@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_noise_keeps_every_group(batch: CrystalBatch, model: Scdm, t: float) -> None:
    # q acts along the free directions only, so a noisy crystal still has the operations of its group
    generator = torch.Generator().manual_seed(1)
    noisy, *_ = corrupt(batch, torch.full((len(batch),), t), model.scales, Noise.normal(batch, generator))
    for crystal in from_batch(noisy):
        encode(decode(crystal), 1e-3, number=crystal.layer_group)  # raises if an operation is broken


def test_reverse_steps_keep_every_group(batch: CrystalBatch, model: Scdm) -> None:
    b, k = batch.element.shape
    rng = torch.Generator().manual_seed(2)
    state = model.geometry_prior(batch, torch.randn(b, k + 1, 3, generator=rng), torch.rand(b, k, 2, generator=rng))
    with torch.no_grad():
        for t, s in ((1.0, 0.6), (0.6, 0.3), (0.3, 0.0)):
            state = model.geometry_step(state, t, s, torch.randn(b, k + 1, 3, generator=rng), 0.5)
    for crystal in from_batch(state):
        assert encode(decode(crystal), 1e-3, number=crystal.layer_group).layer_group == crystal.layer_group


def test_answers_do_not_depend_on_the_representative(model: Scdm) -> None:
    # any orbit point that lies on the listed first point of a general position describes the same crystal; the
    # in-plane answer must turn with the operation, heights and lattice must not change
    crystal = random_crystal(78, seed=3)
    batch = to_batch([crystal])
    group = wyckoff_tensors()
    w = int(batch.wyckoff[0, 0])
    k = 4
    rotation, translation = group.rotations[w, k], group.translations[w, k]
    other = CrystalBatch(*(getattr(batch, n).clone() for n in batch.__dataclass_fields__))
    other.params[0, 0] = rotation @ batch.params[0, 0] + translation
    t = torch.tensor([0.3])
    with torch.no_grad():
        plane, height, lattice = model.geometry(batch, t)
        plane2, height2, lattice2 = model.geometry(other, t)
    hexagonal = group.tangent[w]  # rows: reference vectors of x and y
    turned = (rotation[:2, :2] @ torch.linalg.solve(hexagonal.T, plane[0, 0])) @ hexagonal
    assert torch.allclose(plane2[0, 0], turned, atol=1e-4)
    assert torch.allclose(height2[0, 0], rotation[2, 2] * height[0, 0], atol=1e-4)
    assert torch.allclose(plane2[0, 1], plane[0, 1], atol=1e-4)
    free = lattice_free(batch.group)
    assert torch.allclose(lattice2[free], lattice[free], atol=1e-4)


def test_translating_a_p1_crystal_changes_nothing(model: Scdm) -> None:
    batch = to_batch([random_crystal(1, seed=5)])
    moved = CrystalBatch(*(getattr(batch, n).clone() for n in batch.__dataclass_fields__))
    moved.params[..., :2] = (moved.params[..., :2] + torch.tensor([0.31, 0.77])) % 1.0
    t = torch.tensor([0.4])
    with torch.no_grad():
        for one, two in zip(model.geometry(batch, t), model.geometry(moved, t), strict=True):
            assert torch.allclose(one, two, atol=1e-4)


def test_wrapped_displacement_against_direct_sum() -> None:
    # sigma^2 d/dx log sum_k N(x + k; 0, sigma^2), by numerical differentiation of the density
    sigma, delta = 0.31, 0.37
    images = np.arange(-20, 21)

    def log_density(x: float) -> float:
        return float(np.log(np.exp(-((x + images) ** 2) / (2 * sigma**2)).sum()))

    h = 1e-5
    # delta = x0 - x_t, so d/dx_t = -d/d delta
    expected = -(sigma**2) * (log_density(delta + h) - log_density(delta - h)) / (2 * h)
    tangent = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    got = wrapped_displacement(torch.tensor([delta, 0.0]), tangent, torch.tensor(sigma), torch.tensor([True, False]))
    assert float(got[0]) == pytest.approx(expected, abs=1e-4)
    assert float(got[1]) == 0.0


def test_scale_is_sigma_while_the_torus_is_not_felt() -> None:
    # for sigma << the period the wrapped normal is a normal of that width
    every = torch.arange(wyckoff_tensors().n_positions)
    movable = every[wyckoff_tensors().free[:, :2].any(1)]
    for sigma in (0.002, 0.005, 0.02, 0.05):
        scale = displacement_scale(torch.full(movable.shape, sigma), movable)
        assert torch.allclose(scale, torch.full_like(scale, sigma), rtol=0.03)


@pytest.mark.parametrize("t", [0.3, 0.7, 0.9, 1.0])
def test_targets_have_unit_variance_on_every_position(batch: CrystalBatch, model: Scdm, t: float) -> None:
    # the network's answers are of order one at all times and on every Wyckoff set: no set and no time dominates the
    # loss; 40 draws of 80 crystals leave about 3 % of sampling error, sets are pooled by their number of directions
    generator = torch.Generator().manual_seed(3)
    many = batch.take(torch.arange(len(batch)).repeat(40))
    _, plane, *_ = corrupt(many, torch.full((len(many),), t), model.scales, Noise.normal(many, generator))
    free = wyckoff_tensors().free[many.wyckoff][..., :2] & many.mask.unsqueeze(-1)
    for directions in (1, 2):
        chosen = plane[free.sum(-1) == directions]
        assert float(chosen.pow(2).sum(-1).mean()) / directions == pytest.approx(1.0, abs=0.15)


def test_schedules() -> None:
    t = torch.linspace(0, 1, 11)
    alpha, sigma = signal_noise(t)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-6)
    assert bool((plane_sigma(t).diff() > 0).all())
    assert float(alpha[-1]) < 0.07  # 7 % of a standard deviation, of data whose mean is 0: close to the prior
    assert float(sigma[0]) < 0.01


def test_lattice_freedom_follows_the_family() -> None:
    # oblique 1-7: three parameters, rectangular 8-48: two, square and hexagonal: one
    free = lattice_free(torch.tensor([1, 7, 8, 48, 49, 64, 65, 80])).sum(1).tolist()
    assert free == [3, 3, 2, 2, 1, 1, 1, 1]


def test_illegal_and_exhausted_letters(model: Scdm) -> None:
    tables = wyckoff_tensors()
    first = int(tables.first[77])  # position 'a' of group 78 has no freedom: one atom fills it
    letter = torch.tensor([[first, first + 3]])
    used = exhausted_letters(letter, torch.ones(1, 2, dtype=torch.bool))
    assert used[0].nonzero().flatten().tolist() == [first]
    element = torch.full((1, 1), 103)
    masked = torch.full((1, 1), model.skeleton.masked_letter)
    _, logits = model.skeleton(torch.tensor([78]), element, masked, torch.ones(1, 1, dtype=torch.bool))
    legal = ~torch.isneginf(logits[0, 0])
    assert set(tables.group[legal].tolist()) == {78}


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])  # small cells reach every image that is looked at, large ones few
def test_images_out_of_reach_are_left_out_and_no_other(
    batch: CrystalBatch, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    matrix = scale * lattice_matrix(batch.group, batch.lattice, n_atoms(batch.wyckoff, batch.mask))
    found = neighbours(batch, matrix, 6.0)
    every = torch.arange(-MOST_CELLS, MOST_CELLS + 1.0)
    monkeypatch.setattr("scdm_models.model.denoiser._images", lambda *_: torch.cartesian_prod(every, every))
    whole = neighbours(batch, matrix, 6.0)
    assert len(found.row) > 0
    for name in ("row", "site", "owner", "vector"):
        assert torch.equal(getattr(found, name), getattr(whole, name))


def test_a_lattice_that_is_no_number_leaves_the_others_alone(batch: CrystalBatch) -> None:
    matrix = lattice_matrix(batch.group, batch.lattice, n_atoms(batch.wyckoff, batch.mask))
    right = neighbours(batch, matrix, 6.0)
    broken = matrix.clone()
    broken[0] = torch.nan
    found = neighbours(batch, broken, 6.0)
    assert 0 not in found.row
    assert torch.equal(found.vector, right.vector[right.row != 0])


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    batch = to_batch([random_crystal(n, seed=n) for n in range(1, 81, 8)])
    model = Scdm(CONFIG, Scales.of(batch))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    t = torch.linspace(0.05, 0.7, len(batch))

    def loss() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return sum(
            model.geometry_loss(batch, t, Noise.normal(batch, generator)), torch.zeros(())
        ) + model.skeleton_loss(batch, generator)

    before = float(loss())
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss()) < 0.8 * before
