"""Markdown that GitHub renders: tables, pictures, formulas. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table; the first ``left`` columns are aligned to the left, the others to the right."""
    marks = ["---" if k < left else "---:" for k in range(len(head))]
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def picture(title: str, path: str, width: int) -> str:
    """A picture by its path from the page; width: pixels, as GitHub takes the file's own otherwise."""
    return f'<img src="{path}" alt="{title}" width="{width}">'


def formula(text: str) -> str:
    """A chemical formula with its numbers as subscripts."""
    return re.sub(r"(\d+(?:\.\d+)?)", r"<sub>\1</sub>", text)
