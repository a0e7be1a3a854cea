"""Which hyperparameters move with scale, and where to: known laws come back, and the misses are honest."""

from __future__ import annotations

import math

import pytest

from steepest.core.errors import BadInput
from steepest.lab.analysis.predict import (
    CONSTANT,
    OFFSET,
    POWER,
    Optimum,
    Scale,
    fit_offset,
    fit_power,
    judge,
    rounded,
    widened,
)
from steepest.lab.analysis.runs import DIVERGED, FINISHED, Run
from steepest.lab.analysis.sensitive import judged, near_best, sensitivity, sweep

GRID = [2.0**-power for power in range(2, 12)]
SIZES = {"s": 10_000, "m": 40_000, "l": 160_000}


def optima(law, ratios=(1, 2, 4, 8)) -> list[Optimum]:
    return [Optimum(size, n, ratio, law(n, ratio)) for size, n in SIZES.items() for ratio in ratios]


def power_law(weights: float, ratio: float) -> float:
    return 4.0 * weights**-0.5 * ratio**-0.25


def test_an_exact_power_law_comes_back_and_reaches_where_it_was_not_fitted() -> None:
    law = fit_power(optima(power_law), GRID)
    assert (law.weights_power, law.ratio_power) == pytest.approx((-0.5, -0.25))
    assert law.value(640_000, 3) == pytest.approx(power_law(640_000, 3))
    by_form = {judgement.form: judgement for judgement in judge(optima(power_law), GRID, forms=(POWER, CONSTANT))}
    assert by_form[POWER].worst_factor == pytest.approx(1)
    assert by_form[CONSTANT].worst_factor > 2


def test_one_wild_optimum_moves_the_robust_fit_little() -> None:
    points = optima(power_law)
    points[5] = Optimum("m", 40_000, 2, points[5].value * 16)
    law = fit_power(points, GRID)
    assert law.value(160_000, 8) == pytest.approx(power_law(160_000, 8), rel=0.25)


def test_what_all_optima_share_gets_no_power() -> None:
    law = fit_power(optima(power_law, ratios=(2,)), GRID)
    assert law.ratio_power == 0 and law.weights_power == pytest.approx(-0.5)


def test_a_prediction_stays_within_one_step_of_what_was_tried() -> None:
    law = fit_power(optima(power_law), GRID[2:5])
    assert law.value(10**15, 8) == GRID[5]
    assert law.value(1, 1) == GRID[1]


def test_the_grid_is_widened_by_its_own_step_but_a_share_not_beyond_one() -> None:
    assert widened([0, 128, 256, 512]) == (64, 128, 256, 512, 1024)
    assert widened([0.9, 0.95, 0.98]) == pytest.approx((0.9**2 / 0.95, 0.9, 0.95, 0.98))
    assert widened([3]) == (3,)


@pytest.mark.parametrize(("value", "near"), [(5.0e-3, 4e-3), (5.7e-3, 8e-3), (1e-9, 2e-3), (0, None), (-1, None)])
def test_rounding_is_by_ratio_and_has_no_answer_at_zero(value: float, near: float | None) -> None:
    assert rounded(value, [4e-3, 8e-3]) == near
    assert rounded(math.nan, [4e-3, 8e-3]) is None


def test_the_offset_form_meets_an_exact_law_of_its_kind() -> None:
    law = fit_offset(optima(lambda n, ratio: 50 * n**-0.5 * ratio**-0.5 + 0.1))
    assert law.value(640_000, 2) == pytest.approx(50 * 640_000**-0.5 * 2**-0.5 + 0.1, rel=1e-3)


def test_a_left_out_optimum_is_judged_by_the_others_alone() -> None:
    points = optima(power_law)
    points[3] = Optimum("s", 10_000, 8, points[3].value * 2)
    (judgement,) = judge(points, GRID, [Scale("xl", 640_000, 1)], forms=(POWER,))
    miss = next(miss for miss in judgement.leave_one_out if (miss.size, miss.ratio) == ("s", 8))
    assert miss.factor == pytest.approx(2) and miss.found == points[3].value
    assert judgement.hold_out is not None and (judgement.hold_out.size, judgement.hold_out.ratio) == ("l", 8)
    assert judgement.predicted[0][2] in widened(GRID)


def test_the_published_way_leaves_both_ends_out_of_the_fit() -> None:
    points = optima(power_law)
    spoiled = [Optimum("s", 10_000, 1, 1.0), *points[1:-1], Optimum("l", 160_000, 8, 1.0)]
    (exact,), (same,) = (judge(own, GRID, forms=(OFFSET,), as_published=True) for own in (points, spoiled))
    assert same.numbers == exact.numbers
    assert same.hold_out is not None and same.hold_out.found == 1.0


def test_optima_at_zero_are_left_out_and_too_few_are_refused() -> None:
    points = optima(power_law)
    with_zeros = [
        Optimum(one.size, one.weights, one.ratio, 0.0 if one.size == "s" else one.value) for one in points
    ]
    (judgement,) = judge(with_zeros, GRID, forms=(POWER,))
    assert len(judgement.leave_one_out) == 8
    with pytest.raises(BadInput, match="4 optima above 0 are too few"):
        judge(points[:4], GRID)


def run(tokens: int, loss: float | None, **values: float) -> Run:
    status = FINISHED if loss is not None else DIVERGED
    return Run("", "muon", "20k", 20_000, tokens, values, status, loss)


def test_a_hyperparameter_is_sensitive_where_no_one_value_is_near_best_everywhere() -> None:
    runs = [
        run(1, 3.000, lr=1, wd=0.1, warmup=5),
        run(1, 3.004, lr=1, wd=0.2, warmup=5),
        run(1, None, lr=9, wd=0.1, warmup=5),
        run(2, 2.900, lr=2, wd=0.2, warmup=5),
        run(2, 2.906, lr=1, wd=0.2, warmup=5),
    ]
    tight, mid, loose = sweep(runs, (3e-3, 5e-3, 7e-3))
    assert (tight.sensitive, mid.sensitive, loose.sensitive) == (("lr", "wd"), ("lr",), ())
    assert mid.common == {"wd": (0.2,)}  # warmup never varied: there is nothing to say of it
    assert loose.common == {"lr": (1,), "wd": (0.2,)}
    assert (tight.regimes, tight.optimizer, tight.threshold) == (2, "muon", 3e-3)


def test_what_was_not_searched_or_not_recorded_everywhere_is_not_judged() -> None:
    apart = [run(1, 3.0, lr=1, blocks=1), run(2, 2.9, lr=1, blocks=0)]
    assert sensitivity(apart, 5e-3).sensitive == ()  # no regime tried both
    missing = [run(1, 3.0, lr=1, block=256), run(1, 3.1, lr=1, block=128), run(2, 2.9, lr=1)]
    assert sensitivity(missing, 5e-3).unjudged == ("block",)
    assert sensitivity([*apart, run(2, 3.9, lr=1, blocks=1)], 5e-3).sensitive == ("blocks",)


def test_regimes_without_a_finished_run_are_left_out() -> None:
    found = sensitivity([run(1, 3.0, lr=1), run(2, None, lr=2)], 5e-3)
    assert found.regimes == 1 and found.sensitive == ()
    assert near_best([run(2, None, lr=2)], 5e-3) == []
    assert judged([]).told()["sensitive"] == []
