"""CHGNet in memory, once for each process, and what it says of many structures at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# strain components of the cell that may relax: xx, yy, xy; c keeps its length and direction exactly
IN_PLANE = [1, 1, 0, 0, 0, 1]
# an atom without neighbours in the model's cut-off has no defined energy: such a structure fails, with the reason
CALCULATOR = {"use_device": "cpu", "on_isolated_atoms": "error"}


@cache
def chgnet() -> Any:
    """One CHGNet in memory for each process."""
    from chgnet.model.model import CHGNet

    with redirect_stdout(StringIO()):  # it announces itself, also with verbose=False
        model = CHGNet.load(use_device="cpu", verbose=False)
    model.requires_grad_(False)  # nothing here trains it
    model.graph_converter.set_isolated_atom_response("error")
    return model


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as zero in here, for this thread.

    CHGNet's smooth cut-offs and gates make many of them, and a CPU takes a hundred times as long for each.
    """
    import torch

    changed = torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if changed:
            torch.set_flush_denormal(False)


def energies_forces_stresses(graphs: Sequence[Any]) -> list[tuple[float, Array, Array]]:
    """Energy (eV), forces ((n, 3), eV/angstrom) and stress ((3, 3), eV/angstrom^3) of each CHGNet graph.

    What ``CHGNet.predict_graph`` gives, for a fifth of its time: there forces and stresses are two backward passes that
    keep their own graph for training; here they are one that does not, and denormal numbers are zero.
    """
    import torch
    from chgnet.model.model import BatchedGraph

    model = chgnet()
    with warnings.catch_warnings():  # its volumes are made of tensors with a gradient, which nobody asks for
        warnings.simplefilter("ignore", UserWarning)
        batch = BatchedGraph.from_graphs(
            graphs,
            bond_basis_expansion=model.bond_basis_expansion,
            angle_basis_expansion=model.angle_basis_expansion,
            compute_stress=True,
        )
    sizes = torch.bincount(batch.atom_owners)
    with _without_denormals():
        energy = model._compute(batch)["e"] * (sizes if model.is_intensive else 1)
        gradients = torch.autograd.grad(energy.sum(), [*batch.atom_positions, *batch.strains])
    per_atom = model.composition_model(graphs).detach() if model.composition_model is not None else 0 * sizes
    total = (energy.detach() + per_atom * sizes).double().numpy()
    volumes = torch.stack(list(batch.volumes)).detach().double().numpy()
    n = len(graphs)
    return [
        (float(total[i]), -gradients[i].double().numpy(), gradients[n + i].double().numpy() / volumes[i])
        for i in range(n)
    ]
