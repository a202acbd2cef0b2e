"""Draws skeletons (layer group, Wyckoff letters, elements) from a trained model, one site at a time.

Each crystal has a random stream of its own and uses one number for each choice, and another for a position that has to
be drawn again, so what is drawn does not depend on the batch that it is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from pymatgen.core import Composition, Element
from torch import Tensor

from scdm_models.errors import GenerationError
from scdm_models.model.batch import CrystalBatch, wyckoff_tensors
from scdm_models.model.checkpoint import Checkpoint
from scdm_models.model.denoiser import MASKED_ELEMENT, Conditions, stability_class
from scdm_models.model.diffusion import exhausted_letters
from scdm_models.sampling.composition import CompositionRequest, elements_allowed, feasible, letters_allowed, refusal
from scdm_models.symmetry.encoding import MAX_ATOMS, LayerCrystal
from scdm_models.symmetry.normalizer import canonical
from scdm_models.symmetry.tables import CENTRED, layer_group

CHUNK = 16  # crystals drawn together, alike in their number of sites


@dataclass(frozen=True)
class SkeletonRules:
    """How skeletons are drawn.

    Parameters
    ----------
    e_above_hull
        Largest energy above hull that is asked for, eV/atom; None asks for nothing. Each crystal is asked for one of
        the classes up to it (``denoiser.STABILITY_EDGES``), all alike likely. A condition, not a filter: the labels of
        the training data are DFT's or a calibrated surrogate's.
    weight
        Weight w of classifier-free guidance: logits are ``(1 + w) conditional - w unconditional``
        (arXiv 2207.12598); 0 is the plain conditional model. Without a condition it has no effect.
    element_temperature, letter_temperature
        The logits are divided by these.
    composition
        What the composition must be; choices that put it out of reach are never taken.
    """

    e_above_hull: float | None = 0.2
    weight: float = 1.5
    element_temperature: float = 1.2
    letter_temperature: float = 1.0
    composition: CompositionRequest | None = None


def draw(probabilities: np.ndarray, rng: np.random.Generator) -> int:
    """Index drawn from unnormalised probabilities."""
    cumulative = np.cumsum(probabilities)
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(cumulative) - 1))


def _draw_rows(logits: Tensor, uniform: np.ndarray) -> Tensor:
    """(n,) classes drawn from (n, C) logits with one uniform number each."""
    cumulative = torch.softmax(logits.double(), -1).cumsum(-1)
    threshold = torch.from_numpy(uniform).unsqueeze(-1) * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)


def draw_skeletons(
    checkpoint: Checkpoint,
    groups: Sequence[int],
    counts: Sequence[int],
    rngs: Sequence[np.random.Generator],
    rules: SkeletonRules,
) -> Iterator[tuple[list[int], CrystalBatch]]:
    """Skeletons of the given layer groups and numbers of sites (each (B,)), in chunks alike in size.

    Yields indices into the input and their crystals, whose parameters and lattices are 0.
    """
    order = sorted(range(len(counts)), key=lambda i: counts[i])
    for first in range(0, len(order), CHUNK):
        rows = order[first : first + CHUNK]
        chosen = ([groups[i] for i in rows], [counts[i] for i in rows], [rngs[i] for i in rows])
        yield rows, _chunk(checkpoint, *chosen, rules)


def _chunk(
    checkpoint: Checkpoint,
    groups: list[int],
    counts: list[int],
    rngs: list[np.random.Generator],
    rules: SkeletonRules,
) -> CrystalBatch:
    net, tables = checkpoint.model.skeleton, wyckoff_tensors()
    b, k = len(groups), max(counts)
    group = torch.tensor(groups)
    mask = torch.arange(k)[None, :] < torch.tensor(counts)[:, None]
    element = torch.full((b, k), MASKED_ELEMENT)
    letter = torch.full((b, k), net.masked_letter)
    conditions = _conditions(rules, rngs)
    asked_for = rules.composition

    def logits(rows: Tensor, site: int) -> tuple[Tensor, Tensor]:
        """Guided logits of one site of the crystals ``rows``: elements and letters."""
        asked, n = conditions.take(rows), len(rows)
        guided = rules.weight != 0 and bool(asked.tensor().any())
        if guided:  # with and without the condition side by side
            rows, asked = torch.cat([rows, rows]), asked.beside(Conditions.none(n))
        elements, letters = net(group[rows], element[rows], letter[rows], mask[rows], asked, site)
        found = elements[:, 0], letters[:, 0]
        if not guided:
            return found
        w = rules.weight
        both = [(f[:n], f[n:]) for f in found]
        mixed = [torch.where(torch.isneginf(p), p, (1 + w) * f - w * p) for f, p in both]
        return mixed[0], mixed[1]

    def uniform(rows: Tensor) -> np.ndarray:
        return np.array([rngs[i].random() for i in rows.tolist()])

    for site in range(k):
        rows = mask[:, site].nonzero().flatten()
        row_logits = logits(rows, site)[1] / rules.letter_temperature
        known = mask[rows] & (letter[rows] != net.masked_letter)
        exhausted = exhausted_letters(letter[rows].clamp(max=net.masked_letter), known)
        row_logits = _affordable(row_logits.masked_fill(exhausted, -torch.inf), group[rows], letter[rows], known)
        if asked_for is not None and asked_for.targets:
            for i, row in enumerate(rows.tolist()):
                first = int(tables.first[groups[row] - 1])
                chosen = (letter[row, :site] - first).tolist()
                allowed = letters_allowed(asked_for, groups[row], chosen, counts[row] - site)
                own = row_logits[i, first : first + len(allowed)]
                own[~torch.from_numpy(allowed)] = -torch.inf
        drawn = _draw_rows(row_logits, uniform(rows))
        for i, row in enumerate(rows.tolist()):
            first, rest = int(tables.first[groups[row] - 1]), counts[row] - site - 1
            chosen = (letter[row, :site] - first).tolist()
            if _fits([*chosen, int(drawn[i]) - first], groups[row], rest):
                continue
            # it leaves no room for the others: another one that does, drawn with a number of its own
            own = row_logits[i : i + 1, first : int(tables.first[groups[row]])]
            own[:, [not _fits([*chosen, k], groups[row], rest) for k in range(own.shape[1])]] = -torch.inf
            if not torch.isneginf(own).all():  # else so many sites fit nowhere
                drawn[i] = first + _draw_rows(own, uniform(rows[i : i + 1]))[0]
        letter[rows, site] = drawn
    unseen = torch.ones(MASKED_ELEMENT, dtype=torch.bool)
    unseen[torch.tensor(checkpoint.card["elements"]) - 1] = False
    for site in range(k):
        rows = mask[:, site].nonzero().flatten()
        row_logits = (logits(rows, site)[0] / rules.element_temperature).masked_fill(unseen, -torch.inf)
        if asked_for is not None:
            for i, row in enumerate(rows.tolist()):
                cells = 2 if groups[row] in CENTRED else 1
                sizes = (tables.multiplicity[letter[row, : counts[row]]] // cells).tolist()
                allowed_z = elements_allowed(asked_for, sizes, (element[row, :site] + 1).tolist())
                if allowed_z is not None:
                    keep = torch.zeros(MASKED_ELEMENT, dtype=torch.bool)
                    keep[torch.tensor(sorted(allowed_z)) - 1] = True
                    row_logits[i, ~keep] = -torch.inf
        element[rows, site] = _draw_rows(row_logits, uniform(rows))
    letter = torch.where(mask, letter, 0)
    element = torch.where(mask, element, 0)
    return CrystalBatch(group, letter, element, mask, torch.zeros(b, k, 3), torch.zeros(b, 3))


def _conditions(rules: SkeletonRules, rngs: Sequence[np.random.Generator]) -> Conditions:
    conditions = Conditions.none(len(rngs))
    if rules.e_above_hull is not None:
        classes = stability_class(rules.e_above_hull) + 1
        conditions.stability[torch.arange(len(rngs)), torch.tensor([int(rng.integers(classes)) for rng in rngs])] = 1.0
    request = rules.composition
    if request is not None and request.formula is not None:
        for z, count in request.formula:
            conditions.fractions[:, z - 1] = count / sum(c for _, c in request.formula)
    elif request is not None and request.elements is not None:
        conditions.allowed[:, torch.tensor(sorted(request.elements)) - 1] = 1.0
    return conditions


def skeleton_prior(checkpoint: Checkpoint, layer_group: int | None, request: CompositionRequest | None) -> np.ndarray:
    """(81, K_max + 1) weights of (layer group, number of sites): the training data's, where the request can be met.

    Raises
    ------
    GenerationError
        If the training data lack the layer group or its elements, or no occupation gives the composition.
    """
    prior: np.ndarray = checkpoint.prior.numpy().astype(float)
    if layer_group is not None:
        if prior[layer_group].sum() == 0:
            raise GenerationError(
                f"layer group {layer_group} does not occur in the data that {checkpoint.model_id} was trained on; "
                "choose one that does (the model card lists them)"
            )
        prior[np.arange(len(prior)) != layer_group] = 0
    if request is None:
        return prior
    request.check_elements(checkpoint.card["elements"])
    if not request.targets:
        return prior
    possible = prior.copy()
    for group, sites in zip(*np.nonzero(prior), strict=True):
        if not feasible(request, int(group), int(sites)):
            possible[group, sites] = 0
    if possible.any():
        return possible
    # the data have no such number of sites in these groups, but symmetry may allow another
    for group in np.flatnonzero(prior.any(1)):
        for sites in range(1, prior.shape[1]):
            possible[group, sites] = feasible(request, int(group), sites)
    if possible.any():
        return possible
    if layer_group is not None:
        raise GenerationError(str(refusal(request, layer_group, prior.shape[1] - 1)))
    raise GenerationError(f"no layer group of the training data has Wyckoff positions that give {request}")


def _affordable(logits: Tensor, group: Tensor, letter: Tensor, known: Tensor) -> Tensor:
    """Logits without the positions that would exceed ``MAX_ATOMS`` atoms in the primitive cell; all of them where each
    would."""
    tables = wyckoff_tensors()
    taken = (tables.multiplicity[letter.clamp(max=tables.n_positions - 1)] * known).sum(1)
    limit = torch.where(torch.isin(group, torch.tensor(sorted(CENTRED))), 2 * MAX_ATOMS, MAX_ATOMS)
    too_many = taken[:, None] + tables.multiplicity[None, :] > limit[:, None]
    limited = logits.masked_fill(too_many, -torch.inf)
    dead = torch.isneginf(limited).all(-1, keepdim=True)
    return torch.where(dead, logits, limited)


def _fits(chosen: Sequence[int], group: int, sites: int) -> bool:
    """Whether ``sites`` further sites can stand beside the positions ``chosen`` (indices within the group) without
    exceeding ``MAX_ATOMS`` atoms in the primitive cell."""
    table = layer_group(group)
    once = [p.multiplicity for i, p in enumerate(table.positions) if not p.free and i not in chosen]
    endless = min(p.multiplicity for p in table.positions if p.free)
    fewest = sum(sorted([*once, *[endless] * sites])[:sites])
    taken = sum(table.positions[i].multiplicity for i in chosen)
    return taken + fewest <= MAX_ATOMS * (2 if table.centred else 1)


def formula_of(crystal: LayerCrystal) -> str:
    """Reduced formula, as pymatgen writes it."""
    group = crystal.group
    amounts: dict[str, int] = {}
    for site in crystal.sites:
        symbol = Element.from_Z(site.element).symbol
        amounts[symbol] = amounts.get(symbol, 0) + group.positions[group.index(site.letter)].multiplicity
    return str(Composition(amounts).reduced_formula)


def name_of(crystal: LayerCrystal) -> int:
    """A hash of the layer group and of what occupies which positions, whatever their letters are called."""
    group = crystal.group
    occupied = canonical(crystal.layer_group, ((group.index(s.letter), s.element) for s in crystal.sites))
    return int.from_bytes(blake2b(repr((crystal.layer_group, occupied)).encode(), digest_size=8).digest())
