"""A trained model learns from a few crystals that were worth finding, and stays near to what it was.

Only the skeleton network and the prior over (layer group, sites) learn, by the likelihood of rewarded crystals, drawn
in proportion to their rewards; as many of the model's own samples in every step hold it (a reward-weighted likelihood
with self-distillation, in the place of the Kullback-Leibler term of reinforcement learning; compare MatInvent,
arXiv 2511.03112). A reward is shared by crystals of the same template and chemical system, so that one find repeated
is worth no more than one.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from scdm_models.errors import DatasetError
from scdm_models.model.batch import to_batch
from scdm_models.model.checkpoint import Checkpoint, save_checkpoint
from scdm_models.model.denoiser import stability_class
from scdm_models.processes import one_torch_thread
from scdm_models.symmetry.encoding import LayerCrystal
from scdm_models.training.data_split import chemical_system

LEAST = 8  # rewarded crystals without which there is nothing to learn
BATCH = 48
LEARNING_RATE = 2e-4
WARMUP = 20  # steps


def shared(crystals: Sequence[LayerCrystal], rewards: Sequence[float]) -> list[float]:
    """Rewards over the number of crystals of the same template or of the same chemical system, the larger one."""
    templates = Counter(c.template for c in crystals)
    systems = Counter(chemical_system(c) for c in crystals)
    return [
        reward / max(templates[c.template], systems[chemical_system(c)])
        for c, reward in zip(crystals, rewards, strict=True)
    ]


@one_torch_thread()
def fine_tune(
    start: Checkpoint,
    crystals: Sequence[LayerCrystal],
    rewards: Sequence[float],
    own: Sequence[LayerCrystal],
    out: str | Path,
    *,
    e_above_hull: float | None = None,
    steps: int = 200,
    pull: float = 1.0,
    seed: int = 0,
) -> str:
    """Write a checkpoint that has learned; returns its model id.

    Parameters
    ----------
    start
        The model before; its geometry network and prototypes stay as they are.
    crystals, rewards
        What was found and how much it was worth, >= 0; those of 0 count as not there.
    own
        Samples of ``start``.
    out
        File to write.
    e_above_hull
        Condition of stability with which samples will be drawn, eV/atom, each class up to it alike; None: without.
    steps
        Training steps.
    pull
        Weight of the own samples' loss, and of the prior as it was, beside those of the rewarded crystals.
    seed
        Of the order and of the masks: the same call writes the same file.

    Raises
    ------
    DatasetError
        If fewer than ``LEAST`` crystals have a reward, or there are no samples to hold the model with.
    """
    most = start.prior.shape[1] - 1
    kept = [k for k, c in enumerate(crystals) if rewards[k] > 0 and len(c.sites) <= most]
    if len(kept) < LEAST:
        raise DatasetError(f"{len(kept)} crystals have a reward, at least {LEAST} are needed to learn from")
    held = [c for c in own if len(c.sites) <= most]
    if pull > 0 and not held:
        raise DatasetError("without samples of its own the model cannot be held; give some, or pull=0")
    found = [crystals[k] for k in kept]
    worth = torch.tensor(shared(found, [rewards[k] for k in kept]), dtype=torch.float64)
    torch.manual_seed(seed)
    model = copy.deepcopy(start.model)
    batch, mine = to_batch(found), to_batch(held) if held else None
    classes = stability_class(e_above_hull) + 1
    optimizer = torch.optim.AdamW(model.skeleton.parameters(), lr=LEARNING_RATE)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        index = torch.multinomial(worth, BATCH, replacement=True)
        loss = model.skeleton_loss(batch.take(index), stability=_told(classes))
        if mine is not None and pull > 0:
            index = torch.randint(len(mine), (BATCH,))
            loss = loss + pull * model.skeleton_loss(mine.take(index), stability=_told(classes))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.skeleton.parameters(), 1.0)
        optimizer.step()
    model.eval()
    counts = torch.zeros_like(start.prior)
    for crystal, value in zip(found, worth.tolist(), strict=True):
        counts[crystal.layer_group, len(crystal.sites)] += value
    share = 1 / (1 + pull)
    prior = (1 - share) * start.prior + share * start.prior.sum() * counts / counts.sum()
    card = {
        **start.card,
        "fine_tuned": {
            "from": start.model_id, "crystals": len(found), "steps": steps, "pull": pull, "seed": seed,
            "e_above_hull": e_above_hull,
        },
    }  # fmt: skip
    return save_checkpoint(out, model, prior, card, start.prototypes)


def _told(classes: int) -> torch.Tensor:
    """(BATCH,) classes of stability as the sampler draws them, uniform below ``classes``; -1 where there are none."""
    return torch.randint(classes, (BATCH,)) if classes else torch.full((BATCH,), -1)
