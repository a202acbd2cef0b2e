"""What choosing pays: a loop on C2DB's own layers, whose DFT energies are revealed when they are chosen.

    scdm refs fit --data DIR -o model.npz --relaxed relaxed.jsonl   # keeps what the force fields see of every layer
    python benchmarks/loop.py --data DIR --relaxed relaxed.jsonl

For each seed half of the chemical systems are known, the other half is the pool; ``--rounds`` rounds choose ``--n``
layers each, by the product's own acquisition (``scdm_flows.analysis.acquisition``) and energy model's kernel, the
model learning from what was revealed. Found are layers with E_hull <= 0.1 eV/atom; they cost what the gpaw engine is
estimated to take for relaxation and static run. Every way of choosing gets the core hours that `chance` has used.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BELOW = 0.1  # eV/atom
SMALLEST = 200  # layers that are known to begin with, where only a few are


@dataclass(frozen=True)
class Layers:
    """Of C2DB. covariance: (n, n) of the energy model's kernel, eV^2; noise: (n,) eV^2; target: (n,) formation energy
    less the force field's, eV/atom; shift: (n,) what makes a target an energy above hull, eV/atom; hours: (n,)."""

    ids: list[str]
    systems: NDArray[np.str_]
    covariance: Array
    noise: Array
    coordinates: Array
    target: Array
    shift: Array
    e_above_hull: Array
    hours: Array


def layers_of(data: Path, relaxed: Path) -> Layers:
    """Every layer that both force fields have seen."""
    from scdm_flows.config import GpawEngineConfig
    from scdm_flows.engines.gpaw.cost import cost
    from scdm_flows.thermo.energy_model import kernel, load_energy_model
    from scdm_flows.thermo.training_layers import measured

    model = load_energy_model()
    known = {}
    for line in relaxed.read_text().splitlines():
        if line.strip():
            row = json.loads(line)
            known[row["id"]] = row
    found = measured(data, known, model.force_fields, "c2db")
    rows = model.scaling.inputs(found.compositions, found.seen)
    v = model.variances
    hours = []
    for name in found.ids:
        structure = structure_of(known[name])
        hours.append(sum(run.core_hours for run in cost(structure, GpawEngineConfig(), ()) if run.stage != "bands"))
    target = found.formation - rows.formation[0]
    return Layers(
        found.ids,
        np.array(found.systems),
        kernel(rows, rows, v),
        v.noise + v.noise_by_area * found.area_change**2,
        rows.coordinates,
        target,
        rows.formation[0] - (found.formation - found.e_above_hull),
        found.e_above_hull,
        np.array(hours),
    )


def structure_of(row: dict[str, Any]) -> Any:
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(row["lattice"]), row["species"], row["frac_coords"])


def run(layers: Layers, by: str, seed: int, args: argparse.Namespace, hours: float | None = None) -> tuple[int, float]:
    """Stable layers found, and the core hours that they took. hours: at most so many, however many rounds that are."""
    from scdm_flows.analysis.acquisition import Option, choose
    from scdm_flows.thermo.energy_model import load_energy_model, nearest

    rng = np.random.default_rng(seed)
    names = np.unique(layers.systems)
    known_systems = set(rng.permutation(names)[: len(names) // 2])
    known = [k for k, system in enumerate(layers.systems) if system in known_systems]
    if args.few:
        known = sorted(rng.permutation(known)[:SMALLEST])
    pool = [k for k, system in enumerate(layers.systems) if system not in known_systems]
    errors = load_energy_model().errors
    found, spent, number = 0, 0.0, 0
    while pool and (number < args.rounds if hours is None else spent < hours):
        own = layers.covariance[np.ix_(known, known)] + np.diag(layers.noise[known])
        mean = layers.target[known].mean()
        weights = np.linalg.solve(own, layers.target[known] - mean)
        value = mean + layers.covariance[np.ix_(pool, known)] @ weights + layers.shift[pool]
        width = errors(nearest(layers.coordinates[pool], layers.coordinates[known]))
        options = [
            Option(
                layers.ids[k],
                float(e),
                float(w),
                str(layers.systems[k]),
                core_hours=float(layers.hours[k]),
                score=1 - float(e),
            )
            for k, e, w in zip(pool, value, width, strict=True)
        ]
        left = None if hours is None else hours - spent
        chosen = choose(
            options, args.n, by=by, below=BELOW, diversity=args.diversity, per_hour=args.per_hour, core_hours=left,
            seed=seed * 1000 + number,
        )  # fmt: skip
        if not chosen:
            break
        place = {layers.ids[k]: k for k in pool}
        new = [place[option.candidate_id] for option, _ in chosen]
        found += int((layers.e_above_hull[new] <= BELOW).sum())
        spent += float(layers.hours[new].sum())
        if args.learn:
            known = sorted(known + new)
        gone = set(new)
        pool = [k for k in pool if k not in gone]
        number += 1
    return found, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--relaxed", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n", type=int, default=10, help="layers a round")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--diversity", type=float, default=0.5)
    parser.add_argument("--per-hour", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--learn", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--few", action="store_true", help=f"{SMALLEST} layers are known to begin with")
    args = parser.parse_args()
    layers = layers_of(args.data, args.relaxed)
    share = (layers.e_above_hull <= BELOW).mean()
    print(f"{len(layers.ids)} layers, {100 * share:.0f} % with E_hull <= {BELOW} eV/atom; {args.seeds} seeds")
    ways = ("chance", "improvement", "bound", "rank", "random")
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(args.seeds):
        found, hours = run(layers, "chance", seed, args)
        rates["chance"].append(found / hours)
        for way in ways[1:]:
            found, spent = run(layers, way, seed, args, hours)
            rates[way].append(found / spent)
    rng = np.random.default_rng(0)
    for way in ways:
        of, plain = np.array(rates[way]), np.array(rates["random"])
        drawn = rng.integers(0, args.seeds, (2000, args.seeds))
        ratio = of.mean() / plain.mean()
        low, high = np.quantile(of[drawn].mean(1) / plain[drawn].mean(1), [0.025, 0.975])
        print(f"{way:12s} {of.mean():7.2f} stable layers a core hour   {ratio:5.2f} x random [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
