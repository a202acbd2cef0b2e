"""What an address asks: ``?elements=Mo,S&max_e_above_hull=0.1&sort=-score`` as filters and sort, and back. Pure.

A value that does not fit its field is kept as it was written: ``CandidateDB`` says what is wrong with it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from scdm_flows.documents.candidate import queryable_fields
from scdm_flows.errors import ConfigError
from scdm_flows.query.conditions import RANGES, known_field

SORT = "rank"
MOST = 60  # parts of an address
LONGEST = 4000  # characters of an address


@dataclass(frozen=True)
class Question:
    """Filters as ``CandidateDB.find`` takes them (several values of a field: any of them), and the sort."""

    filters: dict[str, Any] = field(default_factory=dict)
    sort: str = SORT

    @classmethod
    def of(cls, search: str | None) -> Question:
        """What the part of an address after ``?`` asks.

        Raises
        ------
        ConfigError
            If it names no field (with the nearest one), is longer than ``LONGEST`` or has more than ``MOST`` parts.
        """
        text = (search or "").removeprefix("?")
        if len(text) > LONGEST:
            raise ConfigError(f"the address has {len(text)} characters; at most {LONGEST} are read")
        try:
            pairs = parse_qsl(text, max_num_fields=MOST)
        except ValueError:
            raise ConfigError(f"the address asks for more than {MOST} things; ask for fewer") from None
        sort, filters = SORT, dict[str, Any]()
        for name, value in pairs:
            if name == "sort":
                sort = value
            elif name == "elements":
                filters[name] = [*filters.get(name, []), *value.replace(",", " ").split()]
            else:
                read = _read(name, value)
                filters[name] = read if name not in filters else [*_several(filters[name]), read]
        return cls(filters, sort)

    def search(self) -> str:
        """The part of an address with ``?`` that asks this; empty where nothing is asked."""
        pairs: list[tuple[str, str]] = []
        for name, value in self.filters.items():
            if value in (None, "", []):
                continue
            if name == "elements":
                pairs.append((name, ",".join(value)))
            else:
                pairs += [(name, _written(v)) for v in _several(value)]
        if self.sort != SORT:
            pairs.append(("sort", self.sort))
        return "?" + urlencode(pairs, safe=",", quote_via=quote) if pairs else ""


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | float | int) else str(value)


def _read(name: str, text: str) -> Any:
    """The value as the field's type wants it; the text where that cannot be."""
    fields = queryable_fields()
    prefix, _, rest = name.partition("_")
    ranged = prefix in RANGES and name not in fields and rest in fields
    if not ranged:
        known_field(name)
    kind: Any = float if ranged else fields.get(name, str)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind not in (int, float):
        return text
    try:
        number = kind(text)
    except ValueError:
        return text
    return int(number) if ranged and number.is_integer() else number
