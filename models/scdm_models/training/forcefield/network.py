"""CHGNet's network in memory, as shipped or with weights of a file, and what it says of many structures at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_models.errors import CheckpointError

Array = NDArray[np.float64]
BATCH_ATOMS = 300  # atoms evaluated together: enough to hide the overhead of a call, little enough for the cache


def weights_problem(weights: str) -> str | None:
    """Why a file of weights cannot be used, with the remedy; None where it is there. Reads nothing of it."""
    if Path(weights).is_file():
        return None
    return (
        f"the weights {weights} do not exist; give the path of a file that "
        "`python -m scdm_models.training.forcefield export` wrote, on a file system that workers see too"
    )


@cache
def load(weights: str | None = None) -> Any:
    """One network in memory for each process: CHGNet 0.3.0 as shipped, or with the weights of a file.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another network.
    """
    from chgnet.model.model import CHGNet

    with redirect_stdout(StringIO()):  # it announces itself, also with verbose=False
        model = CHGNet.load(use_device="cpu", verbose=False)
    if weights is not None:
        _take_weights(model, weights)
    model.requires_grad_(False)  # nothing here trains it
    model.graph_converter.set_isolated_atom_response("error")
    return model


def _take_weights(model: Any, weights: str) -> None:
    """Put the weights of a file into CHGNet's network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    problem = weights_problem(weights)
    if problem is not None:
        raise CheckpointError(problem)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: tensors of another network
        raise CheckpointError(
            f"the weights {weights} are damaged or another network's: {str(error).splitlines()[0]}; export them again"
        ) from error


@contextmanager
def without_denormals() -> Iterator[None]:
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


def predict(model: Any, graphs: Sequence[Any]) -> list[tuple[float, Array, Array]]:
    """Energy (eV), forces ((n, 3), eV/angstrom) and stress ((3, 3), eV/angstrom^3) of each CHGNet graph.

    What ``CHGNet.predict_graph`` gives, for a fifth of its time: there forces and stresses are two backward passes that
    keep their own graph for training; here they are one that does not, and denormal numbers are zero.
    """
    import torch
    from chgnet.model.model import BatchedGraph

    with warnings.catch_warnings():  # its volumes are made of tensors with a gradient, which nobody asks for
        warnings.simplefilter("ignore", UserWarning)
        batch = BatchedGraph.from_graphs(
            graphs,
            bond_basis_expansion=model.bond_basis_expansion,
            angle_basis_expansion=model.angle_basis_expansion,
            compute_stress=True,
        )
    sizes = torch.bincount(batch.atom_owners)
    with without_denormals():
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


def site_features(model: Any, graphs: Sequence[Any]) -> list[tuple[float, Array]]:
    """Energy (eV/atom) and features of the atoms ((n_atoms, 64), before the last convolution) of each CHGNet graph.

    Half of the work of ``predict``: nothing is differentiated.
    """
    import torch

    found: list[tuple[float, Array]] = []
    start = 0
    while start < len(graphs):
        stop, atoms = start, 0
        while stop < len(graphs) and atoms < BATCH_ATOMS:
            atoms += graphs[stop].atomic_number.shape[0]
            stop += 1
        with torch.no_grad(), without_denormals():
            told = model.forward(graphs[start:stop], task="e", return_atom_feas=True)
        energies = told["e"].double().reshape(-1).tolist()
        found += [(e, f.double().numpy()) for e, f in zip(energies, told["atom_fea"], strict=True)]
        start = stop
    return found
