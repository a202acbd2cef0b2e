"""What a campaign asks of a generator. Knows no particular one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Generator(Protocol):
    """Makes records ``{"index", "structure" (pymatgen's dict, or None with "error"), ...}``."""

    def count(self, config: Any) -> int:
        """How many records there will be."""

    def generate(
        self, config: Any, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> list[dict[str, Any]]:
        """Records ``start`` to ``stop - 1``; the same for the same configuration, however it is sharded.

        progress: called with how many records are made.
        """
