"""What any generator must beat: sets of samples made without it, or from its skeletons alone, each seeded.

- the known layers drawn again: what a perfect memory gives;
- UnSCDM, the packaged model without symmetry;
- random coordinates on the model's own skeletons: what the geometry network adds shows against these;
- prototype copies: the nearest known layer on the same skeleton, elements replaced and the cell scaled.

And of a packaged model whose samples were asked for something, samples that were not.

A skeleton is a layer group with occupied Wyckoff letters and their elements.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Structure

from scdm_flows.evaluation.protocol import Protocol
from scdm_flows.evaluation.reading import Sample, SampleSet
from scdm_models.errors import ScdmError, reason_of
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode, expand, symmetrize
from scdm_models.symmetry.lattice import covalent_radii, is_one_layer, orient_slab
from scdm_models.symmetry.normalizer import letter_permutations

if TYPE_CHECKING:
    from scdm_models.model.checkpoint import Checkpoint

Array = NDArray[np.float64]
Known = Sequence[tuple[str, str, Structure]]  # id, source, structure
SYMPREC_ANGSTROM = 0.1  # of known layers, as the training data were brought onto their symmetry
SKELETON_SYMPREC_ANGSTROM = 0.05  # of samples whose files do not say what they were made of
COLUMN_WEIGHT = 0.1  # a column of the periodic table counts as a relative difference of radii of 0.1
CHUNK = 100

RESAMPLED, UNSCDM = "known layers drawn again", "UnSCDM"
RANDOM, COPIES = "random coordinates", "prototype copies"
UNASKED = "not asked"


def resampled(known: Known, n: int, seed: int, protocol: Protocol) -> SampleSet:
    """``n`` known layers drawn with replacement from those that are one layer of at most ``most_atoms`` atoms."""
    begun = time.perf_counter()
    rng = np.random.default_rng(seed)
    good = cache(lambda k: len(known[k][2]) <= protocol.most_atoms and is_one_layer(known[k][2]))
    samples: list[Sample] = []
    for k in (int(k) for k in rng.integers(len(known), size=100 * n)):
        if good(k):
            samples.append(Sample(f"{known[k][1]} {known[k][0]}", known[k][2]))
        if len(samples) == n:
            break
    return _made(RESAMPLED, samples, begun)


def unscdm(like: SampleSet, seed: int, processes: int) -> SampleSet:
    """As many samples of the packaged UnSCDM as of ``like``, drawn as these were: steps, and whether draws are passed
    over.
    """
    from scdm_models.model.checkpoint import load_checkpoint

    return _drawn(UNSCDM, load_checkpoint(packaged="unscdm"), like, seed, processes)


def unasked(like: SampleSet, seed: int, processes: int) -> SampleSet | None:
    """As many samples of the model of ``like`` that are asked for nothing; None where it is no packaged one.

    The seed is the first from ``seed`` on that is none of theirs: a stream with a request is a part of that without.
    """
    from scdm_models.model.checkpoint import PACKAGED, load_checkpoint

    for name in PACKAGED:
        checkpoint = load_checkpoint(packaged=name)
        if checkpoint.model_id == like.model_id:
            while seed in like.seeds:
                seed += 1
            made = _drawn(UNASKED, checkpoint, like, seed, processes)
            return replace(made, model_id=like.model_id, steps=like.steps, seeds=(seed,))
    return None


def _drawn(label: str, checkpoint: Checkpoint, like: SampleSet, seed: int, processes: int) -> SampleSet:
    from scdm_models.sampling.sampler import DEFAULT_STEPS, SamplerOptions, generate

    begun = time.perf_counter()
    options = SamplerOptions(steps=like.steps or DEFAULT_STEPS, guidance=like.passes_over)
    made = list(generate(len(like.samples), seed, checkpoint=checkpoint, options=options, processes=processes))
    samples = [
        Sample(f"{one.index}", one.structure, crystal=one.crystal, record={"draw": one.draw, "mended": one.mended})
        for one in made
    ]
    return _made(label, samples, begun, draws=made[-1].draw + 1)


def random_coordinates(like: SampleSet, seed: int) -> SampleSet:
    """The skeleton of each sample with coordinates drawn anew, one draw each.

    Group, letters, elements and area per atom are the sample's. A rectangular cell is a square one, an oblique one too.
    Free coordinates are uniform in the plane and within the sample's thickness; then atoms are pushed apart and parts
    pulled together as guidance does for the model's own draws. Its draws are the model's: those that the model passed
    over lent no skeleton.
    """
    begun = time.perf_counter()
    samples = []
    for k, sample in enumerate(like.samples):
        try:
            crystal = _scattered(skeleton(sample), np.random.default_rng([seed, k]))
            samples.append(Sample(sample.id, decode(crystal), crystal=crystal))
        except Exception as error:  # a skeleton can break a library in ways nobody lists
            samples.append(Sample(sample.id, None, f"no random coordinates: {reason_of(error)}"))
    return _made(RANDOM, samples, begun, draws=like.draws, draws_said=like.draws_said)


def _scattered(crystal: LayerCrystal, rng: np.random.Generator) -> LayerCrystal:
    import torch

    from scdm_models.model.batch import from_batch, to_batch, wyckoff_tensors
    from scdm_models.model.corruption import centre_heights
    from scdm_models.sampling.guidance import settle

    batch = to_batch([crystal])
    thickness = float(np.ptp(expand(crystal)[0][:, 2]))
    uniform = torch.from_numpy(rng.random(batch.params.shape)).float()
    free = wyckoff_tensors().free[batch.wyckoff] & batch.mask.unsqueeze(-1)
    batch.params = torch.where(free, uniform - torch.tensor([0.0, 0.0, 0.5]), 0.0)
    batch.params[..., 2] = centre_heights(batch.params[..., 2] * thickness, batch)
    batch.lattice[:, 1:] = 0.0
    (settled,) = from_batch(settle(batch))
    return settled


def prototypes(
    known: Known, protocol: Protocol, workers: ProcessPoolExecutor | None
) -> dict[str, list[tuple[str, LayerCrystal]]]:
    """Wyckoff template -> name and asymmetric unit of the known layers that have it and are one layer."""
    small = [
        (f"{source} {name}", structure) for name, source, structure in known if len(structure) <= protocol.most_atoms
    ]
    chunks = [small[i : i + CHUNK] for i in range(0, len(small), CHUNK)]
    found: dict[str, list[tuple[str, LayerCrystal]]] = defaultdict(list)
    for part in (map if workers is None else workers.map)(_crystals, chunks):
        for name, crystal in part:
            found[crystal.template].append((name, crystal))
    return dict(found)


def _crystals(part: Iterable[tuple[str, Structure]]) -> list[tuple[str, LayerCrystal]]:
    found = []
    for name, structure in part:
        # a layer without symmetry is nobody's prototype, and a structure can break a library in ways nobody lists
        with contextlib.suppress(Exception):
            slab = orient_slab(structure)
            if is_one_layer(slab):
                found.append((name, symmetrize(slab, SYMPREC_ANGSTROM).crystal))
    return found


def prototype_copies(like: SampleSet, known: Mapping[str, Sequence[tuple[str, LayerCrystal]]]) -> SampleSet:
    """The nearest known layer on each sample's skeleton, with the sample's elements, scaled by covalent radii.

    known: what ``prototypes`` gives. Nearest is the one whose elements differ least from those that replace them, in
    covalent radius and column of the periodic table, the mean over the atoms. A skeleton that no known layer has gives
    no sample: a failed draw. Its draws are the model's: those that the model passed over lent no skeleton.
    """
    begun = time.perf_counter()
    samples = []
    for sample in like.samples:
        wanted = None
        try:
            wanted = skeleton(sample)
            copies = [(*copy, name) for name, own in known.get(wanted.template, ()) if (copy := replaced(own, wanted))]
            if not copies:
                raise ScdmError(f"no known layer occupies {wanted.template}")
            _, crystal, name = min(copies, key=lambda copy: (copy[0], copy[2]))
            samples.append(Sample(f"{sample.id} on {name}", decode(crystal), crystal=crystal))
        except Exception as error:  # a skeleton can break a library in ways nobody lists
            samples.append(Sample(sample.id, None, f"no prototype copy: {reason_of(error)}", crystal=wanted))
    return _made(COPIES, samples, begun, draws=like.draws, draws_said=like.draws_said)


def replaced(prototype: LayerCrystal, wanted: LayerCrystal) -> tuple[float, LayerCrystal] | None:
    """How far the elements of a prototype are from those wanted, and it with these, scaled; None where it has no such
    skeleton.

    Letters may be named otherwise by another origin or other axes (``symmetry.normalizer``); the nearest naming counts.
    Lengths are scaled by the ratio of the sums of covalent radii.
    """
    from scipy.optimize import linear_sum_assignment

    group = prototype.group
    own, others = ([group.index(site.letter) for site in crystal.sites] for crystal in (prototype, wanted))
    best: tuple[float, list[int]] | None = None
    for names in letter_permutations(prototype.layer_group):
        letters = [names[index] for index in own]
        if Counter(letters) != Counter(others):
            continue
        costs = np.full((len(own), len(others)), 1e6)
        for i, site in enumerate(prototype.sites):
            weight = group.positions[own[i]].multiplicity
            for j, other in enumerate(wanted.sites):
                if letters[i] == others[j]:
                    costs[i, j] = weight * _unlike(site.element, other.element)
        rows, columns = linear_sum_assignment(costs)
        total = float(costs[rows, columns].sum())
        if best is None or total < best[0]:
            best = total, [wanted.sites[j].element for j in columns]
    if best is None:
        return None
    multiplicity = np.array([group.positions[index].multiplicity for index in own])
    before, after = (
        covalent_radii(np.array(z)) @ multiplicity for z in ([s.element for s in prototype.sites], best[1])
    )
    scale = float(after / before)
    a, b, gamma = prototype.lattice
    sites = tuple(
        Site(element, site.letter, (site.xyz[0], site.xyz[1], site.xyz[2] * scale))
        for element, site in zip(best[1], prototype.sites, strict=True)
    )
    return best[0] / float(multiplicity.sum()), LayerCrystal(
        prototype.layer_group, (a * scale, b * scale, gamma), sites
    )


@cache
def _unlike(first: int, second: int) -> float:
    """How far two elements are apart: relative difference of covalent radii, and columns of the periodic table."""
    one, other = covalent_radii(np.array([first, second]))
    columns = abs(Element.from_Z(first).group - Element.from_Z(second).group)
    return abs(float(np.log(one / other))) + COLUMN_WEIGHT * columns


def skeleton(sample: Sample) -> LayerCrystal:
    """The asymmetric unit of a sample: what its file says, else what symmetry finds in its structure."""
    if sample.crystal is not None:
        return sample.crystal
    if sample.structure is None:
        raise ScdmError(f"the sample has no structure ({sample.reason})")
    return symmetrize(orient_slab(sample.structure), SKELETON_SYMPREC_ANGSTROM).crystal


def _made(label: str, samples: list[Sample], begun: float, **said: Any) -> SampleSet:
    seconds = (time.perf_counter() - begun) / max(1, len(samples))
    said = {"draws": len(samples), "draws_said": True, **said}
    return SampleSet(label, tuple(samples), kind="baseline", seconds_per_sample=seconds, **said)
