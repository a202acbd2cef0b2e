"""CHGNet's network in memory, as shipped or with our weights, and what it says of many structures at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.resources import as_file, files
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_models.errors import CheckpointError

Array = NDArray[np.float64]
WEIGHTS = {"CHGNet": None, "CHGNet-2D": "chgnet-2d.safetensors"}  # None: those that the package chgnet ships, 0.3.0
BATCH_ATOMS = 300  # atoms evaluated together: enough to hide the overhead of a call, little enough for the cache


def weights_problem(name: str) -> str | None:
    """Why the weights of a network are not here, with the remedy; None where they are. Reads none of them."""
    file = WEIGHTS[name]
    if file is None or files("scdm_models").joinpath("data", file).is_file():
        return None
    return (
        f"this installation has no weights of {name} (scdm_models/data/{file}); install scdm-flows again, or name "
        "another force field, such as CHGNet"
    )


@cache
def load(name: str) -> Any:
    """One network of a name in memory for each process: ``CHGNet`` (0.3.0 as shipped) or ``CHGNet-2D`` (our weights).

    Raises
    ------
    CheckpointError
        If there is no such network, or its weights are missing or damaged.
    """
    from chgnet.model.model import CHGNet

    if name not in WEIGHTS:
        raise CheckpointError(f"no network is called {name!r}; there are {' and '.join(WEIGHTS)}")
    with redirect_stdout(StringIO()):  # it announces itself, also with verbose=False
        model = CHGNet.load(use_device="cpu", verbose=False)
    if WEIGHTS[name] is not None:
        _take_weights(model, name)
    model.requires_grad_(False)  # nothing here trains it
    model.graph_converter.set_isolated_atom_response("error")
    return model


def _take_weights(model: Any, name: str) -> None:
    """Put the packaged weights of a name into CHGNet's network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    problem = weights_problem(name)
    if problem is not None:
        raise CheckpointError(problem)
    try:
        with as_file(files("scdm_models").joinpath("data", str(WEIGHTS[name]))) as path:
            model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: tensors of another network
        raise CheckpointError(
            f"the weights of {name} (scdm_models/data/{WEIGHTS[name]}) are damaged: {str(error).splitlines()[0]}; "
            "install scdm-flows again"
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
