"""Novelty (`make bench`): known layers in disguise that are recognised, polymorphs that are kept apart, and speed.

The layers are the packaged ones, or with --data those of the sources as published. Ends with an error where fewer than
99 % are recognised or kept apart. Absolute times are of this machine.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure

from scdm_flows.cli.common import cores
from scdm_models.datasets import known as known_module
from scdm_models.datasets.known import KnownLayers, look_up_all
from scdm_models.datasets.matching import LayerMatcher
from scdm_models.datasets.pairing import Tolerance
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import LayerRecord
from scdm_models.errors import ScdmError
from scdm_models.symmetry.lattice import orient_slab

warnings.filterwarnings("ignore")
MOVED_ANGSTROM = 0.15
STRAIN = 0.03
SUPERCELLS = [  # 1, 2x1, 1x2, sqrt3, 2x2, 3x1, a skewed one of two
    [[1, 0], [0, 1]],
    [[2, 0], [0, 1]],
    [[1, 0], [0, 2]],
    [[1, 1], [-1, 2]],
    [[2, 0], [0, 2]],
    [[3, 0], [0, 1]],
    [[1, 1], [-1, 1]],
]
POLYMORPHS_EV = 0.02  # per atom
ENOUGH = 0.99
GRID = [(stol, 0.1, 4.0) for stol in (0.08, 0.1, 0.12, 0.15, 0.2)]
GRID += [(0.1, ltol, 4.0) for ltol in (0.06, 0.08, 0.12)] + [(0.1, 0.1, degrees) for degrees in (3.0, 5.0)]


def packaged() -> list[LayerRecord]:
    """The packaged layers with what their sources say of them."""
    known = KnownLayers.load()
    records = []
    for i in range(len(known)):
        layer, match = known._layer(i), known._match(i, 0.0)
        lattice = np.diag([0.0, 0.0, layer.c])
        lattice[:2, :2] = layer.plane
        xyz = layer.frac @ lattice
        lattice[2, 2] += 20
        structure = Structure(Lattice(lattice), layer.numbers.tolist(), xyz, coords_are_cartesian=True)
        records.append(LayerRecord(match.id, match.source, structure, dict(match.properties)))
    return records


def published(folder: Path) -> list[LayerRecord]:
    """The layers of the sources; what is no layer is left out."""
    found = []
    for item in (item for name in ("c2db", "2dmatpedia") for item in read_any(folder / f"{name}.jsonl.gz")):
        try:
            if isinstance(item, LayerRecord):
                orient_slab(item.structure)
                found.append(item)
        except ScdmError:
            continue
    return found


def _turned(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def disguised(
    structure: Structure, rng: np.random.Generator, moved: float = MOVED_ANGSTROM, strain: float = STRAIN
) -> Structure:
    """The layer in an in-plane supercell, its atoms moved, its cell stretched; moved, mirrored, rotated as a whole.

    moved: radius of the ball in which each atom lands, angstrom; strain: largest principal strain in the plane.
    """
    large = orient_slab(structure)
    form = np.eye(3, dtype=int)
    form[:2, :2] = SUPERCELLS[rng.integers(len(SUPERCELLS))]
    large.make_supercell(form)
    step = rng.normal(size=(len(large), 3))
    step *= moved * np.cbrt(rng.random((len(large), 1))) / np.linalg.norm(step, axis=1, keepdims=True)
    frac = large.lattice.get_fractional_coords(np.array(large.cart_coords) + step)
    lattice = np.array(large.lattice.matrix)
    axes = _turned(rng.uniform(0, np.pi))
    stretch = axes @ np.diag(1 + rng.uniform(-strain, strain, 2)) @ axes.T
    whole = _turned(rng.uniform(0, 2 * np.pi)) @ np.diag([1, rng.choice([-1, 1])])
    lattice[:2, :2] = lattice[:2, :2] @ stretch @ whole
    height = lattice[2, 2] + rng.uniform(-5, 15)  # 20 angstrom of vacuum before
    frac[:, 2] *= rng.choice([-1, 1]) * lattice[2, 2] / height
    lattice[2, 2] = height
    return Structure(Lattice(lattice), large.species, frac + rng.random(3))


def trials(records: Sequence[LayerRecord], n: int, seed: int = 0) -> list[tuple[LayerRecord, Structure]]:
    """``n`` different layers, each with a disguise."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(records), n, replace=n > len(records))
    return [(records[i], disguised(records[i].structure, rng)) for i in chosen.tolist()]


def recognised(drawn: Sequence[tuple[LayerRecord, Structure]], known: KnownLayers, processes: int = 1) -> float:
    """The share of disguises in which the very layer is found."""
    found = look_up_all([disguise for _, disguise in drawn], known, processes)
    right = [
        not isinstance(matches, str) and (record.id, record.source) in {(m.id, m.source) for m in matches}
        for (record, _), matches in zip(drawn, found, strict=True)
    ]
    return float(np.mean(right))


def polymorphs(records: Iterable[LayerRecord]) -> list[tuple[Structure, Structure]]:
    """Pairs of C2DB's layers of one formula whose energies differ by more than 20 meV/atom.

    Of formation where the source says it, else above hull: within a formula the two differ by a constant.
    """
    formulas: dict[str, list[tuple[float, Structure]]] = defaultdict(list)
    for record in records:
        energy = record.properties.get("formation_energy_per_atom", record.properties.get("e_above_hull"))
        if record.source == "C2DB" and energy is not None:
            formulas[record.structure.composition.reduced_formula].append((energy, record.structure))
    pairs = (pair for layers in formulas.values() for pair in itertools.combinations(layers, 2))
    return [(one, two) for (first, one), (second, two) in pairs if abs(first - second) > POLYMORPHS_EV]


def kept_apart(pairs: Sequence[tuple[Structure, Structure]], matcher: LayerMatcher | None = None) -> float:
    """The share of pairs that are different layers, in primitive cells and in supercells."""
    matcher = matcher or known_module.MATCHER
    layers = {id(structure): matcher.layer(structure) for pair in pairs for structure in pair}
    return float(np.mean([matcher.displacement(layers[id(a)], layers[id(b)]) is None for a, b in pairs]))


def candidates(records: Sequence[LayerRecord], n: int, seed: int = 0) -> list[Structure]:
    """``n`` layers as a campaign relaxes them: known ones, atoms moved by up to 0.1 angstrom, half of them with an
    element in place of a neighbour in its group.
    """
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        base = records[int(rng.integers(len(records)))].structure
        structure = disguised(base, rng, 0.1, 0.02) if len(base) <= 10 else base.copy()
        if k % 2:
            element = structure.composition.elements[int(rng.integers(len(structure.composition.elements)))]
            others = [e for e in _group(element) if e not in structure.composition.elements]
            if others:
                structure.replace_species({element: others[int(rng.integers(len(others)))]})
        made.append(structure)
    return made


def _group(element: Element) -> list[Element]:
    return [e for e in Element if e.group == element.group and 2 <= e.row <= 6 and not e.is_lanthanoid]


def grid(drawn: Sequence[tuple[LayerRecord, Structure]], pairs: Sequence[tuple[Structure, Structure]]) -> None:
    """Prints both shares for other tolerances."""
    matcher = LayerMatcher()
    prepared = [(matcher.layer(record.structure), matcher.layer(disguise)) for record, disguise in drawn]
    for stol, ltol, degrees in GRID:
        matcher.tolerance = Tolerance(ltol, degrees, stol)
        same = np.mean([matcher.displacement(*pair) is not None for pair in prepared])
        print(
            f"  stol {stol:4g}, ltol {ltol:4g}, {degrees:g} degrees: {100 * same:6.2f} % of {len(drawn)} recognised, "
            f"{100 * kept_apart(pairs, matcher):6.2f} % of {len(pairs)} kept apart"
        )


def main(n: int, many: int, processes: int, data: Path | None, tolerances: bool) -> int:
    """Prints the lines; 1 where too few are recognised or kept apart."""
    records, known = packaged() if data is None else published(data), KnownLayers.load()
    pairs, drawn = polymorphs(records), trials(records, n)
    right, apart = recognised(drawn, known, processes), kept_apart(pairs)
    print(
        f"novelty: {100 * right:.2f} % of {n} known layers recognised, moved by up to {MOVED_ANGSTROM} angstrom and "
        f"{100 * STRAIN:g} %, {100 * apart:.2f} % of {len(pairs)} pairs of polymorphs kept apart"
    )
    made = candidates(records, many)
    start, worked = time.perf_counter(), sum(os.times()[:4])
    found = look_up_all(made, known, processes)
    seconds, worked = time.perf_counter() - start, sum(os.times()[:4]) - worked
    usage = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        f"  look-up {seconds:8.1f} s    ({worked:.1f} s of processor time) for {many} candidates among {len(known)} "
        f"layers, {processes} processes of {max(usage):.0f} MB at most: {sum(bool(f) for f in found)} known"
    )
    if tolerances:
        grid(drawn, pairs)
    return int(right < ENOUGH or apart < ENOUGH)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=2000, help="disguises")
    parser.add_argument("--candidates", type=int, default=10000)
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--data", type=Path, help="folder with c2db.jsonl.gz and 2dmatpedia.jsonl.gz")
    parser.add_argument("--grid", action="store_true", help="also other tolerances")
    given = parser.parse_args()
    sys.exit(main(given.n, given.candidates, given.processes, given.data, given.grid))
