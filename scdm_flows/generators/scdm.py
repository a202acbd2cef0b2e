"""Candidates from the symmetry-constrained diffusion model, or from its control without symmetry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scdm_flows.config import ScdmGeneratorConfig


class ScdmGenerator:
    """Samples of a packaged or a given checkpoint.

    Parameters
    ----------
    packaged
        Which packaged model where the configuration names no file: ``scdm`` or ``unscdm``.
    """

    def __init__(self, packaged: str) -> None:
        self.packaged = packaged

    def count(self, config: ScdmGeneratorConfig) -> int:
        """``config.n``."""
        return config.n

    def generate(
        self,
        config: ScdmGeneratorConfig,
        start: int,
        stop: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Samples ``start`` to ``stop - 1`` of the seed."""
        from scdm_models.checkpoint import load_checkpoint
        from scdm_models.sampler import generate

        samples = generate(
            stop - start,
            config.seed,
            checkpoint=load_checkpoint(config.checkpoint, packaged=self.packaged),
            layer_group=config.layer_group,
            steps=config.steps,
            start=start,
            progress=progress,
        )
        return [sample.to_dict() for sample in samples]
