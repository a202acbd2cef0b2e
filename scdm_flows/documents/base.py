"""What every stored document has: schema version, time, provenance; and how a field says that it can be queried."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def utc_now() -> datetime:
    """The time now, timezone-aware, in whole milliseconds (what MongoDB stores)."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def queryable(
    default: Any, description: str, *, indexed: bool = False, sortable: bool = True, **constraints: Any
) -> Any:
    """A field that the command line, pages and OPTIMADE may filter by and, where ``sortable``, sort by.

    What can be sorted by has an index, of which a collection holds few; a list is never sorted by.
    """
    extra: dict[str, Any] = {"queryable": True, "indexed": indexed, **({} if sortable else {"sortable": False})}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def versioned(number: int) -> Any:
    """The ``schema_version`` of a document class; ``documents.migrations`` says when and how to raise it."""
    return Field(number, ge=1, description="version of this document's schema")


class Provenance(BaseModel):
    """Where a document comes from."""

    model_config = ConfigDict(extra="forbid")

    versions: dict[str, str] = Field(default_factory=dict, description="package name -> version")
    git_commit: str | None = Field(None, description="commit of the source tree, where there is one")
    engine: str | None = Field(None, description="engine and force field or VASP version; 'surrogate' for force fields")
    config_hash: str | None = Field(None, description="sha256 of the campaign configuration")
    job_uuids: dict[str, str] = Field(default_factory=dict, description="stage -> uuid of the job that computed it")


class ScdmDocument(BaseModel):
    """Base of all documents."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    schema_version: int = versioned(1)
    last_updated: datetime = Field(default_factory=utc_now, description="UTC time of the last change")
    provenance: Provenance = Field(default_factory=Provenance, description="where this comes from")
