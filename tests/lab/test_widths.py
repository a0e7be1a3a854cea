"""Widths and regrets on surfaces where they are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from steepest.lab.analysis.interval import Noise
from steepest.lab.analysis.monotone import Curves
from steepest.lab.analysis.robustness import Robustness, robustness, starts
from steepest.lab.analysis.runs import Place, Run
from steepest.lab.analysis.sweeps import sweeps

BEST, FLOOR, CURVATURE = -2.0, 3.0, 0.25
PLACE = Place("130m", 10**9)


def bowl(place: float) -> float:
    """0.25 nats/token for the first decade off the best."""
    return FLOOR + CURVATURE * (place - BEST) ** 2


def swept(
    places: Sequence[float], surface: Callable[[float], float | None] = bowl, seeds: int = 1, sd: float = 0.0
) -> list[Run]:
    random = np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        shared = random.normal()
        for place in places:
            loss = surface(place)
            if loss is not None and sd:
                loss += sd * random.normal() + shared
            status = "diverged" if loss is None else "finished"
            values = {"lr": 10.0**place}
            runs.append(Run("", "adamw", PLACE.size, 10**8, PLACE.tokens, values, status, loss, seed=seed))
    return runs


def measured(runs: Sequence[Run], **given) -> Robustness:
    (one,) = robustness(sweeps(runs), **given)
    return one


FINE = np.linspace(-4, 0, 41).tolist()


def test_the_width_of_a_bowl_is_twice_the_root_of_margin_over_curvature() -> None:
    one = measured(swept(FINE))
    for width in one.widths:
        assert width.width.value == pytest.approx(2 * math.sqrt(width.margin / CURVATURE), rel=0.01)
        assert width.most == pytest.approx(width.width.value)
        assert (width.low_end, width.high_end) == ("crossed", "crossed")
    (narrow, *_) = one.widths
    assert narrow.low == pytest.approx(10 ** (BEST - 0.2), rel=0.02)
    assert narrow.high == pytest.approx(10 ** (BEST + 0.2), rel=0.02)


def test_the_regret_within_a_factor_of_a_bowl_is_a_third_of_its_square() -> None:
    one = measured(swept(FINE))
    whole, *within = one.regrets
    assert whole.factor is None
    assert whole.regret.value == pytest.approx(CURVATURE * 2**2 / 3, rel=0.002)
    for regret in within:
        assert regret.factor is not None and regret.covered == 1
        assert regret.regret.value == pytest.approx(CURVATURE * math.log10(regret.factor) ** 2 / 3, rel=0.01)


def test_a_coarse_grid_does_not_make_a_bowl_narrow() -> None:
    """Half a decade between points: straight lines between them would say 0.16 decades for 0.4."""
    one = measured(swept(np.arange(-3.5, -0.4, 0.5)))
    assert one.widths[0].width.value == pytest.approx(0.4, rel=0.15)


def test_a_wedge_is_measured_within_the_last_grid_step() -> None:
    one = measured(swept(FINE, lambda place: FLOOR + 0.1 * abs(place - BEST)))
    assert one.widths[2].width.value == pytest.approx(2.0, abs=1e-6)
    assert one.regrets[0].regret.value == pytest.approx(0.1, rel=0.02)


def test_a_region_that_reaches_what_was_tried_is_a_lower_bound() -> None:
    (_, _, wide) = measured(swept(np.arange(-2.2, -0.5, 0.1))).widths
    assert (wide.low_end, wide.high_end) == ("edge", "crossed")
    assert wide.open and wide.most is None
    assert wide.width.value == pytest.approx(0.2 + math.sqrt(0.1 / CURVATURE), rel=0.02)
    assert any("at least" in flag for flag in wide.width.flags)


def test_a_region_beside_divergence_ends_between_the_two() -> None:
    one = measured(swept(np.arange(-3, -1.05, 0.2), lambda place: None if place > -1.7 else bowl(place)))
    wide = one.widths[2]
    assert wide.high_end == "diverged" and not wide.open
    assert wide.most == pytest.approx(wide.width.value + 0.2)
    assert wide.high == pytest.approx(10**-1.8)


def test_what_diverged_costs_the_loss_at_the_start_and_so_does_what_lies_beyond() -> None:
    """A flat decade, then one in which the cubic rises by 8 as 1.5 t^2 - 0.5 t^3, then nothing but divergence."""
    runs = swept([-3, -2, -1], lambda place: None if place == -1 else 3.0 + 1e-6 * (place == -3))
    one = measured(runs, start={PLACE: 11.0}, factors=(10.0, 11.0, 100.0))
    near, beyond, far = one.regrets[1:]
    assert near.regret.value == pytest.approx(8 * (1.5 / 3 - 0.5 / 4) / 2, rel=1e-3)
    reach = math.log10(1.1)
    assert beyond.covered == pytest.approx((2 + reach) / (2 + 2 * reach))
    assert beyond.regret.value == pytest.approx((2 * near.regret.value + reach * 8) / (2 + reach), rel=1e-3)
    assert far.covered == pytest.approx(3 / 4) and far.regret.value is None
    assert any("11.00" in flag for flag in one.flags)


def test_a_range_that_was_not_tried_has_no_regret() -> None:
    regrets = measured(swept(np.arange(-2.1, -1.0, 0.1))).regrets
    assert regrets[0].regret.value is not None
    (flag,) = regrets[-1].regret.flags
    assert regrets[-1].regret.value is None and "of the range was tried" in flag


def test_the_loss_at_the_start_is_taken_from_the_first_evaluations() -> None:
    (run,) = swept([BEST])
    early = Run(
        **{name: getattr(run, name) for name in run.__dataclass_fields__} | {"curve": ((10, 7.5), (20, 3.0))}
    )
    assert starts([run, early]) == {PLACE: 7.5}


def test_averages_are_measured_by_how_far_they_look_back() -> None:
    def run(beta: float, loss: float) -> Run:
        return Run("", "a", PLACE.size, 1, PLACE.tokens, {"beta1": beta}, "finished", loss, seed=0)

    runs = [run(beta, bowl(-math.log10(1 - beta) - 3)) for beta in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)]
    one = measured(runs)
    assert one.sweep.axis == "memory"
    assert one.widths[1].width.value == pytest.approx(2 * math.sqrt(0.03 / CURVATURE), rel=0.06)
    assert one.widths[1].low == pytest.approx(1 - 10 ** -(1 - math.sqrt(0.12)), rel=0.02)


def test_steps_of_a_grid_are_counted_where_a_value_is_zero() -> None:
    runs = [
        Run("", "a", PLACE.size, 1, PLACE.tokens, {"weight_decay": wd}, "finished", loss, seed=0)
        for wd, loss in ((0, 3.2), (0.1, 3.0), (0.2, 3.2))
    ]
    one = measured(runs)
    assert one.sweep.axis == "steps" and len(one.regrets) == 1
    # The parabola's end slopes meet a flat bottom: the cubic is 0.2 (2 t^2 - t^3) / ... symmetric about the best.
    assert one.widths[2].low is None and 0.5 < one.widths[2].width.value < 2


def test_names_have_no_width() -> None:
    runs = [
        Run("", "a", PLACE.size, 1, PLACE.tokens, {"nesterov": on}, "finished", 3.0, seed=0)
        for on in (True, False)
    ]
    assert measured(runs).widths == ()


def test_where_all_diverged_it_is_said() -> None:
    one = measured(swept([-3, -2], lambda place: None))
    assert one.widths == () and one.flags == ("every value tried diverged",)


def test_seeds_give_intervals_and_what_they_share_does_not_widen_them() -> None:
    one = measured(swept(np.arange(-4, 0.1, 0.5), seeds=3, sd=1e-3))
    assert one.sd == pytest.approx(1e-3 / math.sqrt(3), rel=0.6)
    for width in one.widths:
        low, high = width.width.low, width.width.high
        assert low is not None and high is not None and low <= width.width.value <= high
        assert high - low < 0.2


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """200 sweeps of one bowl, noise known: the share that holds the noiseless value, 90 % give or take 3 sd."""
    places, sd = np.arange(-3.5, -0.4, 0.5) + 0.1, 2e-3
    truth = measured(swept(places))
    runs: list[Run] = []
    random = np.random.default_rng(1)
    for number in range(200):
        for place in places:
            loss = bowl(place) + sd * random.normal()
            values = {"lr": 10.0**place}
            runs.append(Run("", f"o{number}", PLACE.size, 1, PLACE.tokens, values, "finished", loss, seed=0))
    found = robustness(sweeps(runs), noise=Noise(sd, 1000, sd, 1000, (1, 1)))
    for i, margin in enumerate((0.01, 0.03, 0.1)):
        held = [
            one.widths[i].width.low <= truth.widths[i].width.value <= one.widths[i].width.high for one in found
        ]
        assert 0.83 <= np.mean(held) <= 0.97, margin
    held = [
        one.regrets[1].regret.low <= truth.regrets[1].regret.value <= one.regrets[1].regret.high for one in found
    ]
    assert 0.83 <= np.mean(held) <= 0.97


def test_a_margin_inside_the_noise_is_flagged() -> None:
    one = measured(swept(FINE), noise=Noise(0.02, 100, 0.02, 100, (2, 3)))
    assert "within the noise" in one.widths[0].width.flags[0]
    assert not any("noise" in flag for flag in one.widths[2].width.flags)


def test_intervals_are_the_same_in_every_repetition() -> None:
    runs = swept(np.arange(-4, 0.1, 0.5), seeds=3, sd=1e-3)
    assert measured(runs) == measured(runs)


@pytest.mark.parametrize("points", [2, 3, 4, 7])
def test_the_curve_is_scipys_monotone_cubic(points: int) -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    random = np.random.default_rng(points)
    x = np.cumsum(0.1 + random.random((points, 20)), axis=0)
    y = random.random((points, 20))
    curves = Curves(x, y)
    low, high = x[0] + 0.3 * (x[-1] - x[0]), x[0] + 0.9 * (x[-1] - x[0])
    for k in range(20):
        same = interpolate.PchipInterpolator(x[:, k], y[:, k])
        assert curves.mean(low, high)[k] == pytest.approx(same.integrate(low[k], high[k]) / (high[k] - low[k]))
        level = (y[0, k] + y[1, k]) / 2
        (at,) = curves.crossing(np.array([k]), np.array([0]), np.array([level]))
        assert same(at) == pytest.approx(level)
