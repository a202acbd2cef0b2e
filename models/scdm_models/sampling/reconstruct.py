"""The reconstruction benchmark (paper, Fig. 4): known crystals are noised to a time t* and denoised again.

The skeleton is known; lattice and coordinates are diffused to t* (``corruption.corrupt``) and brought back by the
reverse chain. At t* = 1 nothing of them is left. Harder is ``from_skeletons``: nothing but the skeleton is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from scdm_models.errors import GenerationError
from scdm_models.model.batch import from_batch, n_atoms, to_batch
from scdm_models.model.checkpoint import Checkpoint
from scdm_models.model.corruption import Noise, corrupt
from scdm_models.sampling.cohesion import bonded_layers
from scdm_models.sampling.geometries import CHUNK, Geometry, denoise, geometries
from scdm_models.sampling.sampler import SamplerOptions
from scdm_models.symmetry.encoding import LayerCrystal, without_symmetry

Way = Literal["prototype", "noise", "copy"]


def represented(crystal: LayerCrystal, checkpoint: Checkpoint) -> LayerCrystal:
    """The crystal as the model describes it: without symmetry for UnSCDM."""
    return without_symmetry(crystal) if checkpoint.card["name"] == "UnSCDM" else crystal


@torch.inference_mode()
def reconstruct(
    checkpoint: Checkpoint,
    crystals: Sequence[LayerCrystal],
    time: float,
    seed: int = 0,
    options: SamplerOptions | None = None,
) -> list[LayerCrystal]:
    """The crystals after noise up to ``time`` and the reverse chain from there, in their order.

    Parameters
    ----------
    checkpoint
        The model; its own description of each crystal is used (``represented``).
    crystals
        Known crystals.
    time
        t* in (0, 1].
    seed
        Of the noise.
    options
        How the chain is run; its steps are those of a whole chain, of which the share ``time`` is taken.

    Raises
    ------
    GenerationError
        If ``time`` is out of range.
    """
    if not 0 < time <= 1:
        raise GenerationError(f"t*={time} must be in (0, 1]")
    options = options or SamplerOptions()
    own = [represented(crystal, checkpoint) for crystal in crystals]
    batch = to_batch(own)
    out: list[LayerCrystal | None] = [None] * len(own)
    for chunk in torch.argsort(n_atoms(batch.wyckoff, batch.mask), stable=True).split(CHUNK):
        part = batch.take(chunk)
        rngs = [np.random.default_rng([seed, i]) for i in chunk.tolist()]
        generator = torch.Generator().manual_seed(int(rngs[0].integers(2**31)))
        noise = Noise.normal(part, generator)
        noisy, *_ = corrupt(part, torch.full((len(part),), time), checkpoint.model.scales, noise)
        state = denoise(checkpoint, noisy, rngs, options.steps, options.churn, time)
        for i, crystal in zip(chunk.tolist(), from_batch(state), strict=True):
            out[i] = crystal
    return [crystal for crystal in out if crystal is not None]


def from_skeletons(
    checkpoint: Checkpoint, crystals: Sequence[LayerCrystal], way: Way, seed: int = 0, steps: int | None = None
) -> list[Geometry | None]:
    """Geometries for the skeletons of crystals, of which nothing else is looked at; in their order.

    Parameters
    ----------
    checkpoint
        The model; its own description of each crystal is used (``represented``).
    crystals
        Known crystals.
    way
        Where the chain begins: at the nearest training crystal where there is one, as in sampling, or always at noise;
        ``copy``: that training crystal itself with the skeleton's elements, scaled, with no chain, None where there is
        none.
    seed
        Of the noise.
    steps
        Of a whole chain; those of sampling if absent.
    """
    own = [represented(crystal, checkpoint) for crystal in crystals]
    if way == "copy":
        copies = [checkpoint.prototypes.nearest(crystal) for crystal in own]
        return [None if c is None else Geometry(c, bool(bonded_layers(to_batch([c]))[0]), True) for c in copies]
    options = SamplerOptions()
    rngs = [np.random.default_rng([seed, i]) for i in range(len(own))]
    return list(geometries(checkpoint, own, rngs, steps or options.steps, options.churn, prototypes=way == "prototype"))
