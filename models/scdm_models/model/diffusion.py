"""The diffusion model: losses of both networks, and the reverse step of lattice and coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scdm_models.model.batch import CrystalBatch, lattice_free, wyckoff_tensors
from scdm_models.model.corruption import Noise, Scales, centre_heights, corrupt, displacement_scale, tangents
from scdm_models.model.denoiser import (
    MASKED_ELEMENT,
    N_STABILITY,
    Conditions,
    GeometryNetwork,
    NetworkConfig,
    SkeletonNetwork,
)
from scdm_models.model.elements import MAX_Z
from scdm_models.model.schedules import plane_sigma, signal_noise


class Scdm(nn.Module):
    """The symmetry-constrained diffusion model: both networks and the data's scales."""

    def __init__(self, config: NetworkConfig, scales: Scales) -> None:
        super().__init__()
        self.config, self.scales = config, scales
        self.skeleton = SkeletonNetwork(config)
        self.geometry = GeometryNetwork(config)

    def skeleton_loss(
        self, batch: CrystalBatch, generator: torch.Generator | None = None, stability: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of masked elements and letters (absorbing-state D3PM), nats a token.

        Half of the crystals get independent masks of a uniform rate on all tokens; the others a state that the
        sampler visits: letters partly masked with all elements masked, or letters known and elements partly masked.
        Half of the crystals come with a condition on composition that they fulfil (``composition_conditions``), half
        with their class of ``stability`` ((B,), -1 where it is not known), so that one network is both the conditional
        and the unconditional one of classifier-free guidance (arXiv 2207.12598).
        """
        b, k = batch.element.shape
        device = batch.element.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(device)

        rate = uniform(b, 1)
        hide_element, hide_letter = uniform(b, k) < rate, uniform(b, k) < rate
        kind = uniform(b, 1)
        first, second = kind < 0.25, (kind >= 0.25) & (kind < 0.5)
        hide_element = torch.where(first, True, hide_element) & batch.mask
        hide_letter = torch.where(second, False, hide_letter) & batch.mask
        element = torch.where(hide_element, MASKED_ELEMENT, batch.element)
        letter = torch.where(hide_letter, self.skeleton.masked_letter, batch.wyckoff)
        conditions = composition_conditions(batch, uniform(b, 1), uniform(b, 1), uniform(b, MAX_Z))
        if stability is not None:
            told = (uniform(b) < 0.5) & (stability >= 0)
            conditions.stability = F.one_hot(stability.clamp(min=0), N_STABILITY) * told[:, None].to(
                conditions.stability.dtype
            )
        element_logits, letter_logits = self.skeleton(batch.group, element, letter, batch.mask, conditions)
        loss_element = F.cross_entropy(element_logits[hide_element], batch.element[hide_element], reduction="sum")
        loss_letter = F.cross_entropy(letter_logits[hide_letter], batch.wyckoff[hide_letter], reduction="sum")
        return (loss_element + loss_letter) / (hide_element.sum() + hide_letter.sum()).clamp(min=1)

    def geometry_loss(self, batch: CrystalBatch, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Mean squared errors of the in-plane, height and lattice predictions at times ``t`` (B,)."""
        noisy, plane, height, lattice = corrupt(batch, t, self.scales, noise)
        plane_hat, height_hat, lattice_hat = self.geometry(noisy, t)
        _, _, free = tangents(batch)
        n_plane, n_height = free[..., :2].sum().clamp(min=1), free[..., 2].sum().clamp(min=1)
        loss_plane = ((plane_hat - plane) ** 2).sum(-1)[free[..., :2].any(-1)].sum() / n_plane
        loss_height = ((centre_heights(height_hat, batch) - height) ** 2)[free[..., 2]].sum() / n_height
        loss_lattice = ((lattice_hat - lattice) ** 2)[lattice_free(batch.group)].mean()
        return loss_plane, loss_height, loss_lattice

    def geometry_step(self, noisy: CrystalBatch, t: float, s: float, noise: Tensor, churn: float) -> CrystalBatch:
        """The crystal at time s < t (paper, Eqs. 3 and 4, with any step length).

        noise: (B, K + 1, 3) standard normal numbers (the last row is the lattice's); churn in [0, 1] is the share of
        the ancestral sampler's noise: 1 is the DDPM, 0 the deterministic (DDIM) step.
        """
        device = noisy.params.device
        b, k = noisy.element.shape
        t_, s_ = torch.full((b,), t, device=device), torch.full((b,), s, device=device)
        plane_hat, height_hat, lattice_hat = self.geometry(noisy, t_)
        _, cotangent, free = tangents(noisy)

        sigma_t, sigma_s = plane_sigma(t_), plane_sigma(s_) * float(s > 0)
        displacement = plane_hat * displacement_scale(sigma_t[:, None].expand(b, k), noisy.wyckoff).unsqueeze(-1)
        extra = churn * sigma_s * torch.sqrt((1 - (sigma_s / sigma_t) ** 2).clamp(min=0))
        keep = torch.sqrt((sigma_s**2 - extra**2).clamp(min=0)) / sigma_t
        move = displacement * (1 - keep)[:, None, None] + extra[:, None, None] * noise[:, :k, :2]
        step = (move.unsqueeze(-2) @ cotangent).squeeze(-2)
        plane = torch.where(free[..., :2], (noisy.params[..., :2] + step) % 1.0, 0.0)

        alpha_t, noise_t = (x[:, None] for x in signal_noise(t_))
        alpha_s, noise_s = (x[:, None] for x in signal_noise(s_))
        if s <= 0:
            alpha_s, noise_s = torch.ones_like(alpha_s), torch.zeros_like(noise_s)
        spread = churn * noise_s / noise_t * torch.sqrt((1 - (alpha_t / alpha_s) ** 2).clamp(min=0))

        def advance(x: Tensor, answer: Tensor, eps: Tensor) -> Tensor:
            clean = alpha_t * x + noise_t * answer
            residual = noise_t * x - alpha_t * answer
            return alpha_s * clean + torch.sqrt((noise_s**2 - spread**2).clamp(min=0)) * residual + spread * eps

        height = centre_heights(advance(noisy.params[..., 2] / self.scales.height, height_hat, noise[:, :k, 2]), noisy)
        mean, std = (torch.tensor(x, device=device) for x in (self.scales.lattice_mean, self.scales.lattice_std))
        allowed = lattice_free(noisy.group)
        lattice = advance((noisy.lattice - mean) / std, lattice_hat, noise[:, k])
        lattice = torch.where(allowed, lattice * std + mean, 0.0)
        lattice = torch.cat([lattice[:, :1], lattice[:, 1:].clamp(-1.5, 1.5)], -1)
        return CrystalBatch(
            noisy.group,
            noisy.wyckoff,
            noisy.element,
            noisy.mask,
            torch.cat([plane, (height * self.scales.height).unsqueeze(-1)], -1),
            lattice,
        )

    def geometry_prior(self, skeleton: CrystalBatch, noise: Tensor, uniform: Tensor) -> CrystalBatch:
        """Pure noise on a skeleton's Wyckoff sets: the state at t = 1. noise: (B, K + 1, 3); uniform: (B, K, 2)."""
        k = skeleton.element.shape[1]
        _, _, free = tangents(skeleton)
        mean, std = (torch.tensor(x, device=noise.device) for x in (self.scales.lattice_mean, self.scales.lattice_std))
        height = centre_heights(noise[:, :k, 2], skeleton) * self.scales.height
        plane = torch.where(free[..., :2], uniform, 0.0)
        lattice = torch.where(lattice_free(skeleton.group), noise[:, k] * std + mean, mean)
        return CrystalBatch(
            skeleton.group,
            skeleton.wyckoff,
            skeleton.element,
            skeleton.mask,
            torch.cat([plane, height.unsqueeze(-1)], -1),
            lattice,
        )


def composition_conditions(batch: CrystalBatch, kind: Tensor, rate: Tensor, draws: Tensor) -> Conditions:
    """A condition on the composition of each crystal, which it fulfils.

    kind, rate: (B, 1) and draws: (B, MAX_Z) uniform in [0, 1). kind < 0.5: no condition; < 0.75: the crystal's elements
    among up to half of all others; else its atomic fractions.
    """
    atoms = wyckoff_tensors().multiplicity.to(batch.group.device)[batch.wyckoff] * batch.mask
    counts = torch.zeros(len(batch), MAX_Z, device=batch.group.device)
    counts.scatter_add_(1, batch.element, atoms.to(counts.dtype))
    fractions = counts / counts.sum(1, keepdim=True)
    allowed = ((fractions > 0) | (draws < 0.5 * rate**2)).to(counts.dtype)
    conditions = Conditions.none(len(batch), batch.group.device)
    conditions.allowed, conditions.fractions = allowed * ((kind >= 0.5) & (kind < 0.75)), fractions * (kind >= 0.75)
    return conditions


def exhausted_letters(letter: Tensor, mask: Tensor) -> Tensor:
    """(B, W) bool: positions without freedom that are already occupied, which a second site may not take."""
    tables = wyckoff_tensors()
    n = tables.n_positions
    fixed = ~tables.free.any(-1).to(letter.device)
    used = torch.zeros(len(letter), n + 1, dtype=torch.bool, device=letter.device)
    used.scatter_(1, torch.where(mask, letter, n), True)
    return used[:, :n] & fixed
