"""The state of a training between epochs, from which a killed training goes on: one safetensors file."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scdm_models.errors import CheckpointError
from scdm_models.model.checkpoint import Checkpoint, Split
from scdm_models.model.diffusion import Scdm
from scdm_models.symmetry.encoding import LayerCrystal
from scdm_models.training.train_config import Phase, TrainConfig


@dataclass
class TrainState:
    """Where a training of one network stands: the numbers, besides the tensors, that it needs to go on.

    epochs, cooldown: of the configuration that it was last trained with; 0 where an older version did not write them.
    """

    phase: Phase
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_epoch: int = 0
    epochs: int = 0
    cooldown: float = 0.0
    log: list[list[Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


def identity_of(
    config: TrainConfig,
    by: Split,
    ids: list[str],
    crystals: list[LayerCrystal],
    classes: list[int],
    start: Checkpoint | None,
    kept: list[Phase],
) -> str:
    """What makes two trainings the same: the data and its split, all of the configuration but machine and lengths, the
    checkpoint that they start from and which of its networks are kept.

    Up to the cooldown a training does not depend on its length, so a longer or shorter one may go on from it
    (``check_length``).
    """
    free = ("threads", "device", "skeleton_epochs", "geometry_epochs", "cooldown")
    settings = {k: v for k, v in asdict(config).items() if k not in free}
    begun = None if start is None else [start.model_id, asdict(start.model.scales), _digest(start), kept]
    content = json.dumps([settings, by, ids, classes, [c.to_dict() for c in crystals], begun], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _digest(start: Checkpoint) -> str:
    """A hash of the weights; of the file's own the model id holds only the beginning."""
    sha = hashlib.sha256()
    for name, value in sorted(start.model.state_dict().items()):
        sha.update(f"{name}:{tuple(value.shape)}".encode())
        sha.update(value.cpu().numpy().tobytes())
    return sha.hexdigest()


def check_length(path: Path, state: TrainState, epochs: int, cooldown: float) -> None:
    """``CheckpointError`` where a training of another length cannot go on from a state, which is in a cooldown."""
    if (state.epochs, state.cooldown) == (epochs, cooldown):
        return
    begins = min((1 - share) * n for n, share in ((state.epochs or epochs, state.cooldown), (epochs, cooldown)))
    if state.epoch > begins:
        raise CheckpointError(
            f"{path} stands at epoch {state.epoch} of {state.phase}'s {state.epochs or 'unknown'}; with "
            f"{epochs} epochs and cooldown {cooldown:g} it would have begun to cool down at epoch {begins:g}, so it is "
            "no part of that training; give the numbers that it was begun with, or remove it to train anew"
        )


def save_state(
    path: Path, identity: str, state: TrainState, model: Scdm, average: Scdm, best: dict[str, Tensor], optimizer: Any
) -> None:
    """Write the state atomically: the weights, their moving average, the best average so far and the optimiser's."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    temporary = path.with_name(path.name + ".tmp")
    header = {"identity": identity, "state": json.dumps(asdict(state))}
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, metadata=header)
    temporary.replace(path)


def load_state(path: Path, identity: str) -> tuple[TrainState, dict[str, Tensor]] | None:
    """The state of a file and its tensors under the names of ``save_state``; None where there is no file.

    Raises
    ------
    CheckpointError
        If the file is damaged, or belongs to another training or to an older version, which knew no start.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it to train from the start") from error
    if header.get("identity") != identity:
        raise CheckpointError(
            f"{path} is the state of a training with other data, another configuration or another checkpoint to start "
            "from (--start), or of another version; remove it to train anew, or give what it was begun with to go on"
        )
    return TrainState(**json.loads(header["state"])), tensors
