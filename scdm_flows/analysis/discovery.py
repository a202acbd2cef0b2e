"""When a computed layer is called a discovery, and why another one is not. Pure.

Every demand is made of the layer as DFT relaxed it; a surrogate is never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scdm_flows.analysis.stability import THRESHOLD_THZ
from scdm_flows.documents import CandidateDoc, CandidateState
from scdm_flows.documents.hull import at_least

BELOW_EV = 0.1  # largest E_hull, eV/atom: the window of metastable layers (MetaS.U.N.) of protocol 2d-1
STAND_IN = "stand-in"  # in the version that a test's program prints


@dataclass(frozen=True)
class Demand:
    """One thing that is asked of a discovery. met: None where it is not known; said: the value, in words."""

    asked: str
    met: bool | None
    said: str


def demands(candidate: CandidateDoc, below: float = BELOW_EV) -> list[Demand]:
    """What is asked of a candidate, in the order in which they are looked at. below: largest E_hull, eV/atom."""
    version = candidate.engine_version or ""
    scheme = candidate.energy_scheme or "no energy"
    program = f"{scheme}{f', version {version}' if version else ''}"
    energy, pending = candidate.e_above_hull, candidate.state is CandidateState.PENDING
    if energy is None:
        stable: bool | None = None
        said = "not computed"
    else:
        stable = energy <= below and not candidate.e_above_hull_lower_bound
        said = at_least(f"{round(energy, 3) + 0.0:.3f} eV/atom", candidate.e_above_hull_lower_bound)
    known = ", ".join(one.id for one in candidate.known_as) or "a known layer"
    return [
        Demand(
            "computed by DFT",
            None if candidate.surrogate is None else not candidate.surrogate and STAND_IN not in version,
            program if candidate.surrogate is not None else candidate.reason or "no energy yet",
        ),
        Demand(
            "every stage ended well",
            None if pending else candidate.state is not CandidateState.FAILED,
            candidate.reason or ("some are under way or to come" if pending else candidate.state.value),
        ),
        Demand(
            "new: the relaxed layer equals no known one",
            candidate.novel,
            "not judged" if candidate.novel is None else "equals none" if candidate.novel else f"is {known}",
        ),
        Demand(
            "the first of its kind in its campaign",
            candidate.duplicate_of is None,
            "yes" if candidate.duplicate_of is None else f"the same as {candidate.duplicate_of}",
        ),
        Demand(
            "no bulk crystal of its formula in the Materials Project's table",
            None if candidate.bulk_compound is None else not candidate.bulk_compound,
            "not judged"
            if candidate.bulk_compound is None
            else "there is one"
            if candidate.bulk_compound
            else "there is none",
        ),
        Demand(f"E_hull of at most {below:g} eV/atom", stable, said),
        Demand(
            "dynamically stable",
            candidate.dynamically_stable,
            {True: "yes", False: "no", None: "phonons not computed"}[candidate.dynamically_stable],
        ),
        _between(candidate.min_frequency_thz),
    ]


def _between(lowest: float | None) -> Demand:
    """What is asked where C2DB's criteria do not look: between the q-points that fit in the supercell.

    lowest: THz, interpolated. An imaginary mode there is no verdict, as the supercell may be too small to interpolate.
    """
    asked = "no imaginary mode between the q-points of its supercell"
    if lowest is None:
        return Demand(asked, None, "phonons not computed")
    if lowest >= -THRESHOLD_THZ:
        return Demand(asked, True, f"none below -{THRESHOLD_THZ:g} THz")
    reach = f"interpolated ones reach {-lowest:.2f}i THz"
    return Demand(asked, None, f"{reach}; a larger supercell (engine.phonon_repeats) settles it")


def is_discovery(asked: Sequence[Demand]) -> bool:
    """Whether every demand is met."""
    return all(one.met is True for one in asked)


def fell(asked: Sequence[Demand]) -> Demand | None:
    """The first demand that is not met, or not known to be; None of a discovery."""
    return next((one for one in asked if one.met is not True), None)
