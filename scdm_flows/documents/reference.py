"""The table of all fields of a candidate, made from what ``CandidateDoc`` declares.

``python -m scdm_flows.documents.reference`` writes ``docs/fields.md`` anew; a test holds that it is current.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from scdm_flows.documents.candidate import CandidateDoc, queryable_fields
from scdm_flows.documents.novelty import KnownAs, Novelty

FILE = Path(__file__).resolve().parents[2] / "docs" / "fields.md"
COMMAND = "python -m scdm_flows.documents.reference"
_HEAD = f"""# Fields of a candidate

Made by `{COMMAND}` from `scdm_flows/documents/candidate.py`.
Fields that can be asked for are filters everywhere: in Python (`CandidateDB.find(layer_group=72,
max_e_above_hull=0.1)`), in the shell, as columns of listings, and in OPTIMADE with the prefix `_scdm_`:

    scdm candidates list --where layer_group=72 --where max_e_above_hull=0.1 --where min_band_gap=1
    scdm candidates list --sort=-band_gap

`min_` and `max_` go with numbers. What is not known is null, fits no filter, and comes last in every order.

"""
_TABLE = """| field | type | asked for | meaning |
|---|---|---|---|
"""


def fields_markdown() -> str:
    """The text of the file."""
    parts = [f"\n## {part.__name__}\n\n{_table(part)}" for part in (KnownAs, Novelty)]
    return _HEAD + _table(CandidateDoc) + "".join(parts)


def _table(model: type[BaseModel]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        asked = "yes" if model is CandidateDoc and name in queryable_fields() else ""
        kind = _words(field.annotation)
        meaning = str(field.description).replace("|", "\\|")
        rows.append(f"| `{name}` | {kind} | {asked} | {meaning} |")
    return _TABLE + "\n".join(rows) + "\n"


def _words(annotation: Any) -> str:
    text = str(annotation) if not isinstance(annotation, type) else annotation.__name__
    text = re.sub(r"\b(\w+\.)+", "", text).replace(" | None", "")
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "list[str]": "texts"}
    return words.get(text, "text" if text.endswith(("State", "Kind")) else f"`{text}`")


if __name__ == "__main__":
    FILE.write_text(fields_markdown())
