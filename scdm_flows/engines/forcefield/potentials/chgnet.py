"""CHGNet: graphs in batches through ``scdm_models.training.forcefield.network``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scdm_flows.engines.forcefield.potentials.base import Answer, Batched, Seen
from scdm_models.training.forcefield.network import BATCH_ATOMS, load, predict, site_features

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


class ChgnetForceField(Batched):
    """CHGNet with its own weights or those of a file.

    An atom without neighbours within 6 angstrom has no defined energy and fails.
    """

    program = "chgnet.model.dynamics.CHGNetCalculator"
    limit = BATCH_ATOMS

    def __init__(self, name: str, scheme: str, weights: str | None = None) -> None:
        self.name, self.scheme = name, scheme
        self.model = load(weights)

    def graph(self, structure: Structure) -> Any:
        """A ``CrystalGraph``."""
        return self.model.graph_converter(structure)

    def size(self, graph: Any) -> int:
        """Atoms."""
        return len(graph.atomic_number)

    def predict(self, graphs: Sequence[Any]) -> list[Answer]:
        """See ``network.predict``."""
        return predict(self.model, graphs)

    def see(self, graphs: Sequence[Any]) -> list[Seen]:
        """Mean of ``network.site_features``, (64,)."""
        return [(energy, atoms.mean(axis=0)) for energy, atoms in site_features(self.model, graphs)]
