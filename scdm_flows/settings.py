"""Where things live: database, executables, directories. Read when called, from ``SCDM_*`` environment variables."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from scdm_flows.errors import ConfigError

DEFAULT_PORT = 27217  # of the embedded server; launchpad/my_launchpad.yaml names the same


class ScdmSettings(BaseSettings):
    """Settings of this installation."""

    model_config = SettingsConfigDict(env_prefix="SCDM_", frozen=True)

    mongo_uri: str | None = Field(None, description="MongoDB URI; the embedded server when absent")
    database: str = Field("scdm", description="database name")
    data_dir: Path = Field(Path("scdm-data"), description="folder of the embedded database and the reports")
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="port of the embedded server")
    vasp_cmd: str | None = Field(None, description="command that runs VASP")
    processes: int = Field(2, ge=1, description="worker processes of `scdm campaign run`")

    @field_validator("mongo_uri")
    @classmethod
    def _uri(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return value


def get_settings() -> ScdmSettings:
    """The settings now; ``ConfigError`` names the variable that is wrong."""
    try:
        return ScdmSettings()
    except ValidationError as error:
        lines = []
        for item in error.errors():
            name = f"SCDM_{'_'.join(str(p) for p in item['loc']).upper()}"
            shown = "(hidden)" if name == "SCDM_MONGO_URI" else repr(item["input"])
            lines.append(f"{name}={shown}: {item['msg']}")
        raise ConfigError("; ".join(lines)) from None


def masked(uri: str) -> str:
    """The URI without its password, for messages."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri
