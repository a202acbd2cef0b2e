"""How numbers and energies are written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from scdm_flows.query.words import above_hull, above_hull_in_full, duration, number, percent, share


def test_numbers() -> None:
    # the paper's Table 1 says 42.2 % of 843 in 2,000, which is 42.15
    assert (percent(843, 2000), share(0, 0), share(3, 4)) == ("42.2 %", "0", "3 (75.0 %)")
    assert [number(v, 2) for v in (-1e-9, -0.5, None)] == ["0.00", "−0.50", "–"]
    assert [number(v, 1, "Å") for v in (-3.14, None)] == ["−3.1 Å", "–"]
    assert [duration(s) for s in (0.25, 30, 600, 9000)] == ["0.25 s", "30 s", "10 min", "2.5 h"]


@pytest.mark.parametrize(
    ("energy", "error", "extrapolated", "lower_bound", "in_tables", "in_full"),
    [
        (-0.0004, 0.044, False, False, "0.000 ± 0.04", "0.000 ± 0.044"),
        (-0.012, None, False, None, "−0.012", "−0.012"),
        (0.1, 0.2, True, False, "0.100 ± 0.20 ?", "0.100 ± 0.200"),
        (0.1, 0.2, True, True, "≥ 0.100 ± 0.20 ?", "≥ 0.100 ± 0.200"),
        (None, None, None, None, "–", "–"),
    ],
)
def test_energies_say_their_error_and_their_doubts(
    energy: float | None,
    error: float | None,
    extrapolated: bool | None,
    lower_bound: bool | None,
    in_tables: str,
    in_full: str,
) -> None:
    one = SimpleNamespace(
        e_above_hull=energy, e_above_hull_error=error, extrapolated=extrapolated, e_above_hull_lower_bound=lower_bound
    )
    assert above_hull(one) == in_tables
    assert above_hull_in_full(one) == in_full
    assert above_hull(None) == "–"


def test_values_in_tables_of_the_command_line() -> None:
    from scdm_flows.cli.common import as_text

    values = {-0.0004: "0.000", -0.0006: "-0.001", None: "–", True: "yes", 3: "3"}
    assert [as_text(value) for value in values] == list(values.values())
    assert as_text([0.5, {"a": False}]) == "0.500, a: no"
