"""How the energies that candidates were promoted by compare with those that were then computed for them. Pure.

Differences are parent minus candidate, usually surrogate minus DFT; each energy above hull is of its own hull.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scdm_flows.documents import CandidateDoc, ParentRecord
from scdm_models.metrics.intervals import Interval, mean_interval, share_interval

SHARE = "share"
LEAST_GAP_EV = 0.01  # of a semiconductor: C2DB says 0.0002 of one layer


@dataclass(frozen=True)
class Measured:
    """Formation energies minus C2DB's own, at C2DB's geometries. n: layers; bias: mean; largest: absolute; eV/atom."""

    n: int
    bias: float
    largest: float


# preset of the gpaw engine -> what `scdm refs gpaw` found (docs/results-dft.md)
MEASURED = {"fast": Measured(20, -0.008, 0.021)}


@dataclass(frozen=True)
class Measure:
    """One number over all compared candidates.

    words: what it is; unit: ``eV/atom``, ``Å``, ``%``, or ``share`` (0 to 1); found: with its 95 % interval (means:
    bootstrap, shares: Wilson), whose ends are nan where there is one value alone.
    """

    words: str
    unit: str
    found: Interval


@dataclass(frozen=True)
class Comparison:
    """How two fidelities compare on promoted candidates.

    before, after: what the parents' energies are and what those computed here are; promoted: how many; compared: those
    with both energies above hull; measures: empty where there are none.
    """

    before: str
    after: str
    promoted: int
    compared: int
    measures: tuple[Measure, ...]


def fidelity(one: CandidateDoc | ParentRecord) -> str:
    """What the energies of a candidate are: ``surrogate``, ``DFT``, or ``no energy`` where there is none yet."""
    return "no energy" if one.surrogate is None else "surrogate" if one.surrogate else "DFT"


def compare(candidates: Sequence[CandidateDoc]) -> Comparison | None:
    """How the energies before and after promotion compare; None where no candidate is a promoted one."""
    pairs = [(c.parent, c) for c in candidates if c.parent is not None]
    if not pairs:
        return None
    both = [(p, c) for p, c in pairs if p.e_above_hull is not None and c.e_above_hull is not None]
    return Comparison(
        before=_fidelities(p for p, _ in pairs),
        after=_fidelities(c for _, c in pairs),
        promoted=len(pairs),
        compared=len(both),
        measures=tuple(_measures(both)),
    )


def _fidelities(several: Iterable[CandidateDoc | ParentRecord]) -> str:
    """``DFT (vasp-pbe)``, or several of these; what has no energy yet says nothing."""
    found = sorted({f"{fidelity(one)} ({one.energy_scheme})" for one in several if one.surrogate is not None})
    return " and ".join(found) or "no energy"


def _measures(both: Sequence[tuple[ParentRecord, CandidateDoc]]) -> Iterable[Measure]:
    for name, words in (("e_above_hull", "E_hull"), ("formation_energy_per_atom", "formation energy")):
        differences = _differences(both, name)
        if differences:
            yield Measure(f"{words}: mean absolute difference", "eV/atom", _mean([abs(d) for d in differences]))
            yield Measure(f"{words}: bias", "eV/atom", _mean(differences))
    held = [
        abs(p.e_above_hull - c.e_above_hull) <= p.e_above_hull_error
        for p, c in both
        if p.e_above_hull_error is not None and p.e_above_hull is not None and c.e_above_hull is not None
    ]
    yield from _share("error bars of E_hull, meant to hold nine in ten, that hold the value here", held)
    moved = [c.rmsd_to_relaxed_angstrom for _, c in both if c.rmsd_to_relaxed_angstrom is not None]
    if moved:
        yield Measure("geometry: atoms moved by relaxing here", "Å", _mean(moved))
    areas = [
        100 * (c.area_per_atom_angstrom2 / p.area_per_atom_angstrom2 - 1)
        for p, c in both
        if p.area_per_atom_angstrom2 and c.area_per_atom_angstrom2
    ]
    if areas:
        yield Measure("geometry: change of the cell's area by relaxing here", "%", _mean(areas))
    thicker = [-d for d in _differences(both, "thickness_angstrom")]
    if thicker:
        yield Measure("geometry: change of the thickness by relaxing here", "Å", _mean(thicker))
    kept = [p.layer_group == c.layer_group for p, c in both if None not in (p.layer_group, c.layer_group)]
    yield from _share("geometry: layer group kept", kept)
    verdicts = [(p.dynamically_stable, c.dynamically_stable) for p, c in both]
    yield from _share("phonon-stable or not: the same verdict", [p == c for p, c in verdicts if None not in (p, c)])


def _differences(both: Sequence[tuple[ParentRecord, CandidateDoc]], name: str) -> list[float]:
    values = [(getattr(p, name), getattr(c, name)) for p, c in both]
    return [p - c for p, c in values if p is not None and c is not None]


def _mean(values: Sequence[float]) -> Interval:
    if len(values) == 1:
        return Interval(values[0], float("nan"), float("nan"), 1)
    return mean_interval(values)


def _share(words: str, flags: Sequence[bool]) -> Iterable[Measure]:
    if flags:
        yield Measure(words, SHARE, share_interval(sum(flags), len(flags)))


def beside_c2db(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What rows say together: errors of formation energies in eV/atom and of gaps in eV, failures counted."""
    energies = np.array([row["formation_energy"] - row["c2db"] for row in rows if "formation_energy" in row])
    gaps = np.array([row["gap"] - row["gap_c2db"] for row in rows if "gap" in row and row["gap_c2db"] > LEAST_GAP_EV])
    return {
        "n": len(rows),
        "failed": sum("failed" in row for row in rows),
        "bias": float(energies.mean()) if len(energies) else None,
        "mae": float(np.abs(energies).mean()) if len(energies) else None,
        "within_0.02": int((np.abs(energies) <= 0.02).sum()),
        "n_gaps": len(gaps),
        "gap_mae": float(np.abs(gaps).mean()) if len(gaps) else None,
        "gaps_within_0.05": int((np.abs(gaps) <= 0.05).sum()),
    }
