"""What every part of a campaign's configuration has in common."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, field_validator

LARGEST_INTEGER = 2**63 - 1  # of a database and of random number generators: signed, 64 bits


class Mark:
    """What a field of a configuration is, said in its annotation."""


EXECUTION = Mark()  # how and where something is computed, not what: another value computes nothing again
FILE = Mark()  # the path of a file, whose content is what counts


def marked(model: type[BaseModel] | BaseModel, mark: Mark) -> tuple[str, ...]:
    """Names of the fields with a mark, in their order."""
    return _marked(model if isinstance(model, type) else type(model), mark)


@cache
def _marked(model: type[BaseModel], mark: Mark) -> tuple[str, ...]:
    fields = model.model_fields.items()
    return tuple(name for name, field in fields if _has(field.annotation, mark) or mark in field.metadata)


def _has(annotation: Any, mark: Mark) -> bool:
    """Whether a mark stands in an annotation, such as that of ``FilePath | None``."""
    if mark in getattr(annotation, "__metadata__", ()):
        return True
    return any(_has(part, mark) for part in get_args(annotation))


class Frozen(BaseModel):
    """A part of the configuration: it never changes, it knows all of its keys, and a database can hold its values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="after")
    @classmethod
    def _holdable(cls, value: Any) -> Any:
        check_holdable(value)
        return value

    def as_dict(self) -> dict[str, Any]:
        """What monty reads again; of what a maker holds without it FireWorks would store the ``str``."""
        from monty.json import MontyEncoder

        written: dict[str, Any] = MontyEncoder().default(self)
        return written


def check_holdable(value: Any) -> None:
    """Raise ``ValueError``, with rule and remedy, for a value, or one inside it, that JSON or a database cannot hold.

    Numbers must be finite and integers within 64 bits with a sign, texts free of NUL and of halves of characters, keys
    texts; parts of a configuration have been looked at already.
    """
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("holds a NUL or half of a character; write plain text")
    elif isinstance(value, bool | BaseModel) or value is None:
        return
    elif isinstance(value, int):
        if not -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER:
            raise ValueError(f"must be within 64 bits, at most {LARGEST_INTEGER}; give a smaller number")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must be a finite number; write what is meant in digits, or leave the key out")
    elif isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"has the key {key!r}, and keys must be texts; put it in quotes")
            check_holdable(key)
            check_holdable(part)
    elif isinstance(value, list | tuple):
        for part in value:
            check_holdable(part)
    else:
        raise ValueError(f"is a {type(value).__name__}; write a number, text, list or mapping (put dates in quotes)")
