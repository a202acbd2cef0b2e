"""What reports and pages say of one material by several fidelities, and of a promoted campaign. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scdm_flows.analysis.fidelity import SHARE, Measure, compare, fidelity
from scdm_flows.documents import CandidateDoc, ParentRecord
from scdm_flows.query.words import above_hull_in_full, number

LISTED = 200  # promoted candidates in a report's table
Member = CandidateDoc | ParentRecord


def by_fidelity(family: Sequence[Member]) -> tuple[list[str], list[list[str]]] | None:
    """Columns and rows that set the energies of a material side by side; None where there is one member alone.

    family: as ``CandidateDB.family`` says. Each energy above hull is of its own hull, and energies are comparable
    within a scheme only.
    """
    if len(family) < 2:
        return None
    rows = {
        "energies": [fidelity(one) for one in family],
        "scheme": [one.energy_scheme or "–" for one in family],
        "predicted by": [one.energy_model or "–" for one in family],
        "E_hull, eV/atom": [_e_hull(one) for one in family],
        "formation energy, eV/atom": [number(one.formation_energy_per_atom) for one in family],
        "energy, eV/atom": [number(one.energy_per_atom, 4) for one in family],
        "gap, eV": [number(one.band_gap, 2) for one in family],
        "phonon-stable": [_answer(one.dynamically_stable) for one in family],
        "layer group": [str(one.layer_group or "–") for one in family],
        "area per atom, Å²": [number(one.area_per_atom_angstrom2, 2) for one in family],
        "thickness, Å": [number(one.thickness_angstrom, 2) for one in family],
        "atoms moved by relaxing, Å": [number(getattr(one, "rmsd_to_relaxed_angstrom", None)) for one in family],
        "rank in its campaign": [str(one.rank or "–") for one in family],
        "candidate": [one.candidate_id for one in family],
    }
    return ["", *(f"campaign {one.campaign}" for one in family)], [
        [words, *values] for words, values in rows.items() if set(values) != {"–"}
    ]


def _e_hull(one: Member) -> str:
    said = "" if one.e_above_hull is None else f" ({fidelity(one)}{', extrapolated' if one.extrapolated else ''})"
    return above_hull_in_full(one) + said


def _answer(flag: bool | None) -> str:
    return "–" if flag is None else "yes" if flag else "no"


def promoted_section(candidates: Sequence[CandidateDoc]) -> dict[str, object] | None:
    """What a report says of how the parents' energies did; None where the campaign is no promoted one."""
    found = compare(candidates)
    if found is None:
        return None
    return {
        "comparison": found,
        "rows": [(one.words, *measured(one), one.found.n) for one in found.measures],
        "pairs": sorted((c for c in candidates if c.parent is not None), key=_by_parent)[:LISTED],
    }


def _by_parent(candidate: CandidateDoc) -> tuple[float, str]:
    rank = None if candidate.parent is None else candidate.parent.rank
    return (float("inf") if rank is None else rank, candidate.candidate_id)


def measured(one: Measure) -> tuple[str, str]:
    """The value with its unit, and its 95 % interval."""
    digits, factor, unit = (0, 100, "%") if one.unit == SHARE else (3, 1, one.unit) if one.unit != "%" else (2, 1, "%")
    value = f"{number(factor * one.found.value, digits)} {unit}"
    if math.isnan(one.found.low):
        return value, "–"
    return value, f"{number(factor * one.found.low, digits)} to {number(factor * one.found.high, digits)}"
