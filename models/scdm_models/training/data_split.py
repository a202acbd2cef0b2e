"""Which crystals of a data set a model is trained on and which are held out, now and for a checkpoint later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from scdm_models.model.checkpoint import Checkpoint, Split
from scdm_models.symmetry.encoding import LayerCrystal
from scdm_models.training.train_config import TrainConfig


def split(
    crystals: Sequence[LayerCrystal], ids: Sequence[str], fraction: float, by: Split = "chemical system"
) -> tuple[list[int], list[int]]:
    """Indices of the training and of the held-out crystals.

    Parameters
    ----------
    crystals, ids
        (n,) the curated data set.
    fraction
        Share of the chemical systems (or of the crystals) that is held out.
    by
        What is hashed: the chemical system, so that none is in both parts, or the crystal's id.
    """
    keys = ids if by == "id" else [chemical_system(crystal) for crystal in crystals]
    held = [int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32 < fraction for key in keys]
    return [k for k, h in enumerate(held) if not h], [k for k, h in enumerate(held) if h]


def held_out(
    checkpoint: Checkpoint, crystals: Sequence[LayerCrystal], ids: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Indices of the crystals that a checkpoint was trained on and of those that it never saw, by its own split.

    Parameters
    ----------
    checkpoint
        Its card says how and in which share crystals were held out.
    crystals, ids
        (n,) the curated data set that it was trained on.
    """
    fraction = checkpoint.card.get("training", {}).get("validation_fraction", TrainConfig().validation_fraction)
    return split(crystals, ids, fraction, checkpoint.split)


def chemical_system(crystal: LayerCrystal) -> str:
    """The chemical system, such as ``16-42``: the atomic numbers."""
    return "-".join(map(str, sorted({site.element for site in crystal.sites})))
