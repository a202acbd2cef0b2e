"""Draws crystals from a trained model: layer group, skeleton, then lattice and coordinates by the reverse chain.

The chain begins at the nearest training crystal with the skeleton's letters where there is one, else at noise.

A call is one stream of draws; draw j depends on (seed, start, j), up to rounding in its batch. Passed over are draws
whose atoms are too close or not connected, and those that repeat a sample's skeleton: every sample says which draw it
was, and ``SamplerOptions.guidance=False`` returns the stream as it is. The layer group found in a sample stands beside
the one it was made in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from scdm_models.errors import GenerationError, ScdmError
from scdm_models.model.batch import from_batch, to_batch
from scdm_models.model.checkpoint import Checkpoint, load_checkpoint
from scdm_models.processes import one_torch_thread, pool
from scdm_models.sampling.geometries import geometries
from scdm_models.sampling.guidance import settle
from scdm_models.sampling.paper import paper_decoding
from scdm_models.sampling.skeletons import SkeletonRules, draw, draw_skeletons, formula_of, name_of, skeleton_prior
from scdm_models.symmetry.detect import detect_layer_group, detect_space_group
from scdm_models.symmetry.encoding import LayerCrystal, decode

DEFAULT_STEPS = 8
ATTEMPTS = 4  # at a bonded layer on a skeleton, before the draw is passed over
DETECTION_SYMPREC = 1e-3
PATIENCE = 4  # draws for each sample, on average, before one that guidance had to correct is taken
REPETITIONS = 4  # draws that are passed over as repetitions for each sample, before one is taken
MOST_DRAWS = 5000  # for each sample, of a call that is choosy
ROOM = 1024  # repetitions; more draws than that are seldom under way at once


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
        Whether draws that are no bonded layer (``cohesion.bonded_layers``) or repeat a skeleton are passed over. Where
        ``PATIENCE`` ends first, the former are corrected instead: atoms pushed apart, parts pulled together
        (``guidance``); repetitions are taken where they are most of what comes, as with a narrow request.
    skeletons
        How letters and elements are drawn.
    paper
        Whether symmetry is found after sampling, as the paper does (``paper.paper_decoding``); for UnSCDM only.
    prototypes
        Whether the chain begins at the nearest training crystal with the skeleton's letters, where there is one.
    known_formulas
        Reduced formulas of which no sample is made.
    accept
        Says of each bonded layer, as drawn, whether it may be a sample; called by the processes that draw. With it or
        with ``known_formulas`` no draw is mended.
    """

    steps: int = DEFAULT_STEPS
    churn: float = 1.0
    guidance: bool = True
    skeletons: SkeletonRules = field(default_factory=SkeletonRules)
    paper: bool = False
    prototypes: bool = True
    known_formulas: frozenset[str] = frozenset()
    accept: Callable[[Sequence[Structure]], list[bool]] | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def choosy(self) -> bool:
        """Whether draws are passed over for what they are made of or for what is predicted of them."""
        return bool(self.known_formulas) or self.accept is not None


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
        What reproduces it, with the first index of the call.
    crystal
        The asymmetric unit.
    draw
        Its place in the call's stream of draws, from 0: the last sample's tells how many draws were made.
    mended
        Whether guidance had to push its atoms apart or pull its parts together.
    steps
        Denoising steps of lattice and coordinates, of a whole chain.
    from_prototype
        Whether the chain began at a training crystal's geometry, and not at noise.
    asked
        What was asked for (``SamplerOptions.asked``).
    """

    structure: Structure
    layer_group_requested: int
    layer_group_detected: int | None
    space_group_detected: int | None
    seed: int
    index: int
    model_id: str
    crystal: LayerCrystal
    draw: int = 0
    mended: bool = False
    steps: int = DEFAULT_STEPS
    from_prototype: bool = False
    asked: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as one JSON object."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        made = {"structure": self.structure.as_dict(), "crystal": self.crystal.to_dict()}
        return {**plain, **made, "asked": dict(self.asked)}


@dataclass
class Position:
    """Where a call's stream of samples is; from there a later call goes on.

    draws: that were looked at; repeated: of these passed over as repetitions; skeletons: the name of each sample's
    skeleton.
    """

    draws: int = 0
    repeated: int = 0
    skeletons: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Finished samples."""
        return len(self.skeletons)


def _detected(structure: Structure, find: Callable[[Structure, float], int]) -> int | None:
    try:
        return find(structure, DETECTION_SYMPREC)
    except ScdmError:
        return None


@dataclass(frozen=True)
class _Draw:
    """One draw: its crystal, the hash of its skeleton, whether it is a bonded layer (None: a known skeleton, whose
    geometry was left out), and its record where it is a sample as it stands."""

    crystal: LayerCrystal
    name: int
    bonded: bool | None
    record: GeneratedRecord | None = None
    from_prototype: bool = False
    refused: bool = False


@torch.inference_mode()
def _draw_batch(
    checkpoint: Checkpoint,
    rngs: list[np.random.Generator],
    prior: np.ndarray,
    options: SamplerOptions,
    known: frozenset[int],
) -> list[_Draw]:
    """One draw for each random stream."""
    groups, counts = [], []
    for rng in rngs:
        flat = draw(prior.ravel(), rng)
        groups.append(flat // prior.shape[1])
        counts.append(flat % prior.shape[1])
    plain: dict[int, LayerCrystal] = {}
    for rows, skeletons in draw_skeletons(checkpoint, groups, counts, rngs, options.skeletons):
        plain |= zip(rows, from_batch(skeletons), strict=True)
    names = {row: name_of(one) for row, one in plain.items()}
    known_formulas = options.known_formulas
    refused = {row for row, one in plain.items() if known_formulas and formula_of(one) in known_formulas}
    new = sorted(row for row in plain if row not in refused and names[row] not in known)
    made = geometries(
        checkpoint,
        [plain[row] for row in new],
        [rngs[row] for row in new],
        options.steps,
        options.churn,
        prototypes=options.prototypes,
        attempts=ATTEMPTS if options.guidance else 1,
    )
    drawn = {row: _Draw(one, names[row], None, refused=row in refused) for row, one in plain.items()}
    for row, one in zip(new, made, strict=True):
        drawn[row] = _Draw(one.crystal, names[row], one.bonded, from_prototype=one.from_prototype)
    return [drawn[row] for row in range(len(rngs))]


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
    position: Position | None = None,
) -> Iterator[GeneratedRecord]:
    """``n`` samples of a seed, one after the other, in bounded memory.

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
        Index of the first sample; calls with other starts are independent streams of the seed.
    batch_size
        Largest number of crystals drawn together.
    processes
        Processes that draw batches side by side, started by ``spawn``; what is drawn does not depend on it.
    progress
        Called with the number of finished samples.
    position
        What an earlier call with the same arguments reached: its samples are left out, the others are those it would
        have given, up to rounding. It is kept up to date: when a sample comes, the position is behind it.

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
    job = _Job(checkpoint, seed, start, prior, options)
    position = position or Position()
    if position.done >= n:
        return iter(())
    size = min(batch_size, max(16, n))
    following = (position.draws // size + 1) * size
    rest = (range(first, first + size) for first in count(following, size))
    return _Stream(job, n, position).run(chain([range(position.draws, following)], rest), processes, progress)


@dataclass(frozen=True)
class _Job:
    """What all batches of a call have in common."""

    checkpoint: Checkpoint
    seed: int
    start: int
    prior: np.ndarray
    options: SamplerOptions

    def drawn(self, numbers: range, known: frozenset[int] = frozenset()) -> list[_Draw]:
        """The draws, with finished records where they are samples; skeletons in ``known`` get no geometry."""
        rngs = [np.random.default_rng([self.seed, self.start, number]) for number in numbers]
        draws = _draw_batch(self.checkpoint, rngs, self.prior, self.options, known)
        for k, (number, one) in enumerate(zip(numbers, draws, strict=True)):
            if not one.refused and (one.bonded or not self.options.guidance):
                draws[k] = replace(one, record=self.record(one, number))
        return draws if self.options.accept is None else self._accepted(draws, self.options.accept)

    @staticmethod
    def _accepted(draws: list[_Draw], accept: Callable[[Sequence[Structure]], list[bool]]) -> list[_Draw]:
        made = {k: one.record.structure for k, one in enumerate(draws) if one.record is not None}
        refused = {k for k, good in zip(made, accept(list(made.values())), strict=True) if not good}
        return [replace(one, record=None, refused=True) if k in refused else one for k, one in enumerate(draws)]

    def record(self, one: _Draw, number: int, mended: bool = False) -> GeneratedRecord:
        """The record of one draw, its index still the draw's number."""
        crystal = one.crystal
        if self.options.paper:
            crystal = paper_decoding(crystal)
        structure = decode(crystal)
        group, space_group = (_detected(structure, find) for find in (detect_layer_group, detect_space_group))
        model_id = self.checkpoint.model_id + ("-paper" if self.options.paper else "")
        requested = crystal.layer_group
        return GeneratedRecord(
            structure,
            requested,
            group,
            space_group,
            self.seed,
            number,
            model_id,
            crystal,
            number,
            mended,
            self.options.steps,
            one.from_prototype,
            self.options.asked,
        )

    def mended(self, one: _Draw, number: int) -> GeneratedRecord:
        """The record of a crystal that is no bonded layer, after guidance."""
        (settled,) = from_batch(settle(to_batch([one.crystal])))
        return self.record(replace(one, crystal=settled), number, mended=True)


_JOB: _Job | None = None  # of a worker process


def _begin(job: _Job) -> None:
    global _JOB
    torch.set_num_threads(1)
    _JOB = job


def _work(numbers: range) -> list[_Draw]:
    assert _JOB is not None
    return _JOB.drawn(numbers)


class _Stream:
    """The samples of a call, from its draws in their order."""

    def __init__(self, job: _Job, n: int, position: Position) -> None:
        self.job, self.n, self.at = job, n, position
        self.known = set(position.skeletons)

    def run(
        self, batches: Iterator[range], processes: int, progress: Callable[[int], None] | None
    ) -> Iterator[GeneratedRecord]:
        finished = self._here(batches) if processes == 1 else self._side_by_side(batches, processes)
        with closing(finished):
            for drawn in finished:
                for one in drawn:
                    record = self._sample(one)
                    self.at.draws += 1
                    if record is None:
                        continue
                    self.known.add(one.name)
                    self.at.skeletons.append(one.name)
                    yield replace(record, index=self.job.start + self.at.done - 1)
                    if self.at.done == self.n:
                        break
                if progress is not None:
                    progress(self.at.done)
                if self.at.done == self.n:
                    return
                if self.job.options.choosy and self.at.draws > MOST_DRAWS * (self.at.done + 1):
                    raise GenerationError(
                        f"{self.at.draws:,} draws gave {self.at.done} samples that may be kept; ask for less: a wider "
                        "gap, a higher predicted energy, known formulas too, other elements"
                    )

    def _here(self, batches: Iterator[range]) -> Generator[list[_Draw], None, None]:
        """The batches one after the other."""
        for batch in batches:
            with one_torch_thread():
                drawn = self.job.drawn(batch, self.left_out())
            yield drawn

    def left_out(self) -> frozenset[int]:
        """Skeletons that get no geometry: those of the samples, while ``ROOM`` more repetitions may be passed over."""
        room = REPETITIONS * self.at.done - self.at.repeated
        return frozenset(self.known) if self.job.options.guidance and room > ROOM else frozenset()

    def _sample(self, one: _Draw) -> GeneratedRecord | None:
        """The record of a draw; None where it is passed over."""
        if one.refused:
            return None
        if not self.job.options.guidance:
            return one.record
        if one.name in self.known and self.at.repeated <= REPETITIONS * self.at.done:
            self.at.repeated += 1
            return None
        if one.bonded is None:  # left out too early
            (one,) = self.job.drawn(range(self.at.draws, self.at.draws + 1))
            if one.refused:
                return None
        record = one.record
        if record is None and not self.job.options.choosy and self.at.draws + 1 >= PATIENCE * (self.at.done + 8):
            record = self.job.mended(one, self.at.draws)
        return record

    def _side_by_side(self, batches: Iterator[range], processes: int) -> Generator[list[_Draw], None, None]:
        """The batches in their order; at most two for each process are under way, so that memory is bounded.

        Workers are not told the known skeletons: messages that grow with the call could fill the pipe to them, and a
        call that is interrupted then would wait for it.
        """
        with pool(processes, _begin, self.job) as workers:
            waiting: deque[Future[list[_Draw]]] = deque()
            for batch in batches:
                waiting.append(workers.submit(_work, batch))
                if len(waiting) >= 2 * processes:
                    yield waiting.popleft().result()
