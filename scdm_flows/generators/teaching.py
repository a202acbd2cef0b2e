"""A generator learns from what a loop has found: the model of a round from that of the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scdm_flows.config import ScdmGeneratorConfig

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

OWN_SAMPLES = 300  # of the starting model, which hold it to what it was


def teach(
    config: ScdmGeneratorConfig,
    layers: Sequence[Structure],
    rewards: Sequence[float],
    out: Path,
    *,
    steps: int,
    pull: float,
) -> str:
    """Write the checkpoint of the generator that has learned from relaxed layers; returns its model id.

    rewards: >= 0 of each layer; layers whose symmetry cannot be described are left out. Raises ``DatasetError`` where
    too few are left.
    """
    from scdm_flows.generators.scdm import sampler_options
    from scdm_models.errors import SymmetryError
    from scdm_models.model.checkpoint import load_checkpoint
    from scdm_models.sampling.sampler import generate
    from scdm_models.symmetry.encoding import symmetrize, without_symmetry
    from scdm_models.training.fine_tune import fine_tune

    start = load_checkpoint(config.checkpoint, packaged=config.kind)
    crystals, worth = [], []
    for layer, reward in zip(layers, rewards, strict=True):
        if reward <= 0:
            continue
        try:
            crystal = symmetrize(layer).crystal
        except SymmetryError:
            continue
        crystals.append(without_symmetry(crystal) if start.card["name"] == "UnSCDM" else crystal)
        worth.append(reward)
    samples = generate(
        OWN_SAMPLES, config.seed, checkpoint=start, layer_group=config.layer_group, options=sampler_options(config)
    )
    own = [sample.crystal for sample in samples]
    out.parent.mkdir(parents=True, exist_ok=True)
    return fine_tune(
        start, crystals, worth, own, out, e_above_hull=config.stability, steps=steps, pull=pull, seed=config.seed
    )
