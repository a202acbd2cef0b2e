"""A campaign enters the database: its document, once, if nothing keeps it from running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scdm_flows.config import CampaignConfig
from scdm_flows.documents import CampaignDoc
from scdm_flows.documents.provenance import made_here
from scdm_flows.engines import engine_of
from scdm_flows.errors import CampaignError, EngineError
from scdm_flows.flows.campaign import shard_count
from scdm_flows.generators import GENERATORS
from scdm_flows.stores.database import Database

MOST_NAMED = 5  # layers that an error names


def shard_size(config: CampaignConfig, shard: int) -> int:
    """Samples of a shard."""
    total = shard_count(config)[1]
    return min(config.generator.shard_size, total - shard * config.generator.shard_size)


def register(config: CampaignConfig, database: Database) -> bool:
    """Write the campaign document; returns False where it is there already, if with another objective or budget.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration.
    EngineError
        If the engine lacks what it needs.
    """
    known = database.campaign(config.name)
    if known is not None:
        if known.config_hash != config.config_hash:
            changes = ", ".join(_differences(known.config, config.model_dump(mode="json")))
            raise CampaignError(
                f"campaign {config.name!r} exists with another configuration ({changes}); "
                "give the changed file a new name"
            )
        wanted = config.model_dump(mode="json")
        if any(known.config.get(part) != wanted[part] for part in ("objective", "budget")):
            known.config = wanted
            database.upsert(database.campaigns, [known.model_dump()])
        return False
    missing = obstacles(config)
    if missing:
        raise EngineError("; ".join(missing))
    document = CampaignDoc(
        name=config.name,
        description=config.description,
        config=config.model_dump(mode="json"),
        config_hash=config.config_hash,
        n_requested=shard_count(config)[1],
        provenance=made_here(config_hash=config.config_hash),
    )
    database.upsert(database.campaigns, [document.model_dump()])
    return True


def obstacles(config: CampaignConfig) -> list[str]:
    """What keeps a campaign from running: the engine's needs, elements and, where structures are known, layers.

    Each in words with the remedy; of many layers the first five are named.
    """
    engine, generator = engine_of(config.engine), GENERATORS[config.generator.kind]
    found = engine.check()
    elements = generator.elements(config.generator)
    if elements:
        found += engine.check_elements(elements)
    layers = []
    for name, structure in generator.given(config.generator):
        layers += [f"{name}: {problem}" for problem in engine.layer_problems(structure, as_given=True)]
    if len(layers) > MOST_NAMED:
        layers = [*layers[:MOST_NAMED], f"and {len(layers) - MOST_NAMED} more"]
    return list(dict.fromkeys(found + layers))  # a broken file shows in more than one check


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path}: {old!r} there, {new!r} here"
