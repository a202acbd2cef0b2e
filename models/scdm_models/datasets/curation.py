"""The paper's curation: at most 40 atoms, one copy of each layer, every layer brought onto its symmetry.

``curate`` takes records and returns what was kept, what was dropped and why, and the rows of the paper's Table 1
beside ours. Nothing is dropped without a ``Dropped``.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from scdm_models.datasets.records import CuratedLayer, Dropped, LayerRecord
from scdm_models.encoding import MAX_ATOMS, decode, encode, max_site_distance, symmetrize
from scdm_models.errors import NotALayerError, ScdmError, SymmetryError
from scdm_models.lattice import orient_slab
from scdm_models.matching import LayerMatcher
from scdm_models.symmetry.detect import detect_layer_group, detect_layer_group_spglib, detect_space_group
from scdm_models.validity import PAPER_MIN_DISTANCE_ANGSTROM, shortest_distances

ROUND_TRIP_ANGSTROM = 1e-3
PAPER_TABLE_1 = {"entries": 10389, "kept": 5802}
_CHUNK = 64


@dataclass(frozen=True)
class CurationResult:
    """What became of the records.

    kept: one layer of each kind, in input order; dropped: everything else with its reason; exceptions: kept layers
    whose ``decode(encode(s))`` misses ``s`` by more than 1e-3 angstrom (id, distance).
    """

    kept: list[CuratedLayer]
    dropped: list[Dropped]
    exceptions: list[tuple[str, float]]
    entries: dict[str, int]

    def table(self) -> list[tuple[str, int, int]]:
        """Rows (source, entries, kept), then the total; the paper's total is ``PAPER_TABLE_1``."""
        kept = Counter(layer.source for layer in self.kept)
        rows = [(source, n, kept[source]) for source, n in self.entries.items()]
        return [*rows, ("total", sum(self.entries.values()), len(self.kept))]

    def drop_counts(self) -> dict[str, int]:
        """Rule -> how many entries it dropped."""
        return dict(Counter(d.rule for d in self.dropped).most_common())


def curate_one(record: LayerRecord, symprec: float = 0.1, max_atoms: int = MAX_ATOMS) -> tuple[CuratedLayer, float] | Dropped:
    """The symmetrised layer of a record with its round-trip error in angstrom, or why it is dropped."""

    def drop(rule: str, reason: str) -> Dropped:
        return Dropped(record.id, record.source, rule, reason)

    if len(record.structure) > max_atoms:
        return drop("too many atoms", f"{len(record.structure)} atoms, at most {max_atoms} are allowed")
    try:
        slab = orient_slab(record.structure)
        shortest = shortest_distances(slab).min_distance
        if shortest < PAPER_MIN_DISTANCE_ANGSTROM:
            return drop("overlapping atoms", f"atoms {shortest:.3f} angstrom apart, at least 0.5 is required")
        result = symmetrize(slab, symprec)
        again = decode(encode(result.structure, ROUND_TRIP_ANGSTROM))
        error = max_site_distance(again, result.structure)
        layer = CuratedLayer(
            record.id,
            record.source,
            (),
            result.crystal,
            symprec,
            result.max_displacement,
            _or_none(detect_layer_group, slab, 0.01),
            _or_none(detect_layer_group_spglib, slab, symprec),
            _or_none(detect_space_group, result.structure, 1e-3),
        )
        return layer, error
    except NotALayerError as failure:
        return drop("not a layer", str(failure))
    except SymmetryError as failure:
        return drop("no symmetry", str(failure))
    except ScdmError as failure:
        return drop("bad structure", str(failure))


def _or_none(find: Callable[..., int], structure: object, symprec: float) -> int | None:
    try:
        return find(structure, symprec)
    except ScdmError:
        return None


def _curate_chunk(job: tuple[list[LayerRecord], float, int]) -> list[tuple[CuratedLayer, float] | Dropped]:
    logging.getLogger("moyo").setLevel(logging.ERROR)  # it warns of every small displacement
    records, symprec, max_atoms = job
    return [curate_one(record, symprec, max_atoms) for record in records]


def _group_chunk(layers: list[CuratedLayer]) -> list[list[int]]:
    return LayerMatcher().group([decode(layer.crystal) for layer in layers])


def curate(
    items: Iterable[LayerRecord | Dropped],
    *,
    symprec: float = 0.1,
    max_atoms: int = MAX_ATOMS,
    processes: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> CurationResult:
    """Curate records as in the paper (Section 2.1).

    Parameters
    ----------
    items
        What the readers yield.
    symprec
        Tolerance of the symmetrisation, angstrom.
    max_atoms
        Largest number of atoms in a cell.
    processes
        Worker processes.
    progress
        Called with (stage, done, total).
    """
    all_items = list(items)
    entries = Counter(item.source for item in all_items)
    records = [item for item in all_items if isinstance(item, LayerRecord)]
    dropped = [item for item in all_items if isinstance(item, Dropped)]
    chunks = [(records[i : i + _CHUNK], symprec, max_atoms) for i in range(0, len(records), _CHUNK)]
    layers: list[CuratedLayer] = []
    exceptions: list[tuple[str, float]] = []
    done = 0
    for part in _map(_curate_chunk, chunks, processes):
        for outcome in part:
            if isinstance(outcome, Dropped):
                dropped.append(outcome)
            else:
                layers.append(outcome[0])
                if not outcome[1] <= ROUND_TRIP_ANGSTROM:
                    exceptions.append((outcome[0].id, outcome[1]))
        done += len(part)
        if progress is not None:
            progress("symmetrise", done, len(records))
    kept = _unique(layers, dropped, processes, progress)
    kept_ids = {layer.id for layer in kept}
    return CurationResult(kept, dropped, [e for e in exceptions if e[0] in kept_ids], dict(entries))


def _unique(
    layers: list[CuratedLayer],
    dropped: list[Dropped],
    processes: int,
    progress: Callable[[str, int, int], None] | None,
) -> list[CuratedLayer]:
    """The first of each set of equal layers; the others go to ``dropped``. Compared within formula and layer group."""
    classes: dict[tuple[object, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        counts = Counter[int]()
        for site in layer.crystal.sites:
            position = layer.crystal.group.positions[layer.crystal.group.index(site.letter)]
            counts[site.element] += position.multiplicity
        total = sum(counts.values())
        composition = tuple(sorted((z, round(n / total, 6)) for z, n in counts.items()))
        classes.setdefault((layer.crystal.layer_group, composition), []).append(i)
    several = [members for members in classes.values() if len(members) > 1]
    merged: dict[int, list[str]] = {}
    gone: set[int] = set()
    done = 0
    for members, groups in zip(
        several, _map(_group_chunk, [[layers[i] for i in m] for m in several], processes, chunksize=16), strict=True
    ):
        for group in groups:
            first, *others = [members[k] for k in group]
            merged[first] = [layers[i].id for i in others]
            for i in others:
                gone.add(i)
                dropped.append(
                    Dropped(layers[i].id, layers[i].source, "duplicate", f"the same layer as {layers[first].id}")
                )
        done += 1
        if progress is not None:
            progress("duplicates", done, len(several))
    kept = []
    for i, layer in enumerate(layers):
        if i not in gone:
            values = {name: getattr(layer, name) for name in layer.__dataclass_fields__}
            kept.append(CuratedLayer(**{**values, "merged": tuple(merged.get(i, ()))}))
    return kept


def _map(function: Callable[..., object], jobs: list[object], processes: int, chunksize: int = 1) -> Iterator[object]:  # type: ignore[type-arg]
    """``map`` over worker processes in order; in this process when one is asked for or the work is small."""
    if processes <= 1 or len(jobs) < 4:
        yield from map(function, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(function, jobs, chunksize=chunksize)
