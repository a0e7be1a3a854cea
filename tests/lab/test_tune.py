"""The tuning rule: brackets where it can, says so where it cannot, spends the same on everybody."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from steepest.core.errors import BadInput
from steepest.lab.race.tune import Rule, Tuned, interpolated, search


def tuned(loss: Callable[[float], float], middle: float = 8e-3, rule: Rule | None = None) -> tuple[Tuned, int]:
    """The outcome and the number of runs."""
    asking = search(middle, rule or Rule())
    rates, runs = next(asking), 0
    while True:
        runs += len(rates)
        try:
            rates = asking.send({lr: loss(lr) for lr in rates})
        except StopIteration as end:
            return end.value, runs


def bowl(best: float) -> Callable[[float], float]:
    return lambda lr: 3 + 0.05 * math.log(lr / best) ** 2


@pytest.mark.parametrize("best", [2e-3, 5e-3, 8e-3, 1.5e-2, 5e-2, 2e-4])
def test_an_optimum_is_bracketed_and_found_within_a_factor_of_two(best: float) -> None:
    found, runs = tuned(bowl(best))
    assert found.bracketed
    assert found.edge is None
    assert 0.5 <= found.best / best <= 2.0
    assert runs == 6


@pytest.mark.parametrize("best", [1e-9, 1e-4, 8e-3, 0.5, 1e6])
def test_every_optimizer_gets_the_same_number_of_runs(best: float) -> None:
    assert tuned(bowl(best))[1] == Rule().runs


@pytest.mark.parametrize(("best", "edge"), [(1e9, "high"), (1e-12, "low")])
def test_an_optimum_out_of_reach_is_said_to_be_at_the_edge(best: float, edge: str) -> None:
    found, _ = tuned(bowl(best))
    assert not found.bracketed
    assert found.edge == edge


def test_the_first_grid_is_the_middle_and_its_neighbours_by_one_factor() -> None:
    assert next(search(8e-3, Rule(factor=4.0))) == [2e-3, 8e-3, 3.2e-2]


def test_a_diverged_rate_is_worse_than_any_loss_and_brackets() -> None:
    found, _ = tuned(lambda lr: math.inf if lr > 1e-2 else 3 - lr)
    assert found.best < 1e-2
    assert found.bracketed


def test_nan_counts_as_diverged() -> None:
    found, _ = tuned(lambda lr: math.nan if lr > 1e-2 else 3 - lr)
    assert found.bracketed


def test_where_everything_diverges_smaller_rates_are_tried_and_no_winner_named() -> None:
    found, runs = tuned(lambda lr: math.inf)
    assert found.best is None
    assert not found.bracketed
    assert min(found.losses) < 8e-3 / 4
    assert runs == 6


def test_a_rule_that_only_brackets_stops_when_it_has() -> None:
    found, runs = tuned(bowl(8e-3), rule=Rule(runs=5, factor=2.0, refine=False))
    assert found.bracketed
    assert runs == 3


def test_no_rate_is_tried_twice() -> None:
    seen: list[float] = []

    def loss(lr: float) -> float:
        seen.append(lr)
        return bowl(1e-2)(lr)

    tuned(loss, rule=Rule(runs=12))
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("middle", [math.nan, math.inf, 0.0, -1e-3])
def test_an_impossible_middle_is_refused(middle: float) -> None:
    with pytest.raises(BadInput, match="lr"):
        next(search(middle, Rule()))


@pytest.mark.parametrize("values", [{"runs": 2}, {"factor": 1.0}, {"factor": math.nan}])
def test_a_rule_that_cannot_bracket_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="tuning"):
        Rule(**values)


def test_rates_between_budgets_are_straight_in_logarithms_and_kept_at_the_ends() -> None:
    known = [(100.0, 1e-2), (400.0, 2.5e-3)]
    assert interpolated(200, known) == pytest.approx(5e-3)
    assert interpolated(50, known) == 1e-2
    assert interpolated(1000, known) == 2.5e-3
