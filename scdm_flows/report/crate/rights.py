"""Who made a crate, and how others may use it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scdm_flows.errors import ConfigError
from scdm_flows.report.crate.ids import fragment

_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_ADDRESS = r"https?://[^\s<>\"{}|\\^`]+"
_AUTHOR = re.compile(rf"\s*([^<>]*[^<>\s])\s*(?:<({_ADDRESS})>)?\s*")


@dataclass(frozen=True)
class Person:
    """An author. id: an ORCID or another address, or one within the crate."""

    id: str
    name: str


def person(text: str) -> Person:
    """The author of ``Ada Lovelace <https://orcid.org/0000-0002-1825-0097>``, or of a name alone.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    match = _AUTHOR.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is no author; give NAME, or 'NAME <https://orcid.org/...>'")
    name, address = match.groups()
    return Person(address or fragment(name.lower()), name)


def license_of(text: str | None) -> str | None:
    """The address of a licence: of its SPDX name, such as CC-BY-4.0, or as it is given; None where none is.

    Raises
    ------
    ConfigError
        If it is neither a name nor an address.
    """
    if text is None or re.fullmatch(_ADDRESS, text):
        return text
    if not _SPDX.fullmatch(text):
        raise ConfigError(f"{text!r} is no licence; give its SPDX name, such as CC-BY-4.0, or its address")
    return f"https://spdx.org/licenses/{text}"
