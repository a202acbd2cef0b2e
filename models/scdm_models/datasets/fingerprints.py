"""A small index of the training layers that tells whether a structure is new, without holding the structures.

A fingerprint is the reduced formula and three histograms of pair distances to 6 angstrom (all pairs, pairs of equal
elements, pairs weighted by their height difference), Gaussian-smeared, per atom. Two layers of one formula are equal when the histograms' relative
distance is below a threshold that was chosen against ``matching.LayerMatcher``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_models.errors import DatasetError

Array = NDArray[np.float64]
CUTOFF = 6.0
BINS = 24
_CENTRES = np.linspace(1.25, CUTOFF - 0.25, BINS)
_WIDTH = 0.35
PACKAGED = "fingerprints.npz"
# Measured on 2dMatPedia + C2DB against LayerMatcher: finds 94 % of the 959 equal pairs and calls 11 % of the 7,219
# unequal pairs of one formula equal, many of them one layer in two slightly distorted forms: it errs towards "known".
DEFAULT_THRESHOLD = 0.12


def fingerprint(structure: Structure) -> Array:
    """(3 * BINS,) smeared neighbour counts: all pairs, equal elements only, and weighted by the in-layer height step."""
    first, second, _, distance = structure.get_neighbor_list(CUTOFF)
    numbers = np.array([s.specie.Z for s in structure])
    z = np.array(structure.cart_coords)[:, 2]
    smear = np.exp(-0.5 * ((distance[:, None] - _CENTRES) / _WIDTH) ** 2)
    # smooth cut-off and 1/r: near neighbours say more than many far ones
    smear *= (0.5 * (1 + np.cos(np.pi * distance / CUTOFF)) * 3 / distance)[:, None]
    equal = (numbers[first] == numbers[second]).astype(float)
    step = np.abs(z[first] - z[second]) / distance
    parts = [smear, smear * equal[:, None], smear * step[:, None]]
    return np.concatenate([part.sum(0) for part in parts]) / len(structure)


def distance(first: Array, second: Array) -> float:
    """Relative distance of two fingerprints: |f - g| / mean(|f|, |g|)."""
    norm = (np.linalg.norm(first) + np.linalg.norm(second)) / 2
    return float(np.linalg.norm(first - second) / norm) if norm > 0 else 0.0


@dataclass(frozen=True)
class Match:
    """A known layer equal to the one looked up."""

    id: str
    distance: float


class FingerprintIndex:
    """Fingerprints of known layers.

    Parameters
    ----------
    ids, formulas
        Of each layer.
    values
        (n, 3 * BINS) fingerprints.
    threshold
        Largest distance that counts as equal.
    """

    def __init__(self, ids: Sequence[str], formulas: Sequence[str], values: Array, threshold: float = DEFAULT_THRESHOLD) -> None:
        self.ids, self.formulas, self.values, self.threshold = list(ids), list(formulas), values, threshold
        self._by_formula: dict[str, list[int]] = defaultdict(list)
        for i, formula in enumerate(self.formulas):
            self._by_formula[formula].append(i)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(cls, structures: Sequence[Structure], ids: Sequence[str]) -> FingerprintIndex:
        """The index of some layers."""
        values = np.array([fingerprint(s) for s in structures])
        return cls(ids, [s.composition.reduced_formula for s in structures], values)

    def save(self, path: str | Path) -> None:
        """Write the index (npz, no pickle), atomically."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        header = json.dumps({"cutoff": CUTOFF, "bins": BINS, "width": _WIDTH, "threshold": self.threshold})
        with temporary.open("wb") as handle:
            np.savez_compressed(
                handle,
                header=np.array(header),
                ids=np.array(self.ids),
                formulas=np.array(self.formulas),
                values=self.values.astype(np.float16),
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path | None = None) -> FingerprintIndex:
        """The index of a file, the packaged one when no path is given; ``DatasetError`` if it is missing or foreign."""
        if path is None:
            resource = files("scdm_models").joinpath("data", PACKAGED)
            if not resource.is_file():
                raise DatasetError("this installation has no packaged fingerprint index; make one with `scdm data curate --fingerprints`")
            with as_file(resource) as packaged:
                return cls.load(packaged)
        try:
            with np.load(path, allow_pickle=False) as data:
                header = json.loads(str(data["header"]))
                if (header["cutoff"], header["bins"], header["width"]) != (CUTOFF, BINS, _WIDTH):
                    raise ValueError("made with other fingerprint settings")
                return cls(
                    data["ids"].tolist(), data["formulas"].tolist(), data["values"].astype(float), header["threshold"]
                )
        except FileNotFoundError:
            raise DatasetError(f"fingerprint index {path} does not exist; make one with `scdm data curate --fingerprints`") from None
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(f"{path} is not a fingerprint index of this version ({error}); make it again") from None

    def lookup(self, structure: Structure) -> list[Match]:
        """Known layers equal to the structure, nearest first."""
        members = self._by_formula.get(structure.composition.reduced_formula, [])
        if not members:
            return []
        own = fingerprint(structure)
        found = [Match(self.ids[i], distance(own, self.values[i])) for i in members]
        return sorted((m for m in found if m.distance <= self.threshold), key=lambda m: (m.distance, m.id))

    def is_novel(self, structure: Structure) -> bool:
        """Whether no known layer equals the structure."""
        return not self.lookup(structure)
