"""Known layers: whether a structure is one of them, decided by ``scdm_models.datasets.matching.LayerMatcher``.

The layers are stored as they are compared: in-plane primitive cell, c = thickness + 3.4 angstrom, coordinates as
sixteen-bit fractions of it (some 1e-4 angstrom). A structure is compared with all known layers of its reduced formula
that sizes and heights allow, in primitive cells and in-plane supercells, whatever its layer group is.

The stored layers and the look-up are here; ``known_columns`` says what is stored of a layer, and ``matching`` what
"the same layer" means.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from scdm_models.datasets.known_columns import (
    DTYPES,
    STEPS,
    TEXT,
    KnownEntry,
    Properties,
    check_columns,
    columns,
    prepare,
)
from scdm_models.datasets.matching import LayerMatcher
from scdm_models.datasets.pairing import Layer
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import Dropped, LayerRecord
from scdm_models.errors import DatasetError, ScdmError
from scdm_models.processes import pool
from scdm_models.symmetry.encoding import LayerCrystal

logger = logging.getLogger(__name__)
PACKAGED = "known.npz"
MATCHER = LayerMatcher()
VACUUM_ANGSTROM = 15.0  # beside a layer that is made from its stored form, which has the gap of 3.4
_FORMAT = 1
_CHUNK = 64
_WORTH_PROCESSES = 1500  # structures from which starting processes (about 3 s) pays
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class KnownMatch:
    """A known layer that is the same layer as the one looked up.

    Parameters
    ----------
    id
        In its source, such as ``MoS2-165798ab5e33``.
    source
        ``C2DB``, ``2dMatPedia``, or the name of a set that the user added.
    formula
        Reduced.
    layer_group
        At 0.1 angstrom; 0 where unknown.
    displacement_angstrom
        Root mean square distance of paired atoms after the best superposition.
    properties
        What the source says: ``e_above_hull`` (eV/atom), ``dynamically_stable``, ``band_gap`` (eV); absent where it
        says nothing.
    """

    id: str
    source: str
    formula: str
    layer_group: int
    displacement_angstrom: float
    properties: Properties


class KnownLayers:
    """Known layers as columns.

    Parameters
    ----------
    text
        Lists of strings, one for each layer: ``ids``, ``sources``, ``formulas`` (reduced), ``templates``
        (``LayerCrystal.template``; empty where unknown).
    arrays
        ``groups`` (m,) layer groups, 0 where unknown; ``sizes`` (m,) numbers of atoms; ``cells`` (m, 4) a_x, b_x, b_y,
        c, angstrom; ``numbers`` (n,) and ``frac`` (n, 3) of all atoms in turn; ``values`` (m, 3) energy above hull,
        dynamically stable (1 or 0) and gap, NaN where the source says nothing.
    """

    def __init__(self, text: dict[str, list[str]], arrays: dict[str, NDArray[Any]]) -> None:
        self._text, self._arrays = text, arrays
        self._ends = np.cumsum(arrays["sizes"], dtype=np.int64)
        self._members: dict[str, list[int]] = defaultdict(list)
        for i, formula in enumerate(text["formulas"]):
            self._members[formula].append(i)
        self._templates = frozenset(t for t in text["templates"] if t)

    def __len__(self) -> int:
        return len(self._text["ids"])

    @property
    def sources(self) -> dict[str, int]:
        """Source -> number of its layers."""
        return dict(Counter(self._text["sources"]))

    @property
    def formulas(self) -> frozenset[str]:
        """Their reduced formulas."""
        return frozenset(self._members)

    @property
    def templates(self) -> list[str]:
        """The different Wyckoff templates, sorted."""
        return sorted(self._templates)

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of a sha256 over the content and the tolerances of the comparison."""
        sha = hashlib.sha256(json.dumps([asdict(MATCHER.tolerance), self._text], sort_keys=True).encode())
        for name in DTYPES:
            sha.update(self._arrays[name].tobytes())
        return sha.hexdigest()[:12]

    @classmethod
    def build(
        cls, records: Iterable[LayerRecord | Dropped], processes: int = 1, progress: Progress | None = None
    ) -> tuple[KnownLayers, list[Dropped]]:
        """The known layers of some records, and what is no layer with the reason.

        Parameters
        ----------
        records
            What the readers yield; what they dropped is handed on.
        processes
            Worker processes, >= 1; spawned.
        progress
            Called with ("known layers", done, total).
        """
        everything = list(records)
        chunks = [everything[i : i + _CHUNK] for i in range(0, len(everything), _CHUNK)]
        entries: list[KnownEntry] = []
        dropped: list[Dropped] = []
        done = 0

        def take(outcomes: list[KnownEntry | Dropped]) -> None:
            nonlocal done
            entries.extend(x for x in outcomes if isinstance(x, KnownEntry))
            dropped.extend(x for x in outcomes if isinstance(x, Dropped))
            done += len(outcomes)
            if progress is not None:
                progress("known layers", done, len(everything))

        if processes > 1 and len(chunks) > 3:
            with pool(processes) as workers:
                for outcomes in workers.map(prepare, chunks):
                    take(outcomes)
        else:
            for chunk in chunks:
                take(prepare(chunk))
        return cls(*columns(entries)), dropped

    def joined(self, other: KnownLayers) -> KnownLayers:
        """These layers and, after them, the other ones."""
        text = {name: self._text[name] + other._text[name] for name in TEXT}
        return KnownLayers(text, {n: np.concatenate([self._arrays[n], other._arrays[n]]) for n in DTYPES})

    def save(self, path: str | Path) -> None:
        """Write them atomically (npz without pickle), byte for byte reproducible.

        Raises
        ------
        DatasetError
            If the file cannot be written.
        """
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        header = json.dumps({"format": _FORMAT, **self._text}, separators=(",", ":")).encode()
        members: dict[str, Any] = {"header": np.frombuffer(header, dtype=np.uint8), **self._arrays}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                np.savez_compressed(handle, **members)
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise DatasetError(
                f"known layers {path} cannot be written ({error.strerror}); free space or choose another path"
            ) from None

    @classmethod
    def load(cls, path: str | Path | None = None) -> KnownLayers:
        """The known layers of a file; the packaged ones when no path is given.

        Raises
        ------
        DatasetError
            If the file is missing, damaged or something else.
        """
        if path is None:
            resource = files("scdm_models").joinpath("data", PACKAGED)
            if not resource.is_file():
                raise DatasetError(
                    "this installation has no packaged known layers; make a file with `scdm data known build`"
                )
            with as_file(resource) as packaged:
                return cls.load(packaged)
        try:
            with np.load(path, allow_pickle=False) as data:
                header = json.loads(data["header"].tobytes())
                if header["format"] != _FORMAT:
                    raise ValueError(f"format {header['format']}, expected {_FORMAT}")
                text = {name: [str(x) for x in header[name]] for name in TEXT}
                arrays = {name: data[name].astype(dtype, casting="equiv") for name, dtype in DTYPES.items()}
            check_columns(text, arrays)
            return cls(text, arrays)
        except FileNotFoundError:
            raise DatasetError(
                f"known layers {path} do not exist; make the file with `scdm data known build`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DatasetError(
                f"{path} holds no known layers of this version ({error}); make it again with `scdm data known build`"
            ) from None

    def structures(self) -> Iterator[tuple[str, str, Structure]]:
        """(id, source, structure) of each layer, its in-plane primitive cell with ``VACUUM_ANGSTROM`` more of c."""
        for i, (name, source) in enumerate(zip(self._text["ids"], self._text["sources"], strict=True)):
            layer = self._layer(i)
            ax, bx, by, c = self._arrays["cells"][i].astype(float).tolist()
            tall = c + VACUUM_ANGSTROM
            frac = np.column_stack([layer.frac[:, :2], (layer.frac[:, 2] - 0.5) * c / tall + 0.5])
            lattice = Lattice([[ax, 0.0, 0.0], [bx, by, 0.0], [0.0, 0.0, tall]])
            yield name, source, Structure(lattice, layer.numbers.tolist(), frac)

    def lookup(self, structure: Structure) -> list[KnownMatch]:
        """The known layers that are the same layer as the structure, nearest first.

        Raises
        ------
        StructureError
            If the structure is no layer.
        """
        own = MATCHER.layer(structure)
        found = []
        for i in self._members.get(structure.composition.reduced_formula, ()):
            displacement = MATCHER.displacement(self._layer(i), own)
            if displacement is not None:
                found.append(self._match(i, displacement))
        return sorted(found, key=lambda match: (match.displacement_angstrom, match.source, match.id))

    def of_formula(self, formula: str) -> list[KnownMatch]:
        """The known layers of a reduced formula; each is no distance from itself."""
        return [self._match(i, 0.0) for i in self._members.get(formula, ())]

    def knows_template(self, crystal: LayerCrystal) -> bool:
        """Whether a known layer of any elements occupies the same Wyckoff positions of the same group."""
        return crystal.template in self._templates

    def prototype_distance(self, crystal: LayerCrystal) -> float:
        """How far the crystal's Wyckoff template is from the nearest known one of its layer group, 0 to 1.

        The share of orbits that the two do not have in common, ``1 - |a & b| / |a | b|`` (the Jaccard distance of the
        multisets of Wyckoff letters): 0 for a known template, 1 where no known layer of the group shares a letter.
        Elements do not count.
        """
        group, _, letters = crystal.template.partition(":")
        own = Counter(letters.split("-"))
        others = self._letters_of_group.get(group, ())
        return min((1 - (own & other).total() / (own | other).total() for other in others), default=1.0)

    @cached_property
    def _letters_of_group(self) -> dict[str, list[Counter[str]]]:
        found: dict[str, list[Counter[str]]] = defaultdict(list)
        for template in self.templates:
            group, _, letters = template.partition(":")
            found[group].append(Counter(letters.split("-")))
        return found

    def _layer(self, i: int) -> Layer:
        """The ``i``-th layer, ready to be compared."""
        atoms = slice(int(self._ends[i] - self._arrays["sizes"][i]), int(self._ends[i]))
        ax, bx, by, c = self._arrays["cells"][i].astype(float).tolist()
        numbers = self._arrays["numbers"][atoms].astype(np.int64)
        return Layer(numbers, self._arrays["frac"][atoms] / STEPS, np.array([[ax, 0.0], [bx, by]]), c)

    def _match(self, i: int, displacement: float) -> KnownMatch:
        energy, stable, gap = (None if np.isnan(v) else round(float(v), 5) for v in self._arrays["values"][i])
        said = {
            "e_above_hull": energy,
            "dynamically_stable": None if stable is None else bool(stable),
            "band_gap": gap,
        }
        return KnownMatch(
            self._text["ids"][i],
            self._text["sources"][i],
            self._text["formulas"][i],
            int(self._arrays["groups"][i]),
            displacement,
            {name: value for name, value in said.items() if value is not None},
        )


def build_known(
    sources: Sequence[str | Path], out: str | Path, processes: int = 1, progress: Progress | None = None
) -> tuple[KnownLayers, list[Dropped]]:
    """Write the layers of some sources to ``out``; returns them, and what is no layer with the reason.

    Every entry counts, also those that a curation would drop as duplicates or for their size.

    Parameters
    ----------
    sources
        What ``readers.read_any`` takes.
    out
        The npz file.
    processes, progress
        As in ``KnownLayers.build``.

    Raises
    ------
    DatasetError
        If a source cannot be read, holds no layer, or ``out`` cannot be written.
    """
    known, dropped = KnownLayers.build([item for s in sources for item in read_any(s)], processes, progress)
    if not len(known):
        raise DatasetError(f"{', '.join(map(str, sources))}: no entry is a layer; give at least one")
    known.save(out)
    return known, dropped


def look_up_all(
    structures: Sequence[Structure | None],
    known: KnownLayers,
    processes: int = 1,
    progress: Progress | None = None,
) -> list[list[KnownMatch] | str]:
    """``lookup`` of many structures; in place of a structure that cannot be compared, why, in words.

    Parameters
    ----------
    structures
        Layers; None for one that could not be read.
    known
        What is known.
    processes
        Worker processes, >= 1; spawned, and only where there is enough to compare.
    progress
        Called with ("known layers", done, total).
    """
    chunks = [list(structures[i : i + _CHUNK]) for i in range(0, len(structures), _CHUNK)]
    found: list[list[KnownMatch] | str] = []

    def take(part: list[list[KnownMatch] | str]) -> None:
        found.extend(part)
        if progress is not None:
            progress("known layers", len(found), len(structures))

    if processes > 1 and len(structures) >= _WORTH_PROCESSES:
        try:
            with pool(processes, _begin, known) as workers:
                for part in workers.map(_look_up_chunk, chunks):
                    take(part)
        except BrokenProcessPool:
            logger.warning("worker processes ended early; the other structures are looked up in this process")
    for chunk in chunks[len(found) // _CHUNK :] if len(found) < len(structures) else []:
        take([_look_up(known, structure) for structure in chunk])
    return found


_known_of_worker: KnownLayers | None = None


def _begin(known: KnownLayers) -> None:
    global _known_of_worker
    _known_of_worker = known


def _look_up_chunk(structures: list[Structure | None]) -> list[list[KnownMatch] | str]:
    assert _known_of_worker is not None
    return [_look_up(_known_of_worker, structure) for structure in structures]


def _look_up(known: KnownLayers, structure: Structure | None) -> list[KnownMatch] | str:
    if structure is None:
        return "unreadable: no structure"
    try:
        return known.lookup(structure)
    except ScdmError as error:
        return str(error)
    except Exception as error:  # a structure can break a library in ways nobody lists
        return f"{type(error).__name__}: {error}; look at the structure"
