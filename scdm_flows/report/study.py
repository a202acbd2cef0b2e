"""What the results page is made of: two campaigns' documents and what was measured of the models and the surrogate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scdm_flows.documents import CampaignDoc, CandidateDoc, PhononDoc
from scdm_flows.query import CandidateDB
from scdm_flows.report import recount
from scdm_flows.report.cards import PHONONS, RESULTS, card, energy_model_card
from scdm_flows.report.reconstruction import Reconstruction

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

BEST = 6  # of the paper's Fig. 6


@dataclass(frozen=True)
class Study:
    """Documents and measurements of one results page.

    phonons: candidate_id -> document, of the best layers; jobs: ``recount.job_counts``; compounds: candidates of the
    campaign that took the paper's compounds, None where it was not run; energy_model: what was measured of the packaged
    one, None where no energy is its; accuracy, models: contents of the packaged cards; commands: what made it, in
    their order; generation: time of the jobs that made the samples.
    """

    campaign: CampaignDoc
    candidates: list[CandidateDoc]
    phonons: Mapping[str, PhononDoc]
    jobs: Mapping[str, int]
    compounds: list[CandidateDoc] | None = None
    reconstruction: Reconstruction | None = None
    energy_model: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None
    models: Mapping[str, Any] | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    generation: recount.StageTime = field(default_factory=recount.StageTime)

    @cached_property
    def counts(self) -> dict[str, recount.Counts]:
        """By generator."""
        return recount.by_generator(self.candidates, self.campaign.config)

    @cached_property
    def total(self) -> recount.Counts:
        """Of all candidates."""
        return recount.count(self.candidates, self.campaign.config, {})

    @property
    def window(self) -> float:
        """Of the campaign, eV/atom."""
        return recount.window(self.campaign.config)

    @property
    def surrogate(self) -> bool:
        """Whether energies come from a force field."""
        return any(c.surrogate for c in self.candidates)

    @property
    def best(self) -> list[CandidateDoc]:
        """The best new candidates that are phonon-stable and whose phonons are there, by rank."""
        return [c for c in best_new(self.candidates) if c.candidate_id in self.phonons]


def best_new(candidates: list[CandidateDoc]) -> list[CandidateDoc]:
    """The ``BEST`` best new candidates that are phonon-stable, by rank."""
    chosen = [c for c in candidates if c.rank is not None and c.novel and c.dynamically_stable]
    return sorted(chosen, key=lambda c: (c.rank, c.candidate_id))[:BEST]


def gather(
    database: Database,
    name: str,
    *,
    compounds: str | None = None,
    reconstruction: Reconstruction | None = None,
    commands: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Study:
    """The study of a campaign in a connected database; compounds: the campaign of the paper's compounds.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    """
    report = progress or (lambda what, done, total: None)
    query = CandidateDB(database)
    campaign = query.campaign(name)
    of_compounds = None
    if compounds is not None:
        query.campaign(compounds)
        of_compounds = query.find(campaign=compounds)
    report("documents", 0, 2)
    candidates = query.find(campaign=name)
    report("documents", 1, 2)
    chosen = best_new(candidates)
    phonons = {c.candidate_id: p for c in chosen if (p := query.phonon(c.candidate_id)) is not None}
    jobs = recount.job_counts(database, name)
    report("documents", 2, 2)
    surrogate = any(c.surrogate for c in candidates)
    return Study(
        campaign,
        candidates,
        phonons,
        jobs,
        of_compounds,
        reconstruction,
        energy_model=energy_model_card(candidates),
        accuracy=card(PHONONS) if surrogate else None,
        models=card(RESULTS),
        commands=commands or {},
        generation=recount.generation_time(database, name),
    )
