"""Which Wyckoff occupations give a wanted composition, exactly: feasibility, what may come next, and refusals in words.

Multiplicities are those of the primitive cell. A position without a free coordinate can be occupied once, any other as
often as wanted; positions are told apart by that and by their multiplicity alone, which is all that counting needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from math import gcd

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Element

from scdm_models.errors import GenerationError
from scdm_models.model.elements import MAX_Z
from scdm_models.symmetry.encoding import MAX_ATOMS
from scdm_models.symmetry.tables import layer_group

Counts = tuple[int, ...]


@dataclass(frozen=True)
class CompositionRequest:
    """What a sample's composition must be.

    Parameters
    ----------
    elements
        Atomic numbers that may occur; not all of them must. None: any.
    formula
        (atomic number, count) pairs of the reduced formula; None: any.
    n_atoms
        Atoms in the primitive cell; None: any, up to ``MAX_ATOMS``.
    """

    elements: frozenset[int] | None = None
    formula: tuple[tuple[int, int], ...] | None = None
    n_atoms: int | None = None

    @classmethod
    def parse(
        cls, elements: str | None = None, formula: str | None = None, n_atoms: int | None = None
    ) -> CompositionRequest | None:
        """From what a user writes: ``Mo,S,Se``, ``MoS2``, 12; None where nothing is asked.

        Raises
        ------
        GenerationError
            If a symbol is unknown, the formula is empty or not of whole numbers, or the three contradict each other; it
            names all that is wrong.
        """
        if elements is None and formula is None and n_atoms is None:
            return None
        wrong: list[str] = []
        allowed = parts = None
        try:
            allowed = None if elements is None else _elements(elements)
        except GenerationError as error:
            wrong.append(str(error))
        try:
            parts = None if formula is None else _formula(formula)
        except GenerationError as error:
            wrong.append(str(error))
        if n_atoms is not None and not 1 <= n_atoms <= MAX_ATOMS:
            wrong.append(
                f"n_atoms={n_atoms} must be 1 to {MAX_ATOMS}, the sizes of the training data; ask for one of these"
            )
        if parts is not None:
            unit = sum(count for _, count in parts)
            if allowed is not None and not {z for z, _ in parts} <= allowed:
                wrong.append(f"formula {formula} has elements outside elements={elements}; give one of the two")
            if unit > MAX_ATOMS:
                wrong.append(f"formula {formula} has {unit} atoms, at most {MAX_ATOMS} fit a primitive cell")
            elif n_atoms is not None and n_atoms % unit:
                wrong.append(f"n_atoms={n_atoms} must be a multiple of the {unit} atoms of {formula}")
        if wrong:
            raise GenerationError("; ".join(wrong))
        return cls(allowed, parts, n_atoms)

    def check_elements(self, known: Collection[int]) -> None:
        """``GenerationError`` where an element that must occur, or every allowed one, is not among ``known``."""
        needed = {z for z, _ in self.formula or ()}
        if not needed <= set(known):
            names = ", ".join(Element.from_Z(z).symbol for z in sorted(needed - set(known)))
            raise GenerationError(f"{names} did not occur in the training data; ask for a formula without")
        if self.elements is not None and not self.elements & set(known):
            raise GenerationError("none of the allowed elements occurred in the training data; ask for others")

    @property
    def targets(self) -> tuple[Counts, ...]:
        """Sums of multiplicities that sites must be divided into, one tuple for each size; empty: any."""
        if self.formula is None:
            return () if self.n_atoms is None else ((self.n_atoms,),)
        counts = [count for _, count in self.formula]
        sizes = range(1, MAX_ATOMS // sum(counts) + 1) if self.n_atoms is None else [self.n_atoms // sum(counts)]
        return tuple(tuple(sorted((z * c for c in counts), reverse=True)) for z in sizes)

    def __str__(self) -> str:
        parts = []
        if self.formula is not None:
            parts.append("".join(f"{Element.from_Z(z).symbol}{c if c > 1 else ''}" for z, c in self.formula))
        if self.n_atoms is not None:
            parts.append(f"{self.n_atoms} atoms in the primitive cell")
        if self.elements is not None:
            parts.append("only " + ", ".join(Element.from_Z(z).symbol for z in sorted(self.elements)))
        return ", ".join(parts)


def _elements(text: str) -> frozenset[int]:
    symbols = text.replace(",", " ").split()
    if not symbols:
        raise GenerationError(f"elements={text!r} names none; give symbols such as Mo,S,Se")
    return frozenset(_numbers(symbols))


def _numbers(symbols: Collection[str]) -> list[int]:
    unknown = ", ".join(repr(symbol) for symbol in symbols if not Element.is_valid_symbol(symbol))
    if unknown:
        raise GenerationError(f"{unknown} is no element; give symbols such as Mo,S,Se")
    beyond = ", ".join(symbol for symbol in symbols if Element(symbol).Z > MAX_Z)
    if beyond:
        last = Element.from_Z(MAX_Z)
        raise GenerationError(f"{beyond} is beyond {last}, the last element that models know; leave it out")
    return [int(Element(symbol).Z) for symbol in symbols]


def _formula(text: str) -> tuple[tuple[int, int], ...]:
    try:
        amounts = Composition(text).get_el_amt_dict()
    except (ValueError, KeyError, RecursionError) as error:
        raise GenerationError(f"formula {text!r} cannot be read ({error}); write it as MoS2 or Al2Cl6O") from None
    if not amounts or not all(amount > 0 and float(amount).is_integer() for amount in amounts.values()):
        raise GenerationError(f"formula {text!r} needs whole numbers above 0; write it as MoS2 or Al2Cl6O")
    counts = dict(zip(_numbers(amounts), map(int, amounts.values()), strict=True))
    divisor = reduce(gcd, counts.values())
    return tuple((z, count // divisor) for z, count in sorted(counts.items()))


@dataclass(frozen=True)
class _Kinds:
    """The positions of a group: primitive multiplicity of each, and whether it can be occupied once only."""

    multiplicity: Counts
    once: tuple[bool, ...]

    def available(self, used: Sequence[int]) -> tuple[Counts, tuple[tuple[int, int], ...]]:
        """Multiplicities that can be taken without end, and (multiplicity, how many are left) of the others."""
        endless = sorted({m for m, once in zip(self.multiplicity, self.once, strict=True) if not once})
        left = Counter(
            m for i, (m, once) in enumerate(zip(self.multiplicity, self.once, strict=True)) if once and i not in used
        )
        return tuple(endless), tuple(sorted((m, n) for m, n in left.items() if m not in endless))


@cache
def _kinds(group: int) -> _Kinds:
    table = layer_group(group)
    cells = 2 if table.centred else 1
    return _Kinds(tuple(p.multiplicity // cells for p in table.positions), tuple(not p.free for p in table.positions))


@cache
def _fills(needs: Counts, endless: Counts, left: tuple[tuple[int, int], ...], sites: int) -> bool:
    """Whether ``sites`` further positions can be divided into groups of the sums ``needs`` (descending, above 0)."""
    if not needs:
        return sites == 0
    sizes = [*endless, *(m for m, _ in left)]
    if not sizes or not len(needs) <= sites <= sum(needs) // min(sizes) or sum(needs) > sites * max(sizes):
        return False
    first, rest = needs[0], needs[1:]
    for m in sorted(set(sizes), reverse=True):
        if m > first:
            continue
        fewer = left if m in endless else tuple((k, n - (k == m)) for k, n in left if n - (k == m))
        after = tuple(sorted((n for n in (first - m, *rest) if n), reverse=True))
        if _fills(after, endless, fewer, sites - 1):
            return True
    return False


@cache
def _divides(needs: Counts, chosen: Counts, endless: Counts, left: tuple[tuple[int, int], ...], sites: int) -> bool:
    """As ``_fills``, with positions of the multiplicities ``chosen`` (descending) that must be used as well."""
    if not chosen:
        return _fills(needs, endless, left, sites)
    for i, need in enumerate(needs):
        if need >= chosen[0] and (i == 0 or needs[i - 1] != need):
            after = tuple(sorted((n for n in (*needs[:i], need - chosen[0], *needs[i + 1 :]) if n), reverse=True))
            if _divides(after, chosen[1:], endless, left, sites):
                return True
    return False


def _completes(request: CompositionRequest, group: int, chosen: Sequence[int], sites: int) -> bool:
    """Whether ``sites`` further sites can complete the positions ``chosen`` (indices within the group)."""
    targets = request.targets
    if not targets:
        return True
    kinds = _kinds(group)
    endless, left = kinds.available(chosen)
    taken = tuple(sorted((kinds.multiplicity[i] for i in chosen), reverse=True))
    return any(_divides(needs, taken, endless, left, sites) for needs in targets if sum(needs) >= sum(taken))


@cache
def feasible(request: CompositionRequest, group: int, n_sites: int) -> bool:
    """Whether some occupation of ``n_sites`` positions of the layer group gives the composition."""
    return _completes(request, group, (), n_sites)


@cache
def _letters(request: CompositionRequest, group: int, chosen: Counts, sites: int) -> tuple[bool, ...]:
    kinds = _kinds(group)
    answers: dict[tuple[int, bool], bool] = {}
    found = []
    for i, kind in enumerate(zip(kinds.multiplicity, kinds.once, strict=True)):
        if kind[1] and i in chosen:
            found.append(False)
            continue
        if kind not in answers:
            answers[kind] = _completes(request, group, (*chosen, i), sites - 1)
        found.append(answers[kind])
    return tuple(found)


def letters_allowed(request: CompositionRequest, group: int, chosen: Sequence[int], sites: int) -> NDArray[np.bool_]:
    """(positions of the group,) which one the next site may take so that the request can still be met.

    chosen: indices of the positions taken so far; sites: how many are still to come, the next one included.
    """
    return np.array(_letters(request, group, tuple(sorted(chosen)), sites))


@cache
def _partition(sizes: Counts, needs: Counts) -> bool:
    """Whether the ``sizes`` (descending) can be divided into groups of the sums ``needs`` (descending)."""
    return _divides(needs, sizes, (), (), 0)


def elements_allowed(
    request: CompositionRequest, multiplicities: Sequence[int], chosen: Sequence[int]
) -> set[int] | None:
    """Atomic numbers the next site may take so that the request can still be met; None: any.

    multiplicities: of all sites in the primitive cell; chosen: atomic numbers of the first of them.
    """
    if request.formula is None:
        return None if request.elements is None else set(request.elements)
    units = sum(multiplicities) // sum(count for _, count in request.formula)
    left = {z: units * count for z, count in request.formula}
    for z, size in zip(chosen, multiplicities, strict=False):
        left[z] -= size
    size, others = multiplicities[len(chosen)], tuple(sorted(multiplicities[len(chosen) + 1 :], reverse=True))
    found = set()
    for z, count in left.items():
        needs = tuple(sorted((n - (size if k == z else 0) for k, n in left.items()), reverse=True))
        if count >= size and _partition(others, tuple(n for n in needs if n)):
            found.add(z)
    return found


def refusal(request: CompositionRequest, group: int, max_sites: int) -> str | None:
    """Why no occupation of at most ``max_sites`` positions of the group gives the composition; None where one does."""
    if any(feasible(request, group, sites) for sites in range(1, max_sites + 1)):
        return None
    kinds = _kinds(group)
    table = layer_group(group)
    positions = ", ".join(
        f"{m}{p.letter}{' (once)' if once else ''}"
        for m, once, p in zip(kinds.multiplicity, kinds.once, table.positions, strict=True)
    )
    return (
        f"no combination of at most {max_sites} Wyckoff positions of layer group {group} gives {request}: in its "
        f"primitive cell it has {positions}; ask for another group, formula or number of atoms"
    )
