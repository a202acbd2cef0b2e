"""Correction of sampled crystals: atoms that are too close are pushed apart, and a crystal that is not one connected
layer is pulled together (``cohesion``).

Both move only free coordinates and free lattice parameters, as the reverse diffusion does, so the group stays.
``push_apart`` is a soft-sphere repulsion between covalent radii.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from scdm_models.model.batch import CrystalBatch, lattice_matrix, n_atoms, reference_cell, wyckoff_tensors
from scdm_models.model.corruption import centre_heights, tangents
from scdm_models.model.denoiser import neighbours
from scdm_models.model.elements import MAX_Z
from scdm_models.sampling.cohesion import pull_together
from scdm_models.symmetry.lattice import covalent_radii

CONTACT_FACTOR = 0.78  # atoms closer than this times the sum of their covalent radii repel each other
FINAL_ROUNDS = 32  # of a pull and two pushes; crystals that need neither are left as they are


@cache
def _radii() -> Tensor:
    """(MAX_Z,) covalent radii, angstrom, by element class."""
    return torch.from_numpy(covalent_radii(np.arange(1, MAX_Z + 1))).float()


def settle(batch: CrystalBatch) -> CrystalBatch:
    """The crystals after pulls and pushes until they are one layer without contacts, or ``FINAL_ROUNDS`` are spent."""
    out = batch
    rows = torch.arange(len(batch))
    active = batch
    for _ in range(FINAL_ROUNDS):
        active, open_ = pull_together(active)
        active, touching = push_apart(active)
        active, still = push_apart(active)
        busy = open_ | touching | still
        out = _put(out, rows, active)
        if not busy.any():
            break
        rows, active = rows[busy], active.take(busy.nonzero().flatten())
    return out


def _put(batch: CrystalBatch, rows: Tensor, part: CrystalBatch) -> CrystalBatch:
    """The batch with parameters and lattice of ``part`` at ``rows``."""
    params, lattice = batch.params.clone(), batch.lattice.clone()
    params[rows, : part.params.shape[1]] = part.params
    lattice[rows] = part.lattice
    return CrystalBatch(batch.group, batch.wyckoff, batch.element, batch.mask, params, lattice)


@torch.no_grad()
def push_apart(batch: CrystalBatch, factor: float = CONTACT_FACTOR) -> tuple[CrystalBatch, Tensor]:
    """One push: every site moves by half the overlap of each of its contacts, the area grows by half of its share.

    Returns the crystals and (B,) which of them had contacts; the others come back unchanged. factor: contact distance
    over the sum of covalent radii.
    """
    b, k = batch.wyckoff.shape
    device = batch.params.device
    atoms = n_atoms(batch.wyckoff, batch.mask)
    matrix = lattice_matrix(batch.group, batch.lattice, atoms)
    radii = _radii().to(device)[batch.element]
    cutoff = float(2 * factor * torch.where(batch.mask, radii, 0.0).max())
    pairs = neighbours(batch, matrix, cutoff)
    distance = pairs.vector.norm(dim=-1).clamp(min=1e-3)
    overlap = factor * (radii[pairs.row, pairs.site] + radii[pairs.row, pairs.owner]) - distance
    touching = overlap > 0
    row, site, overlap = pairs.row[touching], pairs.site[touching], overlap[touching]
    vector, distance = pairs.vector[touching], distance[touching]
    move = torch.zeros(b * k, 3, device=device)
    move.index_add_(0, row * k + site, -0.5 * (overlap / distance).unsqueeze(-1) * vector)
    move = move.view(b, k, 3)
    length = move.norm(dim=-1, keepdim=True)
    move = move * (0.3 / length.clamp(min=0.3))  # at most 0.3 angstrom at a time
    _, cotangent, free = tangents(batch)
    reference = move[..., :2] @ torch.linalg.inv(matrix) @ reference_cell(batch.group, matrix.dtype)
    step = (reference.unsqueeze(-2) @ cotangent).squeeze(-2)
    plane = torch.where(free[..., :2], (batch.params[..., :2] + step) % 1.0, 0.0)
    height = batch.params[..., 2] + torch.where(free[..., 2], move[..., 2], 0.0)
    moved = (move != 0).any(-1).any(-1, keepdim=True)
    height = torch.where(moved, centre_heights(height, batch), batch.params[..., 2])
    # how fast each contact opens with s0 is (in-plane part)^2 / distance: least squares over the contacts
    opening = (vector[:, :2] ** 2).sum(-1) / distance
    weight = wyckoff_tensors().multiplicity.to(device)[batch.wyckoff][row, site].to(opening.dtype)
    wanted = torch.zeros(b, device=device).index_add_(0, row, weight * overlap * opening)
    stiffness = torch.zeros(b, device=device).index_add_(0, row, weight * opening**2)
    growth = (0.5 * wanted / (stiffness + 1.0)).clamp(max=0.05)
    lattice = torch.cat([batch.lattice[:, :1] + growth.unsqueeze(-1), batch.lattice[:, 1:]], -1)
    params = torch.cat([plane, height.unsqueeze(-1)], -1)
    pushed = CrystalBatch(batch.group, batch.wyckoff, batch.element, batch.mask, params, lattice)
    return pushed, torch.zeros(b, dtype=torch.bool, device=device).index_fill_(0, row.unique(), True)
