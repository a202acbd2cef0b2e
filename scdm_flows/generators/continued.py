"""The sampler's stream of samples, from where an earlier call was interrupted: the samples are those of one call.

Up to rounding, as a batch of draws may begin elsewhere than it would have.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, count

from scdm_models.model.checkpoint import Checkpoint
from scdm_models.processes import pool
from scdm_models.sampling import sampler
from scdm_models.sampling.sampler import GeneratedRecord, SamplerOptions
from scdm_models.sampling.skeletons import skeleton_prior

BATCH = 256


@dataclass
class Position:
    """Where a stream is.

    done: samples; draws: that were looked at; repeated: of these passed over as repetitions; skeletons: names of the
    samples' skeletons.
    """

    done: int = 0
    draws: int = 0
    repeated: int = 0
    skeletons: set[int] = field(default_factory=set)


def go_on(
    n: int,
    seed: int,
    position: Position,
    *,
    checkpoint: Checkpoint,
    layer_group: int | None,
    options: SamplerOptions,
    processes: int,
    progress: Callable[[int], None],
) -> Iterator[tuple[GeneratedRecord, int, int]]:
    """Each sample from ``position`` to the ``n``-th, with the repetitions so far and the name of its skeleton.

    Arguments and errors are those of ``sampler.generate``.
    """
    sampler.generate(n, seed, checkpoint=checkpoint, layer_group=layer_group, options=options, processes=processes)
    if position.done >= n:
        return iter(())
    prior = skeleton_prior(checkpoint, layer_group, options.skeletons.composition)
    stream = _Stream(sampler._Job(checkpoint, seed, 0, prior, options), n, position)
    size = min(BATCH, max(16, n))
    following = -(-(position.draws + 1) // size) * size
    batches = chain(
        [range(position.draws, following)], (range(first, first + size) for first in count(following, size))
    )
    return ((record, stream.repeated, stream.name) for record in stream.run(batches, processes, progress))


class _Stream(sampler._Stream):
    """A stream that begins at a position."""

    def __init__(self, job: sampler._Job, n: int, position: Position) -> None:
        super().__init__(job, n)
        self.done, self.number, self.repeated = position.done, position.draws, position.repeated
        self.known = set(position.skeletons)
        self.name = 0  # of the last sample's skeleton

    def _sample(self, one: sampler._Draw) -> GeneratedRecord | None:
        record = super()._sample(one)
        if record is not None:
            self.name = one.name
        return record

    def _side_by_side(self, batches: Iterator[range], processes: int) -> Generator[list[sampler._Draw], None, None]:
        """As in the sampler, by workers that end with this process, however it ends."""
        with pool(processes, _begin, self.job) as workers:
            waiting: deque[Future[list[sampler._Draw]]] = deque()
            for batch in batches:
                waiting.append(workers.submit(sampler._work, batch))
                if len(waiting) >= 2 * processes:
                    yield waiting.popleft().result()


def _begin(job: sampler._Job) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sampler._begin(job)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
