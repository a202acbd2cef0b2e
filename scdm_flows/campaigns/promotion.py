"""The best candidates of a campaign as a campaign of their own, on another engine: from a surrogate to DFT.

Records are stored as the output of the new campaign's generation jobs, with the very uuids that these have: so whoever
runs it finds them done, on whatever machine. The campaign's document comes first and says what was asked for; a
promotion that was killed is completed by the same call, and one that is complete changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymatgen.core.structure import Structure

from scdm_flows.campaigns.estimate import estimate
from scdm_flows.campaigns.registration import is_same, register, registered
from scdm_flows.campaigns.removal import clear, who_computes
from scdm_flows.campaigns.stored import outputs
from scdm_flows.config import CampaignConfig, parse_config, stored_config
from scdm_flows.config.science import science
from scdm_flows.documents import CampaignDoc, CandidateDoc, ParentRecord, StageName
from scdm_flows.engines import engine_of
from scdm_flows.engines.base import StageCost
from scdm_flows.errors import CampaignError, ConfigError
from scdm_flows.flows.campaign import shard_count, stored_shard
from scdm_flows.flows.identity import job_uuid
from scdm_flows.query import CandidateDB
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors
from scdm_models.errors import reason_of

DUPLICATE = "duplicates of other candidates"
UNRELAXED = "without a relaxed structure"
UNRANKED = "without a rank: failed, or rejected by the gate"
NOT_COMPUTABLE = "that the engine cannot compute"
HIGHER = "too far above the lowest candidate of their formula"
TOO_DEAR = "beyond the core hours, where the choice ends"
ASKED = ("parent", "top", "where", "within", "draw", "core_hours", "candidates")  # of the generator: what was asked for
UNLIMITED = math.inf  # node hours
Record = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Parameters
    ----------
    parent
        Campaign whose candidates are promoted.
    top
        How many of the best, >= 1.
    engine
        Configuration of the engine, with its ``kind``.
    name
        Of the new campaign; the parent's and the engine's kind when absent.
    where
        Filters as ``CandidateDB.find`` takes them, without ``campaign``.
    within
        Only candidates at most so far above the lowest candidate of their formula, eV/atom, as of their hull energies;
        any when absent.
    draw
        Seed: candidates in random order instead of the best first. What is measured on them says something of all.
    core_hours
        The best first until their estimated cost (every stage) is beyond it; no limit when absent.
    gate
        What of the parent's gate is changed, such as ``phonon_max_atoms``.
    node_hours
        The new campaign's budget: when its jobs have used it up, no new candidate begins; ``UNLIMITED``: no limit. When
        absent that of the campaign where there is one, else no limit.
    candidates
        Ids of those that are wanted, in this order, instead of the best; they may be other campaigns', too.
    description
        Of the new campaign, instead of words made of the above.
    """

    parent: str
    top: int
    engine: Mapping[str, Any]
    name: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    core_hours: float | None = None
    node_hours: float | None = None
    gate: Mapping[str, Any] = field(default_factory=dict)
    within: float | None = None
    draw: int | None = None
    candidates: tuple[str, ...] | None = None
    description: str | None = None


@dataclass(frozen=True)
class Promotion:
    """A promoted campaign.

    Parameters
    ----------
    config
        Its configuration.
    changed
        Whether this call stored anything (a dry run: would).
    chosen
        The parents' ids, the best first; those that were chosen when it was made.
    known_layers
        How many of them are known layers.
    left_out
        Why better or equally good candidates are not among them -> how many; empty where it existed before.
    core_hours
        Estimated cost of all of them, every stage; None where the engine costs next to nothing.
    missing
        What keeps the engine from running, in words; only of a dry run.
    unfinished
        Candidates of the parent that were under way at the last build: their ranks are still to come.
    existed
        Whether it was complete before this call, which then can have changed its node hours only.
    """

    config: CampaignConfig
    changed: bool
    chosen: tuple[str, ...]
    known_layers: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    core_hours: float | None = None
    missing: tuple[str, ...] = ()
    unfinished: int = 0
    existed: bool = False


def promote(database: Database, asked: Asked, *, dry_run: bool = False) -> Promotion:
    """Make the campaign, complete it, or leave it as it is where it is complete.

    Duplicates, candidates without a relaxed structure or a rank and those that the engine cannot compute are left out;
    known layers are promoted like all others, as DFT of them checks the surrogate. dry_run: nothing is written.

    Raises
    ------
    CampaignError
        If there is no such parent, none of its candidates can be promoted, or the new campaign's name is that of
        another campaign or of one that was asked for differently.
    ConfigError
        If the engine's configuration or a filter is wrong, or core hours are asked of an engine that estimates none.
    EngineError
        If the engine cannot run here; a dry run says so in ``missing``.
    """
    query = CandidateDB(database)
    parent = query.campaign(asked.parent)
    draft = _draft(asked, parent)
    known = database.campaign(draft.name)
    if known is not None:
        stored = stored_config(known.config, origin=f"campaign {known.name}")
        _refuse_another(stored, draft)
        records = [_stored(database, stored, shard) for shard in range(shard_count(stored)[0])]
        if all(one is not None for one in records):
            ids = tuple(str(record["promoted_from"]) for one in records for record in one or ())
            config = _with_hours(stored.model_copy(update={"engine": draft.engine}), asked.node_hours)
            changed = config != stored
            if changed and not dry_run:
                register(config, database)
            return Promotion(config, changed, ids, existed=True)
    engine = engine_of(draft.engine)
    missing = tuple(engine.check())
    chosen, left_out, hours = _choose(query, asked, draft, ready=not missing)
    made = [_record(document) for document in chosen]
    generator = draft.generator.model_copy(update={"n": len(made), "sha256": _digest(made)})
    config = draft.model_copy(update={"generator": generator})
    ids = tuple(document.candidate_id for document in chosen)
    layers = sum(document.novel is False for document in chosen)
    if dry_run:
        return Promotion(config, True, ids, layers, left_out, hours, missing, parent.funnel.pending)
    if known is not None and not is_same(known, config):
        _forget_beginnings(database, config.name)
    config = registered(config, database)
    with store_errors(database.uri):
        for shard, records_of_shard in enumerate(_shards(made, config.generator.shard_size)):
            if _stored(database, config, shard) is None:
                stored_shard(config, shard, records_of_shard).run(store=database.job_store)
    return Promotion(config, True, ids, layers, left_out, hours, unfinished=parent.funnel.pending)


def _draft(asked: Asked, parent: CampaignDoc) -> CampaignConfig:
    """The new campaign, but for what the choice adds: a number and a digest, which hold places here.

    Screen, gate and objective are the parent's, except that known layers pass.
    """
    kind = str(asked.engine.get("kind"))
    which = "the best" if asked.draw is None else f"by draw {asked.draw},"
    data: dict[str, Any] = {part: parent.config[part] for part in ("gate", "objective") if part in parent.config}
    data["gate"] = {**data.get("gate", {}), **asked.gate}
    data |= {
        "name": asked.name or f"{asked.parent}-{kind}",
        "description": asked.description or f"{which} {asked.top} of campaign {asked.parent} by {kind}",
        "generator": {
            "kind": "promoted",
            "parent": asked.parent,
            "top": asked.top,
            "where": dict(asked.where),
            "within": asked.within,
            "draw": asked.draw,
            "core_hours": asked.core_hours,
            "candidates": asked.candidates,
            "n": 1,
            "sha256": "0" * 64,
        },
        "screen": {**parent.config.get("screen", {}), "require_novel": False},
        "engine": dict(asked.engine),
        "budget": {"node_hours": None if asked.node_hours == UNLIMITED else asked.node_hours},
    }
    return parse_config(data, origin="promotion")


def _refuse_another(known: CampaignConfig, draft: CampaignConfig) -> None:
    """``CampaignError`` where a campaign of this name is not what is asked for."""
    remedy = f"give the new one another name with --as, or take this one away with `scdm campaign remove {draft.name}`"
    if known.generator.kind != draft.generator.kind:
        raise CampaignError(f"campaign {draft.name!r} exists and is no promoted one; {remedy}")
    there, here = (
        {key: config.generator.model_dump()[key] for key in ASKED}
        | {f"engine.{key}": value for key, value in science(config)["engine"].items()}
        | {f"gate.{key}": value for key, value in config.gate.model_dump(mode="json").items()}
        for config in (known, draft)
    )
    differing = [
        f"{key}: {there.get(key)!r} there, {here.get(key)!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise CampaignError(f"campaign {draft.name!r} was promoted otherwise ({'; '.join(differing)}); {remedy}")


def _with_hours(stored: CampaignConfig, node_hours: float | None) -> CampaignConfig:
    """The campaign with other node hours, where some are given, or none; the rest of its budget stays."""
    if node_hours is None:
        return stored
    hours = None if node_hours == UNLIMITED else node_hours
    return stored.model_copy(update={"budget": stored.budget.model_copy(update={"node_hours": hours})})


def _forget_beginnings(database: Database, name: str) -> None:
    """Clear a promotion that was cut short, if the ranking has changed since, so that it begins anew."""
    if not outputs(database, name, StageName.SCREEN, []) and who_computes(database.mongo, name) is None:
        clear(database, name)


def _choose(
    query: CandidateDB, asked: Asked, draft: CampaignConfig, *, ready: bool
) -> tuple[list[CandidateDoc], dict[str, int], float | None]:
    """The best that can be promoted, why others are not -> how many, and the estimated core hours of the former.

    ready: whether the engine has what it needs; one that has not cannot say for which elements it has.
    """
    if "campaign" in asked.where:
        said = asked.where["campaign"]
        raise ConfigError(
            f"the filter campaign = {said!r} has no place in a promotion of {asked.parent!r}; leave it out"
        )
    chosen: list[CandidateDoc] = []
    left_out: Counter[str] = Counter()
    hours, first = 0.0, None
    lowest = {} if asked.within is None else _lowest(query, asked.parent)
    for document in _in_order(query, asked):
        if len(chosen) == asked.top:
            break
        why, runs = why_not(document, draft, ready=ready)
        cost = sum(run.core_hours for run in runs) if runs else None
        if why is None and asked.within is not None and document.e_above_hull is not None:
            above = document.e_above_hull - lowest[document.formula]
            if above > asked.within:
                why = (HIGHER, f"{document.candidate_id} is {above:.3f} eV/atom above")
        if why is None and asked.core_hours is not None:
            if cost is None:
                raise ConfigError(
                    "core hours cannot be kept to, as this engine estimates no cost; give node hours instead, which "
                    "are counted while the campaign runs"
                )
            if hours + cost > asked.core_hours:
                left_out[TOO_DEAR] += 1
                first = f"{document.candidate_id} alone would take {cost:.3g} core hours"
                break
        if why is not None:
            reason, words = why
            left_out[reason] += 1
            first = first or words
            continue
        hours += cost or 0.0
        chosen.append(document)
    if not chosen:
        counts = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise CampaignError(
            f"no candidate of campaign {asked.parent!r} can be promoted"
            + (f": {counts} ({first})" if left_out else f", as none matches {dict(asked.where) or 'it'}")
            + f"; `scdm candidates list --campaign {asked.parent}` shows what there is"
        )
    return chosen, dict(left_out), hours or None


def _in_order(query: CandidateDB, asked: Asked) -> Iterator[CandidateDoc]:
    """The parent's candidates, the best first or in random order, or those that were asked for by name."""
    if asked.candidates is not None:
        return map(query.get, asked.candidates)
    filters = {"campaign": asked.parent, **asked.where}
    if asked.draw is None:
        return query.stream(sort="rank", **filters)
    ids = [record["candidate_id"] for record in query.flat_records(sort="candidate_id", **filters)]
    np.random.default_rng(asked.draw).shuffle(ids)
    return map(query.get, ids)


def _lowest(query: CandidateDB, campaign: str) -> dict[str, float]:
    """Formula -> lowest energy above hull of a campaign's ranked candidates, eV/atom."""
    found: dict[str, float] = {}
    for record in query.flat_records(campaign=campaign):
        if record["rank"] is not None and record["e_above_hull"] is not None:
            found[record["formula"]] = min(record["e_above_hull"], found.get(record["formula"], float("inf")))
    return found


def why_not(
    document: CandidateDoc, draft: CampaignConfig, *, ready: bool
) -> tuple[tuple[str, str] | None, list[StageCost]]:
    """Why a candidate is not promoted (reason, in words of its own), and the runs that it costs."""
    name, engine = document.candidate_id, engine_of(draft.engine)
    if document.duplicate_of is not None:
        return (DUPLICATE, f"{name} is the same layer as {document.duplicate_of}"), []
    if document.relaxed_structure is None:
        return (UNRELAXED, f"{name}, {document.state.value}"), []
    if document.rank is None:
        return (UNRANKED, f"{name}: {document.reason or 'not ranked yet, run `scdm build`'}"), []
    try:
        structure = Structure.from_dict(document.relaxed_structure)
        problems = engine.check_elements(document.elements) if ready else []
        problems += engine.layer_problems(structure)
        if problems:
            return (NOT_COMPUTABLE, f"{name}: {'; '.join(dict.fromkeys(problems))}"), []
        return None, estimate(draft, structure, len(structure))
    except Exception as error:  # one odd structure must not end the choice
        return (NOT_COMPUTABLE, f"{name}: {reason_of(error)}"), []


def _record(document: CandidateDoc) -> Record:
    """A candidate as a generation job makes it: its relaxed structure, what made it, and what is known of it."""
    kept = {name: getattr(document, name) for name in ParentRecord.model_fields}
    parent = ParentRecord(**kept).model_dump(mode="json")
    if not parent["e_above_hull_lower_bound"]:
        del parent["e_above_hull_lower_bound"]  # younger than stored promotions, whose digest must not change
    return {
        **{name: getattr(document, name) for name in ("index", "generator", "model_id", "seed", "source_id")},
        "layer_group_requested": document.layer_group_requested,
        "structure": Structure.from_dict(document.relaxed_structure or {}),
        "promoted_from": document.candidate_id,
        "parent": parent,
    }


def _digest(records: Sequence[Record]) -> str:
    """sha256 of records, 64 hex digits."""
    plain = [{**record, "structure": record["structure"].as_dict()} for record in records]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=float).encode()).hexdigest()


def _shards(records: Sequence[Record], size: int) -> Iterator[list[Record]]:
    return (list(records[k : k + size]) for k in range(0, len(records), size))


def _stored(database: Database, config: CampaignConfig, shard: int) -> list[Record] | None:
    """The stored records of a shard; None where they are not all there: a kill can leave a document without them."""
    uuid = job_uuid(config, f"shard{shard}", StageName.GENERATE.value)
    with store_errors(database.uri):
        try:
            found = database.job_store.query_one({"uuid": uuid}, properties=["output"], load=True)
        except KeyError:  # which is how jobflow says that a large object is missing
            return None
    records = ((found or {}).get("output") or {}).get("records")
    return records if isinstance(records, list) else None
