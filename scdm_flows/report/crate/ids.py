"""Ids within a crate."""

from __future__ import annotations

import re


def fragment(text: str) -> str:
    """The id of what has no address of its own: ``#`` and the text, without what an IRI may not hold.

    >>> fragment("vasp-6.4.3 (complex)")
    '#vasp-6.4.3-complex'
    """
    return "#" + re.sub(r"[^\w.+-]+", "-", text).strip("-")
