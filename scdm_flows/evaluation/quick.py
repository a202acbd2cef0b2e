"""The quick judgement of samples, without energies: validity, symmetry, novelty before relaxing, distributions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from scdm_flows.evaluation.reading import Sample, SampleSet
from scdm_flows.evaluation.shares import plain
from scdm_models.datasets.known import KnownLayers, look_up_all
from scdm_models.errors import ScdmError
from scdm_models.metrics.distributions import Population, distribution_distances, population
from scdm_models.metrics.groups import found_by_both
from scdm_models.metrics.intervals import share_interval
from scdm_models.metrics.rediscovery import Kind, rediscovered
from scdm_models.metrics.uniqueness_novelty import novel_templates, uniqueness
from scdm_models.metrics.validity import judge_sample
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.lattice import orient_slab

logger = logging.getLogger(__name__)
SYMPREC_ANGSTROM = 1e-3  # of a sample's layer group, where its file does not say it

MEASURES = {
    "kept_draws": "kept of all draws (bonded layers, no repeated skeleton)",
    "mended": "mended by guidance",
    "valid_distance": "no atoms closer than 0.5 Å",
    "valid_radii": "no atoms closer than 0.7 covalent radii",
    "one_layer_sampled": "one connected layer",
    "composition_valid": "composition valid (SMACT), of those judged",
    "group_exact": "layer group exactly as asked for",
    "group_by_two_tools": "the group asked for, or a higher one, by moyopy and spglib",
    "p1": "no symmetry found (layer group 1)",
    "new_sampled": "equal to no known layer before relaxing",
    "novel_templates": "new Wyckoff template",
    "unique": "unique before relaxing, of those compared (falls with n)",
}


@dataclass(frozen=True)
class HeldOut:
    """Held-out layers of a curated set, and the distributions of them and of as many training layers.

    kinds: formula and layer group of each.
    """

    structures: list[Structure]
    kinds: list[Kind]
    population: Population
    training: Population


def judge_quickly(
    one: SampleSet, known: KnownLayers, processes: int = 1, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """The shares of one model's samples, pooled over its files, and what its distributions are drawn from.

    A share that asks for what the files do not say, such as the layer group that was wanted, is left out.
    """
    n, structures = len(one.samples), [sample.structure for sample in one.samples]
    verdicts = [judge_sample(structure) for structure in structures]
    groups = [_group(sample) for sample in one.samples]
    plausible = [v.composition_valid for v in verdicts if v.composition_valid is not None]
    found = look_up_all(structures, known, processes, progress)
    counts = {
        "valid_distance": (sum(v.valid_distance for v in verdicts), n),
        "valid_radii": (sum(v.valid_radii for v in verdicts), n),
        "one_layer_sampled": (sum(v.one_layer for v in verdicts), n),
        "composition_valid": (sum(plausible), len(plausible)),
        "p1": (groups.count(1), n),
        "new_sampled": (found.count([]), n),
    }
    asked = [sample.record.get("layer_group_requested") for sample in one.samples]
    if any(isinstance(group, int) for group in asked):
        both = sum(
            s is not None and isinstance(group, int) and found_by_both(s, group)
            for s, group in zip(structures, asked, strict=True)
        )
        exact = sum(group is not None and group == own for group, own in zip(asked, groups, strict=True))
        counts |= {"group_exact": (exact, n), "group_by_two_tools": (both, n)}
    if one.draws_said and one.draws:
        counts["kept_draws"] = (n, one.draws)
        counts["mended"] = (sum(bool(sample.record.get("mended")) for sample in one.samples), n)
    measures = {name: plain(share_interval(*pair)) for name, pair in counts.items() if pair[1]}
    try:
        unique = uniqueness(structures)
        measures["unique"] = plain(share_interval(unique.n_groups, unique.n))
    except ScdmError as error:
        logger.warning("%s: %s", one.label, error)
    crystals = [sample.crystal for sample in one.samples if sample.crystal is not None]
    if crystals and known.templates:
        measures["novel_templates"] = plain(novel_templates(crystals, known.templates).share)
    return {
        "label": one.label,
        "model_id": one.model_id,
        "steps": one.steps,
        "seeds": list(one.seeds),
        "files": one.files,
        "n": n,
        "draws": one.draws if one.draws_said else None,
        "measures": {name: measures[name] for name in MEASURES if name in measures},
        "unreadable": {sample.id: sample.reason for sample in one.samples if sample.structure is None},
        "populations": {
            "n_atoms": [v.n_atoms for v in verdicts],
            "area_per_atom": [v.area_per_atom_angstrom2 for v in verdicts],
            "thickness": [v.thickness_angstrom for v in verdicts],
        },
        "groups": groups,
    }


def _group(sample: Sample) -> int | None:
    """The sample's layer group, as its file says or found here; None where there is none."""
    if "layer_group_detected" in sample.record:
        said = sample.record["layer_group_detected"]
        return said if isinstance(said, int) else None
    try:
        return None if sample.structure is None else detect_layer_group(orient_slab(sample.structure), SYMPREC_ANGSTROM)
    except ScdmError:
        return None


def read_held_out(curated: Path) -> HeldOut:
    """What both packaged models never saw of a curated set, and every so many of the layers that both learned from."""
    from scdm_models.datasets.records import read_curated
    from scdm_models.model.checkpoint import PACKAGED, load_checkpoint
    from scdm_models.training.data_split import held_out

    layers = [layer for layer in read_curated(curated) if layer.one_layer]
    crystals, ids = [layer.crystal for layer in layers], [layer.id for layer in layers]
    splits = [held_out(load_checkpoint(packaged=name), crystals, ids) for name in PACKAGED]
    seen, held = (sorted(set.intersection(*(set(rows) for rows in parts))) for parts in zip(*splits, strict=True))
    step = max(1, len(seen) // max(1, len(held)))
    parts, kinds = [], [(layers[i].structure.composition.reduced_formula, layers[i].layer_group) for i in held]
    for rows in (held, seen[::step][: len(held)]):
        structures = [layers[i].structure for i in rows]
        parts.append((structures, population(structures, [layers[i].layer_group for i in rows])))
    return HeldOut(parts[0][0], kinds, parts[0][1], parts[1][1])


def beside_held_out(one: SampleSet, groups: Sequence[int | None], held: HeldOut) -> dict[str, Any]:
    """Distances of the samples from the held-out layers, of training layers from them as the yardstick; those found."""
    structures = [sample.structure for sample in one.samples]
    kinds = [
        (structure.composition.reduced_formula, group)
        for structure, group in zip(structures, groups, strict=True)
        if structure is not None and group is not None
    ]
    return {
        "distances_to_held_out": {
            "samples": asdict(distribution_distances(population(structures, groups), held.population)),
            "training": asdict(distribution_distances(held.training, held.population)),
        },
        "rediscovered": asdict(rediscovered(kinds, held.kinds)),
    }
