"""What is to be done next of a campaign, from what is stored of it."""

from __future__ import annotations

from scdm_flows.campaigns.plan import Stored, plan
from scdm_flows.config import parse_config

CONFIG = parse_config({"name": "t", "budget": {"phonons": {"best": 2}}})


def test_chosen_phonons_whose_gate_failed_when_it_ran_again_hold_nothing_back() -> None:
    stored = Stored(
        accepted={0: ["a", "b"]},
        opened={"b": ["phonon"]},
        failed={"a": ["gate"]},
        done={"b": ["relax", "static", "gate"]},
        chosen=("a", "b"),
    )
    # there is no relaxed structure of a: its phonons cannot begin, those of b can
    assert plan(CONFIG, 1, stored).phonons == ("b",)
    assert plan(CONFIG, 1, stored).candidates == ()
