"""Markdown that GitHub renders: tables, pictures, numbers. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scdm_flows.documents.hull import at_least
from scdm_flows.query.candidate_db import EXTRAPOLATED_MARK


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


def number(value: float | None, digits: int = 3) -> str:
    """With a real minus sign; a dash where there is none, and no minus before a zero."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def with_error(
    value: float | None, error: float | None, extrapolated: bool | None, lower_bound: bool | None = None
) -> str:
    """An energy (eV/atom) with its error, and the marks of extrapolated ones and of lower bounds."""
    words = at_least(number(value) + ("" if error is None else f" ± {number(error, 2)}"), lower_bound)
    return f"{words} {EXTRAPOLATED_MARK}" if extrapolated else words


def share(part: int, whole: int) -> str:
    """A count and its share in percent."""
    return f"{part:,} ({percent(part, whole)})" if whole else f"{part:,}"


def percent(part: float, whole: float) -> str:
    """A share in percent; 843 of 2,000 is 42.2 %, as the paper rounds it."""
    return f"{100 * part / whole + 1e-9:.1f} %" if whole else "–"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
