"""Engines: what computes energies, forces and phonons. One file each; ``engine_of`` finds the one a config names.

To add one: a config class in the union of ``scdm_flows.config``, a file here, a line in ``engine_of``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from jobflow import Maker
    from pymatgen.core import Structure

    from scdm_flows.documents.stages import PhononDoc


class Engine(Protocol):
    """What a campaign asks of an engine."""

    scheme: str
    surrogate: bool

    def check(self) -> list[str]:
        """What is missing to run, in words with the remedy; empty when ready."""

    def relax_maker(self) -> Maker:
        """An atomate2 maker that relaxes atoms and the in-plane cell and keeps c."""

    def static_maker(self) -> Maker:
        """An atomate2 maker of a single-point energy."""

    def phonons(self, candidate_id: str, campaign: str, structure: Structure) -> PhononDoc:
        """Phonon bands of a relaxed layer on its in-plane path."""


def engine_of(config: Any) -> Engine:
    """The engine of an engine configuration."""
    from scdm_flows.engines.forcefield import ForceFieldEngine
    from scdm_flows.engines.vasp import VaspEngine

    engines: dict[str, type[Any]] = {"forcefield": ForceFieldEngine, "vasp": VaspEngine}
    engine: Engine = engines[config.kind](config)
    return engine
