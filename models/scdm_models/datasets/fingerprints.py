"""A small index of known layers that tells whether a structure is new, without holding the structures.

A fingerprint is made of numbers that no rotation, reflection, origin, supercell or vacuum changes: for each
ordered pair of elements (A, B) the mean distance from an A atom to its first, second, ... twelfth B neighbour
(average minimum distances, Widdowson et al., MATCH 87, 529 (2022), doi:10.46793/match.87-3.529W, resolved by
element), and for each element the mean, root mean square and largest height above or below the middle of the
layer.

Two layers of one reduced formula are called equal when their fingerprints are close: within ``THRESHOLD`` if
they also share the layer group, within the much smaller ``THRESHOLD_OTHER_GROUP`` if not (a known layer
slightly distorted). Both were chosen so that the decision agrees with ``scdm_models.matching.LayerMatcher``;
``agreement`` measures how well. This file owns the index; which structures go in is the business of
``curation``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_models.encoding import LayerCrystal, decode
from scdm_models.errors import DatasetError, ScdmError, SymmetryError
from scdm_models.lattice import orient_slab
from scdm_models.matching import LayerMatcher
from scdm_models.symmetry.detect import detect_layer_group

Array = NDArray[np.float64]
NEIGHBOURS = 12
HEIGHTS = 3  # numbers of an element that describe its heights
HEIGHT_WEIGHT = 0.3  # a height that differs by 1 angstrom counts as a relative difference of distances of 0.3
SYMPREC_ANGSTROM = 0.1  # of the layer group, as in the curated set
THRESHOLD = 0.13
THRESHOLD_OTHER_GROUP = 0.03
PACKAGED = "fingerprints.npz"
_FORMAT = 2


def _neighbour_means(xyz: Array, plane: Array, numbers: NDArray[np.int64], elements: list[int]) -> Array:
    """(n_elements**2, NEIGHBOURS) mean distances to the nearest neighbours of each element, angstrom.

    xyz: (n, 3) positions, angstrom; plane: (2, 2) rows a, b.
    """
    area = abs(float(np.linalg.det(plane)))
    rarest = min(int((numbers == e).sum()) for e in elements)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(plane), axis=0)
    in_plane = xyz[:, None, :2] - xyz[None, :, :2]
    vertical = (xyz[:, None, 2] - xyz[None, :, 2]) ** 2
    radius = float(np.hypot(np.sqrt((NEIGHBOURS + 2) * area / rarest / np.pi) + 0.7 * np.sqrt(area), np.ptp(xyz[:, 2])))
    while True:
        reach = np.ceil(radius / heights).astype(int) + 1  # then every neighbour within radius is among the images
        cells = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach)))) @ plane
        squared = ((in_plane[:, :, None] + cells) ** 2).sum(-1) + vertical[:, :, None]
        rows, farthest = [], 0.0
        for b in elements:
            near = np.sqrt(np.partition(squared[:, numbers == b].reshape(len(xyz), -1), NEIGHBOURS, axis=1))
            near = np.sort(near[:, : NEIGHBOURS + 1], axis=1)
            farthest = max(farthest, float(near.max()))
            for a in elements:
                own = near[numbers == a]
                rows.append((own[:, 1:] if a == b else own[:, :-1]).mean(0))
        if farthest <= radius:
            return np.array(rows)
        radius = farthest + 1e-6


def fingerprint(structure: Structure) -> Array:
    """The fingerprint of a layer: (12 m^2 + 3 m,) numbers in angstrom for m elements, ordered by atomic
    number.

    Raises
    ------
    StructureError, NotALayerError
        If the structure is no layer.
    """
    slab = orient_slab(structure)
    matrix = np.array(slab.lattice.matrix)
    xyz = (np.array(slab.frac_coords) - [0.0, 0.0, 0.5]) @ matrix
    numbers = np.array([site.specie.Z for site in slab])
    elements: list[int] = np.unique(numbers).tolist()
    distances = _neighbour_means(xyz, matrix[:2, :2], numbers, elements)
    above = [np.abs(xyz[numbers == e, 2]) for e in elements]
    heights = np.array([(h.mean(), np.sqrt((h**2).mean()), h.max()) for h in above])
    return np.concatenate([distances.ravel(), heights.ravel()])


def distance(first: Array, second: Array) -> float:
    """Difference of two fingerprints of one formula, >= 0.

    The largest relative difference of a mean distance, or the largest difference of a height times
    0.3 / angstrom, whichever is larger.
    """
    # size = 12 m^2 + 3 m for m elements
    m = round((np.sqrt(HEIGHTS**2 + 4 * NEIGHBOURS * len(first)) - HEIGHTS) / (2 * NEIGHBOURS))
    cut = NEIGHBOURS * m * m
    relative = 2 * np.abs(first[:cut] - second[:cut]) / (first[:cut] + second[:cut])
    height = np.abs(first[cut:] - second[cut:])
    return float(max(relative.max(), HEIGHT_WEIGHT * height.max()))


@dataclass(frozen=True)
class Match:
    """A known layer equal to the one looked up, the distance of their fingerprints, and its layer group."""

    id: str
    distance: float
    layer_group: int


@dataclass(frozen=True)
class Agreement:
    """How the index's decision compares with ``LayerMatcher`` on pairs of layers of one formula.

    pairs, equal: number of pairs and of those that the matcher calls equal; precision: share of the index's
    equal pairs that the matcher calls equal; recall: share of the matcher's equal pairs that the index finds.
    """

    pairs: int
    equal: int
    precision: float
    recall: float


def _group_or_zero(structure: Structure) -> int:
    try:
        return detect_layer_group(orient_slab(structure), SYMPREC_ANGSTROM)
    except SymmetryError:
        return 0


class FingerprintIndex:
    """Fingerprints of known layers.

    Parameters
    ----------
    ids, formulas, layer_groups, templates
        Of each layer: id in its source, reduced formula, layer group at 0.1 angstrom (0 where unknown),
        Wyckoff template (``LayerCrystal.template``; empty where unknown).
    values
        Fingerprint of each layer.
    """

    def __init__(
        self,
        ids: Sequence[str],
        formulas: Sequence[str],
        layer_groups: Sequence[int],
        templates: Sequence[str],
        values: Sequence[Array],
    ) -> None:
        self.ids, self.formulas, self.layer_groups = list(ids), list(formulas), list(layer_groups)
        self.templates, self.values = list(templates), list(values)
        self._by_formula: dict[str, list[int]] = defaultdict(list)
        for i, formula in enumerate(self.formulas):
            self._by_formula[formula].append(i)
        self._known_templates = frozenset(t for t in self.templates if t)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(
        cls,
        structures: Sequence[Structure],
        ids: Sequence[str],
        layer_groups: Sequence[int] | None = None,
        templates: Sequence[str] | None = None,
    ) -> FingerprintIndex:
        """The index of some layers; layer groups are detected where they are not given.

        Raises
        ------
        StructureError
            If a structure is no layer.
        """
        groups = [_group_or_zero(s) for s in structures] if layer_groups is None else list(layer_groups)
        formulas = [s.composition.reduced_formula for s in structures]
        return cls(ids, formulas, groups, templates or [""] * len(ids), [fingerprint(s) for s in structures])

    @classmethod
    def of_crystals(cls, crystals: Sequence[LayerCrystal], ids: Sequence[str]) -> FingerprintIndex:
        """The index of encoded layers, such as those of a curated set."""
        return cls.build(
            [decode(c) for c in crystals],
            ids,
            [c.layer_group for c in crystals],
            [c.template for c in crystals],
        )

    def save(self, path: str | Path) -> None:
        """Write the index atomically (npz without pickle, half precision); ``DatasetError`` if it fails."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        header = {
            "format": _FORMAT,
            "neighbours": NEIGHBOURS,
            "heights": HEIGHTS,
            "symprec": SYMPREC_ANGSTROM,
        }
        text = {"ids": self.ids, "formulas": self.formulas, "templates": self.templates}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                np.savez_compressed(
                    handle,
                    header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
                    text=np.frombuffer(json.dumps(text).encode(), dtype=np.uint8),
                    layer_groups=np.array(self.layer_groups, dtype=np.uint8),
                    sizes=np.array([len(v) for v in self.values], dtype=np.uint16),
                    values=np.concatenate(self.values or [np.zeros(0)]).astype(np.float16),
                )
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise DatasetError(
                f"fingerprint index {path} cannot be written ({error.strerror}); free space or choose another path"
            ) from None

    @classmethod
    def load(cls, path: str | Path | None = None) -> FingerprintIndex:
        """The index of a file, the packaged one when no path is given; ``DatasetError`` if it is missing or
        foreign.
        """
        if path is None:
            resource = files("scdm_models").joinpath("data", PACKAGED)
            if not resource.is_file():
                raise DatasetError(
                    "this installation has no packaged fingerprint index; "
                    "make one with `scdm data curate --fingerprints`"
                )
            with as_file(resource) as packaged:
                return cls.load(packaged)
        try:
            with np.load(path, allow_pickle=False) as data:
                header = json.loads(data["header"].tobytes())
                if (header["format"], header["neighbours"], header["heights"]) != (
                    _FORMAT,
                    NEIGHBOURS,
                    HEIGHTS,
                ):
                    raise ValueError("made with other fingerprint settings")
                text = json.loads(data["text"].tobytes())
                groups, sizes = data["layer_groups"].tolist(), data["sizes"].astype(int)
                values = np.split(data["values"].astype(float), np.cumsum(sizes)[:-1])
            if not len(text["ids"]) == len(text["formulas"]) == len(groups) == len(values):
                raise ValueError("columns of different lengths")
            return cls(text["ids"], text["formulas"], groups, text["templates"], values)
        except FileNotFoundError:
            raise DatasetError(
                f"fingerprint index {path} does not exist; make one with `scdm data curate --fingerprints`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path} is not a fingerprint index of this version ({error}); make it again") from None

    def lookup(self, structure: Structure) -> list[Match]:
        """Known layers equal to the structure, nearest first.

        Raises
        ------
        StructureError
            If the structure is no layer and its formula is known.
        """
        members = self._by_formula.get(structure.composition.reduced_formula, [])
        if not members:
            return []
        own = fingerprint(structure)
        near = [Match(self.ids[i], distance(own, self.values[i]), self.layer_groups[i]) for i in members]
        near = [m for m in near if m.distance <= THRESHOLD]
        group = _group_or_zero(structure) if any(m.distance > THRESHOLD_OTHER_GROUP for m in near) else 0
        found = [m for m in near if m.distance <= THRESHOLD_OTHER_GROUP or (m.layer_group == group and group > 0)]
        return sorted(found, key=lambda m: (m.distance, m.id))

    def is_novel(self, structure: Structure) -> bool:
        """Whether no known layer equals the structure."""
        return not self.lookup(structure)

    def knows_template(self, crystal: LayerCrystal) -> bool:
        """Whether a known layer of any elements occupies the same Wyckoff positions of the same group."""
        return crystal.template in self._known_templates

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
        for template in sorted(self._known_templates):
            group, _, letters = template.partition(":")
            found[group].append(Counter(letters.split("-")))
        return found


def agreement(
    structures: Sequence[Structure],
    layer_groups: Sequence[int],
    *,
    same_group: bool,
    matcher: LayerMatcher | None = None,
) -> Agreement:
    """The index's decision against ``LayerMatcher`` on all pairs of layers of one formula.

    Parameters
    ----------
    structures, layer_groups
        Layers before duplicates are removed (else there is nothing to find).
    same_group
        Judge only pairs of the same layer group, as the curation compares them.
    matcher
        The reference.
    """
    matcher = matcher or LayerMatcher()
    classes: dict[str, list[int]] = defaultdict(list)
    for i, structure in enumerate(structures):
        classes[structure.composition.reduced_formula].append(i)
    pairs = equal = called = both = 0
    for members in classes.values():
        if len(members) < 2:
            continue
        prints = {i: fingerprint(structures[i]) for i in members}
        for i, j in itertools.combinations(members, 2):
            same = layer_groups[i] == layer_groups[j]
            if same_group and not same:
                continue
            truth = matcher.fit(structures[i], structures[j])
            verdict = distance(prints[i], prints[j]) <= (THRESHOLD if same else THRESHOLD_OTHER_GROUP)
            pairs, equal, called, both = (
                pairs + 1,
                equal + truth,
                called + verdict,
                both + (truth and verdict),
            )
    if not called or not equal:
        raise ScdmError(f"{equal} of {pairs} pairs are equal; agreement needs at least one, give more layers")
    return Agreement(pairs, equal, both / called, both / equal)


def build_fingerprint_index(curated_path: str | Path, out: str | Path) -> FingerprintIndex:
    """Write the index of a curated set to ``out`` and return it; ``DatasetError`` if a file is at fault."""
    from scdm_models.datasets.records import read_curated

    layers = read_curated(curated_path)
    index = FingerprintIndex.of_crystals([layer.crystal for layer in layers], [layer.id for layer in layers])
    index.save(out)
    return index
