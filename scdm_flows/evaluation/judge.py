"""Judges single samples: as drawn, relaxed from a displaced start, their energies, their phonons.

Worker processes call ``judge_part`` and ``phonon_part``; both give JSON-able results and never raise for a bad sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pymatgen.core import Structure

from scdm_flows.analysis.relaxed import RelaxedSample, judge_relaxed
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.evaluation.protocol import Protocol
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.metrics.validity import SampleJudgement, judge_sample
from scdm_models.symmetry.encoding import symmetrize
from scdm_models.symmetry.lattice import orient_slab

# samples that a worker process relaxes together: their batches are full, and little is lost with a killed run
PART = 32


@dataclass(frozen=True)
class Judged:
    """One sample by itself: as drawn, and what became of it.

    Parameters
    ----------
    sampled
        As drawn.
    relaxed
        After relaxation.
    structure
        The relaxed structure; None where there is none.
    """

    sampled: SampleJudgement
    relaxed: RelaxedSample
    structure: Structure | None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Judged:
        """From what ``judge_part`` gives."""
        sampled = {**data["sampled"], "elements": tuple(data["sampled"]["elements"])}
        structure = None if data["structure"] is None else from_compact(data["structure"])
        return cls(SampleJudgement(**sampled), RelaxedSample(**data["relaxed"]), structure)


def compact(structure: Structure) -> dict[str, Any]:
    """A structure as ``lattice``, ``species``, ``frac_coords``, which every reader of this project takes."""
    return {
        "lattice": structure.lattice.matrix.tolist(),
        "species": [site.specie.symbol for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
    }


def from_compact(data: Mapping[str, Any]) -> Structure:
    """The structure of ``compact``."""
    return Structure(data["lattice"], data["species"], data["frac_coords"])


def displaced(structure: Structure, distance: float, seed: Sequence[int]) -> Structure:
    """The structure with every atom moved by ``distance`` angstrom in a direction that the seed gives."""
    steps = np.random.default_rng(seed).normal(size=(len(structure), 3))
    steps *= distance / np.linalg.norm(steps, axis=1, keepdims=True)
    moved = structure.cart_coords + steps
    return Structure(structure.lattice, structure.species, moved, coords_are_cartesian=True)


def judge_part(
    part: Sequence[tuple[Structure | None, str | None, Sequence[int]]],
    protocol: Protocol,
    engine: ForceFieldEngineConfig,
) -> list[dict[str, Any]]:
    """What ``Judged.from_dict`` reads of each sample: structure, why there is none, seed of the displacement.

    engine: whose force field and energy model judge.

    A sample that is no layer (bulk, no vacuum), or whose atoms are closer than 0.5 angstrom, is not relaxed. A layer in
    any orientation is turned as the screen turns it.
    """
    from scdm_flows.engines.forcefield.energies import predict
    from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together

    references = ReferenceTable.load()
    sampled = [judge_sample(structure) for structure, _, _ in part]
    relaxed = [RelaxedSample(reason=reason or s.reason) for (_, reason, _), s in zip(part, sampled, strict=True)]
    after: list[dict[str, Any] | None] = [None] * len(part)
    slabs = {
        k: orient_slab(structure)
        for k, (structure, _, _) in enumerate(part)
        if structure is not None and sampled[k].valid_distance and sampled[k].thickness_angstrom is not None
    }
    starts = [displaced(slab, protocol.displacement_angstrom, part[k][2]) for k, slab in slabs.items()]
    settings = RelaxSettings(
        protocol.fmax_ev_per_angstrom,
        protocol.max_steps,
        force_field=engine.force_field,
        options=engine.force_field_options,
    )
    ended = relax_together(starts, settings)
    predicted = predict([one.structure for one in ended], engine)
    for (k, slab), one, energy in zip(slabs.items(), ended, predicted, strict=True):
        relaxed[k] = judge_relaxed(slab, one, references, energy, protocol.symprec_angstrom)
        after[k] = None if one.structure is None else compact(one.structure)
    return [
        {"sampled": asdict(s), "relaxed": asdict(r), "structure": structure}
        for s, r, structure in zip(sampled, relaxed, after, strict=True)
    ]


def phonon_part(part: Sequence[Structure], protocol: Protocol, engine: ForceFieldEngineConfig) -> list[dict[str, Any]]:
    """Of each relaxed layer: ``stable``, ``min_frequency_thz`` (imaginary negative) and the ``reason`` of a no.

    A layer is brought onto the symmetry it has at the protocol's tolerance first, which spares most displacements. One
    that relaxation left on a saddle point goes back onto it, and shows its imaginary mode.
    """
    from scdm_flows.engines.forcefield.phonons import phonons_together

    layers = []
    for structure in part:
        try:
            layers.append(symmetrize(structure, protocol.symprec_angstrom).structure)
        except Exception:  # without symmetry there are more displacements, and the same phonons
            layers.append(structure)
    found = phonons_together([(str(k), layer) for k, layer in enumerate(layers)], engine, "")
    return [
        {"stable": False, "min_frequency_thz": None, "reason": one}
        if isinstance(one, str)
        else {"stable": one.dynamically_stable, "min_frequency_thz": one.min_frequency_thz, "reason": one.reason}
        for one in found
    ]
