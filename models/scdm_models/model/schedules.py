"""Noise levels against time t in [0, 1]: t = 0 is the crystal, t = 1 pure noise.

The paper's chain (Eq. 2) gives A, L and F kernels of their own. Elements and Wyckoff letters are masked in the
chain's second half, when lattice and coordinates are already noise; the reverse chain therefore first chooses the
skeleton (A, letters) and then denoises L and F on it. ``t`` here is the time of the L, F half.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PLANE_SIGMA = (0.004, 0.5)  # in units of sqrt(cell area); at 0.5 the wrapped normal is flat to 3 %, on a few lines not
RATIO = (0.01, 15.0)  # noise-to-signal ratio of heights and lattice; 0.01 is 0.03 angstrom of height


def plane_sigma(t: Tensor) -> Tensor:
    """Standard deviation of the wrapped normal in the plane, in units of the reference cell (variance exploding)."""
    low, high = PLANE_SIGMA
    return torch.exp(math.log(low) + t * (math.log(high) - math.log(low)))


def signal_noise(t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with alpha^2 + sigma^2 = 1 of heights and lattice (variance preserving)."""
    low, high = RATIO
    ratio = torch.exp(math.log(low) + t * (math.log(high) - math.log(low)))
    alpha = 1 / torch.sqrt(1 + ratio**2)
    return alpha, ratio * alpha
