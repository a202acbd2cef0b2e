"""A campaign as flows: each shard is generated and screened, and the screen adds a flow for each accepted candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jobflow import Response, job
from jobflow.core.flow import Flow
from jobflow.core.job import Job
from jobflow.core.maker import Maker

from scdm_flows.analysis import screening
from scdm_flows.config import CampaignConfig, as_registered, stored_config
from scdm_flows.documents import ScreenOutput, StageName
from scdm_flows.documents.provenance import made_here
from scdm_flows.engines import engine_of
from scdm_flows.flows.identity import identified
from scdm_flows.flows.layer import candidate_flow
from scdm_flows.generators import GENERATORS
from scdm_flows.stores.known_sets import known_layers


@job(data="records")
def generate(config: dict[str, Any], shard: int, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Records of one shard; the large part goes to the blob store. progress: called with how many are made."""
    campaign = stored_config(config)
    generator = GENERATORS[campaign.generator.kind]
    size = campaign.generator.shard_size
    stop = min((shard + 1) * size, generator.count(campaign.generator))
    records = generator.generate(campaign.generator, shard * size, stop, progress=progress)
    return {"shard": shard, "records": records}


@job(output_schema=ScreenOutput)
def screen(config: dict[str, Any], shard: int, records: list[dict[str, Any]]) -> Response[ScreenOutput]:
    """Verdicts of one shard; adds a flow for each accepted candidate."""
    campaign = stored_config(config)
    verdicts = screening.screen(campaign, records, known_layers())
    engine = engine_of(campaign.engine)
    told: dict[tuple[str, ...], list[str]] = {}  # elements -> why they cannot be computed
    if not engine.surrogate:
        engine.references()  # without them nothing is worth its node hours
    flows = []
    for verdict in verdicts:
        if not verdict.accepted or verdict.structure is None:
            continue
        try:
            problems = engine.layer_problems(verdict.structure)
            if not problems and not engine.surrogate:
                elements = tuple(sorted(str(e) for e in verdict.structure.composition))
                if elements not in told:
                    told[elements] = engine.check_elements(elements)
                problems = told[elements]
            if not problems:
                flows.append(candidate_flow(campaign, verdict))
        except Exception as error:  # one odd structure must not end the shard
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            verdict.accepted = False
            verdict.reason = f"the {campaign.engine.kind} engine cannot compute it: {'; '.join(problems)}"
    origin = made_here(config_hash=campaign.config_hash)
    output = ScreenOutput(campaign=campaign.name, shard=shard, candidates=verdicts, provenance=origin)
    return Response(output=output, addition=flows) if flows else Response(output=output)


def shard_count(config: CampaignConfig) -> tuple[int, int]:
    """(number of shards, number of samples) of a campaign."""
    total = GENERATORS[config.generator.kind].count(config.generator)
    return -(-total // config.generator.shard_size), total


def shard_flow(config: CampaignConfig, shard: int, progress: Callable[[int], None] | None = None) -> Flow:
    """generate -> screen of one shard.

    progress: called with how many samples are made; only where the flow runs in this process, as it is not stored.
    """
    dump = config.model_dump(mode="json")
    made = identified(generate(dump, shard), config, StageName.GENERATE, shard=shard)
    if progress is not None:
        made.function = partial(generate.original, progress=progress)  # type: ignore[attr-defined]
    screened = screen(dump, shard, made.output["records"])
    return Flow(
        [made, identified(screened, config, StageName.SCREEN, shard=shard)], name=f"{config.name} shard {shard}"
    )


def stored_shard(config: CampaignConfig, shard: int, records: list[dict[str, Any]]) -> Job:
    """The generate job of a shard whose records are there already: it stores them, and then counts as done."""
    made = identified(generate(config.model_dump(mode="json"), shard), config, StageName.GENERATE, shard=shard)
    made.function = lambda *_: {"shard": shard, "records": records}
    return made


@dataclass
class CampaignMaker(Maker):
    """A whole campaign as one flow: what ``scdm campaign`` runs piece by piece, for any jobflow manager.

    Parameters
    ----------
    config
        The campaign.
    name
        Of the flow.
    """

    config: CampaignConfig
    name: str = field(default="campaign", kw_only=True)

    def make(self) -> Flow:
        """generate -> screen of every shard; the screens add a flow of ``LayerMaker`` for each accepted candidate.

        Budgets limit nothing here: they are the business of whoever executes a campaign.
        """
        config = as_registered(self.config)
        shards = shard_count(config)[0]
        return Flow([shard_flow(config, shard) for shard in range(shards)], name=f"{self.name} {self.config.name}")
