"""What every part of a campaign's configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A part of the configuration: it never changes, and it knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
