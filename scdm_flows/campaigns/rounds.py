"""A loop's rounds: what comes next, whom a round chooses, what it found.

What comes next is a pure function of the loop's document and of which campaigns are over, and every choice is stored
before anything is computed for it: a loop that was killed goes on as if it had not been.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core.structure import Structure

from scdm_flows.analysis.acquisition import Option, chance, choose, gap_chance, in_words
from scdm_flows.campaigns.estimate import Fit, estimate, fits, in_node_hours
from scdm_flows.campaigns.findings import findings_of
from scdm_flows.campaigns.node_hours import node_hours
from scdm_flows.campaigns.promotion import Asked, why_not
from scdm_flows.config import CampaignConfig
from scdm_flows.config.loop import LoopConfig, parse_loop
from scdm_flows.documents import CandidateDoc, CandidateState, Choice, LoopDoc, LoopRound, StageName
from scdm_flows.documents.migrations import migrate
from scdm_flows.documents.provenance import made_here
from scdm_flows.engines.forcefield.energies import predict_by
from scdm_flows.errors import CampaignError, ReferenceDataError
from scdm_flows.query import CandidateDB
from scdm_flows.stores.database import Database, strip
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import OUTPUTS
from scdm_flows.thermo.energy_model import EnergyModel, PredictedEnergy, energy_model_for
from scdm_flows.thermo.learning import learn

if TYPE_CHECKING:
    from collections.abc import Mapping

SMALLEST_BUDGET_HOURS = 1e-6


class Step(StrEnum):
    """What a round does, in order; ``END``: there is no further round."""

    GENERATE = "generate and relax"
    CHOOSE = "choose"
    COMPUTE = "compute"
    END = "end"


@dataclass(frozen=True)
class Next:
    """What comes next. number: of the round; why: there is no further one."""

    step: Step
    number: int
    why: str | None = None


def next_step(config: LoopConfig, document: LoopDoc, over: Collection[str], core_hours: float) -> Next:
    """What comes next.

    over: surrogate campaigns whose work is done; core_hours: that all jobs of the loop have taken.
    """
    rounds = document.rounds
    if rounds and not rounds[-1].finished:
        return Next(Step.COMPUTE, rounds[-1].number)
    number = len(rounds) + 1
    if number > config.rounds:
        return Next(Step.END, number, f"all {config.rounds} rounds are done")
    if config.core_hours is not None and core_hours >= config.core_hours:
        return Next(Step.END, number, f"its {config.core_hours:g} core hours are used up")
    campaign = config.campaign(number)
    if campaign is not None and campaign.name not in over:
        return Next(Step.GENERATE, number)
    return Next(Step.CHOOSE, number)


def register_loop(config: LoopConfig, database: Database) -> LoopDoc:
    """The loop's document, made where there is none; rounds and core hours of the file are taken over.

    Raises
    ------
    CampaignError
        If there is another loop of this name.
    """
    known = loop_document(database, config.name)
    wanted = config.model_dump(mode="json")
    if known is None:
        known = LoopDoc(
            name=config.name,
            description=config.description,
            config=wanted,
            config_hash=config.config_hash,
            provenance=made_here(config_hash=config.config_hash),
        )
    elif known.config_hash != config.config_hash:
        raise CampaignError(
            f"loop {config.name!r} exists with another configuration; only rounds, core_hours and the description may "
            "change; give the changed file a new name"
        )
    elif known.config == wanted:
        return known
    known.config, known.description = wanted, config.description
    save(database, known)
    return known


def loop_document(database: Database, name: str) -> LoopDoc | None:
    """The loop of a name, None where there is none."""
    with store_errors(database.uri):
        found = database.loops.query_one({"name": name})
    return None if found is None else LoopDoc.model_validate(migrate(LoopDoc, strip(found), f"loop {name!r}"))


def stored_loop(database: Database, name: str) -> tuple[LoopConfig, LoopDoc]:
    """The loop of a name and what it was asked for; ``CampaignError`` where there is none."""
    document = loop_document(database, name)
    if document is None:
        with store_errors(database.uri):
            names = sorted(str(n) for n in database.loops.distinct("name"))
        raise CampaignError(f"there is no loop {name!r}" + (f"; there are {', '.join(names)}" if names else ""))
    return parse_loop(document.config, origin=f"loop {name}"), document


def save(database: Database, document: LoopDoc) -> None:
    """Write the document, with the time."""
    from scdm_flows.documents import utc_now

    document.last_updated = utc_now()
    database.upsert(database.loops, [document.model_dump()])


def hours_of(config: LoopConfig, database: Database, number: int) -> float:
    """Core hours of a round's jobs; each job has one core."""
    campaign = config.campaign(number)
    names = [config.computed(number), *([] if campaign is None else [campaign.name])]
    with store_errors(database.uri):
        return sum(node_hours(database.mongo[OUTPUTS], name) for name in names)


def choose_round(config: LoopConfig, database: Database, number: int, document: LoopDoc) -> LoopRound:
    """The choice of a round, not stored yet. Novelty, hulls and ranking must have been built since the last job.

    Raises
    ------
    ReferenceDataError
        If the surrogate's force field has no energy model.
    """
    model = _base_model(config)
    if config.learn.energies:
        model = learn(model, findings_of(database, model))
    pool = _pool(config, database, document)
    known = fits(database, _draft(config)) if pool else {}
    options, documents = [], {}
    for candidate, predicted in zip(pool, predict_by(model, _relaxed(pool)), strict=True):
        if isinstance(predicted, PredictedEnergy):  # what the model cannot say anything of is not chosen
            options.append(_option(config, candidate, predicted, known))
            documents[candidate.candidate_id] = candidate
    rules = config.choose
    before = list(_options_before(document, CandidateDB(database)))
    chosen = choose(
        options,
        rules.n,
        by=rules.by,
        below=rules.stable_ev,
        diversity=rules.diversity,
        per_hour=rules.per_hour,
        before=before,
        core_hours=hours_left(config, database, number),
        seed=rules.seed + number - 1,
    )
    campaign = config.campaign(number)
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
        computed=config.computed(number) if chosen else None,
        energy_model=model.id,
        learned_from=int(model.header.get("learned", {}).get("n", 0)),
        pool=len(options),
        expected=round(sum(c.chance for c in choices), 4),
        expected_by_rank=round(float(chance([o for o, _ in by_rank], rules.stable_ev).sum()), 4),
        expected_at_random=round(float(n * chances.mean()) if len(chances) else 0.0, 4),
        chosen=choices,
        finished=not chosen,
    )


def asked_of(config: LoopConfig, this: LoopRound, left: float | None) -> Asked:
    """The promotion of a round's choice. left: core hours of the loop's budget; None without one."""
    last = next(n for n in range(this.number, 0, -1) if config.campaign(n) is not None)
    parent = config.campaign(last)
    assert parent is not None
    return Asked(
        parent=parent.name,
        top=len(this.chosen),
        engine=config.compute.engine.model_dump(mode="json"),
        name=config.computed(this.number),
        node_hours=None if left is None else max(left, SMALLEST_BUDGET_HOURS),
        gate=config.compute.gate.model_dump(mode="json"),
        candidates=tuple(choice.candidate_id for choice in this.chosen),
        description=f"chosen in round {this.number} of the loop {config.name}, by {config.choose.by}",
    )


def count(config: LoopConfig, database: Database, this: LoopRound, before: Sequence[LoopRound]) -> LoopRound:
    """The round with what it found so far; hulls and novelty must have been built since the last job.

    before: earlier rounds, whose finds are none of a later one.
    """
    earlier = {name for one in before for name in one.found_ids}
    ended, found = 0, []
    if this.computed is not None:
        for one in CandidateDB(database).stream(sort="candidate_id", campaign=this.computed):
            if one.e_above_hull is None or one.state is CandidateState.PENDING:
                continue
            ended += 1
            if is_found(config, one) and not earlier & {known.id for known in one.known_as}:
                found.append(one.candidate_id)
    hours = round(hours_of(config, database, this.number), 6)
    return this.model_copy(update={"ended": ended, "found": len(found), "found_ids": found, "core_hours": hours})


def is_found(config: LoopConfig, one: CandidateDoc) -> bool:
    """Whether a computed candidate is what is looked for: new after its own relaxation, stable, its gap as asked."""
    rules = config.choose
    if one.novel is not True or one.duplicate_of is not None or one.e_above_hull is None:
        return False
    if one.e_above_hull > rules.stable_ev or one.e_above_hull_lower_bound:
        return False
    if rules.gap_ev is None:
        return True
    return one.band_gap is not None and rules.gap_ev[0] <= one.band_gap <= rules.gap_ev[1]


def _base_model(config: LoopConfig) -> EnergyModel:
    engine = config.candidates.engine
    model = energy_model_for(engine.force_field, engine.energy_model, engine.force_field_options)
    if model is None:
        raise ReferenceDataError(
            f"the force field {engine.force_field} has no energy model, and a loop chooses by one; make it with "
            f"`scdm refs fit --force-field {engine.force_field}` (candidates.engine.energy_model), or take CHGNet"
        )
    return model


def _draft(config: LoopConfig) -> CampaignConfig:
    """A campaign that computes as the loop does, for what that costs."""
    first = config.campaign(1)
    assert first is not None
    return first.model_copy(update={"engine": config.compute.engine, "gate": config.compute.gate})


def _pool(config: LoopConfig, database: Database, document: LoopDoc) -> list[CandidateDoc]:
    """New, relaxed, computable candidates of all rounds so far that none has chosen, each layer once."""
    query, draft, number = CandidateDB(database), _draft(config), len(document.rounds) + 1
    chosen = {choice.candidate_id for one in document.rounds for choice in one.chosen}
    computed = re.compile(rf"{re.escape(config.name)}-r\d\d-[a-z]+-[0-9a-f]+")
    pool: list[CandidateDoc] = []
    there: set[str] = set()
    for campaign in filter(None, map(config.campaign, range(1, number + 1))):
        for candidate in query.stream(sort="candidate_id", campaign=campaign.name):
            same = {known.id for known in candidate.known_as}
            if candidate.candidate_id in chosen or same & (chosen | there) or any(map(computed.fullmatch, same)):
                continue
            if candidate.novel is not True or candidate.e_above_hull is None:
                continue
            most = config.choose.max_atoms
            relaxed = candidate.relaxed_structure
            if most is not None and relaxed is not None and len(relaxed["sites"]) > most:
                continue
            if why_not(candidate, draft, ready=True)[0] is None:
                pool.append(candidate)
                there.add(candidate.candidate_id)
    return pool


def _relaxed(pool: Sequence[CandidateDoc]) -> list[Structure]:
    return [Structure.from_dict(c.relaxed_structure or {}) for c in pool]


def _option(
    config: LoopConfig, candidate: CandidateDoc, predicted: PredictedEnergy, known: Mapping[StageName, Fit]
) -> Option:
    from scdm_flows.thermo.table import ReferenceTable

    structure = Structure.from_dict(candidate.relaxed_structure or {})
    runs = estimate(_draft(config), structure, len(structure))
    fitted = in_node_hours(runs, known)
    fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
    said = predicted.properties
    asked = config.choose.gap_ev
    return Option(
        candidate.candidate_id,
        predicted.formation_energy_per_atom - ReferenceTable.load().hull_energy(fractions),
        predicted.error,
        candidate.chemsys,
        candidate.template or "",
        candidate.score or 0.0,
        fitted[0] if fitted is not None else sum(run.core_hours for run in runs) or None,
        1.0 if asked is None else gap_chance(said.nonmetal_probability, said.band_gap, said.band_gap_error, asked),
    )


def _options_before(document: LoopDoc, query: CandidateDB) -> Iterator[Option]:
    """What earlier rounds have chosen, for diversity."""
    for one in document.rounds:
        for choice in one.chosen:
            candidate = query.get(choice.candidate_id)
            yield Option(
                choice.candidate_id, choice.e_above_hull, choice.e_above_hull_error, candidate.chemsys,
                candidate.template or "",
            )  # fmt: skip


def hours_left(config: LoopConfig, database: Database, number: int) -> float | None:
    """Core hours of the budget that are left before a round computes; None without one."""
    if config.core_hours is None:
        return None
    return max(config.core_hours - sum(hours_of(config, database, k) for k in range(1, number + 1)), 0.0)


def summary(rounds: Sequence[LoopRound]) -> dict[str, Any]:
    """What all rounds together gave: computed, found, expected ones, core hours, found ones for each."""
    ended, found = sum(r.ended or 0 for r in rounds), sum(r.found or 0 for r in rounds)
    hours = float(np.sum([r.core_hours or 0.0 for r in rounds]))
    return {
        "computed": ended,
        "found": found,
        "core_hours": hours,
        "found_per_core_hour": found / hours if hours else None,
    }
