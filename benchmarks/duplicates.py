"""Duplicate search (`make bench`): time for many generated structures, groups beside all pairs, beside pymatgen's.

Ends with an error where a group differs from that of comparing all pairs. Absolute times are of this machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from scdm_flows.cli.common import cores
from scdm_models.datasets.matching import LayerMatcher
from scdm_models.sampling.composition import CompositionRequest
from scdm_models.sampling.sampler import SamplerOptions, generate
from scdm_models.sampling.skeletons import SkeletonRules

warnings.filterwarnings("ignore")
SAMPLE = 1000  # structures that are compared in all pairs
Groups = list[list[int]]


def timed(run: Callable[[], Groups], clock: Callable[[], float] = time.process_time) -> tuple[float, Groups]:
    """Seconds of a call, of this process's processor unless another clock is given, and what it gave."""
    start = clock()
    groups = run()
    return clock() - start, groups


def samples(n: int, processes: int, keep: Path | None) -> list[Structure]:
    """The packaged model's first ``n`` samples, from ``keep`` where that file has as many, else written there."""
    if keep is not None and keep.exists():
        kept = [Structure.from_dict(json.loads(line)) for line in keep.read_text().splitlines()[:n]]
        if len(kept) == n:
            return kept
    made = [sample.structure for sample in generate(n, 0, processes=processes)]
    if keep is not None:
        keep.write_text("".join(json.dumps(s.as_dict()) + "\n" for s in made))
    return made


def crowded(structures: Sequence[Structure], n: int) -> list[Structure]:
    """The ``n`` structures that have most others of their formula: a sample in which there is something to compare."""
    formulas: dict[str, list[Structure]] = defaultdict(list)
    for structure in structures:
        formulas[structure.composition.reduced_formula].append(structure)
    return [s for same in sorted(formulas.values(), key=len, reverse=True) for s in same][:n]


def all_pairs(structures: Sequence[Structure]) -> tuple[int, Groups]:
    """How many pairs have one formula, and the connected components of comparing each of them."""
    matcher = LayerMatcher()
    layers = [matcher.layer(s) for s in structures]
    formulas: dict[str, list[int]] = defaultdict(list)
    for i, structure in enumerate(structures):
        formulas[structure.composition.reduced_formula].append(i)
    label = list(range(len(structures)))
    pairs = [pair for same in formulas.values() for pair in itertools.combinations(same, 2)]
    for i, j in pairs:
        if matcher.same(layers[i], layers[j]) and label[i] != label[j]:
            low, high = sorted((label[i], label[j]))
            label = [low if x == high else x for x in label]
    groups: dict[int, list[int]] = defaultdict(list)
    for i, x in enumerate(label):
        groups[x].append(i)
    return len(pairs), sorted(groups.values())


def plain_groups(structures: Sequence[Structure]) -> Groups:
    """Those of ``StructureMatcher.group_structures`` with its defaults."""
    place = {id(s): i for i, s in enumerate(structures)}
    return sorted(sorted(place[id(s)] for s in group) for group in StructureMatcher().group_structures(structures))


def copies(n: int) -> list[Structure]:
    """``n`` moved, mirrored and enlarged copies of 60 samples of one formula."""
    rules = SkeletonRules(composition=CompositionRequest.parse(formula="MoS2"))
    seeds = [sample.structure for sample in generate(60, 0, options=SamplerOptions(skeletons=rules))]
    rng = np.random.default_rng(0)
    made = []
    for k in range(n):
        seed = seeds[k % len(seeds)]
        moves = rng.normal(0, rng.choice([0.01, 0.03, 0.1]), (len(seed), 3))
        frac = seed.lattice.get_fractional_coords(np.array(seed.cart_coords) + moves) * [1, 1, rng.choice([-1, 1])]
        copy = Structure(seed.lattice, seed.species, frac)
        made.append(copy * (2, 1, 1) if k % 10 == 0 else copy)
    return made


def merged(theirs: Groups, ours: Groups) -> tuple[int, int]:
    """Their groups that hold several of ours, and ours that they divide."""
    name = {i: k for k, group in enumerate(ours) for i in group}
    other = {i: k for k, group in enumerate(theirs) for i in group}
    return sum(len({name[i] for i in g}) > 1 for g in theirs), sum(len({other[i] for i in g}) > 1 for g in ours)


def main(n: int, processes: int, keep: Path | None) -> int:
    """Prints the lines; 1 where groups are not those of all pairs."""
    matcher, wrong = LayerMatcher(), 0
    structures = samples(n, processes, keep)
    many, groups = timed(lambda: matcher.group(structures, processes=processes), time.perf_counter)
    one, again = timed(lambda: matcher.group(structures), time.perf_counter)
    wrong += groups != again
    print(
        f"duplicates, <= {processes} processes {many:8.1f} s    for {n} samples ({one:.1f} s on one): "
        f"{len(groups)} layers"
    )
    sample = crowded(structures, SAMPLE)
    ours, found = timed(lambda: matcher.group(sample))
    pairs, expected = all_pairs(sample)
    wrong += found != expected
    print(
        f"  the {len(sample)} with most others of their formula: {len(found)} groups, "
        f"{'those' if found == expected else 'NOT those'} of all {pairs} pairs"
    )
    theirs, plain = timed(lambda: plain_groups(sample))
    united, divided = merged(plain, found)
    print(
        f"  the same {len(sample)}        {ours:8.1f} s    {theirs / ours:6.1f} x StructureMatcher.group_structures "
        f"({theirs:.1f} s), which unites different layers in {united} groups and divides {divided}"
    )
    crowd = copies(max(n // 3, 60))
    hard, grouped = timed(lambda: matcher.group(crowd))
    part = [crowd[i] for i in np.random.default_rng(1).permutation(len(crowd))[:300]]
    pairs, expected = all_pairs(part)
    equal = matcher.group(part) == expected
    wrong += not equal
    print(
        f"  one formula            {hard:8.1f} s    for {len(crowd)} copies of 60 layers, {len(grouped)} groups; of "
        f"{len(part)} {'those' if equal else 'NOT those'} of all {pairs} pairs"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10000, help="samples")
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--keep", type=Path, help="JSON lines of samples: read where there are enough, else written")
    given = parser.parse_args()
    sys.exit(main(given.n, given.processes, given.keep))
