"""Trains the layer force field from CHGNet on the labels of ``labels``, together with bulk phases (rehearsal).

Every step's batch comes from (seed, step, process) alone and the state is written as it goes, so a killed training goes
on by the same call. Several processes share a batch: each takes its part of the data, gradients are averaged.

Half of a batch are minima: C2DB's geometries, where forces and in-plane stress vanish, with C2DB's formation energies.
The others are structures near a minimum with the teacher's forces, and bulk phases, so that nothing is forgotten. The
loss: a Huber loss of the energy per atom, mean absolute errors of forces and of the in-plane virial per atom. C2DB's
energies are brought to the scale of the starting network by a ridge regression on element fractions, and on those of
the metals that the Materials Project treats with +U where oxygen or fluorine is.
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
from scdm_models.training.forcefield.labels import held_out, system_of
from scdm_models.training.train_config import SHARE, Rule, checked, mapping_of, real, whole

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]
HUBER_EV = 0.05
U_METALS = ("V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W")
LARGEST_BULK = 12  # atoms
BULK_RATTLE_ANGSTROM = 0.05
STATE_EVERY = 200  # steps


@dataclass(frozen=True)
class FineTune:
    """How to train.

    steps, batch: optimiser's steps, and structures in one of each process; learning_rate: of AdamW, after a linear
    warm-up it falls to 1 % along a cosine; energy, rest, force, virial: weights of the loss, of energies, of forces at
    minima, of other forces and of virials; minima, replay: shares of a batch that are minima and bulk phases; bulk: how
    many of these there are; largest_force: root mean square in eV/angstrom, what is farther from a minimum is left out;
    ema: of the weights that are kept; seed.
    """

    steps: int = 3000
    batch: int = 20
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    warmup: int = 100
    energy: float = 1.0
    rest: float = 0.3
    force: float = 0.5
    virial: float = 0.3
    minima: float = 0.5
    replay: float = 0.15
    bulk: int = 2500
    largest_force: float = 0.6
    ema: float = 0.995
    seed: int = 0


POSITIVE = real("a number > 0", lambda x: x > 0)
WEIGHT = real("a number >= 0", lambda x: x >= 0)
RULES: dict[str, Rule] = {
    "batch": whole(3),  # one of each kind
    **dict.fromkeys(("steps", "warmup"), whole(1)),
    **dict.fromkeys(("bulk", "seed"), whole(0)),
    **dict.fromkeys(("learning_rate", "largest_force"), POSITIVE),
    **dict.fromkeys(("weight_decay", "energy", "rest", "force", "virial"), WEIGHT),
    **dict.fromkeys(("minima", "replay", "ema"), SHARE),
}


def load_fine_tune(path: Path) -> FineTune:
    """The settings of a YAML file; what it does not name has its default.

    Raises
    ------
    DatasetError
        If the file cannot be read, or for all unknown keys and wrong values, with the rule.
    """
    values, faults = checked(mapping_of(path), RULES, "", list(RULES))
    if not faults and (how := FineTune(**values)).minima + how.replay < 1:
        return how
    said = faults or ["minima and replay are shares of one batch, their sum must be below 1"]
    raise DatasetError(f"training configuration {path}: {'; '.join(said)}")


@dataclass
class Example:
    """A graph and its targets: energy (eV/atom, without the elements' part; NaN: not asked), forces (n, 3) in
    eV/angstrom, virial ((3, 3), stress times volume over atoms, eV), its components that count, whether a minimum."""

    graph: Any
    energy: float
    forces: Array
    virial: Array
    mask: Array
    minimum: bool = False


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


def examples(folder: Path, rows: Sequence[dict[str, Any]], model: Any, how: FineTune) -> list[Example]:
    """Minima and structures near them.

    Parameters
    ----------
    folder
        Holds ``c2db.jsonl.gz``, for the minima's energies.
    rows
        Of ``read_labels``.
    model
        The starting network.
    """
    from pymatgen.core import Lattice, Structure

    with gzip.open(folder / "c2db.jsonl.gz", "rt") as handle:
        formation = {r["id"]: r.get("formation_energy_per_atom") for r in map(json.loads, handle)}
    minima = {r["name"]: r for r in rows if r["kind"] == "minimum"}
    scale, names = _energy_scale([r | {"formation": formation.get(n)} for n, r in minima.items()], model)
    found = []
    for row in rows:
        forces, stress, energy = np.array(row["forces"]), np.array(row["stress"]), float("nan")
        n, minimum = len(forces), row["kind"] == "minimum"
        if minimum:
            forces, stress = 0 * forces, 0 * stress
        elif row["kind"] == "displaced":
            base = minima.get(row["base"])
            if base is None:
                continue
            forces = forces - np.repeat(np.array(base["forces"]), n // len(base["species"]), axis=0)
            stress = stress - np.array(base["stress"])
        if np.sqrt((forces**2).mean()) > how.largest_force or set(row["species"]) - set(names):
            continue
        structure = Structure(Lattice(row["lattice"]), row["species"], row["frac_coords"])
        try:
            graph = model.graph_converter(structure)
        except Exception as error:
            logger.debug("%s: %s", row["name"], error)
            continue
        if minimum and formation.get(row["name"]) is not None:
            own = float(model.composition_model([graph])[0])
            terms, _ = composition_terms([row["species"], *([e] for e in names)])
            energy = formation[row["name"]] + float(terms[0] @ scale) - own
        found.append(Example(graph, energy, forces, stress * structure.volume / n, PLANE, minimum))
    return found


def _energy_scale(rows: Sequence[dict[str, Any]], model: Any) -> tuple[Array, list[str]]:
    """What composition adds to a formation energy, eV/atom, so that the starting network agrees in the mean."""
    from pymatgen.core import Lattice, Structure

    from scdm_models.training.forcefield.network import predict

    chosen = [r for r in rows if r["formation"] is not None]
    terms, names = composition_terms([r["species"] for r in chosen])
    values, kept = [], []
    for part in np.array_split(np.arange(len(chosen)), max(1, len(chosen) // 16)):
        graphs, rows_ = [], []
        for k in part:
            r = chosen[k]
            try:
                graphs.append(model.graph_converter(Structure(Lattice(r["lattice"]), r["species"], r["frac_coords"])))
                rows_.append(k)
            except Exception as error:  # no neighbours
                logger.debug("%s: %s", r["name"], error)
        for k, (energy, _, _) in zip(rows_, predict(model, graphs), strict=True):
            values.append(energy / len(chosen[k]["species"]) - chosen[k]["formation"])
            kept.append(k)
    a, b = terms[kept], np.array(values)
    inside = np.ones(len(b), dtype=bool)
    beta = np.zeros(a.shape[1])
    for _ in range(3):  # without what lies far off
        beta = np.linalg.solve(a[inside].T @ a[inside] + 0.02 * np.eye(a.shape[1]), a[inside].T @ b[inside])
        inside = np.abs(b - a @ beta) < 0.3
    logger.info("C2DB to network: mean |rest| %.4f eV/atom of %d", np.abs(b - a @ beta)[inside].mean(), inside.sum())
    return beta, names


def bulk_examples(folder: Path, model: Any, n: int, rank: int, world: int, seed: int) -> list[Example]:
    """Bulk phases: at rest with the Materials Project's energy, and rattled as the starting network sees them."""
    from pymatgen.core import Lattice, Structure

    from scdm_models.training.forcefield.network import predict

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
    """The batch's loss, and mean absolute errors: energy (eV/atom), forces at minima and others (eV/angstrom), virial
    (eV/atom)."""
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
    weight = torch.tensor([how.rest if x.minimum else how.force for x in batch])
    off_f = torch.zeros(k).index_add_(0, graphs.atom_owners, (forces - wanted_f).abs().mean(1)) / sizes
    off_v = ((virial - wanted_v).abs() * mask).sum((1, 2)) / mask.sum((1, 2))
    loss = how.energy * loss_e + (weight * off_f).mean() + how.virial * off_v.mean()
    minima, others = ([i for i, x in enumerate(batch) if x.minimum == it] for it in (True, False))
    told = {
        "e": float(off_e.detach().abs().sum()) / max(1, int(asked.sum())),
        "rest": float(sum(off_f.detach()[i] for i in minima) / max(1, len(minima))),
        "v": float(off_v.detach().mean()),
        "f": float(sum(off_f.detach()[i] for i in others) / max(1, len(others))),
    }
    return loss, told


def drawn(examples: Sequence[Example], n: int, step: int, seed: tuple[int, ...]) -> list[Example]:
    """The ``step``-th n of them, in an order of each epoch's own."""
    n = min(n, len(examples))
    if n == 0:
        return []
    epoch, place = divmod(step, len(examples) // n)
    order = np.random.default_rng([*seed, epoch]).permutation(len(examples))
    return [examples[i] for i in order[place * n : (place + 1) * n]]


def train(folder: Path, labels: Sequence[Path], state: Path, how: FineTune, rank: int = 0, world: int = 1) -> None:
    """Train, or go on; ``state`` holds weights, averaged weights and the optimiser's state.

    folder: of the bulk phases; labels: of ``labels.label``; rank, world: this process among those started together,
    which find each other by ``MASTER_ADDR`` and ``MASTER_PORT``.
    """
    import torch
    import torch.distributed as dist

    from scdm_models.training.forcefield.network import load

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if world > 1:
        dist.init_process_group("gloo", rank=rank, world_size=world)
    model = copy.deepcopy(load())  # the one in memory stays as it was shipped
    layers = examples(folder, read_labels(labels), model, how)[rank::world]
    minima, near = ([x for x in layers if x.minimum == it] for it in (True, False))
    bulk = bulk_examples(folder, model, how.bulk, rank, world, how.seed)
    if rank == 0:
        told_of = (len(minima), len(near), len(bulk), world)
        logger.info("%d minima, %d structures near them, %d bulk phases in each of %d processes", *told_of)
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
    n_bulk, n_minima = (max(1, round(share * how.batch)) for share in (how.replay, how.minima))
    shares = ((minima, n_minima), (near, how.batch - n_bulk - n_minima), (bulk, n_bulk))
    per_epoch = max(1, len(minima) // n_minima)
    began, told = time.perf_counter(), []
    while step < how.steps:
        batch = [x for kind, (own, n) in enumerate(shares) for x in drawn(own, n, step, (how.seed, rank, kind))]
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
                "step %d epoch %.2f loss %.4f e %.4f at rest %.4f v %.4f f %.4f rate %.1e, %.2f s a step",
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
