"""Checkpoints: one safetensors file with the weights, the configuration and the model card in its header.

No pickle. The header carries a sha256 over the tensors; a file whose tensors do not match it is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scdm_models.errors import CheckpointError
from scdm_models.model.corruption import Scales
from scdm_models.model.denoiser import NetworkConfig
from scdm_models.model.diffusion import Scdm
from scdm_models.model.prototypes import Prototypes

FORMAT = "scdm-checkpoint/3"
PROTOTYPES = "prototypes."  # begins the names of their tensors
Split = Literal["chemical system", "id"]  # what decides whether a crystal is trained on or held out
PACKAGED = ("scdm", "unscdm")  # the model, and the paper's control without symmetry


@dataclass(frozen=True)
class Checkpoint:
    """A trained model.

    Parameters
    ----------
    model
        The networks, in evaluation mode.
    prior
        (81, K_max + 1) training counts of (layer group, number of sites).
    model_id
        ``scdm-`` or ``unscdm-`` and the first 8 hex digits of the tensors' sha256.
    card
        The model card: data, configuration, split, metrics, licence.
    prototypes
        The training crystals, as geometries to begin from; none in a file of a time without them.
    """

    model: Scdm
    prior: Tensor
    model_id: str
    card: dict[str, Any]
    prototypes: Prototypes = field(default_factory=Prototypes.none)

    @property
    def split(self) -> Split:
        """What the crystals were held out by; a card that says nothing is of a time when it was the id."""
        by: Split = self.card.get("split", "id")
        return by


def _digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        sha.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()


def save_checkpoint(
    path: str | Path, model: Scdm, prior: Tensor, card: dict[str, Any], prototypes: Prototypes | None = None
) -> str:
    """Write a checkpoint atomically; returns its model id."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    tensors["prior"] = prior.contiguous()
    if prototypes is not None and len(prototypes):
        tensors |= {PROTOTYPES + name: value.contiguous() for name, value in prototypes.tensors().items()}
    digest = _digest(tensors)
    scales = model.scales
    header = {
        "format": FORMAT,
        "sha256": digest,
        "network": json.dumps(model.config.to_dict()),
        "scales": json.dumps([scales.height, list(scales.lattice_mean), list(scales.lattice_std)]),
        "card": json.dumps(card),
    }
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata=header)
    temporary.replace(path)
    return _model_id(card, digest)


def _model_id(card: dict[str, Any], digest: str) -> str:
    return f"{card.get('name', 'scdm').lower()}-{digest[:8]}"


def identity(path: str | Path | None = None, *, packaged: str = "scdm") -> tuple[str, str]:
    """Model id of a checkpoint and the sha256 of its tensors, 64 hex digits, as its header says; it is not loaded.

    Parameters are those of ``load_checkpoint``. ``CheckpointError`` where there is no such file, or it is none of ours.
    """
    if path is None:
        with as_file(files("scdm_models").joinpath("data", f"{packaged}.safetensors")) as file:
            return identity(file)
    try:
        with safe_open(str(path), framework="pt") as handle:
            header = handle.metadata() or {}
        return _model_id(json.loads(header["card"]), header["sha256"]), header["sha256"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no checkpoint ({error}); use a file that `scdm train` wrote") from error


def load_checkpoint(path: str | Path | None = None, *, packaged: str = "scdm") -> Checkpoint:
    """The checkpoint of a file, a packaged one when no path is given.

    Parameters
    ----------
    path
        A file that ``scdm train`` wrote.
    packaged
        Which of ``PACKAGED`` where ``path`` is None.

    Raises
    ------
    CheckpointError
        If the file is missing, is not one of ours, or does not match its own checksum.
    """
    if path is None:
        resource = files("scdm_models").joinpath("data", f"{packaged}.safetensors")
        if not resource.is_file():
            raise CheckpointError(
                f"this installation has no packaged checkpoint {packaged!r}; train one with `scdm train` and pass "
                f"--checkpoint (usually packaged: {', '.join(PACKAGED)})"
            )
        with as_file(resource) as file:
            return load_checkpoint(file)
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; leave --checkpoint out to use the packaged model")
    try:
        with safe_open(str(path), framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({error}); use a file that `scdm train` wrote"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {header.get('format')!r}, expected {FORMAT!r}; retrain it with this version"
        )
    digest = _digest(tensors)
    if digest != header.get("sha256"):
        raise CheckpointError(f"{path} does not match its checksum: it was changed or damaged; fetch it again")
    height, mean, std = json.loads(header["scales"])
    model = Scdm(NetworkConfig(**json.loads(header["network"])), Scales(height, tuple(mean), tuple(std)))
    prior = tensors.pop("prior")
    kept = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PROTOTYPES)}
    prototypes = Prototypes(**{name.removeprefix(PROTOTYPES): value for name, value in kept.items()}) if kept else None
    model.load_state_dict(tensors)
    model.eval()
    card = json.loads(header["card"])
    return Checkpoint(model, prior, _model_id(card, digest), card, prototypes or Prototypes.none())
