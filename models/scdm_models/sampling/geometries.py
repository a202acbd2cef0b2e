"""Lattices and coordinates on given skeletons: the reverse chain, from the nearest training crystal or from noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from scdm_models.model.batch import CrystalBatch, from_batch, n_atoms, to_batch
from scdm_models.model.checkpoint import Checkpoint
from scdm_models.model.prototypes import START
from scdm_models.sampling.cohesion import bonded_layers
from scdm_models.symmetry.encoding import LayerCrystal

CHUNK = 32  # crystals denoised together: larger ones are no quicker, and need more memory


@dataclass(frozen=True)
class Geometry:
    """A skeleton with lattice and coordinates: whether it is a bonded layer, and whether its chain began at a
    prototype."""

    crystal: LayerCrystal
    bonded: bool
    from_prototype: bool


@torch.inference_mode()
def geometries(
    checkpoint: Checkpoint,
    skeletons: Sequence[LayerCrystal],
    rngs: list[np.random.Generator],
    steps: int,
    churn: float,
    *,
    prototypes: bool = True,
    attempts: int = 1,
) -> list[Geometry]:
    """Lattices and coordinates for skeletons, in their order; those that they come with are not looked at.

    A skeleton whose letters some training crystal has begins at the nearest one (``model.prototypes``), without
    noise; the others, or all without ``prototypes``, begin at noise. What comes out as no bonded layer is tried again,
    from the next nearest crystal or other noise; after the last attempt the first one counts.

    steps, churn: of a whole chain, as in ``SamplerOptions``.
    """
    copies = [checkpoint.prototypes.near(one, attempts) if prototypes else iter(()) for one in skeletons]
    found: dict[int, Geometry] = {}
    for _ in range(attempts):
        rows = [i for i in range(len(skeletons)) if i not in found or not found[i].bonded]
        starts = {i: copy for i in rows for copy, _ in islice(copies[i], 1)}
        for warm in (True, False):
            these = [i for i in rows if (i in starts) is warm]
            if not these:
                continue
            batch = to_batch([starts.get(i, skeletons[i]) for i in these])
            # sort by size so that small crystals do not pay for the padding of large ones
            for chunk in torch.argsort(n_atoms(batch.wyckoff, batch.mask), stable=True).split(CHUNK):
                chosen = [these[k] for k in chunk.tolist()]
                streams = [rngs[i] for i in chosen]
                if warm:
                    state = denoise(checkpoint, batch.take(chunk), streams, steps, 0.0, START)
                else:
                    state = denoise(checkpoint, batch.take(chunk), streams, steps, churn)
                for i, crystal, bonded in zip(chosen, from_batch(state), bonded_layers(state).tolist(), strict=True):
                    if bonded or i not in found:
                        found[i] = Geometry(crystal, bonded, warm)
    return [found[i] for i in range(len(skeletons))]


def denoise(
    checkpoint: Checkpoint,
    noisy: CrystalBatch,
    rngs: list[np.random.Generator],
    steps: int,
    churn: float,
    start: float | None = None,
) -> CrystalBatch:
    """Lattices and coordinates by the reverse chain.

    noisy: (B) skeletons, or crystals at the time ``start``; from there the same share of the ``steps`` is taken.
    """
    model = checkpoint.model
    if start is not None:
        steps = max(1, round(start * steps))
    k = noisy.element.shape[1]
    # draws are per site so that they do not depend on the batch's padding
    noise = torch.zeros(len(rngs), steps + 1, k + 1, 3)
    uniform = torch.zeros(len(rngs), k, 2)
    for row, rng in enumerate(rngs):
        n = int(noisy.mask[row].sum())
        draws = torch.from_numpy(rng.standard_normal((steps + 1, n + 1, 3))).float()
        noise[row, :, :n], noise[row, :, k] = draws[:, :n], draws[:, n]
        uniform[row, :n] = torch.from_numpy(rng.random((n, 2))).float()
    state = noisy if start is not None else model.geometry_prior(noisy, noise[:, 0], uniform)
    times = np.linspace(start or 1.0, 0.0, steps + 1)
    for step in range(steps):
        state = model.geometry_step(state, float(times[step]), float(times[step + 1]), noise[:, step + 1], churn)
    return state
