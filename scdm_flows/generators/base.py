"""What a campaign asks of a generator. Knows no particular one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


class Generator(Protocol):
    """Makes records ``{"index", "structure" (pymatgen's, or None with "error"), ...}``."""

    def count(self, config: Any) -> int:
        """How many records there will be."""

    def check(self, config: Any) -> list[str]:
        """What keeps it from making its records, each in words with the remedy; empty when nothing does."""

    def given(self, config: Any) -> Iterator[tuple[str, Structure]]:
        """(name, structure) of what is known before anything runs; nothing where structures are made later."""

    def elements(self, config: Any) -> list[str]:
        """Elements that are known to be the only ones; empty where any may come."""

    def generate(
        self, config: Any, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> list[dict[str, Any]]:
        """Records ``start`` to ``stop - 1``; the same for the same configuration, ``start`` and ``stop``.

        What is drawn at random is an independent stream for each ``start``, and repetitions are passed over within a
        call only: with another shard size the records are others.

        progress: called with how many records are made.
        """
