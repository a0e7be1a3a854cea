"""Calendars: when a rule does its seldom work, and how that is spread over steps."""

from __future__ import annotations

import math

import pytest

from steepest.registry import rules
from steepest.rules.soap import SOAP


@pytest.mark.parametrize("frequency", [1, 2, 3, 10])
@pytest.mark.parametrize("matrices", [1, 7, 10, 23])
def test_spread_refreshes_visit_each_matrix_once_in_every_round_and_stall_no_step(
    frequency: int, matrices: int
) -> None:
    rule = SOAP(precondition_frequency=frequency, spread=True)
    assert rule.turns == frequency
    assert {rule.phase(1, turn) for turn in range(rule.turns)} == {"first"}
    for start in range(2, 30):
        told = [[rule.phase(t, i % rule.turns) for t in range(start, start + frequency)] for i in range(matrices)]
        assert all(sorted(one) == ["keep"] * (frequency - 1) + ["refresh"] for one in told)
        assert max(sum(one[t] == "refresh" for one in told) for t in range(frequency)) <= math.ceil(
            matrices / frequency
        )


def test_unless_spread_all_matrices_are_refreshed_at_the_official_steps() -> None:
    rule = SOAP(precondition_frequency=10)
    assert rule.turns == 1
    assert [t for t in range(1, 40) if rule.phase(t) == "refresh"] == [11, 21, 31]
    assert SOAP(precondition_frequency=10, spread=True).phase(11, 0) == "refresh"


@pytest.mark.parametrize("name", rules())
def test_a_calendar_is_not_spread_by_default(name: str) -> None:
    assert rules()[name]().turns == 1
