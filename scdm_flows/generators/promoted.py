"""Candidates promoted from another campaign: ``scdm campaign promote`` stores their records when it chooses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from scdm_flows.config import PromotedGeneratorConfig
from scdm_flows.errors import GenerationError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


class PromotedGenerator:
    """Relaxed structures of another campaign's best, stored as the output of the generation jobs, which never run.

    So every machine that reaches the database has them, whatever becomes of the other campaign.
    """

    def count(self, config: PromotedGeneratorConfig) -> int:
        """Candidates that were promoted."""
        return config.n

    def check(self, config: PromotedGeneratorConfig) -> list[str]:
        """Nothing: what keeps candidates from being promoted is said when they are."""
        return []

    def given(self, config: PromotedGeneratorConfig) -> Iterator[tuple[str, Structure]]:
        """Nothing: the structures are in the database alone; the engine was asked about them when they were chosen."""
        return iter(())

    def elements(self, config: PromotedGeneratorConfig) -> list[str]:
        """Nothing, for the same reason."""
        return []

    def generate(
        self,
        config: PromotedGeneratorConfig,
        start: int,
        stop: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Never returns: whoever comes here has a campaign without its stored records.

        Raises
        ------
        GenerationError
            With the remedy.
        """
        raise GenerationError(
            f"the structures promoted from campaign {config.parent!r} are not stored in this database; run "
            f"`scdm campaign promote {config.parent} --top {config.top} ...` as before, which completes them"
        )
