"""How a training is run: its configuration, and the YAML file that holds one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from scdm_models.errors import DatasetError
from scdm_models.model.denoiser import NetworkConfig

Phase = Literal["skeleton", "geometry"]
PHASES: tuple[Phase, ...] = ("skeleton", "geometry")
NAMES = {"layer_group": "SCDM", "p1": "UnSCDM"}
MOST_SITES = 63  # the skeleton network knows no larger number of sites
LARGEST_SEED = 2**63 - 1


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
        CPU threads. With more than one a gradient's sums have no fixed order, and a training is not the same twice.
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
    threads: int = 1
    device: str = "auto"
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def epochs(self, phase: Phase) -> int:
        """Epochs of a phase."""
        return self.skeleton_epochs if phase == "skeleton" else self.geometry_epochs


class Rule(NamedTuple):
    """What the value of a key must be, in words, and the value as it is used; ValueError where it is something else."""

    words: str
    read: Callable[[Any], Any]


def _number(value: Any) -> int | float:
    """A finite number. YAML takes one such as 1e-3, without a point, for text."""
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return value


def whole(least: int, most: int | None = None) -> Rule:
    """A whole number in a range."""

    def read(value: Any) -> int:
        number = _number(value)
        if number != int(number) or number < least or (most is not None and number > most):
            raise ValueError
        return int(number)

    return Rule(f"a whole number >= {least}" if most is None else f"a whole number from {least} to {most}", read)


def real(words: str, fits: Callable[[float], bool]) -> Rule:
    """A finite number that fits, which ``words`` say."""

    def read(value: Any) -> float:
        number = float(_number(value))
        if not fits(number):
            raise ValueError
        return number

    return Rule(words, read)


def _text(words: str, pattern: str) -> Rule:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Rule(words, read)


SHARE = real("a number from 0 to 1", lambda x: 0 <= x <= 1)
RULES: dict[str, Rule] = {
    "symmetry": _text("layer_group or p1", "|".join(NAMES)),
    "skeleton_epochs": whole(0),
    "geometry_epochs": whole(0),
    "copies": whole(0),
    "cooldown": SHARE,
    "max_sites": whole(1, MOST_SITES),
    "batch_size": whole(1),
    "learning_rate": real("a number > 0", lambda x: x > 0),
    "weight_decay": real("a number >= 0", lambda x: x >= 0),
    "warmup_steps": whole(1),  # 1 is none
    "ema": SHARE,
    "validation_fraction": real("a number above 0 and below 1", lambda x: 0 < x < 1),
    "validate_every": whole(1),
    "seed": whole(0, LARGEST_SEED),
    "threads": whole(1),
    "device": _text("auto, cpu, cuda or one such as cuda:0", r"auto|cpu|cuda(:\d+)?"),
}
NETWORK_RULES: dict[str, Rule] = {
    "width": whole(1),
    "skeleton_layers": whole(1),
    "geometry_layers": whole(1),
    "heads": whole(1),
    "radial": whole(2),
    "cutoff_angstrom": real("a number > 0.6", lambda x: x > 0.6),  # radial functions lie 0.3 from both ends
    "dropout": real("a number from 0 to below 1", lambda x: 0 <= x < 1),
}


def mapping_of(path: str | Path) -> dict[Any, Any]:
    """What a YAML file of a training holds; ``DatasetError`` where that is no mapping."""
    try:
        data = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no text, or a date that does not exist
        raise DatasetError(f"training configuration {path} cannot be read: {error}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise DatasetError(
            f"training configuration {path} must hold a mapping of keys to values, found {type(data).__name__}; write "
            "one `key: value` a line"
        )
    return data


def load_train_config(path: str | Path) -> TrainConfig:
    """The training configuration of a YAML file; what it does not name has its default.

    Numbers that YAML takes for text, such as ``1e-3``, are read as numbers.

    Raises
    ------
    DatasetError
        If the file cannot be read or holds no mapping. If there are unknown keys, or values of a wrong type or out of
        range: it names all of them, with the rule.
    """
    data = mapping_of(path)
    sizes = data.pop("network", {})
    values, faults = checked(data, RULES, "", [*RULES, "network"])
    if isinstance(sizes, dict):
        sizes, more = checked(sizes, NETWORK_RULES, "network.", list(NETWORK_RULES))
        faults += more
    else:
        faults.append(f"network={sizes!r} must be a mapping of {', '.join(NETWORK_RULES)}")
    if not faults:
        config = TrainConfig(network=NetworkConfig(**sizes), **values)
        width, heads = config.network.width, config.network.heads
        if width % heads == 0:
            return config
        faults = [f"network.width={width} must be a multiple of network.heads={heads}"]
    raise DatasetError(f"training configuration {path}: {'; '.join(faults)}")


def checked(
    data: Mapping[Any, Any], rules: Mapping[str, Rule], part: str, known: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The values as the rules read them, and what is wrong with the others.

    part: what the names of the keys begin with; known: keys that there may be.
    """
    values, faults = {}, []
    for key, value in data.items():
        if key not in rules:
            faults.append(f"unknown key {f'{part}{key}'!r} (known are {', '.join(known)})")
            continue
        try:
            values[key] = rules[key].read(value)
        except (ValueError, OverflowError):
            faults.append(f"{part}{key}={value!r} must be {rules[key].words}")
    return values, faults
