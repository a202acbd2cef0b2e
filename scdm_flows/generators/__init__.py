"""Generators: where candidates come from. One file each; ``GENERATORS`` names them by the config's ``kind``.

To add one: a config class in the union of ``scdm_flows.config``, a file here, a line in ``GENERATORS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from scdm_flows.generators import files, scdm


class Generator(Protocol):
    """Makes records ``{"index", "structure" (pymatgen's dict or None with "error"), ...}``."""

    def count(self, config: Any) -> int:
        """How many records there will be."""

    def generate(
        self, config: Any, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> list[dict[str, Any]]:
        """Records ``start`` to ``stop - 1``; the same for the same configuration, whatever the shards."""


GENERATORS: dict[str, Generator] = {"scdm": scdm.ScdmGenerator(), "files": files.FilesGenerator()}
