"""The best loss after k trials, against every order written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Run
from steepest.lab.analysis.tuning_cost import (
    SHOWN,
    TuningCost,
    best_quantile,
    expected_best,
    expected_trials,
    tuning_costs,
)

LOSSES = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
TOKENS = 10**6


def run(number: int, loss: float | None, seed: int = 0, purpose: str = "tune") -> Run:
    status = "diverged" if loss is None else "finished"
    return Run(
        f"r{number}.{seed}",
        "adamw",
        "1m",
        10**5,
        TOKENS,
        {"lr": float(number)},
        status,
        loss,
        seed,
        purpose=purpose,
    )


def one(runs: list[Run], **given) -> TuningCost:
    (cost,) = tuning_costs(runs, **given)
    return cost


@pytest.mark.parametrize("k", range(1, 7))
def test_mean_and_quantiles_are_those_over_every_choice_of_trials(k: int) -> None:
    lowest = [min(chosen) for chosen in itertools.combinations(LOSSES, k)]
    assert expected_best(LOSSES, [k])[0] == pytest.approx(np.mean(lowest))
    for probability in (0.25, 0.5, 0.75):
        exact = np.quantile(lowest, probability, method="inverted_cdf")
        assert best_quantile(LOSSES, [k], probability)[0] == exact


def test_the_first_good_trial_comes_as_late_as_it_does_on_average_over_all_orders() -> None:
    orders = list(itertools.permutations([True, True, False, False, False]))
    assert expected_trials(5, 2) == pytest.approx(np.mean([1 + order.index(True) for order in orders]))


def test_more_trials_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(BadInput, match="7 trials of 6"):
        expected_best(LOSSES, [7])


def test_without_an_order_the_curve_is_the_mean_over_all() -> None:
    cost = one([run(number, loss) for number, loss in enumerate(LOSSES)])
    assert not cost.ordered and cost.made == 6
    assert cost.best == pytest.approx(expected_best(LOSSES, range(1, 7)))
    assert cost.best[0] == pytest.approx(np.mean(LOSSES)) and cost.best[-1] == 1.0
    assert cost.tokens == tuple(TOKENS * k for k in range(1, 7))
    assert all(low <= high for low, high in zip(cost.low, cost.high, strict=True))
    assert cost.within[0.1] == 7 / 2


def test_with_an_order_the_curve_is_what_happened() -> None:
    runs = [run(number, loss) for number, loss in enumerate(LOSSES)]
    order = {one.run: -number for number, one in enumerate(runs)}
    cost = one(runs, order=order)
    assert cost.ordered and cost.best == (2.6, 2.6, 1.5, 1.5, 1.0, 1.0) == cost.low
    assert cost.within[0.1] == 5
    assert not one(runs, order={"r0.0": 1}).ordered


def test_a_trial_is_paid_for_every_seed_and_fresh_seeds_of_the_winner_are_no_trial() -> None:
    runs = [run(number, loss, seed) for number, loss in enumerate(LOSSES) for seed in (0, 1)]
    runs += [run(1, 1.2, seed, "final") for seed in (5, 6, 7)]
    cost = one(runs)
    assert cost.made == 6 and cost.tokens[0] == 2 * TOKENS and cost.best[-1] == 1.0


def test_divergence_is_worse_than_any_loss_until_a_finished_run_is_certain() -> None:
    cost = one([run(number, loss) for number, loss in enumerate([None, None, 2.0, 1.0])])
    assert cost.diverged == 2
    assert [math.isfinite(loss) for loss in cost.best] == [False, False, True, True]
    assert cost.low[0] == 1.0 and cost.high[0] == math.inf


def test_a_cell_without_tuning_has_no_curve() -> None:
    assert tuning_costs([run(1, 1.0, seed, "law") for seed in (1, 2)]) == []


def test_thousands_of_trials_are_shown_at_few_points() -> None:
    losses = np.random.default_rng(0).random(5000)
    cost = one([run(number, float(loss)) for number, loss in enumerate(losses)])
    assert cost.trials[:32] == tuple(range(1, 33)) and cost.trials[-1] == 5000 and len(cost.trials) <= SHOWN
    # Of k draws from an even spread the lowest is 1 / (k + 1) on average.
    assert cost.best[9] == pytest.approx(1 / 11, rel=0.05)
