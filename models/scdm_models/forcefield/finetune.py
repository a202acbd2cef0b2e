"""Trains the layer force field from CHGNet on the labels of ``labels``, with bulk phases replayed.

Every step's batch comes from (seed, step, process) alone and the state is written as it goes, so a killed training goes
on by the same call. Several processes share a batch: each takes its part of the data, gradients are averaged.

The loss of a structure, with N atoms: a Huber loss of the energy per atom, the mean absolute error of the forces over
``FORCE_FLOOR + rms force``, which makes small forces near minima count as much as large ones far away, and that of the
in-plane virial per atom. Teacher energies are brought to the scale of the starting network by a ridge regression on
element fractions, and on those of the metals that the Materials Project treats with +U where oxygen or fluorine is.
"""

from __future__ import annotations

import copy
import gzip
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_models.errors import DatasetError
from scdm_models.forcefield.labels import held_out, system_of

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]
FORCE_FLOOR = 0.3  # eV/angstrom
HUBER_EV = 0.05
U_METALS = ("V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W")
LARGEST_BULK = 12  # atoms
BULK_RATTLE_ANGSTROM = 0.05
STATE_EVERY = 200  # steps


@dataclass(frozen=True)
class FineTune:
    """How to train.

    steps, batch: optimiser's steps, and structures in one of each process; learning_rate: of AdamW, after a linear
    warm-up it falls to 1 % along a cosine; energy, force, virial: weights of the loss; replay: share of a batch that
    are bulk phases; bulk: how many of them; ema: of the weights that are kept; seed.
    """

    steps: int = 5000
    batch: int = 16
    learning_rate: float = 8e-4
    weight_decay: float = 1e-4
    warmup: int = 100
    energy: float = 1.0
    force: float = 1.0
    virial: float = 1.0
    replay: float = 0.15
    bulk: int = 2500
    ema: float = 0.998
    seed: int = 0


@dataclass
class Example:
    """A graph and what is wanted of it: energy (eV/atom, without the elements' part; NaN: not asked), forces (n, 3) in
    eV/angstrom, virial ((3, 3), stress times volume over atoms, eV), which of its components count."""

    graph: Any
    energy: float
    forces: Array
    virial: Array
    mask: Array


PLANE = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])


def read_labels(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Labelled structures; those that the teacher could not label are left out."""
    rows = []
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"{path} does not exist; make labels first")
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
            for line in handle:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if "error" not in row and not held_out(system_of(row["species"])):
                    rows.append(row)
    return rows


def composition_terms(species: Sequence[Sequence[str]]) -> tuple[Array, list[str]]:
    """(n, m) element fractions, and those of +U metals in oxides and fluorides; the elements' names."""
    names = sorted({e for s in species for e in s})
    place = {e: k for k, e in enumerate(names)}
    terms = np.zeros((len(species), len(names) + 2 * len(U_METALS)))
    for row, own in zip(terms, species, strict=True):
        for e in own:
            row[place[e]] += 1 / len(own)
        for k, anion in enumerate(("O", "F")):
            if anion in own and not (anion == "F" and "O" in own):
                for j, metal in enumerate(U_METALS):
                    row[len(names) + k * len(U_METALS) + j] = own.count(metal) / len(own) if metal in own else 0.0
    return terms, names


def examples(rows: Sequence[dict[str, Any]], model: Any, rank: int, world: int, seed: int) -> list[Example]:
    """The examples of one process of ``world``: every world-th row."""
    from pymatgen.core import Lattice, Structure

    scale, names = _energy_scale(rows, model)
    minima = {r["name"]: r for r in rows if r["kind"] == "minimum"}
    found = []
    order = np.random.default_rng(seed).permutation(len(rows))[rank::world]
    for index in order:
        row = rows[index]
        structure = Structure(Lattice(row["lattice"]), row["species"], row["frac_coords"])
        forces, stress, energy = np.array(row["forces"]), np.array(row["stress"]), float("nan")
        n = len(structure)
        if row["kind"] == "minimum":
            forces, stress = 0 * forces, 0 * stress
        elif row["kind"] == "displaced":
            base = minima.get(row["base"])
            if base is None:
                continue
            forces = forces - np.repeat(np.array(base["forces"]), n // len(base["species"]), axis=0)
            stress = stress - np.array(base["stress"])
        if np.abs(forces).max() > 30 or set(row["species"]) - set(names):
            continue
        try:
            graph = model.graph_converter(structure)
        except Exception as error:
            logger.debug("%s: %s", row["name"], error)
            continue
        if row["kind"] != "displaced":
            own = float(model.composition_model([graph])[0])
            terms, _ = composition_terms([row["species"], *([e] for e in names)])
            energy = row["energy_per_atom"] + float(terms[0] @ scale) - own
        found.append(Example(graph, energy, forces, stress * structure.volume / n, PLANE))
    return found


def _energy_scale(rows: Sequence[dict[str, Any]], model: Any) -> tuple[Array, list[str]]:
    """What composition adds to a teacher's energy per atom, eV, so that the starting network agrees in the mean."""
    from pymatgen.core import Lattice, Structure

    from scdm_models.forcefield.network import predict

    chosen = [r for r in rows if r["kind"] in ("minimum", "free")]
    terms, names = composition_terms([r["species"] for r in chosen])
    some = np.random.default_rng(0).permutation(len(chosen))[:3000]
    values, kept = [], []
    for part in np.array_split(some, max(1, len(some) // 16)):
        graphs, rows_ = [], []
        for k in part:
            r = chosen[k]
            try:
                graphs.append(model.graph_converter(Structure(Lattice(r["lattice"]), r["species"], r["frac_coords"])))
                rows_.append(k)
            except Exception as error:  # no neighbours
                logger.debug("%s: %s", r["name"], error)
        for k, (energy, _, _) in zip(rows_, predict(model, graphs), strict=True):
            values.append(energy / len(chosen[k]["species"]) - chosen[k]["energy_per_atom"])
            kept.append(k)
    a, b = terms[kept], np.array(values)
    inside = np.ones(len(b), dtype=bool)
    beta = np.zeros(a.shape[1])
    for _ in range(3):  # without what lies far off
        beta = np.linalg.solve(a[inside].T @ a[inside] + 0.02 * np.eye(a.shape[1]), a[inside].T @ b[inside])
        inside = np.abs(b - a @ beta) < 0.3
    logger.info("teacher to network: mean |rest| %.4f eV/atom of %d", np.abs(b - a @ beta)[inside].mean(), inside.sum())
    return beta, names


def bulk_examples(folder: Path, model: Any, n: int, rank: int, world: int, seed: int) -> list[Example]:
    """Bulk phases: at rest with the Materials Project's energy, and rattled as the starting network sees them."""
    from pymatgen.core import Lattice, Structure

    from scdm_models.forcefield.network import predict

    with gzip.open(folder / "mp_elemental_refs.json.gz", "rt") as handle:
        refs = {k: v["energy_per_atom"] for k, v in json.load(handle).items()}
    with gzip.open(folder / "mp_bulk_subset.jsonl.gz", "rt") as handle:
        rows = [r for r in map(json.loads, handle) if len(r["species"]) <= LARGEST_BULK and r["e_above_hull"] < 0.1]
    rows = [r for r in rows if not held_out(system_of(r["species"])) and set(r["species"]) <= set(refs)]
    rng = np.random.default_rng([seed, 7])
    found = []
    for index in rng.permutation(len(rows))[:n][rank::world]:
        row = rows[index]
        structure = Structure(Lattice(row["lattice"]), row["species"], row["frac_coords"])
        rattled = index % 2 == 1
        if rattled:
            structure = Structure(
                structure.lattice,
                structure.species,
                structure.cart_coords
                + np.random.default_rng([seed, int(index)]).normal(0, BULK_RATTLE_ANGSTROM, (len(structure), 3)),
                coords_are_cartesian=True,
            )
        try:
            graph = model.graph_converter(structure)
            energy, forces, stress = predict(model, [graph])[0]
        except Exception as error:  # no neighbours
            logger.debug("%s: %s", row["id"], error)
            continue
        own, m = float(model.composition_model([graph])[0]), len(structure)
        energy /= m
        if not rattled:
            energy = row["formation_energy_per_atom"] + sum(refs[e] for e in row["species"]) / m
        found.append(Example(graph, energy - own, forces, stress * structure.volume / m, np.ones((3, 3))))
    return found


def loss_of(model: Any, batch: Sequence[Example], how: FineTune) -> tuple[Any, dict[str, float]]:
    """The batch's loss, and mean absolute errors: energy (eV/atom), forces (eV/angstrom), virial (eV/atom)."""
    import torch
    from chgnet.model.model import BatchedGraph

    graphs = BatchedGraph.from_graphs(
        [x.graph for x in batch],
        bond_basis_expansion=model.bond_basis_expansion,
        angle_basis_expansion=model.angle_basis_expansion,
        compute_stress=True,
    )
    sizes = torch.bincount(graphs.atom_owners)
    energy = model._compute(graphs)["e"]
    gradients = torch.autograd.grad(
        (energy * sizes).sum(), [*graphs.atom_positions, *graphs.strains], create_graph=True
    )
    k = len(batch)
    forces, virial = -torch.cat(gradients[:k]), torch.stack(gradients[k:]) / sizes.view(-1, 1, 1)
    wanted_f = torch.tensor(np.concatenate([x.forces for x in batch]), dtype=torch.float32)
    wanted_v = torch.tensor(np.array([x.virial for x in batch]), dtype=torch.float32)
    mask = torch.tensor(np.array([x.mask for x in batch]), dtype=torch.float32)
    wanted_e = torch.tensor([x.energy for x in batch], dtype=torch.float32)
    asked = torch.isfinite(wanted_e)
    off_e = torch.where(asked, energy - torch.nan_to_num(wanted_e), torch.zeros_like(energy))
    loss_e = torch.nn.functional.huber_loss(off_e, torch.zeros_like(off_e), delta=HUBER_EV, reduction="sum") / HUBER_EV
    loss_e = loss_e / max(1, int(asked.sum()))
    square = torch.zeros(k).index_add_(0, graphs.atom_owners, (wanted_f**2).mean(1)) / sizes
    weight = 1 / (FORCE_FLOOR + square.sqrt())
    off_f = torch.zeros(k).index_add_(0, graphs.atom_owners, (forces - wanted_f).abs().mean(1)) / sizes
    off_v = ((virial - wanted_v).abs() * mask).sum((1, 2)) / mask.sum((1, 2))
    size_v = ((wanted_v.abs() * mask).sum((1, 2)) / mask.sum((1, 2))) + 0.3
    loss = how.energy * loss_e + how.force * (off_f * weight).mean() + how.virial * (off_v / size_v).mean()
    told = {
        "e": float(off_e.detach().abs().sum()) / max(1, int(asked.sum())),
        "f": float(off_f.detach().mean()),
        "v": float(off_v.detach().mean()),
    }
    return loss, told


def train(folder: Path, labels: Sequence[Path], state: Path, how: FineTune, rank: int = 0, world: int = 1) -> None:
    """Train, or go on; ``state`` holds weights, averaged weights and the optimiser's state.

    folder: of the bulk phases; labels: of ``labels.label``; rank, world: this process among those started together,
    which find each other by ``MASTER_ADDR`` and ``MASTER_PORT``.
    """
    import torch
    import torch.distributed as dist

    from scdm_models.forcefield.network import load

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if world > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world)
    model = copy.deepcopy(load())  # the one in memory stays as it was shipped
    layers = examples(read_labels(labels), model, rank, world, how.seed)
    bulk = bulk_examples(folder, model, how.bulk, rank, world, how.seed)
    if rank == 0:
        logger.info("%d layers, %d bulk phases in each of %d processes", len(layers), len(bulk), world)
    model.requires_grad_(True)
    model.composition_model.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)
    averaged = [p.detach().clone() for p in parameters]
    step = 0
    if state.exists():
        saved = torch.load(state, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        averaged, step = saved["averaged"], saved["step"]
    n_bulk = max(1, round(how.replay * how.batch)) if bulk else 0
    per_epoch = max(1, len(layers) // (how.batch - n_bulk))
    began, told = time.perf_counter(), []
    while step < how.steps:
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([how.seed, rank, epoch]).permutation(len(layers))
        own = order[place * (how.batch - n_bulk) : (place + 1) * (how.batch - n_bulk)]
        rng = np.random.default_rng([how.seed, rank, step, 1])
        batch = [layers[i] for i in own] + [bulk[i] for i in rng.choice(len(bulk), n_bulk, replace=False)]
        rate = how.learning_rate * min(1, (step + 1) / how.warmup)
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / how.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, errors = loss_of(model, batch, how)
        optimizer.zero_grad()
        loss.backward()
        if world > 1:
            flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).ravel() for p in parameters])
            dist.all_reduce(flat)
            flat /= world
            start = 0
            for p in parameters:
                p.grad = flat[start : start + p.numel()].view_as(p).clone()
                start += p.numel()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(how.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, p in zip(averaged, parameters, strict=True):
                a.mul_(decay).add_(p.detach(), alpha=1 - decay)
        told.append([float(loss.detach()), *errors.values()])
        if rank == 0 and (step % STATE_EVERY == 0 or step == how.steps):
            mean = np.mean(told[-STATE_EVERY:], axis=0)
            logger.info(
                "step %d epoch %.2f loss %.4f e %.4f f %.4f v %.4f rate %.1e, %.2f s a step",
                step,
                step / per_epoch,
                *mean,
                rate,
                (time.perf_counter() - began) / len(told),
            )
            temporary = state.with_name(state.name + ".tmp")
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "averaged": averaged,
                    "step": step,
                    "how": asdict(how),
                    "names": [k for k, p in model.named_parameters() if p.requires_grad],
                },
                temporary,
            )
            temporary.replace(state)
    if world > 1:
        dist.destroy_process_group()


def export(state: Path, out: Path, card: dict[str, Any]) -> None:
    """Write the averaged weights of a training as safetensors; ``card`` goes into the metadata."""
    import torch
    from safetensors.torch import save_file

    saved = torch.load(state, weights_only=False)
    tensors = dict(saved["model"])
    for name, value in zip(saved["names"], saved["averaged"], strict=True):
        tensors[name] = value
    told = {"card": json.dumps(card | {"steps": saved["step"], "how": saved["how"]})}
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(out), metadata=told)
