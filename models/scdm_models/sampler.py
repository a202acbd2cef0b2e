"""Draws crystals from a trained model: layer group, skeleton, then lattice and coordinates by the reverse chain.

Sample i of a seed depends on (seed, i), up to the rounding of its batch: each has a random stream of its own. Nothing
is filtered: what the model draws is what is returned, with the group found in it beside the one asked for.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from scdm_models.batch import CrystalBatch, from_batch, n_atoms
from scdm_models.checkpoint import Checkpoint, load_checkpoint
from scdm_models.cohesion import pull_together
from scdm_models.encoding import LayerCrystal, decode
from scdm_models.errors import GenerationError, ScdmError
from scdm_models.guidance import PULLS, START, push_apart, settle
from scdm_models.paper import paper_decoding
from scdm_models.skeletons import SkeletonRules, draw, draw_skeletons, skeleton_prior
from scdm_models.symmetry.detect import detect_layer_group, detect_space_group

DEFAULT_STEPS = 20
CHUNK = 32  # crystals denoised together
DETECTION_SYMPREC = 1e-3


@dataclass(frozen=True)
class SamplerOptions:
    """How the chain is run.

    Parameters
    ----------
    steps
        Denoising steps of lattice and coordinates.
    churn
        Share of the ancestral sampler's noise: 1 is the DDPM, 0 the deterministic chain.
    guidance
        Whether the last part of the chain pushes apart atoms that are too close and pulls together crystals that fall
        into parts (``guidance``).
    skeletons
        How letters and elements are drawn.
    paper
        Whether symmetry is found after sampling, as the paper does (``paper.paper_decoding``); for UnSCDM only.
    """

    steps: int = DEFAULT_STEPS
    churn: float = 0.5
    guidance: bool = True
    skeletons: SkeletonRules = field(default_factory=SkeletonRules)
    paper: bool = False


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


def _detected(structure: Structure, find: Callable[[Structure, float], int]) -> int | None:
    try:
        return find(structure, DETECTION_SYMPREC)
    except ScdmError:
        return None


@torch.inference_mode()
def _sample_batch(
    checkpoint: Checkpoint, seed: int, indices: range, prior: np.ndarray, options: SamplerOptions
) -> list[LayerCrystal]:
    rngs = [np.random.default_rng([seed, i]) for i in indices]
    groups, counts = [], []
    for rng in rngs:
        flat = draw(prior.ravel(), rng)
        groups.append(flat // prior.shape[1])
        counts.append(flat % prior.shape[1])
    crystals: dict[int, LayerCrystal] = {}
    for rows, skeletons in draw_skeletons(checkpoint, groups, counts, rngs, options.skeletons):
        # sort by size so that small crystals do not pay for the padding of large ones
        order = torch.argsort(n_atoms(skeletons.wyckoff, skeletons.mask), stable=True)
        for chunk in order.split(CHUNK):
            chosen = [rows[i] for i in chunk.tolist()]
            state = denoise(checkpoint, skeletons.take(chunk), [rngs[i] for i in chosen], options)
            crystals |= zip(chosen, from_batch(state), strict=True)
    return [crystals[row] for row in range(len(rngs))]


def denoise(
    checkpoint: Checkpoint,
    noisy: CrystalBatch,
    rngs: list[np.random.Generator],
    options: SamplerOptions,
    start: float | None = None,
) -> CrystalBatch:
    """Lattices and coordinates by the reverse chain.

    noisy: (B) skeletons, or crystals at the time ``start``; from there the same share of the steps is taken.
    """
    model = checkpoint.model
    steps = options.steps if start is None else max(1, round(start * options.steps))
    k = noisy.element.shape[1]
    # draws are per site so that they do not depend on the batch's padding
    noise = torch.zeros(len(rngs), steps + 1, k + 1, 3)
    uniform = torch.zeros(len(rngs), k, 2)
    for row, rng in enumerate(rngs):
        n = int(noisy.mask[row].sum())
        draws = torch.from_numpy(rng.standard_normal((steps + 1, n + 1, 3))).float()
        noise[row, :, :n], noise[row, :, k] = draws[:, :n], draws[:, n]
        uniform[row, :n] = torch.from_numpy(rng.random((n, 2))).float()
    state = noisy if start is not None else model.geometry_prior(noisy, noise[:, 0], uniform)
    times = np.linspace(start or 1.0, 0.0, steps + 1)
    guided = [step for step in range(steps - 1) if times[step + 1] < START]
    pulls = {guided[len(guided) * i // PULLS] for i in range(PULLS)} if guided else set()
    for step in range(steps):
        state = model.geometry_step(
            state, float(times[step]), float(times[step + 1]), noise[:, step + 1], options.churn
        )
        if options.guidance and step in guided:
            if step in pulls:
                state, _ = pull_together(state)
            state, _ = push_apart(state)
    return settle(state) if options.guidance else state


def generate(
    n: int,
    seed: int = 0,
    *,
    checkpoint: Checkpoint | str | None = None,
    layer_group: int | None = None,
    options: SamplerOptions | None = None,
    start: int = 0,
    batch_size: int = 256,
    processes: int = 1,
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
    options
        How the chain is run; ``SamplerOptions()`` when None.
    start
        Index of the first sample.
    batch_size
        Crystals drawn together.
    processes
        Processes that draw batches side by side, started by ``spawn``; what is drawn does not depend on it.
    progress
        Called with the number of finished samples.

    Raises
    ------
    GenerationError
        If an argument is out of range, the training data lack the layer group or an element, or no occupation of
        Wyckoff positions gives the composition.
    """
    if n < 1:
        raise GenerationError(f"n={n} must be >= 1; ask for at least one sample")
    if seed < 0:
        raise GenerationError(f"seed={seed} must be >= 0")
    options = options or SamplerOptions()
    if options.steps < 1:
        raise GenerationError(f"steps={options.steps} must be >= 1; {DEFAULT_STEPS} is the default")
    if batch_size < 1 or processes < 1:
        raise GenerationError(f"batch_size={batch_size} and processes={processes} must be >= 1")
    if layer_group is not None and not 1 <= layer_group <= 80:
        raise GenerationError(f"layer_group={layer_group} must be 1 to 80")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    if options.paper and checkpoint.card["name"] != "UnSCDM":
        raise GenerationError(
            f"paper decoding finds symmetry in samples without any, and {checkpoint.model_id} samples with symmetry; "
            "give UnSCDM's checkpoint"
        )
    prior = skeleton_prior(checkpoint, layer_group, options.skeletons.composition)
    batches = [range(i, min(i + batch_size, start + n)) for i in range(start, start + n, batch_size)]
    job = _Job(checkpoint, seed, prior, options)
    return _stream(job, batches, min(processes, len(batches)), progress)


@dataclass(frozen=True)
class _Job:
    """What all batches of a call have in common."""

    checkpoint: Checkpoint
    seed: int
    prior: np.ndarray
    options: SamplerOptions

    def records(self, indices: range) -> list[GeneratedRecord]:
        """The finished samples of one batch."""
        found = []
        crystals = _sample_batch(self.checkpoint, self.seed, indices, self.prior, self.options)
        if self.options.paper:
            crystals = [paper_decoding(crystal) for crystal in crystals]
        for index, crystal in zip(indices, crystals, strict=True):
            structure = decode(crystal)
            group, space_group = (_detected(structure, find) for find in (detect_layer_group, detect_space_group))
            requested = crystal.layer_group
            model_id = self.checkpoint.model_id + ("-paper" if self.options.paper else "")
            found.append(GeneratedRecord(structure, requested, group, space_group, self.seed, index, model_id, crystal))
        return found


_JOB: _Job | None = None  # of a worker process


def _begin(job: _Job) -> None:
    global _JOB
    torch.set_num_threads(1)
    _JOB = job


def _work(indices: range) -> list[GeneratedRecord]:
    assert _JOB is not None
    return _JOB.records(indices)


def _stream(
    job: _Job, batches: list[range], processes: int, progress: Callable[[int], None] | None
) -> Iterator[GeneratedRecord]:
    done = 0
    for records in map(job.records, batches) if processes == 1 else _side_by_side(job, batches, processes):
        yield from records
        done += len(records)
        if progress is not None:
            progress(done)


def _side_by_side(job: _Job, batches: list[range], processes: int) -> Iterator[list[GeneratedRecord]]:
    """The batches in their order; at most two for each process are under way or waiting, so that memory is bounded."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(job,)) as pool:
        waiting: deque[Future[list[GeneratedRecord]]] = deque()
        try:
            for indices in batches:
                waiting.append(pool.submit(_work, indices))
                if len(waiting) >= 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
