"""A campaign enters the database: its document, once, if nothing keeps it from running.

Whatever can be known before the first job is asked here, and all that is wrong is told at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from scdm_flows.campaigns.controls import refuse_cancelled
from scdm_flows.campaigns.removal import clear, has_computed, is_being_removed, who_computes
from scdm_flows.config import CampaignConfig, as_registered, stored_config
from scdm_flows.config.science import science
from scdm_flows.config.settings import get_settings
from scdm_flows.documents import CampaignDoc
from scdm_flows.documents.provenance import made_here
from scdm_flows.engines import engine_of
from scdm_flows.errors import CampaignError, ConfigError, EngineError, ScdmError, StoreError
from scdm_flows.flows.campaign import shard_count
from scdm_flows.generators import GENERATORS
from scdm_flows.stores.database import Database, connect
from scdm_flows.stores.driver_errors import store_errors
from scdm_models.errors import reason_of

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

logger = logging.getLogger(__name__)

MOST_NAMED = 5  # layers that an error names
MOST_SHARDS = 100_000  # each is a workflow, and all of them are planned in memory


def shard_size(config: CampaignConfig, shard: int) -> int:
    """Samples of a shard."""
    total = shard_count(config)[1]
    return min(config.generator.shard_size, total - shard * config.generator.shard_size)


def register(config: CampaignConfig, database: Database) -> bool:
    """Write the campaign document; returns False where it is there already.

    Then another objective, another budget and other execution settings of the engine are taken over: they compute
    nothing again. The campaign keeps the hash under which it was registered; see ``registered``.

    A campaign of this name with another configuration is corrected where it has computed nothing yet: what waits on the
    LaunchPad is taken off it.

    Raises
    ------
    CampaignError
        If a campaign of this name has another configuration and has computed something, or computes, or is being
        removed.
    ConfigError, EngineError
        If the generator or the engine cannot do what the configuration asks; it names all that is wrong.
    """
    known = database.campaign(config.name)
    conflicts = _conflicts(config, known, database)
    same = known is not None and is_same(known, config)
    if known is not None and same and not conflicts:
        before = stored_config(known.config)
        wanted = as_registered(config, before).model_dump(mode="json")
        if wanted["engine"] != before.model_dump(mode="json")["engine"]:
            _raise(EngineError, _engine_problems(config))
        if known.config != wanted:
            known.config = wanted
            database.upsert(database.campaigns, [known.model_dump()])
        return False
    generator, engine = _generator_problems(config), _engine_problems(config)
    kind = CampaignError if conflicts else ConfigError if generator else EngineError
    _raise(kind, conflicts + generator + engine)
    config = as_registered(config.model_copy(update={"registered": None}))
    if known is not None:
        clear(database, config.name)
        changes = ", ".join(_differences(_science_of(known), science(config)))
        logger.warning("campaign %r had computed nothing yet and was corrected (%s)", config.name, changes)
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


def registered(config: CampaignConfig, database: Database) -> CampaignConfig:
    """Register a campaign; the configuration as it is registered, by which its ids and uuids are made."""
    register(config, database)
    known = database.campaign(config.name)
    assert known is not None
    return stored_config(known.config)


def is_same(known: CampaignDoc, config: CampaignConfig) -> bool:
    """Whether a campaign computes what the stored one does: the same science, however it is executed."""
    return known.config_hash == config.config_hash or _science_of(known) == science(config)


def _science_of(known: CampaignDoc) -> dict[str, Any]:
    try:
        return science(stored_config(known.config))
    except ConfigError:  # of a program that knows other fields
        return known.config


def _raise(kind: type[ScdmError], problems: list[str]) -> None:
    if not problems:
        return
    error = kind("; ".join(_once(problems)))
    if isinstance(error, EngineError):
        error.exit_code = 2  # nothing has been computed: to be mended first
    raise error


def obstacles(config: CampaignConfig) -> list[str]:
    """What keeps a campaign from running: needs of generator and engine, elements and, where they are known, layers.

    Each in words with the remedy; of many layers the first five are named.
    """
    return _once(_generator_problems(config) + _engine_problems(config))


def refusals(config: CampaignConfig, database: Database | None) -> list[str]:
    """Why ``register`` and whoever calls it would refuse a campaign; empty where they would not.

    database: None where there is none yet.
    """
    if database is None:
        return obstacles(config)
    known = database.campaign(config.name)
    found = _conflicts(config, known, database)
    try:
        refuse_cancelled(database, config.name)
    except CampaignError as error:
        found.append(str(error))
    if known is None or not is_same(known, config):
        found += obstacles(config)
    return found


def refusals_here(config: CampaignConfig) -> list[str]:
    """``refusals`` with the database of the settings, where it exists; none is made."""
    try:
        connected = connect(create=False, indexes=False)
    except StoreError as error:
        missing = get_settings().mongo_uri is None  # one that does not exist yet is made at submission
        return obstacles(config) + ([] if missing else [str(error)])
    with connected:
        return refusals(config, connected)


def _conflicts(config: CampaignConfig, known: CampaignDoc | None, database: Database) -> list[str]:
    """What the database holds against it."""
    name = config.name
    with store_errors(database.uri):
        if is_being_removed(database.mongo, name):
            return [f"campaign {name!r} is being removed; `scdm campaign remove {name}` completes that"]
        if known is None:
            taken = database.mongo["loops"].find_one({"name": name}, {"_id": 1}) is not None
            return [f"a loop is called {name!r}; give the campaign another name"] if taken else []
        if is_same(known, config):
            return []
        changes = ", ".join(_differences(_science_of(known), science(config)))
        other = f"campaign {name!r} exists with another configuration ({changes})"
        if has_computed(database.mongo, name):
            remedy = f"give the changed file a new name, or take the old one away with `scdm campaign remove {name}`"
            return [f"{other}; {remedy}"]
        busy = who_computes(database.mongo, name)
    return [f"{other} and computes now: {busy}"] if busy else []


def _generator_problems(config: CampaignConfig) -> list[str]:
    generator = GENERATORS[config.generator.kind]
    found = _told(lambda: generator.check(config.generator))
    if not found:
        shards, total = shard_count(config)
        if shards > MOST_SHARDS:
            found.append(
                f"{total} samples in jobs of {config.generator.shard_size} are {shards} workflows, at most "
                f"{MOST_SHARDS} are allowed; raise generator.shard_size"
            )
    return [f"generator: {problem}" for problem in found]


def _engine_problems(config: CampaignConfig) -> list[str]:
    """What the engine lacks, also for the elements and layers that are known."""
    generator = GENERATORS[config.generator.kind]

    def ask() -> list[str]:
        engine = engine_of(config.engine)
        found = engine.check()
        try:
            elements = generator.elements(config.generator)
            layers = list(generator.given(config.generator))
        except (ScdmError, OSError):  # the generator's check has said why
            return found
        if elements:
            found += engine.check_elements(elements) + engine.check_settings(elements)
        told = [f"{name}: {problem}" for name, structure in layers for problem in _layer_problems(config, structure)]
        return found + (told if len(told) <= MOST_NAMED else [*told[:MOST_NAMED], f"and {len(told) - MOST_NAMED} more"])

    return _told(ask)


def _layer_problems(config: CampaignConfig, structure: Structure) -> list[str]:
    from scdm_flows.analysis.screening import prepared

    try:
        engine, layer = engine_of(config.engine), prepared(config, structure)
        return engine.layer_problems(layer) or engine.time_problems(layer)
    except ScdmError as error:
        return [str(error)]


def _told(ask: Callable[[], list[str]]) -> list[str]:
    """The problems that ``ask`` finds; what it raises is one, as a file can be broken in ways that nobody foresaw."""
    try:
        return ask()
    except Exception as error:
        return [reason_of(error)]


def _once(problems: list[str]) -> list[str]:
    return list(dict.fromkeys(problems))  # a broken file shows in more than one check


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path}: {old!r} there, {new!r} here"
