"""Whom a round of a loop computes: the energy model's word on every candidate that no round has chosen yet.

And what a generator learns from: the same word on all candidates, and DFT's where there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pymatgen.core.structure import Structure

from scdm_flows.analysis.acquisition import Option, chance, choose, gap_chance, in_words
from scdm_flows.campaigns.estimate import Fit, fits, in_node_hours
from scdm_flows.campaigns.findings import findings_of
from scdm_flows.campaigns.promotion import why_not
from scdm_flows.campaigns.rounds import begun, computing_cores, hours_left, is_found
from scdm_flows.config import FilesGeneratorConfig
from scdm_flows.config.loop import LoopConfig
from scdm_flows.documents import CandidateDoc, Choice, LoopDoc, LoopRound, StageName, Taught
from scdm_flows.engines.base import StageCost
from scdm_flows.engines.forcefield.energies import predict_by
from scdm_flows.errors import ReferenceDataError
from scdm_flows.generators.teaching import teach
from scdm_flows.query import CandidateDB
from scdm_flows.stores.database import Database
from scdm_flows.thermo.energy_model import EnergyModel, PredictedEnergy, energy_model_for
from scdm_flows.thermo.learning import learn
from scdm_flows.thermo.table import ReferenceTable
from scdm_models.errors import DatasetError


def choose_round(
    config: LoopConfig, database: Database, number: int, document: LoopDoc, taken_out: Collection[str] = ()
) -> LoopRound:
    """The choice of a round, not stored yet. Novelty, hulls and ranking must have been built since the last job.

    taken_out: computed candidates that somebody has taken out of the queue.

    Raises
    ------
    ReferenceDataError
        If the surrogate's force field has no energy model.
    """
    model = _model(config, database)
    query = CandidateDB(database)
    chosen_before = [choice for one in document.rounds for choice in begun(query, one, taken_out)]
    pool, costs = _pool(config, database, document, {choice.candidate_id for choice in chosen_before})
    known, cores = fits(database, config.computing()) if pool else {}, computing_cores(config)
    options, documents = [], {}
    for candidate, predicted in zip(pool, predict_by(model, _relaxed(pool)), strict=True):
        if isinstance(predicted, PredictedEnergy):  # what the model cannot say anything of is not chosen
            hours = core_hours(costs[candidate.candidate_id], known, cores)
            options.append(_option(config, candidate, predicted, hours))
            documents[candidate.candidate_id] = candidate
    rules = config.choose
    before = list(_options(chosen_before, query))
    chosen = choose(
        options,
        0 if config.compute is None else rules.n,
        by=rules.by,
        below=rules.stable_ev,
        diversity=rules.diversity,
        per_hour=rules.per_hour,
        before=before,
        # what is left in node hours is no limit of core hours: the round's campaign keeps to it
        core_hours=None if cores is None else hours_left(config, database, number),
        seed=rules.seed + number - 1,
    )
    campaign = config.campaign(number)
    own = [o for o in options if campaign is not None and documents[o.candidate_id].campaign == campaign.name]
    n, chances = len(chosen), chance(options, rules.stable_ev)
    by_rank = choose(options, n, by="rank", below=rules.stable_ev)
    choices = []
    for (option, value), p in zip(chosen, chance([o for o, _ in chosen], rules.stable_ev), strict=True):
        choices.append(
            Choice(
                candidate_id=option.candidate_id,
                formula=documents[option.candidate_id].formula,
                value=round(value, 6),
                chance=round(float(p), 6),
                e_above_hull=option.e_above_hull,
                e_above_hull_error=option.error,
                core_hours=option.core_hours,
                why=in_words(option, rules.by, rules.stable_ev),
            )
        )
    return LoopRound(
        number=number,
        surrogate=None if campaign is None else campaign.name,
        generator_model=next((t.model_id for t in document.taught if t.number == number), None),
        computed=config.computed(number) if chosen else None,
        energy_model=model.id,
        learned_from=int(model.header.get("learned", {}).get("n", 0)),
        samples=None if campaign is None else query.campaign(campaign.name).funnel.generated,
        promising=sum(o.e_above_hull <= rules.stable_ev for o in own),
        pool=len(options),
        expected=round(sum(c.chance for c in choices), 4),
        expected_by_rank=round(float(chance([o for o, _ in by_rank], rules.stable_ev).sum()), 4),
        expected_at_random=round(float(n * chances.mean()) if len(chances) else 0.0, 4),
        chosen=choices,
        finished=not chosen,
    )


def core_hours(runs: Sequence[StageCost], known: Mapping[StageName, Fit], cores: int | None) -> float | None:
    """What a candidate's runs cost, in core hours whatever is known; None where that is next to nothing.

    By the fits to finished jobs, which are of node hours, and the cores of each job; by the engine's estimate where a
    stage has no fit, or nobody says how many cores there are.
    """
    fitted = None if cores is None else in_node_hours(runs, known)
    if cores is None or fitted is None:
        return sum(run.core_hours for run in runs) or None
    return fitted[0] * cores or None


def _model(config: LoopConfig, database: Database) -> EnergyModel:
    """The surrogate's energy model, which has learned from all computed layers of the database where it is to."""
    engine = config.candidates.engine
    model = energy_model_for(engine.force_field, engine.energy_model, engine.force_field_options)
    if model is None:
        raise ReferenceDataError(
            f"the force field {engine.force_field} has no energy model, and a loop chooses by one; make it with "
            f"`scdm refs fit --force-field {engine.force_field}` (candidates.engine.energy_model), or take CHGNet"
        )
    return learn(model, findings_of(database, model)) if config.learn.energies else model


def _pool(
    config: LoopConfig, database: Database, document: LoopDoc, chosen: Collection[str]
) -> tuple[list[CandidateDoc], dict[str, list[StageCost]]]:
    """New, relaxed, computable candidates of all rounds so far that none has chosen, each layer once; and what each
    costs to compute. chosen: ids."""
    query, draft, number = CandidateDB(database), config.computing(), len(document.rounds) + 1
    computed = {one.computed for one in document.rounds}
    pool: list[CandidateDoc] = []
    costs: dict[str, list[StageCost]] = {}
    for campaign in filter(None, map(config.campaign, range(1, number + 1))):
        for candidate in query.stream(sort="candidate_id", campaign=campaign.name):
            same = {known.id for known in candidate.known_as}
            if candidate.candidate_id in chosen or same & (chosen | costs.keys()):
                continue
            if computed & {name.rpartition("-")[0] for name in same}:  # ids are a campaign's name and digits
                continue
            if not _is_new(candidate):
                continue
            most = config.choose.max_atoms
            relaxed = candidate.relaxed_structure
            if most is not None and relaxed is not None and len(relaxed["sites"]) > most:
                continue
            why, runs = why_not(candidate, draft, ready=True)
            if why is None:
                pool.append(candidate)
                costs[candidate.candidate_id] = runs
    return pool, costs


def _relaxed(pool: Sequence[CandidateDoc]) -> list[Structure]:
    return [Structure.from_dict(c.relaxed_structure or {}) for c in pool]


def _option(
    config: LoopConfig, candidate: CandidateDoc, predicted: PredictedEnergy, hours: float | None = None
) -> Option:
    composition = Structure.from_dict(candidate.relaxed_structure or {}).composition
    fractions = {str(e): float(x) for e, x in composition.fractional_composition.items()}
    said = predicted.properties
    asked = config.choose.gap_ev
    return Option(
        candidate.candidate_id,
        predicted.formation_energy_per_atom - ReferenceTable.load().hull_energy(fractions),
        predicted.error,
        candidate.chemsys,
        candidate.template or "",
        candidate.score or 0.0,
        hours,
        1.0 if asked is None else gap_chance(said.nonmetal_probability, said.band_gap, said.band_gap_error, asked),
    )


def _options(choices: Sequence[Choice], query: CandidateDB) -> Iterator[Option]:
    """What earlier rounds have chosen, for diversity."""
    for choice in choices:
        candidate = query.get(choice.candidate_id)
        yield Option(
            choice.candidate_id, choice.e_above_hull, choice.e_above_hull_error, candidate.chemsys,
            candidate.template or "",
        )  # fmt: skip


def teach_round(config: LoopConfig, database: Database, number: int, document: LoopDoc, file: Path) -> Taught:
    """The generator of a round learns from the candidates of the rounds before; what came of it, not stored yet.

    A new layer is worth its chance to be what is looked for, by the energy model, and one that was computed 1 or 0.
    """
    generator = config.candidates.generator
    if isinstance(generator, FilesGeneratorConfig):
        return Taught(number=number, why_not="structures of files are not generated by a model")
    query, model = CandidateDB(database), _model(config, database)
    names = [campaign.name for campaign in map(config.campaign, range(1, number)) if campaign is not None]
    layers = [c for name in names for c in query.stream(sort="candidate_id", campaign=name) if _is_new(c)]
    computed = {
        one.promoted_from: one
        for this in document.rounds
        if this.computed is not None
        for one in query.stream(sort="candidate_id", campaign=this.computed)
    }
    rewards = np.zeros(len(layers))
    for k, predicted in enumerate(predict_by(model, _relaxed(layers))):
        known = computed.get(layers[k].candidate_id)
        if known is not None and known.e_above_hull is not None:
            rewards[k] = float(is_found(config, known))
        elif isinstance(predicted, PredictedEnergy) and not predicted.extrapolated:
            rewards[k] = chance([_option(config, layers[k], predicted)], config.choose.stable_ev)[0]
    try:
        model_id = teach(
            generator, _relaxed(layers), rewards.tolist(), file, steps=config.learn.steps, pull=config.learn.pull
        )
    except DatasetError as error:
        return Taught(number=number, why_not=str(error))
    return Taught(number=number, checkpoint=str(file.absolute()), model_id=model_id)


def _is_new(candidate: CandidateDoc) -> bool:
    return candidate.novel is True and candidate.e_above_hull is not None and candidate.relaxed_structure is not None
