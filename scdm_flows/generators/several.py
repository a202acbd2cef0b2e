"""Candidates from several generators in one campaign: each record says which of them made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from scdm_flows.config import SeveralGeneratorConfig
from scdm_flows.generators.base import Generator

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


class SeveralGenerator:
    """The generators of a configuration, one after the other.

    Parameters
    ----------
    known
        Kind -> generator.
    """

    def __init__(self, known: dict[str, Generator]) -> None:
        self.known = known

    def count(self, config: SeveralGeneratorConfig) -> int:
        """Records of all generators."""
        return sum(self.known[part.kind].count(part) for part in config.generators)

    def check(self, config: SeveralGeneratorConfig) -> list[str]:
        """What keeps any of them from it."""
        return [
            f"generators.{number}: {problem}"
            for number, part in enumerate(config.generators)
            for problem in self.known[part.kind].check(part)
        ]

    def given(self, config: SeveralGeneratorConfig) -> Iterator[tuple[str, Structure]]:
        """What each of them knows before anything runs."""
        return chain.from_iterable(self.known[part.kind].given(part) for part in config.generators)

    def elements(self, config: SeveralGeneratorConfig) -> list[str]:
        """Elements of all; empty where one of them may bring any."""
        found = [self.known[part.kind].elements(part) for part in config.generators]
        return sorted(set(chain.from_iterable(found))) if all(found) else []

    def generate(
        self,
        config: SeveralGeneratorConfig,
        start: int,
        stop: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Records ``start`` to ``stop - 1`` of the row of all; each names its generator."""
        records: list[dict[str, Any]] = []
        before = 0  # records of earlier generators
        for part in config.generators:
            generator = self.known[part.kind]
            n = generator.count(part)
            first, last = max(start - before, 0), min(stop - before, n)
            if first < last:
                made = len(records)
                report = None if progress is None else lambda done, made=made: progress(made + done)
                for record in generator.generate(part, first, last, report):
                    records.append({**record, "index": record["index"] + before, "generator": part.kind})
            before += n
        return records
