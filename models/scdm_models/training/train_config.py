"""How a training is run: its configuration, and the YAML file that holds one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from scdm_models.errors import DatasetError
from scdm_models.model.denoiser import NetworkConfig

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
    copies
        How many nearest crystals of other chemical systems each crystal is copied from, for the geometry network to
        learn from besides noise (``training.copies``); in an epoch as many copies are seen as crystals.
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
        Epochs between two looks at the validation loss; the skeleton network's average with the lowest one is kept. The
        geometry network's rises, of noise, while more crystals come out as they are; its last average is kept.
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
    copies: int = 4
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
