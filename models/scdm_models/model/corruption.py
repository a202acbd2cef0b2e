"""The forward process q (paper, Eq. 2): noise on lattices and coordinates, masks on elements and letters.

Everything stays on the crystal's Wyckoff set: noise is drawn isotropically in the reference cell of the lattice
family (the unit square or unit hexagonal cell, so that it is invariant under the group) and projected on the free
directions of each position; a site without freedom gets none. In the plane the noise is wrapped on the torus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from scdm_models.model.batch import HEX, CrystalBatch, lattice_free, wyckoff_tensors
from scdm_models.model.schedules import plane_sigma, signal_noise
from scdm_models.symmetry.tables import layer_group


@dataclass(frozen=True)
class Scales:
    """Standardisation of heights and lattice, measured on the training data.

    height: standard deviation of the heights, angstrom; lattice_mean, lattice_std: (3,) of the s-parameters.
    """

    height: float
    lattice_mean: tuple[float, float, float]
    lattice_std: tuple[float, float, float]

    @classmethod
    def of(cls, batch: CrystalBatch) -> Scales:
        """The scales of a data set."""
        free = wyckoff_tensors().free[batch.wyckoff][..., 2] & batch.mask
        allowed = lattice_free(batch.group)
        s0 = batch.lattice[:, 0]
        shear = batch.lattice[:, 1][allowed[:, 1]]
        skew = batch.lattice[:, 2][allowed[:, 2]]
        std = [max(float(x.std()), 0.02) if len(x) > 1 else 0.1 for x in (s0, shear, skew)]
        height = float(batch.params[..., 2][free].std()) if int(free.sum()) > 1 else 1.0
        return cls(height, (float(s0.mean()), 0.0, 0.0), (std[0], std[1], std[2]))


def centre_heights(values: Tensor, batch: CrystalBatch) -> Tensor:
    """(B, K) heights with the mean over atoms removed where the group has no operation z -> -z; 0 where not free."""
    tables = wyckoff_tensors()
    free = tables.free.to(values.device)[batch.wyckoff][..., 2] & batch.mask
    weight = (tables.multiplicity.to(values.device)[batch.wyckoff] * batch.mask).to(values.dtype)
    mean = (values * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    polar = polar_groups().to(values.device)[batch.group]
    return torch.where(free, values - torch.where(polar[:, None], mean, 0.0), 0.0)


@cache
def polar_groups() -> Tensor:
    """(81,) bool: layer groups without an operation that reverses z."""
    return torch.tensor([False] + [not layer_group(n).reverses_z for n in range(1, 81)])


def wrapped_displacement(delta: Tensor, tangent: Tensor, sigma: Tensor, free: Tensor) -> Tensor:
    """Expected unwrapped displacement (..., 2) in the reference cell, sigma^2 times the wrapped normal's score.

    delta: (..., 2) parameters x0 - x_t; tangent: (..., 2, 2); sigma: (...,); free: (..., 2) bool.
    Sum over the images within 3 periods, exact to 1e-6 for sigma <= 0.7.
    """
    reach = torch.arange(-3.0, 4.0, device=delta.device, dtype=delta.dtype)
    shifts = torch.cartesian_prod(reach, reach)  # (49, 2)
    wrapped = torch.where(free, delta - torch.round(delta), 0.0)
    images = wrapped.unsqueeze(-2) + shifts * free.unsqueeze(-2)
    vectors = images @ tangent  # (..., 49, 2)
    logits = -(vectors**2).sum(-1) / (2 * sigma.unsqueeze(-1) ** 2)
    # a direction that is not free repeats the same image; the repeats share weight and leave the mean as it is
    weights = torch.softmax(logits, -1)
    return (weights.unsqueeze(-1) * vectors).sum(-2)


@cache
def _scales() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tables of ``displacement_scale``: log sigma grid (S,), rms (2, S) on the unit circle and on the unit-area
    hexagonal torus, and for each position its period (W,) and which of the two tables it uses (W,)."""
    sigmas = torch.exp(torch.linspace(-5.0, 0.0, 64))
    circle, hexagon = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor(HEX, dtype=torch.float32)
    line = torch.linspace(-0.5, 0.5, 129)[:-1]
    plane = torch.linspace(-0.5, 0.5, 49)[:-1]
    tables = []
    for cell, points, free in (
        (circle, torch.stack([line, torch.zeros_like(line)], -1), torch.tensor([True, False])),
        (hexagon, torch.cartesian_prod(plane, plane), torch.tensor([True, True])),
    ):
        n = len(points)
        rms = []
        for sigma in sigmas:
            if sigma < 0.06:  # images do not overlap: as without periodicity
                rms.append(sigma)
                continue
            moved = wrapped_displacement(points, cell.expand(n, 2, 2), sigma.expand(n), free.expand(n, 2))
            # the density of the wrapped normal on the grid: its images, summed
            reach = torch.arange(-3.0, 4.0)
            shifts = torch.cartesian_prod(reach, reach) if free.all() else torch.stack([reach, 0 * reach], -1)
            squared = (((points[:, None] + shifts) @ cell) ** 2).sum(-1)
            density = torch.exp(-squared / (2 * sigma**2)).sum(1)
            rms.append(torch.sqrt((density * moved.pow(2).sum(-1)).sum() / density.sum() / free.sum()))
        tables.append(torch.stack(rms))
    positions = wyckoff_tensors()
    both = positions.free[:, :2].all(1)
    period = torch.where(both, 1.0, positions.tangent.norm(dim=-1).amax(-1).clamp(min=1e-3))
    kind = (both & (positions.group >= 65)).long()
    return sigmas.log(), torch.stack(tables).clamp(min=1e-4), period, kind


def displacement_scale(sigma: Tensor, wyckoff: Tensor) -> Tensor:
    """Root mean square of one free component of ``wrapped_displacement`` at ``sigma`` on the positions ``wyckoff``.

    Both (...,) of one shape. A line of period p has p f(sigma / p) with f that of the unit circle; the square torus
    is two circles; the hexagonal one has its own table. Interpolated from quadrature.
    """
    grid, tables, periods, kinds = (x.to(sigma.device) for x in _scales())
    period, kind = periods[wyckoff], kinds[wyckoff]
    relative = sigma / period
    position = (relative.log() - grid[0]) / (grid[1] - grid[0])
    low = position.floor().long().clamp(0, len(grid) - 2)
    weight = (position - low).clamp(0, 1)
    value = tables[kind, low] * (1 - weight) + tables[kind, low + 1] * weight
    return period * torch.where(relative < math.exp(float(grid[0])), relative, value)


def tangents(batch: CrystalBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K, 2, 2) tangent, (B, K, 2, 2) cotangent and (B, K, 3) free flags of the batch's sites."""
    tables = wyckoff_tensors()
    device = batch.wyckoff.device
    free = tables.free.to(device)[batch.wyckoff] & batch.mask.unsqueeze(-1)
    return tables.tangent.to(device)[batch.wyckoff], tables.cotangent.to(device)[batch.wyckoff], free


@dataclass
class Noise:
    """What is added to crystals: (B, K, 2) displacements in the reference cell, in units of the noise level, along the
    free directions alone; (B, K) and (B, 3) standardised noise of heights and lattices."""

    plane: Tensor
    height: Tensor
    lattice: Tensor

    @classmethod
    def normal(cls, batch: CrystalBatch, generator: torch.Generator | None = None) -> Noise:
        """Standard normal noise."""
        b, k = batch.wyckoff.shape
        device = batch.params.device

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device="cpu").to(device)

        plane, height, lattice = draw(b, k, 2), centre_heights(draw(b, k), batch), draw(b, 3)
        return cls(plane, height, torch.where(lattice_free(batch.group), lattice, 0.0))

    @classmethod
    def towards(cls, batch: CrystalBatch, copies: CrystalBatch, time: float, scales: Scales) -> Noise:
        """The noise that makes ``copies`` of the crystals at ``time``, which a chain that begins there takes away.

        copies: of the same skeletons, in the crystals' order and setting.
        """
        tangent, _, free = tangents(batch)
        t = torch.full((1,), time, device=batch.params.device)
        alpha, level = signal_noise(t)
        delta = copies.params[..., :2] - batch.params[..., :2]
        delta = torch.where(free[..., :2], delta - torch.round(delta), 0.0)
        plane = (delta.unsqueeze(-2) @ tangent).squeeze(-2) / plane_sigma(t)
        height = (copies.params[..., 2] - alpha * batch.params[..., 2]) / scales.height / level
        mean, std = (torch.tensor(x, device=t.device) for x in (scales.lattice_mean, scales.lattice_std))
        lattice = ((copies.lattice - mean) - alpha * (batch.lattice - mean)) / std / level
        return cls(plane, centre_heights(height, batch), torch.where(lattice_free(batch.group), lattice, 0.0))

    def where(self, flags: Tensor, other: Noise) -> Noise:
        """This one in the rows of ``flags`` (B,), the other one elsewhere."""
        return Noise(
            torch.where(flags[:, None, None], self.plane, other.plane),
            torch.where(flags[:, None], self.height, other.height),
            torch.where(flags[:, None], self.lattice, other.lattice),
        )


def corrupt(
    batch: CrystalBatch, t: Tensor, scales: Scales, noise: Noise
) -> tuple[CrystalBatch, Tensor, Tensor, Tensor]:
    """A noisy batch at times ``t`` (B,) and the network's normalised targets.

    Returns
    -------
    The noisy batch; (B, K, 2) in-plane target (displacement towards the crystal in the reference cell over its
    scale); (B, K) height target and (B, 3) lattice target (both minus v of v-prediction, in units of the scales).
    """
    tangent, cotangent, free = tangents(batch)
    device = t.device
    sigma = plane_sigma(t)[:, None].expand(batch.wyckoff.shape)
    step = ((noise.plane * sigma.unsqueeze(-1)).unsqueeze(-2) @ cotangent).squeeze(-2)
    plane = (batch.params[..., :2] + torch.where(free[..., :2], step, 0.0)) % 1.0
    target_plane = wrapped_displacement(batch.params[..., :2] - plane, tangent, sigma, free[..., :2])
    target_plane = target_plane / displacement_scale(sigma, batch.wyckoff).unsqueeze(-1)

    alpha, level = (x[:, None] for x in signal_noise(t))
    height = batch.params[..., 2] / scales.height
    noisy_height = alpha * height + level * noise.height
    target_height = level * height - alpha * noise.height

    mean, std = (torch.tensor(x, device=device) for x in (scales.lattice_mean, scales.lattice_std))
    allowed = lattice_free(batch.group)
    s = torch.where(allowed, (batch.lattice - mean) / std, 0.0)
    noisy_s = alpha * s + level * noise.lattice
    noisy = CrystalBatch(
        batch.group,
        batch.wyckoff,
        batch.element,
        batch.mask,
        torch.cat([torch.where(free[..., :2], plane, 0.0), (noisy_height * scales.height).unsqueeze(-1)], -1),
        torch.where(allowed, noisy_s * std + mean, mean),
    )
    return noisy, target_plane, target_height, level * s - alpha * noise.lattice
