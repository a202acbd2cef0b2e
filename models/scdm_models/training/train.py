"""Trains SCDM and UnSCDM on a curated data set. Owns the loop, the split, the resumable state and the checkpoint.

Everything that an epoch draws comes from the seed, the phase and the epoch's number, and the state is written between
epochs: a training that is killed and started again ends in the same checkpoint, bit for bit, on a CPU.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scdm_models import __version__
from scdm_models.errors import CheckpointError, DatasetError, ScdmError
from scdm_models.model.batch import CrystalBatch, n_atoms, to_batch
from scdm_models.model.checkpoint import Checkpoint, Split, save_checkpoint
from scdm_models.model.corruption import Scales
from scdm_models.model.denoiser import NetworkConfig, stability_class
from scdm_models.model.diffusion import Scdm
from scdm_models.symmetry.encoding import LayerCrystal, without_symmetry

Phase = Literal["skeleton", "geometry"]
PHASES: tuple[Phase, ...] = ("skeleton", "geometry")
NAMES = {"layer_group": "SCDM", "p1": "UnSCDM"}


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Parameters
    ----------
    symmetry
        ``layer_group`` trains SCDM; ``p1`` trains the control UnSCDM: every crystal without symmetry, every atom
        general, nothing else different.
    skeleton_epochs, geometry_epochs
        Passes over the data for each of the two networks.
    cooldown
        Last share of the epochs, over which the learning rate falls to 0.
    max_sites
        Crystals with more sites in the asymmetric unit are left out.
    batch_size
        Crystals in a step.
    learning_rate, weight_decay, warmup_steps
        Of AdamW; constant after a linear warm-up.
    ema
        Decay of the exponential moving average of the weights that is saved.
    validation_fraction
        Share of the chemical systems kept for validation (chosen by a hash), with all of their crystals.
    validate_every
        Epochs between two looks at the validation loss; the average with the lowest one is kept.
    seed
        Of initialisation, order and noise.
    threads
        CPU threads.
    device
        ``cpu``, ``cuda`` (bfloat16 where it helps) or ``auto``: cuda where there is one.
    network
        Sizes of the networks.
    """

    symmetry: Literal["layer_group", "p1"] = "layer_group"
    skeleton_epochs: int = 40
    geometry_epochs: int = 150
    cooldown: float = 0.3
    max_sites: int = 40
    batch_size: int = 96
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 200
    ema: float = 0.999
    validation_fraction: float = 0.08
    validate_every: int = 5
    seed: int = 0
    threads: int = 2
    device: str = "auto"
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def epochs(self, phase: Phase) -> int:
        """Epochs of a phase."""
        return self.skeleton_epochs if phase == "skeleton" else self.geometry_epochs


def load_train_config(path: str | Path) -> TrainConfig:
    """The training configuration of a YAML file; ``DatasetError`` names an unknown key or a value out of range."""
    try:
        data: dict[str, Any] = yaml.safe_load(Path(path).read_text()) or {}
        network = NetworkConfig(**data.pop("network", {}))
        config = TrainConfig(network=network, **data)
    except (OSError, yaml.YAMLError) as error:
        raise DatasetError(f"training configuration {path} cannot be read: {error}") from error
    except TypeError as error:
        known = ", ".join(TrainConfig.__dataclass_fields__)
        raise DatasetError(f"training configuration {path}: {error}; known keys are {known}") from error
    if config.symmetry not in NAMES:
        raise DatasetError(f"training configuration {path}: symmetry={config.symmetry!r} must be layer_group or p1")
    return config


@dataclass
class Progress:
    """What training reports after an epoch.

    phase, epoch (finished ones), epochs (of the phase); remaining: seconds to the end of the phase; training loss,
    and validation loss of the average (NaN where it was not looked at).
    """

    phase: Phase
    epoch: int
    epochs: int
    remaining: float
    loss: float
    validation: float


@dataclass
class _Data:
    """Training and held-out crystals with their classes of stability, on the training's device."""

    training: CrystalBatch
    held: CrystalBatch
    stability: Tensor
    held_stability: Tensor


@dataclass
class _State:
    """What a phase needs to go on after a kill."""

    phase: Phase
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_epoch: int = 0
    log: list[list[Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


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
    keys = ids if by == "id" else [_system(crystal) for crystal in crystals]
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


def _system(crystal: LayerCrystal) -> str:
    """The chemical system, such as ``16-42``: the atomic numbers."""
    return "-".join(map(str, sorted({site.element for site in crystal.sites})))


def _batches(data: CrystalBatch, size: int, generator: torch.Generator) -> list[Tensor]:
    """Random batches of crystals of similar size: shuffled, cut into pools of 8 batches, each sorted by cost."""
    cost = (n_atoms(data.wyckoff, data.mask) * data.mask.sum(1)).cpu()
    order = torch.randperm(len(data), generator=generator)
    batches: list[Tensor] = []
    for pool in order.split(size * 8):
        batches += list(pool[torch.argsort(cost[pool], stable=True)].split(size))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Warm-up, plateau, then down to 0 as 1 - sqrt over the cooldown (arXiv 2405.18392)."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    start = (1 - config.cooldown) * steps
    down = 1.0 if step < start else 1 - math.sqrt((step - start) / max(1.0, steps - start))
    return config.learning_rate * warm * down


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ScdmError(f"device={name!r}: PyTorch sees no CUDA device here; use device: cpu or auto")
    return torch.device(name)


def train(
    crystals: list[LayerCrystal],
    ids: list[str],
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    e_above_hull: list[float | None] | None = None,
    start: Checkpoint | None = None,
    card: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    save_seconds: float = 30.0,
) -> str:
    """Train both networks and write the checkpoint ``out`` and ``out``.csv, the losses; returns the model id.

    A training of the same data and configuration that was stopped goes on from ``out``.state, which is removed at
    the end.

    Parameters
    ----------
    crystals, ids
        The curated data set.
    out
        Checkpoint file to write.
    config
        How to train.
    e_above_hull
        Energy above hull of each crystal, eV/atom, None where it is not known: the condition of stability.
    start
        A checkpoint whose networks are kept in the phases of no epochs, with its scales. Where one is kept, what it
        held out is held out again, by its split.
    card
        What the model card says of the data (names, hash, counts, licence).
    progress
        Called after every epoch.
    save_seconds
        Least time between two writings of the state.

    Raises
    ------
    DatasetError
        If there are fewer than 50 crystals, if none or all would be held out, or if ``start`` does not fit: its
        networks, the share that it held out.
    CheckpointError
        If ``out``.state belongs to another training.
    """
    config = config or TrainConfig()
    if len(crystals) < 50:
        raise DatasetError(f"{len(crystals)} crystals are too few to train on; give at least 50")
    classes = [stability_class(energy) for energy in e_above_hull or [None] * len(crystals)]
    kept = [phase for phase in PHASES if start is not None and config.epochs(phase) == 0]
    if start is not None and replace(start.model.config, dropout=config.network.dropout) != config.network:
        raise DatasetError(f"{start.model_id} has other networks ({start.model.config}); give the same `network`")
    if config.symmetry == "p1":
        crystals = [without_symmetry(crystal) for crystal in crystals]
    few = [i for i, c in enumerate(crystals) if len(c.sites) <= config.max_sites]
    crystals, ids, classes = [crystals[i] for i in few], [ids[i] for i in few], [classes[i] for i in few]
    by: Split = "chemical system"
    if start is not None and kept:
        if start.card.get("training", {}).get("validation_fraction") != config.validation_fraction:
            raise DatasetError(
                f"validation_fraction={config.validation_fraction:g} is not that of {start.model_id}, whose networks "
                f"are kept ({start.card.get('training', {}).get('validation_fraction')}); give the same, so that what "
                "is held out was never trained on"
            )
        by = start.split
    training, validation = split(crystals, ids, config.validation_fraction, by)
    if not training or not validation:
        systems = len({_system(crystal) for crystal in crystals})
        raise DatasetError(
            f"of {len(crystals)} crystals in {systems} chemical systems {len(validation)} are held out at "
            f"validation_fraction={config.validation_fraction:g}, some and not all must be; give more "
            "systems or another fraction"
        )
    device = _device(config.device)
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    data, held = to_batch([crystals[i] for i in training]), to_batch([crystals[i] for i in validation])
    stability, held_stability = (
        torch.tensor([classes[i] for i in training]),
        torch.tensor([classes[i] for i in validation]),
    )
    prior = torch.zeros(81, data.mask.shape[1] + 1)
    for group, count in zip(data.group.tolist(), data.mask.sum(1).tolist(), strict=True):
        prior[group, count] += 1
    torch.manual_seed(config.seed)
    model = Scdm(config.network, start.model.scales if start is not None else Scales.of(data))
    for phase in kept:
        assert start is not None
        getattr(model, phase).load_state_dict(getattr(start.model, phase).state_dict())
    model = model.to(device)
    average = copy.deepcopy(model)
    sets = _Data(data.to(device), held.to(device), stability.to(device), held_stability.to(device))
    identity = _identity(config, by, ids, crystals, classes)
    state_file = Path(f"{out}.state")
    state = _State("skeleton")
    resumed = _load_state(state_file, identity)
    for phase in PHASES:
        if phase in kept:
            measured = _validation(phase, average, sets.held, sets.held_stability)
            state.metrics |= {k: round(v, 4) for k, v in measured.items()}
            continue
        if resumed is not None and PHASES.index(phase) < PHASES.index(resumed[0].phase):
            continue  # finished before the stop; its result is in the resumed average
        state.phase = phase
        if phase == "geometry":
            state = _State("geometry", log=state.log, metrics=state.metrics, seconds=state.seconds)
        state = _train_phase(phase, model, average, sets, config, state, resumed, state_file, identity, progress,
                             save_seconds)  # fmt: skip
        resumed = None
    full_card = {
        "name": NAMES[config.symmetry],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "licence": "BSD-3-Clause",
        "training": asdict(config),
        "device": str(device),
        "split": by,
        "n_training": len(training),
        "n_validation": len(validation),
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round(state.seconds / 60, 1),
        "layer_groups": sorted({c.layer_group for c in crystals}),
        "elements": sorted({site.element for c in crystals for site in c.sites}),
        "metrics": state.metrics,
        "started_from": None if start is None else {"model_id": start.model_id, "kept": kept, "card": start.card},
        "data": card or {},
    }
    model_id = save_checkpoint(out, average.cpu(), prior, full_card)
    with Path(f"{out}.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["phase", "epoch", "seconds", "learning_rate", "loss", "validation"])
        writer.writerows(state.log)
    state_file.unlink(missing_ok=True)
    return model_id


def _identity(config: TrainConfig, by: Split, ids: list[str], crystals: list[LayerCrystal], classes: list[int]) -> str:
    """What makes two trainings the same: the data and its split, all of the configuration but machine and lengths.

    Up to the cooldown a training does not depend on its length, so a longer or shorter one may go on from it.
    """
    free = ("threads", "device", "skeleton_epochs", "geometry_epochs", "cooldown", "validate_every")
    settings = {k: v for k, v in asdict(config).items() if k not in free}
    content = json.dumps([settings, by, ids, classes, [c.to_dict() for c in crystals]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _save_state(
    path: Path, identity: str, state: _State, model: Scdm, average: Scdm, best: dict[str, Tensor], optimizer: Any
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    temporary = path.with_name(path.name + ".tmp")
    header = {"identity": identity, "state": json.dumps(asdict(state))}
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, metadata=header)
    temporary.replace(path)


def _load_state(path: Path, identity: str) -> tuple[_State, dict[str, Tensor]] | None:
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
            f"{path} is the state of a training with other data or another configuration; remove it to train from the "
            "start, or give back the old configuration to go on"
        )
    return _State(**json.loads(header["state"])), tensors


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _validation(phase: Phase, model: Scdm, held: CrystalBatch, stability: Tensor) -> dict[str, float]:
    """Losses on the held-out crystals with fixed noise."""
    if len(held) == 0:
        return {}
    model.eval()
    generator = torch.Generator().manual_seed(1)
    sums: dict[str, float] = {}
    with torch.no_grad():
        repeats = 4
        for _ in range(repeats):
            order = torch.argsort(n_atoms(held.wyckoff, held.mask) * held.mask.sum(1), stable=True)
            for index in order.split(64):
                part, share = held.take(index), len(index) / len(held) / repeats
                if phase == "skeleton":
                    losses = {"skeleton_nats": model.skeleton_loss(part, generator, stability[index])}
                else:
                    t = torch.rand(len(part), generator=generator).to(part.params.device)
                    names = ("plane_mse", "height_mse", "lattice_mse")
                    losses = dict(zip(names, model.geometry_loss(part, t, generator), strict=True))
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + share * float(value)
    model.train()
    return sums


def _epoch_seed(config: TrainConfig, phase: Phase, epoch: int) -> int:
    key = f"{config.seed}:{phase}:{epoch}"
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16)


def _train_phase(
    phase: Phase,
    model: Scdm,
    average: Scdm,
    data: _Data,
    config: TrainConfig,
    state: _State,
    resumed: tuple[_State, dict[str, Tensor]] | None,
    state_file: Path,
    identity: str,
    progress: Callable[[Progress], None] | None,
    save_seconds: float,
) -> _State:
    """One network's epochs; leaves the best average in ``average`` and returns the state at the end."""
    net, mean = (model.skeleton, average.skeleton) if phase == "skeleton" else (model.geometry, average.geometry)
    epochs = config.epochs(phase)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best = {k: v.clone() for k, v in mean.state_dict().items()}
    if resumed is not None:
        state, tensors = resumed
        model.load_state_dict(_part(tensors, "model."))
        average.load_state_dict(_part(tensors, "average."))
        best = _part(tensors, "best.")
        saved = optimizer.state_dict()
        for name, value in _part(tensors, "optimizer.").items():
            number, key = name.split(".")
            saved["state"].setdefault(int(number), {})[key] = value
        optimizer.load_state_dict(saved)
    device = data.training.params.device
    mixed = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    parameters: list[Tensor] = list(net.parameters())
    averages: list[Tensor] = list(mean.parameters())
    model.train()
    before, started, first, saved_at = state.seconds, time.monotonic(), state.epoch, time.monotonic()
    for epoch in range(state.epoch, epochs):
        torch.manual_seed(_epoch_seed(config, phase, epoch))
        generator = torch.Generator().manual_seed(_epoch_seed(config, phase, epoch))
        batches = _batches(data.training, config.batch_size, generator)
        total, rate = torch.zeros((), device=device), 0.0
        for index in batches:
            rate = _learning_rate(state.step, epochs * len(batches), config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            index = index.to(device)
            part = data.training.take(index)
            with mixed:
                if phase == "skeleton":
                    loss = model.skeleton_loss(part, stability=data.stability[index])
                else:
                    t = (torch.rand(1) + torch.arange(len(part)) / len(part)) % 1.0  # stratified
                    loss = torch.stack(model.geometry_loss(part, t[torch.randperm(len(part))].to(device))).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            decay = min(config.ema, (1 + state.step) / (10 + state.step))
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1 - decay)
            total, state.step = total + loss.detach(), state.step + 1
        mean_loss = float(total) / len(batches)
        if not math.isfinite(mean_loss):
            raise ScdmError(
                f"the {phase} loss became {mean_loss} in epoch {epoch}; lower learning_rate={config.learning_rate}"
            )
        state.epoch = epoch + 1
        state.seconds = before + time.monotonic() - started
        score = math.nan
        if state.epoch % config.validate_every == 0 or state.epoch == epochs:
            score = sum(_validation(phase, average, data.held, data.held_stability).values())
            if score < state.best:
                state.best, state.best_epoch = score, state.epoch
                best = {k: v.clone() for k, v in mean.state_dict().items()}
        state.log.append([phase, state.epoch, round(state.seconds, 1), rate, mean_loss, score])
        if progress is not None:
            pace = (time.monotonic() - started) / (state.epoch - first)
            progress(Progress(phase, state.epoch, epochs, pace * (epochs - state.epoch), mean_loss, score))
        if time.monotonic() - saved_at >= save_seconds and state.epoch < epochs:
            _save_state(state_file, identity, state, model, average, best, optimizer)
            saved_at = time.monotonic()
    mean.load_state_dict(best)  # the average with the lowest validation loss
    state.metrics |= {k: round(v, 4) for k, v in _validation(phase, average, data.held, data.held_stability).items()}
    state.metrics |= {f"{phase}_epochs": state.epoch, f"{phase}_best_epoch": state.best_epoch}
    state.seconds = before + time.monotonic() - started
    return state
