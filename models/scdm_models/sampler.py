"""Draws crystals from a trained model: layer group, skeleton, then lattice and coordinates by the reverse chain.

Sample i of a seed depends on (seed, i), up to the rounding of its batch: each has a random stream of its own. Nothing
is filtered: what the model draws is what is returned, with the group found in it beside the one asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor

from scdm_models.batch import CrystalBatch, from_batch, n_atoms, wyckoff_tensors
from scdm_models.checkpoint import Checkpoint, load_checkpoint
from scdm_models.denoiser import MASKED_ELEMENT
from scdm_models.diffusion import exhausted_letters
from scdm_models.encoding import MAX_ATOMS, LayerCrystal, decode
from scdm_models.errors import GenerationError, ScdmError
from scdm_models.guidance import FINAL_ROUNDS, ROUNDS, START, push_apart
from scdm_models.symmetry.detect import detect_layer_group, detect_space_group

DEFAULT_STEPS = 50
DEFAULT_CHURN = 0.5
DETECTION_SYMPREC = 1e-3


@dataclass(frozen=True)
class GeneratedRecord:
    """One sample.

    Parameters
    ----------
    structure
        Primitive cell, slab centred at fractional z = 1/2.
    layer_group_requested, layer_group_detected, space_group_detected
        The group of the sample's symmetry, and those found at symprec 1e-3 angstrom (None where detection fails).
    seed, index, model_id
        What reproduces it.
    crystal
        The asymmetric unit.
    """

    structure: Structure
    layer_group_requested: int
    layer_group_detected: int | None
    space_group_detected: int | None
    seed: int
    index: int
    model_id: str
    crystal: LayerCrystal

    def to_dict(self) -> dict[str, Any]:
        """The record as one JSON object."""
        return {
            "structure": self.structure.as_dict(),
            "layer_group_requested": self.layer_group_requested,
            "layer_group_detected": self.layer_group_detected,
            "space_group_detected": self.space_group_detected,
            "seed": self.seed,
            "index": self.index,
            "model_id": self.model_id,
            "crystal": self.crystal.to_dict(),
        }


def _draw(probabilities: np.ndarray, rng: np.random.Generator) -> int:
    cumulative = np.cumsum(probabilities)
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(cumulative) - 1))


def _draw_rows(logits: Tensor, uniform: np.ndarray) -> Tensor:
    """(n,) classes drawn from (n, C) logits with one uniform number each."""
    cumulative = torch.softmax(logits.double(), -1).cumsum(-1)
    threshold = torch.from_numpy(uniform).unsqueeze(-1) * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)


def _skeletons(
    checkpoint: Checkpoint, groups: np.ndarray, counts: np.ndarray, rngs: list[np.random.Generator]
) -> CrystalBatch:
    """Letters, then elements, one site at a time by the masked chain. groups, counts: (B,)."""
    net = checkpoint.model.skeleton
    b, k = len(groups), int(counts.max())
    group = torch.from_numpy(groups)
    mask = torch.arange(k)[None, :] < torch.from_numpy(counts)[:, None]
    element = torch.full((b, k), MASKED_ELEMENT)
    letter = torch.full((b, k), net.masked_letter)
    for site in range(k):
        rows = mask[:, site].nonzero().flatten()
        _, logits = net(group[rows], element[rows], letter[rows], mask[rows])
        row_logits = logits[:, site]
        known = mask[rows] & (letter[rows] != net.masked_letter)
        exhausted = exhausted_letters(letter[rows].clamp(max=net.masked_letter), known)
        letter[rows, site] = _draw_rows(
            _affordable(row_logits.masked_fill(exhausted, -torch.inf), group[rows], letter[rows], known),
            np.array([rngs[i].random() for i in rows.tolist()]),
        )
    unseen = torch.ones(MASKED_ELEMENT, dtype=torch.bool)
    unseen[torch.tensor(checkpoint.card["elements"]) - 1] = False
    for site in range(k):
        rows = mask[:, site].nonzero().flatten()
        logits, _ = net(group[rows], element[rows], letter[rows], mask[rows])
        uniform = np.array([rngs[i].random() for i in rows.tolist()])
        element[rows, site] = _draw_rows(logits[:, site].masked_fill(unseen, -torch.inf), uniform)
    zeros = torch.zeros(b, k, 3)
    letter = torch.where(mask, letter, 0)
    element = torch.where(mask, element, 0)
    return CrystalBatch(group, letter, element, mask, zeros, torch.zeros(b, 3))


def _affordable(logits: Tensor, group: Tensor, letter: Tensor, known: Tensor) -> Tensor:
    """Logits without the positions that would exceed ``MAX_ATOMS`` atoms in the primitive cell."""
    tables = wyckoff_tensors()
    taken = (tables.multiplicity[letter.clamp(max=tables.n_positions - 1)] * known).sum(1)
    centred = torch.tensor([10, 13, 18, 22, 26, 35, 36, 47, 48])
    limit = torch.where(torch.isin(group, centred), 2 * MAX_ATOMS, MAX_ATOMS)
    too_many = taken[:, None] + tables.multiplicity[None, :] > limit[:, None]
    limited = logits.masked_fill(too_many, -torch.inf)
    dead = torch.isneginf(limited).all(-1, keepdim=True)
    return torch.where(dead, logits, limited)


def _detected(structure: Structure, find: Callable[[Structure, float], int]) -> int | None:
    try:
        return find(structure, DETECTION_SYMPREC)
    except ScdmError:
        return None


@torch.no_grad()
def _sample_batch(
    checkpoint: Checkpoint,
    seed: int,
    indices: range,
    layer_group: int | None,
    steps: int,
    churn: float,
    repulsion: bool,
) -> list[LayerCrystal]:
    model, prior = checkpoint.model, checkpoint.prior.numpy().astype(float)
    rngs = [np.random.default_rng([seed, i]) for i in indices]
    groups, counts = [], []
    for rng in rngs:
        table = prior.copy()
        if layer_group is not None:
            table[np.arange(len(table)) != layer_group] = 0
        flat = _draw(table.ravel(), rng)
        groups.append(flat // prior.shape[1])
        counts.append(flat % prior.shape[1])
    skeleton = _skeletons(checkpoint, np.array(groups), np.array(counts), rngs)
    # sort by size so that small crystals do not pay for the padding of large ones
    order = torch.argsort(n_atoms(skeleton.wyckoff, skeleton.mask) * 100 + skeleton.mask.sum(1), stable=True)
    times = np.linspace(1.0, 0.0, steps + 1)
    crystals: dict[int, LayerCrystal] = {}
    for chunk in order.split(32):
        part = skeleton.take(chunk)
        k = part.element.shape[1]
        own = [rngs[i] for i in chunk.tolist()]
        # draws are per site so that they do not depend on the batch's padding
        noise = torch.zeros(len(own), steps + 1, k + 1, 3)
        uniform = torch.zeros(len(own), k, 2)
        for row, rng in enumerate(own):
            n = int(part.mask[row].sum())
            draws = torch.from_numpy(rng.standard_normal((steps + 1, n + 1, 3))).float()
            noise[row, :, :n], noise[row, :, k] = draws[:, :n], draws[:, n]
            uniform[row, :n] = torch.from_numpy(rng.random((n, 2))).float()
        state = model.geometry_prior(part, noise[:, 0], uniform)
        for step in range(steps):
            t, s = float(times[step]), float(times[step + 1])
            state = model.geometry_step(state, t, s, noise[:, step + 1], churn)
            if repulsion and s < START:
                for _ in range(FINAL_ROUNDS if step == steps - 1 else ROUNDS):
                    state = push_apart(state)
        for row, crystal in zip(chunk.tolist(), from_batch(state), strict=True):
            crystals[row] = crystal
    return [crystals[row] for row in range(len(rngs))]


def generate(
    n: int,
    seed: int = 0,
    *,
    checkpoint: Checkpoint | str | None = None,
    layer_group: int | None = None,
    steps: int | None = None,
    start: int = 0,
    repulsion: bool = True,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Iterator[GeneratedRecord]:
    """Samples ``start`` to ``start + n - 1`` of a seed, one after the other, in bounded memory.

    Parameters
    ----------
    n
        How many, >= 1.
    seed
        >= 0.
    checkpoint
        A loaded checkpoint, a file, or None for the packaged one.
    layer_group
        1 to 80, or None to draw it from the training data.
    steps
        Denoising steps, >= 1; 50 when None.
    start
        Index of the first sample.
    repulsion
        Whether atoms that come too close are pushed apart in the last part of the chain (``guidance``).
    batch_size
        Crystals denoised together.
    progress
        Called with the number of finished samples.

    Raises
    ------
    GenerationError
        If an argument is out of range or the training data lack the layer group.
    """
    if n < 1:
        raise GenerationError(f"n={n} must be >= 1; ask for at least one sample")
    if seed < 0:
        raise GenerationError(f"seed={seed} must be >= 0")
    if steps is not None and steps < 1:
        raise GenerationError(f"steps={steps} must be >= 1; {DEFAULT_STEPS} is the default")
    if batch_size < 1:
        raise GenerationError(f"batch_size={batch_size} must be >= 1")
    if layer_group is not None and not 1 <= layer_group <= 80:
        raise GenerationError(f"layer_group={layer_group} must be 1 to 80")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    if layer_group is not None and float(checkpoint.prior[layer_group].sum()) == 0:
        raise GenerationError(
            f"layer group {layer_group} does not occur in the data that {checkpoint.model_id} was trained on; "
            "choose one that does (the model card lists them)"
        )
    return _stream(n, seed, checkpoint, layer_group, steps or DEFAULT_STEPS, start, repulsion, batch_size, progress)


def _stream(
    n: int,
    seed: int,
    checkpoint: Checkpoint,
    layer_group: int | None,
    steps: int,
    start: int,
    repulsion: bool,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> Iterator[GeneratedRecord]:
    for first in range(start, start + n, batch_size):
        indices = range(first, min(first + batch_size, start + n))
        crystals = _sample_batch(checkpoint, seed, indices, layer_group, steps, DEFAULT_CHURN, repulsion)
        for index, crystal in zip(indices, crystals, strict=True):
            structure = decode(crystal)
            yield GeneratedRecord(
                structure,
                crystal.layer_group,
                _detected(structure, detect_layer_group),
                _detected(structure, detect_space_group),
                seed,
                index,
                checkpoint.model_id,
                crystal,
            )
        if progress is not None:
            progress(indices.stop - start)
