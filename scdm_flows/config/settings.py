"""Where things live: database, executables, directories. Read when called, never at import.

In order of precedence: ``SCDM_*`` environment variables, the YAML file that ``SCDM_CONFIG_FILE`` names, the
defaults. A ``.env`` file is not read. What is computed is the business of ``scdm_flows.config``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from scdm_flows.config.yaml_files import YamlRuleError, read_yaml
from scdm_flows.errors import ConfigError

PREFIX = "SCDM_"
CONFIG_FILE_VARIABLE = "SCDM_CONFIG_FILE"
DEFAULT_PORT = 27217  # of the embedded server; launchpad/my_launchpad.yaml names the same
_FORBIDDEN_IN_DATABASE_NAMES = re.compile(r'[/\\. "$*<>:|?\x00]')


class ScdmSettings(BaseSettings):
    """Settings of this installation. A password in ``mongo_uri`` does not show in ``repr``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    mongo_uri: str | None = Field(None, description="MongoDB URI; the embedded server when absent")
    database: str = Field("scdm", min_length=1, max_length=63, description="database name")
    data_dir: Path = Field(Path("scdm-data"), description="folder of the embedded database and the reports")
    known_dir: Path | None = Field(
        None, description="folder of the sets of known layers that users add; known in data_dir when absent"
    )
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="port of the embedded server, on 127.0.0.1")
    vasp_cmd: str | None = Field(None, description="command that runs VASP")
    vasp_gamma_cmd: str | None = Field(
        None, description="command that runs VASP's Gamma-only build; vasp_cmd when absent"
    )
    vasp_ncl_cmd: str | None = Field(
        None, description="command that runs VASP's noncollinear build, for spin-orbit coupling (engine.spin_orbit)"
    )
    vasp_ranks: int | None = Field(
        None,
        ge=1,
        description="MPI ranks of vasp_cmd; KPAR and NCORE follow from it and a run's size; not written when absent",
    )
    vasp_version: str | None = Field(None, description="version of that VASP, such as 6.4.3")
    vasp_poll_seconds: float = Field(5.0, gt=0, description="how often custodian looks whether VASP has ended, s")
    gpaw_python: str | None = Field(
        None, description="Python interpreter of the environment that has GPAW; this one when absent"
    )
    processes: int = Field(2, ge=1, description="worker processes of `scdm campaign run`")
    retry_limit: int = Field(
        3, ge=0, description="how often a job is tried again after trouble of the database, memory or files"
    )
    retry_limits: dict[str, int] = Field(
        default_factory=dict, description="the same for single stages, such as {phonon: 1}, instead of retry_limit"
    )
    retry_wait_seconds: float = Field(
        60.0, ge=0, description="wait before a job is tried again, s; doubled each time, at most six hours"
    )
    lost_limit: int = Field(3, ge=1, description="workers lost in one job after which it is given to no other")

    @field_validator("mongo_uri")
    @classmethod
    def _uri(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return value

    @field_validator("vasp_version")
    @classmethod
    def _version(cls, value: str | None) -> str | None:
        if value is not None and re.match(r"\d+\.\d+", value) is None:
            raise ValueError("must be a version such as 6.4.3")
        return value

    @field_validator("database")
    @classmethod
    def _database(cls, value: str) -> str:
        if _FORBIDDEN_IN_DATABASE_NAMES.search(value):
            raise ValueError(
                'must not hold a space or any of / \\ . " $ * < > : | ?; letters, digits, - and _ are safe'
            )
        return value

    @field_validator("retry_limits")
    @classmethod
    def _stages(cls, value: dict[str, int]) -> dict[str, int]:
        if not value:
            return value
        from scdm_flows.documents.states import StageName

        stages = {stage.value for stage in StageName}
        for stage, limit in value.items():
            if stage not in stages:
                raise ValueError(f"names stage {stage!r}{_hint(stage, stages)}")
            if limit < 0:
                raise ValueError(f"gives stage {stage} {limit} tries; a limit must be >= 0")
        return value

    @field_validator("data_dir", "known_dir")
    @classmethod
    def _folder(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser()

    @property
    def explicit_port(self) -> int | None:
        """The port that was asked for; None where it is only the default, and another may be taken."""
        return self.port if "port" in self.model_fields_set else None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, masked(value) if name == "mongo_uri" and value else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file; nothing else is read."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file_values())


def _file_values() -> dict[str, Any]:
    """What the file named by ``SCDM_CONFIG_FILE`` says; empty where none is named."""
    name = os.environ.get(CONFIG_FILE_VARIABLE)
    if not name:
        return {}
    where = f"settings file {name} ({CONFIG_FILE_VARIABLE})"
    try:
        data = read_yaml(Path(name).expanduser())
    except FileNotFoundError:
        raise ConfigError(f"{where} does not exist; create it or unset {CONFIG_FILE_VARIABLE}") from None
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read: {error.strerror}; mend that or unset {CONFIG_FILE_VARIABLE}"
        ) from None
    except YamlRuleError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError:  # its text would show the file's content, passwords included
        raise ConfigError(f"{where} is not YAML; write one 'key: value' a line") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must hold a mapping of keys to values, found {type(data).__name__}")
    for key in data:
        if key not in ScdmSettings.model_fields:
            raise ConfigError(f"{where}: unknown key {key!r}{_hint(str(key), ScdmSettings.model_fields)}")
    return data


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(names)}"


def _refuse_misspelt_variables() -> None:
    """A misspelt variable would send data to another database without a word."""
    known = {PREFIX + name.upper() for name in ScdmSettings.model_fields} | {CONFIG_FILE_VARIABLE}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near:
                raise ConfigError(f"unknown environment variable {name}; did you mean {near[0]}? Rename or unset it")


def get_settings() -> ScdmSettings:
    """The settings now; ``ConfigError`` names the variable or key that is wrong."""
    _refuse_misspelt_variables()
    try:
        return ScdmSettings()
    except SettingsError as error:  # a variable that should hold JSON does not
        raise ConfigError(f"{error}; write JSON such as SCDM_RETRY_LIMITS='{{\"phonon\": 1}}'") from None
    except ValidationError as error:
        lines = []
        for item in error.errors():
            field = "_".join(str(p) for p in item["loc"])
            shown = "(hidden)" if field == "mongo_uri" else repr(item["input"])
            lines.append(f"{PREFIX}{field.upper()}={shown}: {item['msg'].removeprefix('Value error, ')}")
        raise ConfigError("; ".join(lines)) from None


def masked(uri: str) -> str:
    """The URI without its password, for messages."""
    return re.sub(r"(?<=://)([^:@/]*):(.*)@", r"\1:***@", uri)
