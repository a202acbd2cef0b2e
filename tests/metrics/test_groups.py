"""Whether two tools find the group that a sample was asked for."""

from __future__ import annotations

import pytest
from support.layers import mx2

from scdm_models.metrics.groups import found_by_both


def test_the_group_and_what_it_contains_are_found() -> None:
    # 1H-MoS2 is p-6m2 (78) with 12 operations, which p3 (65) with 3 is a part of and p6/mmm (80) with 24 is not
    assert found_by_both(mx2("1H"), 78)
    assert found_by_both(mx2("1H"), 65)
    assert not found_by_both(mx2("1H"), 80)


@pytest.mark.parametrize("number", [194, 187, 81, 0, -1])
def test_what_is_no_layer_group_is_not_found(number: int) -> None:
    # other programs ask for space groups: 1H-MoS2 with its vacuum is P-6m2 (187)
    assert not found_by_both(mx2("1H"), number)
