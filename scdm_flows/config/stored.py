"""Configurations as they are stored: in a campaign's document, and in every job that it has put into a queue.

A job in a queue holds the configuration with which it was made. The science in it is the campaign's for ever; how it
is executed is looked up when it runs, so that what has failed can be tried again with another wall time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from scdm_flows.config.base import EXECUTION, FILE, Frozen, marked
from scdm_flows.config.campaign import CampaignConfig, validated
from scdm_flows.config.engines import EngineConfig
from scdm_flows.config.science import Registered, contents, hash_of_all, science_hash
from scdm_flows.errors import ConfigError

Engine = TypeVar("Engine", bound=Frozen)
_NOW: ContextVar[CampaignConfig | None] = ContextVar("campaign", default=None)


def stored_config(data: Any, origin: str = "stored campaign") -> CampaignConfig:
    """The campaign of a stored mapping, executed as the campaign of the job that runs is executed now.

    Raises
    ------
    ConfigError
        If it is no campaign.
    """
    config = validated(data, origin)
    if "registered" not in data:  # older than that
        old = Registered(config_hash=hash_of_all(config, data))
        config = config.model_copy(update={"registered": old})
    now = _NOW.get()
    if now is None or (now.name, now.config_hash) != (config.name, config.config_hash):
        return config
    return config.model_copy(update={"engine": executed(config.engine)})


def as_registered(config: CampaignConfig, known: CampaignConfig | None = None) -> CampaignConfig:
    """The campaign with what its registration fixes; known: as it is registered already."""
    before = config.registered if known is None else known.registered
    name = science_hash(config) if before is None else before.config_hash
    noted = contents(config.engine) | ({} if before is None else before.contents)
    return config.model_copy(update={"registered": Registered(config_hash=name, contents=noted)})


@contextmanager
def executing(campaign: CampaignConfig | None) -> Iterator[None]:
    """Within this a job of the campaign runs, as the campaign is stored now."""
    token = _NOW.set(campaign)
    try:
        yield
    finally:
        _NOW.reset(token)


def executed(engine: Engine) -> Engine:
    """An engine with the execution settings, and the paths, of the campaign whose job runs now; else as it is."""
    now = _NOW.get()
    if now is None or type(now.engine) is not type(engine):
        return engine
    names = [*marked(engine, EXECUTION), *marked(engine, FILE)]
    return engine.model_copy(update={name: getattr(now.engine, name) for name in names})


def engine_now(kind: str) -> EngineConfig | None:
    """The engine of the campaign whose job runs now, if it is of this kind; None where no executor has said one."""
    now = _NOW.get()
    return now.engine if now is not None and now.engine.kind == kind else None


def check_contents(config: CampaignConfig) -> None:
    """``ConfigError`` where a file of the engine is no longer what it was when the campaign was registered."""
    noted = {} if config.registered is None else config.registered.contents
    for name, content in contents(config.engine).items():
        if noted.get(name, content) != content:
            raise ConfigError(
                f"engine.{name}: {getattr(config.engine, name)} has another content (sha256 {content[:12]}) than when "
                f"campaign {config.name!r} was registered ({noted[name][:12]}); put the file back, or submit a "
                "campaign of another name"
            )
