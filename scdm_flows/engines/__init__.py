"""Engines: what computes energies, forces and phonons. One file each; ``engine_of`` finds a config's.

To add one: a config class in the union of ``scdm_flows.config``, a file here, a line in ``ENGINES``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from scdm_flows.engines.base import Engine

__all__ = ["ENGINES", "Engine", "engine_of"]

# kind in the config -> where the class is; imported when it is asked for, as engines load much
ENGINES = {
    "forcefield": "scdm_flows.engines.forcefield.engine.ForceFieldEngine",
    "gpaw": "scdm_flows.engines.gpaw.engine.GpawEngine",
    "vasp": "scdm_flows.engines.vasp.engine.VaspEngine",
}


def engine_of(config: Any) -> Engine:
    """The engine of an engine configuration."""
    module, _, name = ENGINES[config.kind].rpartition(".")
    engine: Engine = getattr(import_module(module), name)(config)
    return engine
