"""The paper's curation: at most 40 atoms, one copy of each layer, every layer brought onto its symmetry.

``curate`` takes what the readers yield and returns what was kept, what was dropped and why, and the rows of
the paper's Table 1 beside ours. Nothing is dropped without a ``Dropped``, and no entry can stop the others.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import spglib
from pymatgen.core import Structure

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.datasets.records import CuratedLayer, Dropped, LayerRecord
from scdm_models.errors import DatasetError, NotALayerError, ScdmError, SymmetryError
from scdm_models.processes import pool
from scdm_models.symmetry.detect import detect_layer_group, detect_layer_group_spglib, detect_space_group
from scdm_models.symmetry.encoding import MAX_ATOMS, decode, encode, max_site_distance, symmetrize
from scdm_models.symmetry.lattice import is_one_layer, orient_slab
from scdm_models.symmetry.validity import PAPER_MIN_DISTANCE_ANGSTROM, shortest_distances

logger = logging.getLogger(__name__)

ROUND_TRIP_ANGSTROM = 1e-3
FINE_SYMPREC_ANGSTROM = 0.01
# Table 1 and Section 2.1 of Xu et al., arXiv 2412.18414: 2dMatPedia and C2DB together
PAPER_TABLE_1 = {"entries": 10389, "kept": 5802}
RULES = (
    "unreadable",
    "too many atoms",
    "not a layer",
    "overlapping atoms",
    "no symmetry",
    "failed",
    "duplicate",
)
_CHUNK = 64
_Progress = Callable[[str, int, int], None]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class TableRow:
    """A row of Table 1: a source, its entries, how many of them each rule dropped, what was kept."""

    source: str
    entries: int
    dropped: dict[str, int]
    kept: int


@dataclass(frozen=True)
class CurationResult:
    """What became of the records.

    kept: one layer of each kind, in input order; dropped: everything else with its reason; entries: source ->
    number of entries read.
    """

    kept: list[CuratedLayer]
    dropped: list[Dropped]
    entries: dict[str, int]

    def rows(self) -> list[TableRow]:
        """One row for each source, then ``total``; the paper's is ``PAPER_TABLE_1``.

        A duplicate is counted with the source of the entry that was dropped.
        """
        kept = Counter(layer.source for layer in self.kept)
        by_source = {source: Counter[str]() for source in self.entries}
        for item in self.dropped:
            by_source[item.source][item.rule] += 1
        rows = [TableRow(s, n, _in_order(by_source[s]), kept[s]) for s, n in self.entries.items()]
        return [*rows, TableRow("total", sum(self.entries.values()), self.drop_counts(), len(self.kept))]

    def table(self) -> list[tuple[str, int, int]]:
        """Rows (source, entries, kept), then the total."""
        return [(row.source, row.entries, row.kept) for row in self.rows()]

    def drop_counts(self) -> dict[str, int]:
        """Rule -> how many entries it dropped, in the order in which the rules apply."""
        return _in_order(Counter(d.rule for d in self.dropped))

    @property
    def exceptions(self) -> list[tuple[str, float]]:
        """(id, distance in angstrom) of kept layers that ``decode(encode(s))`` misses by more than 1e-3
        angstrom.

        The distance is inf where the symmetrised layer could not be encoded.
        """
        missed = [(layer.id, float("inf") if layer.round_trip is None else layer.round_trip) for layer in self.kept]
        return [(identifier, distance) for identifier, distance in missed if distance > ROUND_TRIP_ANGSTROM]

    @property
    def disagreements(self) -> list[CuratedLayer]:
        """Kept layers whose layer group or space group the two tools see differently."""
        return [layer for layer in self.kept if not layer.tools_agree]


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return {rule: counts[rule] for rule in (*RULES, *sorted(set(counts) - set(RULES))) if counts[rule]}


def _or_none(find: Callable[[Structure, float], int], structure: Structure, symprec: float) -> int | None:
    try:
        return find(structure, symprec)
    except ScdmError:
        return None


def _space_group_spglib(structure: Structure, symprec: float) -> int:
    cell = (
        structure.lattice.matrix.tolist(),
        structure.frac_coords.tolist(),
        [int(site.specie.Z) for site in structure],
    )
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
    except Exception as error:
        raise SymmetryError(f"spglib finds no space group at symprec={symprec} angstrom ({error})") from error
    if dataset is None:
        raise SymmetryError(f"spglib finds no space group at symprec={symprec} angstrom")
    return int(dataset.number)


def _round_trip(structure: Structure) -> float | None:
    try:
        return max_site_distance(decode(encode(structure, ROUND_TRIP_ANGSTROM)), structure)
    except ScdmError:
        return None


def curate_one(record: LayerRecord, symprec: float = 0.1, max_atoms: int = MAX_ATOMS) -> CuratedLayer | Dropped:
    """The symmetrised layer of a record, or why it is dropped; never raises for a bad structure.

    Parameters
    ----------
    record
        An entry.
    symprec
        Tolerance of the symmetrisation, angstrom.
    max_atoms
        Largest number of atoms in the cell as given.
    """

    def drop(rule: str, reason: object) -> Dropped:
        return Dropped(record.id, record.source, rule, str(reason))

    if len(record.structure) > max_atoms:
        return drop(
            "too many atoms",
            f"{len(record.structure)} atoms in the cell, at most {max_atoms} are allowed; give a smaller cell",
        )
    try:
        slab = orient_slab(record.structure)
        shortest = shortest_distances(slab).min_distance
        if shortest < PAPER_MIN_DISTANCE_ANGSTROM:
            return drop(
                "overlapping atoms",
                f"two atoms are {shortest:.3f} angstrom apart, at least {PAPER_MIN_DISTANCE_ANGSTROM} is "
                "required; remove the copy",
            )
        result = symmetrize(slab, symprec)
        return CuratedLayer(
            record.id,
            record.source,
            (),
            result.crystal,
            symprec,
            result.max_displacement,
            _or_none(detect_layer_group, slab, FINE_SYMPREC_ANGSTROM),
            _or_none(detect_layer_group_spglib, slab, symprec),
            _or_none(detect_space_group, result.structure, ROUND_TRIP_ANGSTROM),
            _or_none(_space_group_spglib, result.structure, ROUND_TRIP_ANGSTROM),
            _round_trip(result.structure),
            is_one_layer(result.structure),
            record.properties,
        )
    except NotALayerError as failure:
        return drop("not a layer", failure)
    except SymmetryError as failure:
        return drop("no symmetry", failure)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as failure:
        return drop("failed", f"{type(failure).__name__}: {failure}; look at the structure")


def _curate_chunk(job: tuple[list[LayerRecord], float, int]) -> list[CuratedLayer | Dropped]:
    logging.getLogger("moyo").setLevel(logging.ERROR)  # it warns of every small displacement
    records, symprec, max_atoms = job
    return [curate_one(record, symprec, max_atoms) for record in records]


def _group_chunk(job: list[list[CuratedLayer]]) -> list[list[list[int]]]:
    matcher = LayerMatcher()
    return [matcher.group([layer.structure for layer in layers]) for layers in job]


def curate(
    items: Iterable[LayerRecord | Dropped],
    *,
    symprec: float = 0.1,
    max_atoms: int = MAX_ATOMS,
    processes: int = 2,
    progress: _Progress | None = None,
) -> CurationResult:
    """Curate records as in the paper (Section 2.1).

    Parameters
    ----------
    items
        What the readers yield.
    symprec
        Tolerance of the symmetrisation, angstrom, > 0.
    max_atoms
        Largest number of atoms in a cell, >= 1.
    processes
        Worker processes, >= 1. They are spawned, so a script that calls this needs the usual ``__main__``
        guard.
    progress
        Called with (stage, done, total); the stages are ``symmetrise`` and ``duplicates``.

    Raises
    ------
    DatasetError
        If a number is out of range or there is nothing to curate.
    """
    if not symprec > 0:
        raise DatasetError(f"symprec={symprec:g} angstrom must be > 0; 0.1 suits relaxed layers of databases")
    if max_atoms < 1 or processes < 1:
        raise DatasetError(f"max_atoms={max_atoms} and processes={processes} must be >= 1; 40 and 2 are usual")
    everything = list(items)
    if not everything:
        raise DatasetError("0 entries to curate, at least 1 is needed; give a file or folder with structures")
    entries = Counter(item.source for item in everything)
    records = _unique_ids([item for item in everything if isinstance(item, LayerRecord)])
    dropped = [item for item in everything if isinstance(item, Dropped)]
    chunks = [(records[i : i + _CHUNK], symprec, max_atoms) for i in range(0, len(records), _CHUNK)]
    layers: list[CuratedLayer] = []
    done = 0
    for part in _map(_curate_chunk, chunks, processes):
        for outcome in part:
            if isinstance(outcome, Dropped):
                dropped.append(outcome)
            else:
                layers.append(outcome)
        done += len(part)
        if progress is not None:
            progress("symmetrise", done, len(records))
    kept = _merge(layers, dropped, processes, progress)
    return CurationResult(kept, dropped, dict(entries))


def _unique_ids(records: list[LayerRecord]) -> list[LayerRecord]:
    """The records with ``#2``, ``#3`` ... appended to an id that has come before."""
    seen: Counter[str] = Counter()
    out = []
    for record in records:
        seen[record.id] += 1
        if seen[record.id] > 1:
            record = replace(record, id=f"{record.id}#{seen[record.id]}")
        out.append(record)
    repeated = sum(n - 1 for n in seen.values())
    if repeated:
        logger.warning("%d entries repeat the id of an earlier one; #2, #3 ... was appended to theirs", repeated)
    return out


def _reduced_counts(layer: CuratedLayer) -> tuple[tuple[int, int], ...]:
    """(atomic number, atoms in the reduced formula), sorted: the formula without making the structure."""
    counts = Counter[int]()
    for site in layer.crystal.sites:
        counts[site.element] += layer.crystal.group.positions[layer.crystal.group.index(site.letter)].multiplicity
    divisor = math.gcd(*counts.values())
    return tuple(sorted((element, n // divisor) for element, n in counts.items()))


E_HULL = "e_hull"  # property of C2DB's layers: DFT's energy above hull, eV/atom


def _merge(
    layers: list[CuratedLayer], dropped: list[Dropped], processes: int, progress: _Progress | None
) -> list[CuratedLayer]:
    """The first of each set of equal layers; the others go to ``dropped``. DFT's E_hull of one of them is kept.

    The symmetrised layers of a formula are compared whatever their groups are: one that was relaxed less well than
    its copy is often found in a subgroup.
    """
    classes: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for i, layer in enumerate(layers):
        classes.setdefault(_reduced_counts(layer), []).append(i)
    several = [members for members in classes.values() if len(members) > 1]
    blocks = [several[i : i + _CHUNK] for i in range(0, len(several), _CHUNK)]
    merged: dict[int, tuple[str, ...]] = {}
    gone: set[int] = set()
    labels: dict[int, Any] = {}
    done = 0
    jobs = [[[layers[i] for i in members] for members in block] for block in blocks]
    for block, result in zip(blocks, _map(_group_chunk, jobs, processes), strict=True):
        for members, groups in zip(block, result, strict=True):
            for group in groups:
                first, *others = (members[k] for k in group)
                merged[first] = tuple(layers[i].id for i in others)
                known = [e for i in (first, *others) if (e := layers[i].properties.get(E_HULL)) is not None]
                if known:
                    labels[first] = known[0]
                for i in others:
                    gone.add(i)
                    reason = f"the same layer as {layers[first].id} ({layers[first].source})"
                    dropped.append(Dropped(layers[i].id, layers[i].source, "duplicate", reason))
        done += len(block)
        if progress is not None:
            progress("duplicates", done, len(several))
    return [
        replace(
            layer,
            merged=merged.get(i, ()),
            properties=layer.properties | ({E_HULL: labels[i]} if i in labels else {}),
        )
        for i, layer in enumerate(layers)
        if i not in gone
    ]


def _map(function: Callable[[_In], _Out], jobs: list[_In], processes: int) -> Iterator[_Out]:
    """``map`` in order over workers; in this process for one worker, for little work, or if they die."""
    done = 0
    if processes > 1 and len(jobs) >= 4:
        try:
            with pool(processes) as workers:
                for result in workers.map(function, jobs):
                    done += 1
                    yield result
        except BrokenProcessPool:
            logger.warning(
                "worker processes ended early; %d of %d parts go on in this process",
                len(jobs) - done,
                len(jobs),
            )
    for job in jobs[done:]:
        yield function(job)
