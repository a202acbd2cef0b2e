"""SevenNet's packaged checkpoints.

Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190. Graphs go through the network in
batches, by the package's own loader of data. ``sevenn`` is imported when one is asked for.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.engines.forcefield.potentials.base import Answer, Array, Batched, Seen
from scdm_models.training.forcefield.network import without_denormals

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

# name -> checkpoint, fidelity that is asked for where it was trained on several, and edges in a batch: as many as fit
# the cache, measured on one core with layers of 8 atoms
CHECKPOINTS = {
    "SevenNet-0": ("7net-0", None, 1800),
    "SevenNet-l3i5": ("7net-l3i5", None, 640),
    "SevenNet-MF-0": ("7net-mf-0", "PBE", 1800),
}
LAST = "reduce_input_to_hidden"  # what goes into this module are the atoms' last features, scalars all of them
TENSOR = np.array([[0, 3, 5], [3, 1, 4], [5, 4, 2]])  # where (3, 3) lies in the network's xx, yy, zz, xy, yz, zx


class SevenNetForceField(Batched):
    """One of ``CHECKPOINTS``. An atom without neighbours in reach fails, as its energy would mean nothing."""

    program = "sevenn.calculator.SevenNetCalculator"

    def __init__(self, name: str, scheme: str) -> None:
        import sevenn._keys as keys
        from sevenn.util import load_checkpoint
        from torch_geometric.loader.dataloader import Collater

        self.name, self.scheme, self.keys = name, scheme, keys
        checkpoint, self.fidelity, self.limit = CHECKPOINTS[name]
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            self.checkpoint = load_checkpoint(checkpoint)
        self.cutoff = float(self.checkpoint.config[keys.CUTOFF])
        self.elements = frozenset(self.checkpoint.config[keys.TYPE_MAP])
        self.collate = Collater([], follow_batch=None, exclude_keys=None)

    def graph(self, structure: Structure) -> Any:
        """An ``AtomGraphData``."""
        from pymatgen.io.ase import AseAtomsAdaptor
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph

        unknown = sorted({site.specie.symbol for site in structure if site.specie.Z not in self.elements})
        if unknown:
            raise ValueError(f"{self.name} does not know {', '.join(unknown)}")
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        data = unlabeled_atoms_to_graph(atoms, self.cutoff, with_shift=False)
        alone = np.flatnonzero(np.bincount(data[self.keys.EDGE_IDX][0], minlength=len(atoms)) == 0)
        if len(alone):
            raise ValueError(f"isolated atom {alone[0]}: no neighbour within {self.cutoff:g} angstrom")
        return AtomGraphData.from_numpy_dict(data)

    def size(self, graph: Any) -> int:
        """Edges."""
        return int(graph[self.keys.EDGE_IDX].shape[1])

    def predict(self, graphs: Sequence[Any]) -> list[Answer]:
        """Energy, forces and stress."""
        keys = self.keys
        batch = self._batch(graphs)
        with without_denormals():
            told = self._with_forces(batch)
        energies = told[keys.PRED_TOTAL_ENERGY].detach().double().flatten().tolist()
        stresses = -told[keys.PRED_STRESS].detach().double().numpy().reshape(len(graphs), 6)  # theirs has LAMMPS's sign
        forces = self._split(told[keys.PRED_FORCE], graphs)
        return [(e, f, s[TENSOR]) for e, f, s in zip(energies, forces, stresses, strict=True)]

    def see(self, graphs: Sequence[Any]) -> list[Seen]:
        """Mean over the atoms of what goes into the last two layers, (128,)."""
        import torch

        keys = self.keys
        features: list[Any] = []
        model = self._without_forces
        hook = getattr(model, LAST).register_forward_pre_hook(
            lambda _, inputs: features.append(inputs[0][keys.NODE_FEATURE])
        )
        try:
            with torch.no_grad(), without_denormals():
                told = model(self._batch(graphs))
        finally:
            hook.remove()
        energies = told[keys.PRED_TOTAL_ENERGY].double().flatten().tolist()
        atoms = self._split(features[0], graphs)
        return [(e / len(f), f.mean(axis=0)) for e, f in zip(energies, atoms, strict=True)]

    @cached_property
    def _with_forces(self) -> Any:
        """The network as it was trained; it takes seconds to build, and who asks for features alone does without."""
        return _network(self.checkpoint)

    @cached_property
    def _without_forces(self) -> Any:
        """The same network, which keeps nothing for a backward pass."""
        model = _network(self.checkpoint)
        model.delete_module_by_key("force_output")
        model.key_grad = None
        return model

    def _batch(self, graphs: Sequence[Any]) -> Any:
        batch = self.collate([graph.clone() for graph in graphs])  # the network writes into what it is given
        if self.fidelity is not None:
            batch[self.keys.DATA_MODALITY] = [self.fidelity] * len(graphs)
        return batch

    def _split(self, atoms: Any, graphs: Sequence[Any]) -> list[Array]:
        """(n_atoms of all graphs, d) tensor -> one array for each graph."""
        sizes = [int(graph[self.keys.NUM_ATOMS]) for graph in graphs]
        return np.split(atoms.detach().double().numpy(), np.cumsum(sizes)[:-1])


def _network(checkpoint: Any) -> Any:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        model = checkpoint.build_model()
    model.eval()
    model.set_is_batch_data(True)
    model.requires_grad_(False)
    return model
