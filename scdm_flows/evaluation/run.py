"""One judgement from files to numbers: the model, its peers and the baselines, sample by sample, then their shares."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Structure

from scdm_flows import __version__
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.errors import ScdmError
from scdm_flows.evaluation import baselines
from scdm_flows.evaluation.asked import beside, fulfilment, wanted
from scdm_flows.evaluation.judge import PART, Judged, compact, from_compact, judge_part, phonon_part
from scdm_flows.evaluation.ledger import Key, Ledger, carry_out
from scdm_flows.evaluation.protocol import Protocol
from scdm_flows.evaluation.reading import Sample, SampleSet
from scdm_flows.evaluation.shares import measures, per_thousand_draws, verdicts
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.datasets.known import KnownLayers, look_up_all
from scdm_models.datasets.matching import LayerMatcher
from scdm_models.metrics.uniqueness_novelty import uniqueness
from scdm_models.metrics.validity import smact_provenance
from scdm_models.processes import pool
from scdm_models.symmetry.encoding import LayerCrystal

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Report = Callable[[str, int, int], None]
MOST_KNOWN = 5  # known layers that are named of each sample
TIMED = 32  # samples that are drawn to time a packaged model
POLYMORPHS = "known polymorphs"


@dataclass
class Judgement:
    """A judgement under way.

    Parameters
    ----------
    protocol
        By which it is made.
    models
        The judged model, then its peers.
    known
        Known layers.
    seed
        Of the baselines, the displacements, the draw of phonons and the bootstrap.
    phonons
        How many of a model's MetaS.U.N. samples get phonons, drawn where there are more.
    ledger
        What is finished.
    processes
        Worker processes, >= 1.
    report
        Called with (stage, done, total).
    engine
        Whose force field relaxes and whose energy model judges.
    with_baselines
        Whether the four baselines are made and judged as well.
    """

    protocol: Protocol
    models: Sequence[SampleSet]
    known: KnownLayers
    seed: int
    phonons: int
    ledger: Ledger
    processes: int
    report: Report
    engine: ForceFieldEngineConfig = field(default_factory=ForceFieldEngineConfig)
    with_baselines: bool = True

    def result(self) -> dict[str, Any]:
        """Everything as JSON: protocol and sources, and of each model its measures and every sample's verdicts."""
        with pool(self.processes, _begin) if self.processes > 1 else nullcontext() as workers:
            made = self._baselines(workers)
            taken = {one.label for one in made}
            named = [replace(one, label=f"{one.label} (file)") if one.label in taken else one for one in self.models]
            sets = [*named, *made]
            judged = self._judged(sets, workers)
            lowest = self._lowest_known(judged, workers)
            models = [
                {
                    **self._model(one, judged[one.label], lowest, workers),
                    "fulfilment": fulfilment(one, sets, judged, self.known.formulas),
                }
                for one in sets
            ]
        references = ReferenceTable.load()
        return {
            "protocol": self.protocol.to_dict(),
            "seed": self.seed,
            "energies": {
                "surrogate": True,
                **_energies_by(self.engine),
                "scheme": references.scheme,
                "reference_sha256": references.sha256,
            },
            "known_layers": {"version": self.known.version, **self.known.sources},
            "smact": smact_provenance(),
            "models": models,
        }

    @cached_property
    def _known(self) -> list[tuple[str, str, Structure]]:
        return list(self.known.structures())

    def _baselines(self, workers: ProcessPoolExecutor | None) -> list[SampleSet]:
        """The four baselines of the first model, and what it makes unasked where no file has it; made once and kept."""
        model, n = self.models[0], len(self.models[0].samples)
        makers: dict[str, Callable[[], SampleSet | None]] = {
            baselines.RESAMPLED: lambda: baselines.resampled(self._known, n, self.seed, self.protocol),
            baselines.UNSCDM: lambda: baselines.unscdm(model, self.seed, self.processes),
            baselines.RANDOM: lambda: baselines.random_coordinates(model, self.seed),
            baselines.COPIES: lambda: baselines.prototype_copies(
                model, baselines.prototypes(self._known, self.protocol, workers)
            ),
        }
        if not self.with_baselines:
            makers = {}
        if wanted(model) and beside(model, self.models) is None:
            makers[baselines.UNASKED] = lambda: baselines.unasked(model, self.seed, self.processes)
        made = []
        for done, (label, make) in enumerate(makers.items()):
            self.report("baselines", done, len(makers))
            key = ("made", label)
            if key not in self.ledger:
                one = make()
                self.ledger.add([(key, None if one is None else _to_dict(one))])
            if self.ledger[key] is not None:
                made.append(_from_dict(self.ledger[key]))
        if makers:
            self.report("baselines", len(makers), len(makers))
        return made

    def _judged(self, sets: Sequence[SampleSet], workers: ProcessPoolExecutor | None) -> dict[str, list[Judged]]:
        """What ``judge_part`` says of each sample, by label."""
        pieces: dict[str, list[tuple[Key, Any]]] = {
            one.label: [
                (("judged", one.label, str(k)), (sample.structure, sample.reason, [self.seed, k]))
                for k, sample in enumerate(one.samples)
            ]
            for one in sets
        }
        return self._relaxed("relax samples", pieces, workers)

    def _relaxed(
        self, stage: str, pieces: Mapping[str, list[tuple[Key, Any]]], workers: ProcessPoolExecutor | None
    ) -> dict[str, list[Judged]]:
        """What ``judge_part`` says of the pieces under each label."""
        found = carry_out(
            partial(judge_part, engine=self.engine),
            [own[i : i + PART] for own in pieces.values() for i in range(0, len(own), PART)],
            self.ledger,
            self.protocol,
            workers=workers,
            progress=lambda done, total: self.report(stage, done, total),
        )
        return {label: [Judged.from_dict(found[key]) for key, _ in own] for label, own in pieces.items()}

    def _lowest_known(
        self, judged: Mapping[str, Sequence[Judged]], workers: ProcessPoolExecutor | None
    ) -> dict[str, float]:
        """Reduced formula -> surrogate energy above hull of its lowest known layer, eV/atom.

        Of the formulas of samples with an energy; known layers are relaxed as the samples are, equal ones once.
        """
        wanted = {
            one.sampled.formula
            for samples in judged.values()
            for one in samples
            if one.relaxed.e_above_hull is not None and one.relaxed.one_layer
        }
        layers = [
            (f"{source} {name}", structure)
            for name, source, structure in self._known
            if structure.composition.reduced_formula in wanted and len(structure) <= self.protocol.most_atoms
        ]
        different = [layers[group[0]] for group in LayerMatcher().group([structure for _, structure in layers])]
        pieces: list[tuple[Key, Any]] = [
            ((POLYMORPHS, name), (structure, None, [self.seed, k])) for k, (name, structure) in enumerate(different)
        ]
        lowest: dict[str, float] = {}
        for one in self._relaxed("relax known polymorphs", {POLYMORPHS: pieces}, workers)[POLYMORPHS]:
            energy = one.relaxed.e_above_hull
            if energy is not None and one.relaxed.one_layer and one.relaxed.converged:
                formula = str(one.sampled.formula)
                lowest[formula] = min(energy, lowest.get(formula, np.inf))
        return lowest

    def _model(
        self,
        one: SampleSet,
        judged: Sequence[Judged],
        lowest: Mapping[str, float],
        workers: ProcessPoolExecutor | None,
    ) -> dict[str, Any]:
        """A model's entry of the result."""
        whole = [j.structure if j.relaxed.one_layer else None for j in judged]
        sampled = self._look_up([sample.structure for sample in one.samples], one.label)
        relaxed = self._look_up(whole, one.label)
        try:
            same_as: Sequence[int | None] = uniqueness(whole).representative
        except ScdmError:  # not one of them is a layer
            same_as = [None] * len(judged)
        known_sampled, known = ([None if isinstance(m, str) else m for m in found] for found in (sampled, relaxed))
        arguments = (judged, known_sampled, known, same_as, self._has_known(one, judged), lowest)
        meta = f"sun_{self.protocol.phonon_window:g}"
        chosen = [k for k, own in enumerate(verdicts(*arguments, {}, self.protocol)) if own[meta]]
        phonons = self._phonons(one.label, judged, chosen, workers)
        found = verdicts(*arguments, phonons, self.protocol)
        shares = measures(found, [j.relaxed.rmsd_angstrom for j in judged], self.protocol, self.seed)
        seconds = one.seconds_per_sample if one.seconds_per_sample is not None else self._seconds(one)
        return {
            "label": one.label,
            "kind": one.kind,
            "model_id": one.model_id,
            "steps": one.steps,
            "asked": one.asked,
            "seeds": list(one.seeds),
            "files": one.files,
            "n": len(judged),
            "draws": one.draws,
            "draws_said": one.draws_said,
            "measures": shares,
            "seconds_per_sample": seconds,
            "per_1000_draws": per_thousand_draws(shares, len(judged), one.draws) if one.draws else {},
            "samples": [
                {
                    "id": sample.id,
                    "draw": sample.draw,
                    "sampled": asdict(j.sampled),
                    "relaxed": asdict(j.relaxed),
                    "structure": None if j.structure is None else compact(j.structure),
                    "known_sampled": known_sampled[k],
                    "known": known[k],
                    "not_compared": text if isinstance(text := relaxed[k], str) and j.relaxed.one_layer else None,
                    "same_as": same_as[k],
                    "lowest_known_e_above_hull": lowest.get(j.sampled.formula or ""),
                    "phonon": phonons.get(k),
                    "verdicts": found[k],
                }
                for k, (sample, j) in enumerate(zip(one.samples, judged, strict=True))
            ],
        }

    def _has_known(self, one: SampleSet, judged: Sequence[Judged]) -> list[bool]:
        """Whether a known layer has the formula of each sample, or of the skeleton of which none could be made."""
        from scdm_models.sampling.skeletons import formula_of  # loads torch

        made = [
            j.sampled.formula or (None if sample.crystal is None else formula_of(sample.crystal))
            for sample, j in zip(one.samples, judged, strict=True)
        ]
        return [formula in self._compared_formulas for formula in made]

    @cached_property
    def _compared_formulas(self) -> set[str]:
        """Reduced formulas of the known layers that samples are compared with by energy."""
        most = self.protocol.most_atoms
        return {s.composition.reduced_formula for _, _, s in self._known if len(s) <= most}

    def _look_up(self, structures: Sequence[Structure | None], label: str) -> list[list[str] | str]:
        """Names of the known layers that each is, nearest first; why, where one cannot be compared."""
        found = look_up_all(
            structures, self.known, self.processes, lambda _, done, total: self.report(f"look up {label}", done, total)
        )
        return [m if isinstance(m, str) else [f"{x.source} {x.id}" for x in m[:MOST_KNOWN]] for m in found]

    def _phonons(
        self, label: str, judged: Sequence[Judged], chosen: Sequence[int], workers: ProcessPoolExecutor | None
    ) -> dict[int, dict[str, Any]]:
        """Phonons of the chosen samples, or of a seeded draw of them."""
        if len(chosen) > self.phonons:
            draw = np.random.default_rng(self.seed).choice(len(chosen), self.phonons, replace=False)
            chosen = [chosen[k] for k in sorted(draw.tolist())]
        found: dict[int, dict[str, Any]] = {}
        pieces: dict[int, tuple[Key, Structure]] = {}
        for k in chosen:
            structure = judged[k].structure
            assert structure is not None
            if len(structure) > self.protocol.phonon_max_atoms:
                reason = f"no phonons: {len(structure)} atoms, at most {self.protocol.phonon_max_atoms}"
                found[k] = {"stable": False, "min_frequency_thz": None, "reason": reason}
            else:
                pieces[k] = ("phonon", label, str(k)), structure
        # the largest first, so that none of them is left to the end
        parts = [[piece] for piece in sorted(pieces.values(), key=lambda piece: -len(piece[1]))]
        done = carry_out(
            partial(phonon_part, engine=self.engine),
            parts,
            self.ledger,
            self.protocol,
            workers=workers,
            progress=lambda done, total: self.report(f"phonons {label}", done, total),
        )
        return found | {k: done[key] for k, (key, _) in pieces.items()}

    def _seconds(self, one: SampleSet) -> float | None:
        """Seconds to make a sample: what the file says (``seconds``), or of a packaged model drawn here; else None."""
        said = [float(s.record["seconds"]) for s in one.samples if isinstance(s.record.get("seconds"), int | float)]
        if said:
            return float(np.mean(said))
        key = ("seconds", one.label)
        if key not in self.ledger:
            self.ledger.add([(key, _timed(one))])
        seconds: float | None = self.ledger[key]
        return seconds


def _begin() -> None:
    """How a worker process begins."""
    from scdm_flows.engines.forcefield.relaxation import one_thread

    one_thread()
    logging.getLogger("moyo").setLevel(logging.ERROR)  # it warns of every small displacement


def _timed(one: SampleSet) -> float | None:
    from scdm_models.model.checkpoint import PACKAGED, load_checkpoint
    from scdm_models.sampling.sampler import DEFAULT_STEPS, SamplerOptions, generate

    # one that passes over draws for what they were asked takes longer, which its file does not say
    for name in PACKAGED if one.model_id is not None and not wanted(one) else ():
        checkpoint = load_checkpoint(packaged=name)
        if checkpoint.model_id == one.model_id:
            options = SamplerOptions(steps=one.steps or DEFAULT_STEPS, guidance=one.passes_over)
            begun = time.perf_counter()
            made = sum(1 for _ in generate(TIMED, 0, checkpoint=checkpoint, options=options))
            return (time.perf_counter() - begun) / made
    return None


def _energies_by(engine: ForceFieldEngineConfig) -> dict[str, Any]:
    from scdm_flows.thermo.energy_model import load_energy_model, shared_with_guide

    model = load_energy_model(engine.energy_model)
    return {
        "force_field": engine.force_field,
        "energy_model": model.header["id"],
        "shared_with_guide": shared_with_guide(model),
    }


def header(
    protocol: Protocol,
    models: Sequence[SampleSet],
    known: KnownLayers,
    seed: int,
    phonons: int,
    engine: ForceFieldEngineConfig,
) -> dict[str, Any]:
    """What a judgement depends on; work that was finished under another header is not used."""
    return {
        "version": __version__,
        "protocol": protocol.to_dict(),
        "files": [[one.label, *sorted(one.files.values())] for one in models],
        "known_layers": known.version,
        **_energies_by(engine),
        "reference_sha256": ReferenceTable.load().sha256,
        "seed": seed,
        "phonons": phonons,
    }


def _to_dict(one: SampleSet) -> dict[str, Any]:
    kept = ("label", "draws", "draws_said", "kind", "seconds_per_sample", "model_id", "steps", "seeds")
    return {
        **{name: getattr(one, name) for name in kept},
        "samples": [
            {
                "id": sample.id,
                "structure": None if sample.structure is None else compact(sample.structure),
                "reason": sample.reason,
                "crystal": None if sample.crystal is None else sample.crystal.to_dict(),
                "record": sample.record,
            }
            for sample in one.samples
        ],
    }


def _from_dict(data: Mapping[str, Any]) -> SampleSet:
    samples = [
        Sample(
            s["id"],
            None if s["structure"] is None else from_compact(s["structure"]),
            s["reason"],
            None if s["crystal"] is None else LayerCrystal.from_dict(s["crystal"]),
            s["record"],
        )
        for s in data["samples"]
    ]
    return SampleSet(**{**data, "samples": tuple(samples), "seeds": tuple(data.get("seeds", ()))})
