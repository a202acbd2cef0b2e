"""Whether a bulk compound of a composition is known: the compositions of the Materials Project, packaged.

They are those of Bartel et al. 2020 (doi:10.1038/s41524-020-00362-y), the ground states of 85,014 compositions of two
and more elements, far above the hull or not, calculated or also made. ``scdm refs compositions`` packs the list.
"""

from __future__ import annotations

import gzip
import json
import math
from functools import cache
from importlib.resources import files

from pymatgen.core import Composition, Element

from scdm_flows.errors import ReferenceDataError

PACKAGED = "mp-compositions.txt.gz"  # a commented line of JSON that says what it is, then a reduced formula a line


def bulk_compound_known(formula: str) -> bool:
    """Whether the Materials Project has a bulk crystal of this composition; every element alone counts as known.

    Parameters
    ----------
    formula
        Chemical formula with whole numbers, reduced or not, in any order, such as ``MoS2`` or ``Mg(OH)2``.

    Raises
    ------
    ReferenceDataError
        If the text is no such formula, or the packaged list is missing or damaged.
    """
    reduced = reduced_formula(formula)
    return Element.is_valid_symbol(reduced) or reduced in known_compositions()


def reduced_formula(formula: str) -> str:
    """The formula with its elements in alphabetical order and the smallest whole numbers, such as ``S2W``.

    It does not depend on a library's order of elements or on its exceptions (pymatgen keeps Na2O2 and O2).
    """
    try:
        composition = Composition(formula)
    except ValueError:
        composition = Composition()
    amounts = composition.get_el_amt_dict()
    counts = {element: round(amount) for element, amount in amounts.items()}
    if not counts or counts != amounts or not composition.valid:
        raise ReferenceDataError(f"{formula!r} is no chemical formula with whole numbers; write one such as MoS2")
    divisor = math.gcd(*counts.values())
    return "".join(f"{e}{n // divisor if n > divisor else ''}" for e, n in sorted(counts.items()))


@cache
def known_compositions() -> frozenset[str]:
    """Reduced formulas of the packaged list; ``ReferenceDataError`` where it is missing or damaged."""
    try:
        raw = files("scdm_flows.thermo").joinpath("data", PACKAGED).read_bytes()
        head, *formulas = gzip.decompress(raw).decode().splitlines()
        if len(formulas) != json.loads(head.removeprefix("# "))["compositions"]:
            raise ValueError("formulas are missing")
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ReferenceDataError(
            f"the packaged list of compositions is damaged ({error}); install scdm-flows again, or make it with "
            "`scdm refs compositions`"
        ) from None
    return frozenset(formulas)
