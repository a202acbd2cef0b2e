"""Which competing phases a table of reference phases lacks. Pure.

A hull without a phase that belongs on it lies too high, so that an energy above it is a lower bound. Which phases
belong there says the packaged table of competing phases: bulk compounds within 0.03 eV/atom of the hull of all
compositions of the Materials Project, on C2DB's scale (``build``). In a system with an element that the packaged
table has not, every composition of which the Materials Project has a crystal counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache

from scdm_flows.thermo.bulk_compounds import known_compositions, reduced_formula
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.table import SCHEME, ReferenceTable, subsystems

BULK_IDS = ("mp",)  # what the ids of bulk phases in the packaged table begin with; layers have C2DB's
_SYMBOL = re.compile(r"[A-Z][a-z]?")


def competing_compositions(elements: Iterable[str]) -> list[str]:
    """Reduced formulas (as of ``reduced_formula``) that belong on the hull of a chemical system, elements included."""
    names = sorted(set(elements))
    packaged = ReferenceTable.load()
    if packaged.elements.issuperset(names):
        systems = subsystems(names, packaged.phases)
        return sorted({formula for system in systems for formula in _bulk_of(system)})
    known = _known_by_system()
    compounds = {formula for system in subsystems(names, known) for formula in known[system]}
    return sorted(compounds | set(names))


def missing_phases(table: ReferenceTable, elements: Iterable[str]) -> list[str]:
    """Reduced formulas that belong on the hull of a chemical system and are not in the table; none of packaged ones.

    The packaged table is complete under any name of its scheme, such as GPAW's, which is on the same scale.
    """
    names = sorted(set(elements))
    if table.scheme == SCHEME or table.sha256 == ReferenceTable.load().sha256:
        return []
    there = {_key(p.fractions) for system in subsystems(names, table.phases) for p in table.phases[system]}
    return [formula for formula in competing_compositions(names) if _key_of(formula) not in there]


def _key(fractions: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """A composition by its atom fractions, as entries may have any number of atoms; off the edges of rounding."""
    return tuple((element, round(x + 1e-9, 6)) for element, x in sorted(fractions.items()))


@lru_cache(maxsize=200_000)
def _key_of(formula: str) -> tuple[tuple[str, float], ...]:
    return _key(Phase.from_formula(formula, formula, 0.0).fractions)


@cache
def _bulk_of(system: str) -> frozenset[str]:
    """Bulk compositions of one chemical system of the packaged table."""
    bulk = (p for p in ReferenceTable.load().phases[system] if p.name.split("-")[0] in BULK_IDS)
    return frozenset(reduced_formula(p.formula) for p in bulk)


@cache
def _known_by_system() -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for formula in known_compositions():
        found.setdefault("-".join(sorted(set(_SYMBOL.findall(formula)))), []).append(formula)
    return found
