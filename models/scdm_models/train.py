"""Trains the SCDM on a curated data set. Owns the loop, the split and the checkpoint."""

from __future__ import annotations

import copy
import csv
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from scdm_models import __version__
from scdm_models.batch import CrystalBatch, n_atoms, to_batch
from scdm_models.checkpoint import save_checkpoint
from scdm_models.corruption import Scales
from scdm_models.denoiser import NetworkConfig
from scdm_models.diffusion import Scdm
from scdm_models.encoding import LayerCrystal
from scdm_models.errors import DatasetError, ScdmError


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Parameters
    ----------
    skeleton_minutes, geometry_minutes
        Wall-clock budget of each of the two networks; the learning rate follows it down to 0.
    max_epochs, skeleton_max_epochs
        Stop earlier after this many passes over the data.
    max_sites
        Crystals with more sites in the asymmetric unit are left out.
    batch_size
        Crystals in a step.
    learning_rate, weight_decay, warmup_steps
        Of AdamW; cosine decay after a linear warm-up.
    ema
        Decay of the exponential moving average of the weights that is saved.
    validation_fraction
        Share of the crystals kept for validation (chosen by a hash of the crystal's id).
    seed
        Of initialisation, order and noise.
    threads
        CPU threads.
    network
        Sizes of the networks.
    """

    skeleton_minutes: float = 15.0
    geometry_minutes: float = 40.0
    max_epochs: int = 2000
    skeleton_max_epochs: int = 150
    max_sites: int = 24
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 200
    ema: float = 0.999
    validation_fraction: float = 0.08
    seed: int = 0
    threads: int = 2
    network: NetworkConfig = field(default_factory=NetworkConfig)


def load_train_config(path: str | Path) -> TrainConfig:
    """The training configuration of a YAML file; ``DatasetError`` names an unknown key."""
    try:
        data: dict[str, Any] = yaml.safe_load(Path(path).read_text()) or {}
        network = NetworkConfig(**data.pop("network", {}))
        return TrainConfig(network=network, **data)
    except (OSError, yaml.YAMLError) as error:
        raise DatasetError(f"training configuration {path} cannot be read: {error}") from error
    except TypeError as error:
        known = ", ".join(TrainConfig.__dataclass_fields__)
        raise DatasetError(f"training configuration {path}: {error}; known keys are {known}") from error


@dataclass
class Progress:
    """What a training step reports: phase, epoch, share of the budget used (0-1), training and validation loss."""

    phase: str
    epoch: int
    fraction: float
    loss: float
    validation: float


def _split(ids: list[str], fraction: float) -> tuple[list[int], list[int]]:
    held = [int(hashlib.sha256(i.encode()).hexdigest()[:8], 16) / 2**32 < fraction for i in ids]
    return [k for k, h in enumerate(held) if not h], [k for k, h in enumerate(held) if h]


def _batches(data: CrystalBatch, size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Random batches of crystals of similar size: shuffled, cut into pools of 8 batches, each sorted by cost."""
    cost = n_atoms(data.wyckoff, data.mask) * data.mask.sum(1)
    order = torch.randperm(len(data), generator=generator)
    batches: list[torch.Tensor] = []
    for pool in order.split(size * 8):
        batches += list(pool[torch.argsort(cost[pool], stable=True)].split(size))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _learning_rate(step: int, used: float, config: TrainConfig) -> float:
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, used)))


def train(
    crystals: list[LayerCrystal],
    ids: list[str],
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    card: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> str:
    """Train both networks and write the checkpoint ``out`` (and ``out``.csv, the losses); returns the model id.

    Parameters
    ----------
    crystals, ids
        The curated data set.
    out
        Checkpoint file to write.
    config
        How to train.
    card
        What the model card says of the data (names, hash, counts, licence).
    progress
        Called a few times a minute.

    Raises
    ------
    DatasetError
        If there are fewer than 50 crystals.
    """
    config = config or TrainConfig()
    if len(crystals) < 50:
        raise DatasetError(f"{len(crystals)} crystals are too few to train on; give at least 50")
    few = [i for i, c in enumerate(crystals) if len(c.sites) <= config.max_sites]
    crystals, ids = [crystals[i] for i in few], [ids[i] for i in few]
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    training, validation = _split(ids, config.validation_fraction)
    data, held = to_batch([crystals[i] for i in training]), to_batch([crystals[i] for i in validation])
    prior = torch.zeros(81, data.mask.shape[1] + 1)
    for group, count in zip(data.group.tolist(), data.mask.sum(1).tolist(), strict=True):
        prior[group, count] += 1
    model = Scdm(config.network, Scales.of(data))
    average = copy.deepcopy(model)
    log: list[list[Any]] = []
    started = time.monotonic()
    metrics: dict[str, float] = {}
    for phase in ("skeleton", "geometry"):
        metrics |= _train_phase(phase, model, average, data, held, config, log, progress)
    full_card = {
        "name": "SCDM",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "licence": "BSD-3-Clause",
        "training": asdict(config),
        "n_training": len(training),
        "n_validation": len(validation),
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "layer_groups": sorted({c.layer_group for c in crystals}),
        "elements": sorted({site.element for c in crystals for site in c.sites}),
        "metrics": metrics,
        "data": card or {},
    }
    model_id = save_checkpoint(out, average, prior, full_card)
    with Path(f"{out}.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["phase", "epoch", "seconds", "loss", "validation"])
        writer.writerows(log)
    return model_id


def _validation(phase: str, model: Scdm, held: CrystalBatch) -> dict[str, float]:
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
                    losses = {"skeleton_nats": model.skeleton_loss(part, generator)}
                else:
                    t = torch.rand(len(part), generator=generator)
                    names = ("plane_mse", "height_mse", "lattice_mse")
                    losses = dict(zip(names, model.geometry_loss(part, t, generator), strict=True))
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + share * float(value)
    model.train()
    return sums


def _train_phase(
    phase: str,
    model: Scdm,
    average: Scdm,
    data: CrystalBatch,
    held: CrystalBatch,
    config: TrainConfig,
    log: list[list[Any]],
    progress: Callable[[Progress], None] | None,
) -> dict[str, float]:
    net, mean = (model.skeleton, average.skeleton) if phase == "skeleton" else (model.geometry, average.geometry)
    budget = 60 * (config.skeleton_minutes if phase == "skeleton" else config.geometry_minutes)
    epochs = config.skeleton_max_epochs if phase == "skeleton" else config.max_epochs
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    started, step = time.monotonic(), 0
    best: tuple[float, dict[str, torch.Tensor]] | None = None
    model.train()
    for epoch in range(epochs):
        total, batches = 0.0, _batches(data, config.batch_size, generator)
        for number, index in enumerate(batches):
            used = max((time.monotonic() - started) / budget, (epoch + number / len(batches)) / epochs)
            if used >= 1:
                break
            for parameters in optimizer.param_groups:
                parameters["lr"] = _learning_rate(step, used, config)
            part = data.take(index)
            if phase == "skeleton":
                loss = model.skeleton_loss(part)
            else:
                t = (torch.rand(1) + torch.arange(len(part)) / len(part)) % 1.0  # stratified
                loss = sum(model.geometry_loss(part, t[torch.randperm(len(part))]), torch.zeros(()))
            if not torch.isfinite(loss):
                raise ScdmError(
                    f"the {phase} loss became {float(loss)} at step {step}; lower learning_rate={config.learning_rate}"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            decay = min(config.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for target, source in zip(mean.parameters(), net.parameters(), strict=True):
                    target.lerp_(source, 1 - decay)
            total, step = total + loss.item(), step + 1
        used = max((time.monotonic() - started) / budget, (epoch + 1) / epochs)
        if epoch % 5 == 0 or used >= 1:
            scores = _validation(phase, average, held)
            score = sum(scores.values())
            log.append([phase, epoch, round(time.monotonic() - started, 1), total / max(1, len(batches)), score])
            if progress is not None:
                progress(Progress(phase, epoch, min(1.0, used), total / max(1, len(batches)), score))
            if best is None or score < best[0]:
                best = (score, {k: v.clone() for k, v in mean.state_dict().items()})
        if used >= 1:
            break
    if best is not None:
        mean.load_state_dict(best[1])  # the average with the lowest validation loss
    return {
        **{k: round(v, 4) for k, v in _validation(phase, average, held).items()},
        f"{phase}_epochs": epoch + 1,
    }
