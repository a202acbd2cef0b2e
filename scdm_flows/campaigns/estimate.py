"""What a campaign costs before it runs: the engine's estimate within the gates, fitted to finished jobs of the store.

An engine's model counts core hours, and errs by a factor that it says. Where the database holds ten finished jobs of a
kind (an engine's relaxations, say) their wall time by the model's core hours gives node hours on the machines that ran
them, with the spread as the error.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.config import CampaignConfig, stored_config
from scdm_flows.config.settings import get_settings
from scdm_flows.documents import StageName
from scdm_flows.engines import engine_of
from scdm_flows.engines.base import StageCost
from scdm_flows.stores.names import OUTPUTS
from scdm_models.errors import ScdmError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)
LEAST, MOST = 10, 50  # finished jobs of a kind that a fit needs, and looks at
MODEL_FACTOR = 3.0  # within which the engines' models are good
# runs of an engine's estimate -> the stage that they are a part of
PARTS = {
    "relax_1": StageName.RELAX,
    "relax_2": StageName.RELAX,
    "static_orders": StageName.STATIC,
    "stiffness": StageName.PHONON,
    "strain": StageName.PHONON,
    "uniform": StageName.BANDS,
    "line": StageName.BANDS,
    "hse": StageName.BANDS,
}


@dataclass(frozen=True)
class Fit:
    """Finished jobs of a kind: how many, node hours an estimated core hour, the factor within which 95 % lie."""

    jobs: int
    node_hours_per_core_hour: float
    factor: float


def stage_of(run: StageCost) -> StageName:
    """The stage that a run of an engine's estimate is a part of."""
    return PARTS.get(run.stage) or StageName(run.stage)


def within_gates(config: CampaignConfig, runs: Sequence[StageCost], atoms: int) -> list[StageCost]:
    """The runs of a layer of so many atoms whose gates its size lets it through; energies are known later."""
    most = {StageName.PHONON: config.gate.phonon_max_atoms, StageName.BANDS: config.gate.bands_max_atoms}
    return [run for run in runs if atoms <= most.get(stage_of(run), atoms)]


def estimate(config: CampaignConfig, structure: Structure | None, atoms: int) -> list[StageCost]:
    """What a layer, or a typical one of so many atoms, costs at most; empty where an engine costs next to nothing."""
    return within_gates(config, engine_of(config.engine).cost(structure, atoms), atoms)


def fit(estimated: Sequence[float], taken: Sequence[float]) -> Fit | None:
    """From estimated core hours and the node hours taken; None with fewer than ``LEAST``.

    The mean of the logarithms of their ratios, as errors of such a model are factors, and twice their spread.
    """
    if len(estimated) < LEAST:
        return None
    ratios = np.log(np.array(taken) / np.array(estimated))
    return Fit(len(ratios), float(np.exp(ratios.mean())), float(np.exp(2 * ratios.std(ddof=1))))


def fits(database: Database, config: CampaignConfig) -> dict[StageName, Fit]:
    """A fit for each stage of which the database holds enough finished jobs of the campaign's kind of engine."""
    estimated: defaultdict[StageName, list[float]] = defaultdict(list)
    taken: defaultdict[StageName, list[float]] = defaultdict(list)
    for like, candidate in _finished(database, config.engine.kind):
        try:
            runs = _estimated(like, candidate)
        except Exception as error:  # one odd layer must not end the others
            logger.info("no estimate of %s: %s", candidate["candidate_id"], error)
            continue
        for stage, hours in _taken(database, candidate["candidate_id"]).items():
            if hours > 0 and runs.get(stage, 0) > 0 and len(taken[stage]) < MOST:
                estimated[stage].append(runs[stage])
                taken[stage].append(hours)
        if taken and min(map(len, taken.values())) == MOST:
            break
    found = {stage: fit(estimated[stage], taken[stage]) for stage in taken}
    return {stage: one for stage, one in found.items() if one is not None}


def _finished(database: Database, kind: str) -> Iterator[tuple[CampaignConfig, dict[str, Any]]]:
    """Relaxed candidates that this kind of engine has computed, at most twice ``MOST``, with their campaigns."""
    mongo, left = database.mongo, 2 * MOST
    for document in mongo["campaigns"].find({"config.engine.kind": kind}, {"config": 1, "name": 1}):
        try:
            like = stored_config(document["config"])
        except ScdmError:
            continue
        query = {"campaign": document["name"], "relaxed_structure": {"$ne": None}}
        for candidate in mongo["candidates"].find(query, {"candidate_id": 1, "relaxed_structure": 1}).limit(left):
            left -= 1
            yield like, candidate
        if left <= 0:
            return


def _estimated(config: CampaignConfig, candidate: dict[str, Any]) -> dict[StageName, float]:
    """Stage -> estimated core hours of a relaxed candidate."""
    from pymatgen.core.structure import Structure

    structure = Structure.from_dict(candidate["relaxed_structure"])
    found: defaultdict[StageName, float] = defaultdict(float)
    for run in engine_of(config.engine).cost(structure, len(structure)):
        found[stage_of(run)] += run.core_hours
    return dict(found)


def _taken(database: Database, candidate_id: str) -> dict[StageName, float]:
    """Stage -> wall time of a candidate's jobs, hours; of the stages that are done."""
    seconds: defaultdict[str, float] = defaultdict(float)
    done = set()
    for output in database.mongo[OUTPUTS].find({"metadata.candidate_id": candidate_id}, {"metadata": 1}):
        about = output["metadata"]
        seconds[str(about.get("stage") or about.get("part_of"))] += float(about.get("seconds") or 0.0)
        done.add(about.get("stage"))
    return {stage: seconds[stage.value] / 3600 for stage in StageName if stage.value in done}


def ends_in_time(
    config: CampaignConfig,
    database: Database,
    structure: Structure | None,
    deadline: float,
    stage: StageName | None = None,
) -> bool:
    """Whether a candidate that begins now is expected to end before the deadline (``time.time()``).

    Every stage that its size opens counts, or the one that is named; by the fits to finished jobs of the store, by the
    engine's model where there is none, on VASP's ranks (on one core where nobody says how many). An engine that costs
    next to nothing ends at once.
    """
    left = (deadline - time.time()) / 3600
    if left <= 0 or structure is None:
        return left > 0
    runs = [run for run in estimate(config, structure, len(structure)) if stage in (None, stage_of(run))]
    fitted = in_node_hours(runs, fits(database, config)) if runs else None
    cores = cores_of(config.engine.kind) or 1
    return (sum(run.core_hours for run in runs) / cores if fitted is None else fitted[0]) <= left


def cores_of(kind: str) -> int | None:
    """Cores of each job of an engine: VASP's ranks, None where nobody says how many; one of the others."""
    return get_settings().vasp_ranks if kind == "vasp" else 1


def in_node_hours(runs: Sequence[StageCost], known: Mapping[StageName, Fit]) -> tuple[float, float] | None:
    """Node hours of a layer's runs by the fits, and the factor within which that is good; None where one has no fit."""
    if not runs or any(stage_of(run) not in known for run in runs):
        return None
    hours = [run.core_hours * known[stage_of(run)].node_hours_per_core_hour for run in runs]
    return sum(hours), max(known[stage_of(run)].factor for run in runs)
