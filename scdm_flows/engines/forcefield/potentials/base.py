"""What a force field is, and what all that work in batches share: a structure that fails stops none of the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

Array = NDArray[np.float64]
# energy (eV), forces ((n_atoms, 3), eV/angstrom), stress ((3, 3), eV/angstrom^3: derivative by strain over the volume)
Answer = tuple[float, Array, Array]
# energy (eV/atom), mean of the atoms' features (d,)
Seen = tuple[float, Array]
Found = TypeVar("Found", Answer, Seen)
NOT_FINITE = "the force field gave no finite energy"


class ForceField(Protocol):
    """A machine-learned force field or another calculator of energies.

    name: as in a campaign's file; scheme: what its energies are called, such as ``chgnet-0.3.0``; program: import path
    of its ASE calculator, by which atomate2 finds the version of the package.
    """

    name: str
    scheme: str
    program: str

    def evaluate(self, structures: Sequence[Structure]) -> list[Answer | str]:
        """Energy, forces and stress of each structure, in their order; a string says why one has none."""

    def features(self, structures: Sequence[Structure]) -> list[Seen | str]:
        """Energy per atom and mean of the atoms' features of each structure, for an energy model; or why not."""


class Batched(ABC):
    """A ``ForceField`` whose network takes many graphs at once.

    limit: a batch is full as soon as the sizes of its graphs add up to this.
    """

    name: str
    scheme: str
    program: str
    limit: int

    @abstractmethod
    def graph(self, structure: Structure) -> Any:
        """The network's input; raises where there is none, such as for an atom without neighbours."""

    @abstractmethod
    def size(self, graph: Any) -> int:
        """What a graph adds to a batch."""

    @abstractmethod
    def predict(self, graphs: Sequence[Any]) -> list[Answer]:
        """Energy, forces and stress of the graphs of one batch."""

    @abstractmethod
    def see(self, graphs: Sequence[Any]) -> list[Seen]:
        """Energy per atom and mean features of the graphs of one batch."""

    def evaluate(self, structures: Sequence[Structure]) -> list[Answer | str]:
        """See ``ForceField``."""
        return self._each(structures, self.predict)

    def features(self, structures: Sequence[Structure]) -> list[Seen | str]:
        """See ``ForceField``."""
        return self._each(structures, self.see)

    def _each(self, structures: Sequence[Structure], run: Callable[[Sequence[Any]], list[Found]]) -> list[Found | str]:
        answers: dict[int, Found | str] = {}
        graphs: dict[int, Any] = {}
        for index, structure in enumerate(structures):
            try:
                graphs[index] = self.graph(finite(structure))
            except Exception as error:  # an isolated atom, an element that the network does not know
                answers[index] = in_words(error)
        for batch in self._batches(graphs):
            for index, answer in zip(batch, _safely([graphs[i] for i in batch], run), strict=True):
                whole = isinstance(answer, str) or all(np.isfinite(value).all() for value in answer)
                answers[index] = answer if whole else NOT_FINITE
        return [answers[index] for index in range(len(structures))]

    def _batches(self, graphs: dict[int, Any]) -> Iterator[list[int]]:
        batch: list[int] = []
        size = 0
        for index, graph in graphs.items():
            batch.append(index)
            size += self.size(graph)
            if size >= self.limit:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def finite(structure: Structure) -> Structure:
    """The structure itself; ``ValueError`` where positions or cell are not numbers."""
    if not (np.isfinite(structure.frac_coords).all() and np.isfinite(structure.lattice.matrix).all()):
        raise ValueError("positions or cell are not finite")
    return structure


def in_words(error: Exception) -> str:
    """Why a structure failed."""
    return f"{type(error).__name__}: {error}"


def _safely(graphs: Sequence[Any], run: Callable[[Sequence[Any]], list[Found]]) -> list[Found | str]:
    """What ``run`` says of each graph; where the batch fails, each by itself, so that the culprit is found."""
    try:
        return list(run(graphs))
    except Exception as error:
        if len(graphs) == 1:
            return [in_words(error)]
    return [answer for graph in graphs for answer in _safely([graph], run)]
