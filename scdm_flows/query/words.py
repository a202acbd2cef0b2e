"""How numbers, shares and energies are written wherever people read them: pages, reports, tables. Pure."""

from __future__ import annotations

from typing import Protocol

from scdm_flows.documents.hull import at_least

# how a candidate's energy is marked wherever candidates are listed, and what that means
EXTRAPOLATED_MARK = "?"
EXTRAPOLATED_WORDS = "outside what the energy model has learned from: its error may be larger than said"


class Computed(Protocol):
    """A candidate, what it was promoted from, or whatever else has an energy above hull."""

    @property
    def e_above_hull(self) -> float | None: ...
    @property
    def e_above_hull_error(self) -> float | None: ...
    @property
    def e_above_hull_lower_bound(self) -> bool | None: ...
    @property
    def extrapolated(self) -> bool | None: ...


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """With a real minus sign; a dash where there is none, and no minus before a zero."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    text = text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
    return f"{text} {unit}" if unit else text


def above_hull(one: Computed | None) -> str:
    """The energy above hull (eV/atom) as tables have it: with its error and all marks."""
    if one is None:
        return "–"
    return with_error(one.e_above_hull, one.e_above_hull_error, one.extrapolated, one.e_above_hull_lower_bound)


def above_hull_in_full(one: Computed) -> str:
    """The same with three decimals of the error, for whoever says in words that an energy is extrapolated."""
    return _with_error(one.e_above_hull, one.e_above_hull_error, 3, one.e_above_hull_lower_bound)


def with_error(value: float | None, error: float | None, extrapolated: bool | None, lower_bound: bool | None) -> str:
    """An energy (eV/atom) with its error, and the marks of extrapolated ones and of lower bounds."""
    words = _with_error(value, error, 2, lower_bound)
    return f"{words} {EXTRAPOLATED_MARK}" if extrapolated else words


def _with_error(value: float | None, error: float | None, decimals: int, lower_bound: bool | None) -> str:
    return at_least(number(value) + ("" if error is None else f" ± {number(error, decimals)}"), lower_bound)


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
