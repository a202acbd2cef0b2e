"""Trains SCDM and UnSCDM on a curated data set: the epochs of both networks, and the checkpoint that they end in.

Everything that an epoch draws comes from the seed, the phase and the epoch's number, and the state is written between
epochs: a training that is killed and started again ends in the same checkpoint, bit for bit, on one thread of a CPU.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scdm_models import __version__
from scdm_models.errors import DatasetError, ScdmError
from scdm_models.model.batch import CrystalBatch, n_atoms, to_batch
from scdm_models.model.checkpoint import Checkpoint, Split, save_checkpoint
from scdm_models.model.corruption import Noise, Scales
from scdm_models.model.denoiser import stability_class
from scdm_models.model.diffusion import Scdm
from scdm_models.model.prototypes import START, Prototypes
from scdm_models.symmetry.encoding import LayerCrystal, without_symmetry
from scdm_models.training.copies import pairs
from scdm_models.training.data_split import chemical_system, split
from scdm_models.training.train_config import NAMES, PHASES, Phase, TrainConfig
from scdm_models.training.train_state import TrainState, check_length, identity_of, load_state, save_state


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
    """Training and held-out crystals with their classes of stability, on the training's device.

    copied, copies: training crystals and copies of them from others, in one setting (``training.copies``).
    """

    training: CrystalBatch
    held: CrystalBatch
    stability: Tensor
    held_stability: Tensor
    copied: CrystalBatch
    copies: CrystalBatch

    def noised(self, index: Tensor, scales: Scales) -> tuple[CrystalBatch, Tensor, Noise]:
        """Crystals, times and noise of one step of the geometry network. index: of training crystals, then of copies.

        A copy stands for the state at ``START`` of a chain that begins there, and what such a chain makes of it before.
        """
        n, device = len(self.training), self.training.params.device
        crystals = self.both.take(index)
        spread = ((torch.rand(1) + torch.arange(len(index)) / len(index)) % 1.0)[torch.randperm(len(index))].to(device)
        from_copy = index >= n
        t = torch.where(from_copy, START * spread, spread)
        noise = Noise.towards(crystals, self.starts.take(index), START, scales)
        return crystals, t, noise.where(from_copy, Noise.normal(crystals))

    @cached_property
    def both(self) -> CrystalBatch:
        """Training crystals, then those that were copied."""
        return self.training.beside(self.copied)

    @cached_property
    def starts(self) -> CrystalBatch:
        """The same crystals where nothing was copied, the copies elsewhere."""
        return self.training.beside(self.copies)


def _batches(data: CrystalBatch, extra: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Random batches of crystals of similar size: shuffled, cut into pools of 8 batches, each sorted by cost.

    extra: of the crystals at the end, of which as many are drawn as there are others, or all.
    """
    cost = (n_atoms(data.wyckoff, data.mask) * data.mask.sum(1)).cpu()
    n = len(data) - extra
    order = torch.cat([torch.arange(n), n + torch.randperm(extra, generator=generator)[:n]])
    order = order[torch.randperm(len(order), generator=generator)]
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


def kept_phases(config: TrainConfig, start: Checkpoint | None) -> list[Phase]:
    """The phases of no epochs, whose networks are those of ``start``.

    Raises
    ------
    DatasetError
        If there is no ``start`` to keep one from: the network would stay as it was initialised.
    """
    kept = [phase for phase in PHASES if config.epochs(phase) < 1]
    if kept and start is None:
        phase = kept[0]
        raise DatasetError(
            f"{phase}_epochs={config.epochs(phase)} and no checkpoint to start from: the {phase} network would stay "
            "untrained; give it epochs, or a checkpoint (--start) to keep it from"
        )
    return kept


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

    A training of the same data, configuration and start that was stopped goes on from ``out``.state, which is removed
    at the end.

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
        If there are fewer than 50 crystals, if none or all would be held out, if a phase has no epochs and there is no
        ``start``, or if that does not fit: its networks, the share that it held out.
    CheckpointError
        If ``out``.state belongs to another training, also one of another ``start``.
    """
    config = config or TrainConfig()
    kept = kept_phases(config, start)
    if len(crystals) < 50:
        raise DatasetError(f"{len(crystals)} crystals are too few to train on; give at least 50")
    classes = [stability_class(energy) for energy in e_above_hull or [None] * len(crystals)]
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
        systems = len({chemical_system(crystal) for crystal in crystals})
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
    # of equally near prototypes the first is taken: the most stable one, where that is known
    stable_first = sorted(training, key=lambda i: (classes[i] < 0, classes[i]))
    prototypes = Prototypes.of([crystals[i] for i in stable_first])
    found = [] if "geometry" in kept else pairs(prototypes, [crystals[i] for i in training], config.copies)
    copied, copies = (to_batch([pair[side] for pair in found]).to(device) for side in (0, 1))
    sets = _Data(data.to(device), held.to(device), stability.to(device), held_stability.to(device), copied, copies)
    identity = identity_of(config, by, ids, crystals, classes, start, kept)
    state_file = Path(f"{out}.state")
    state = TrainState("skeleton")
    resumed = load_state(state_file, identity)
    for phase in PHASES:
        if phase in kept:
            measured = _validation(phase, average, sets.held, sets.held_stability)
            state.metrics |= {k: round(v, 4) for k, v in measured.items()}
            continue
        if resumed is not None and PHASES.index(phase) < PHASES.index(resumed[0].phase):
            continue  # finished before the stop; its result is in the resumed average
        state.phase = phase
        if phase == "geometry":
            state = TrainState("geometry", log=state.log, metrics=state.metrics, seconds=state.seconds)
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
        "n_copies": len(found),
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round(state.seconds / 60, 1),
        "layer_groups": sorted({c.layer_group for c in crystals}),
        "elements": sorted({site.element for c in crystals for site in c.sites}),
        "metrics": state.metrics,
        "started_from": None if start is None else {"model_id": start.model_id, "kept": kept, "card": start.card},
        "data": card or {},
    }
    model_id = save_checkpoint(out, average.cpu(), prior, full_card, prototypes)
    with Path(f"{out}.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["phase", "epoch", "seconds", "learning_rate", "loss", "validation"])
        writer.writerows(state.log)
    state_file.unlink(missing_ok=True)
    return model_id


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
                    noise = Noise.normal(part, generator)
                    losses = dict(zip(names, model.geometry_loss(part, t, noise), strict=True))
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
    state: TrainState,
    resumed: tuple[TrainState, dict[str, Tensor]] | None,
    state_file: Path,
    identity: str,
    progress: Callable[[Progress], None] | None,
    save_seconds: float,
) -> TrainState:
    """One network's epochs; leaves its average, the skeleton network's best one, in ``average``; returns the state."""
    net, mean = (model.skeleton, average.skeleton) if phase == "skeleton" else (model.geometry, average.geometry)
    epochs = config.epochs(phase)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best = {k: v.clone() for k, v in mean.state_dict().items()}
    if resumed is not None:
        state, tensors = resumed
        check_length(state_file, state, epochs, config.cooldown)
        model.load_state_dict(_part(tensors, "model."))
        average.load_state_dict(_part(tensors, "average."))
        best = _part(tensors, "best.")
        saved = optimizer.state_dict()
        for name, value in _part(tensors, "optimizer.").items():
            number, key = name.split(".")
            saved["state"].setdefault(int(number), {})[key] = value
        optimizer.load_state_dict(saved)
    state.epochs, state.cooldown = epochs, config.cooldown
    device = data.training.params.device
    # distances want all digits of a float
    mixed = torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda" and phase == "skeleton")
    parameters: list[Tensor] = list(net.parameters())
    averages: list[Tensor] = list(mean.parameters())
    model.train()
    before, started, first, saved_at = state.seconds, time.monotonic(), state.epoch, time.monotonic()
    for epoch in range(state.epoch, epochs):
        torch.manual_seed(_epoch_seed(config, phase, epoch))
        generator = torch.Generator().manual_seed(_epoch_seed(config, phase, epoch))
        if phase == "skeleton":
            batches = _batches(data.training, 0, config.batch_size, generator)
        else:
            batches = _batches(data.both, len(data.copies), config.batch_size, generator)
        total, rate = torch.zeros((), device=device), 0.0
        for index in batches:
            rate = _learning_rate(state.step, epochs * len(batches), config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            index = index.to(device)
            with mixed:
                if phase == "skeleton":
                    loss = model.skeleton_loss(data.training.take(index), stability=data.stability[index])
                else:
                    loss = torch.stack(model.geometry_loss(*data.noised(index, model.scales))).sum()
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
            save_state(state_file, identity, state, model, average, best, optimizer)
            saved_at = time.monotonic()
    if phase == "skeleton":
        mean.load_state_dict(
            best
        )  # the average with the lowest validation loss; geometry's says little of what comes out
    state.metrics |= {k: round(v, 4) for k, v in _validation(phase, average, data.held, data.held_stability).items()}
    state.metrics |= {f"{phase}_epochs": state.epoch, f"{phase}_best_epoch": state.best_epoch}
    state.seconds = before + time.monotonic() - started
    return state
