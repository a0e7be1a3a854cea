"""Intervals: exact where a formula is known, covering the truth as often as they say in simulated races."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import (
    Noise,
    bootstrap,
    difference,
    final_loss,
    pooled_noise,
    redrawn,
    speedup,
    step_ratio,
    unpaired_difference,
    variances,
)
from steepest.lab.analysis.law import Law, fit
from steepest.lab.analysis.quantile import fisher_f, student_t

TOKENS = 500_000
BUDGETS = np.array([0.25, 0.5, 1.0, 2.0]) * TOKENS
RUNS = np.array([2, 2, 3, 2])
TRUTH = Law(np.float64(40.0), np.float64(0.35), np.float64(2.0), BUDGETS[0], BUDGETS[-1], 0.0)


def simulated(
    random: np.random.Generator, speed: float, shared: float, own: float
) -> tuple[np.ndarray, np.ndarray]:
    """Final losses [4 optimizers, 3 seeds], the second ``speed`` times as fast as the first; the law's points."""
    means = np.array([TRUTH.loss(TOKENS * s) for s in (1.0, speed, 0.9, 1.1)])
    finals = means[:, None] + random.normal(size=3) * shared + random.normal(size=(4, 3)) * own
    points = TRUTH.loss(BUDGETS) + random.normal(size=4) * math.hypot(shared, own) / np.sqrt(RUNS)
    points[2] = finals[0].mean()
    return finals, points


def test_quantiles_are_the_tables() -> None:
    assert student_t(0.95, 8) == pytest.approx(1.8595, abs=1e-4)
    assert fisher_f(0.99, 1, 1e9) == pytest.approx(6.6349, abs=1e-3)


def test_pooled_noise_is_the_pooled_variance_within_optimizers() -> None:
    table = np.random.default_rng(0).normal(size=(4, 3))
    noise = pooled_noise(table)
    assert noise.sd**2 == pytest.approx(table.var(axis=1, ddof=1).mean())
    assert noise.own_freedom == 6
    assert 2 <= noise.freedom <= 8


def test_what_a_seed_shares_is_no_noise_of_a_difference() -> None:
    shared = np.array([0.0, 0.5, -0.7])
    table = np.array([[1.0], [2.0], [3.0]]) + shared
    noise = pooled_noise(table)
    assert noise.own_sd == pytest.approx(0, abs=1e-12)
    assert noise.freedom == pytest.approx(2)  # three optimizers, yet only the seeds' two degrees of freedom
    gap = difference(table[1], table[0], noise)
    assert (gap.low, gap.value, gap.high) == pytest.approx((1, 1, 1))


def test_the_interval_of_a_final_loss_is_student_s() -> None:
    losses = np.array([[3.0, 3.1, 3.2]])
    told = final_loss(losses[0], pooled_noise(losses))
    assert told.value == pytest.approx(3.1)
    assert told.high - told.value == pytest.approx(2.91999 * 0.1 / math.sqrt(3), rel=1e-4)


@pytest.mark.parametrize(("losses", "word"), [([[3.0], [3.1]], "--seeds 2"), ([[3.0, math.nan]], "diverged")])
def test_noise_without_evidence_is_refused(losses: list[list[float]], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        pooled_noise(losses)


@pytest.mark.parametrize(("speed", "shared", "own"), [(1.3, 0.006, 0.006), (0.85, 0.0, 0.008)])
def test_ninety_percent_intervals_hold_the_true_speedup_that_often(
    speed: float, shared: float, own: float
) -> None:
    random = np.random.default_rng(7)
    held = {"speedup": 0, "seconds": 0, "final": 0, "difference": 0}
    races = 200
    for race in range(races):
        finals, points = simulated(random, speed, shared, own)
        times = 0.06 * np.exp(random.normal(size=(2, 8)) * 0.03) * np.array([[1.0], [1.25]])
        noise = pooled_noise(finals)
        law = fit(BUDGETS, points, weights=RUNS, sd=noise.sd, freedom=noise.freedom)
        draws = bootstrap(law, BUDGETS, RUNS, finals[1:].mean(axis=1), noise, at=2, draws=300, random_state=race)
        mean = float(finals[1].mean())
        told = {
            "speedup": (speedup(law, mean, TOKENS, draws, 0), speed),
            "seconds": (speedup(law, mean, TOKENS, draws, 0, steps=step_ratio(*times)), speed / 1.25),
            "final": (final_loss(finals[1], noise), float(TRUTH.loss(TOKENS * speed))),
            "difference": (
                difference(finals[1], finals[0], noise),
                float(TRUTH.loss(TOKENS * speed) - TRUTH.loss(TOKENS)),
            ),
        }
        for key, (interval, truth) in told.items():
            held[key] += not interval.excludes(truth) and interval.value is not None
    assert {key: 0.80 <= count / races <= 0.97 for key, count in held.items()} == dict.fromkeys(held, True), held


def test_more_seed_noise_gives_a_wider_interval() -> None:
    widths = []
    for noise_sd in (0.002, 0.02):
        finals, points = simulated(np.random.default_rng(1), 1.3, 0.0, noise_sd)
        noise = pooled_noise(finals)
        law = fit(BUDGETS, points, weights=RUNS)
        told = speedup(law, 2.35, TOKENS, bootstrap(law, BUDGETS, RUNS, [2.35], noise, at=2), 0)
        widths.append(math.log((told.high or math.inf) / (told.low or 0)))
    assert widths[1] > 4 * widths[0]


def test_the_same_random_state_gives_the_same_interval() -> None:
    finals, points = simulated(np.random.default_rng(2), 1.3, 0.006, 0.006)
    law, noise = fit(BUDGETS, points, weights=RUNS), pooled_noise(finals)
    told = [speedup(law, 2.35, TOKENS, bootstrap(law, BUDGETS, RUNS, [2.35], noise, at=2), 0) for _ in range(2)]
    assert told[0] == told[1]


def test_below_the_floor_nothing_is_stated_and_near_it_no_upper_end() -> None:
    finals, _ = simulated(np.random.default_rng(3), 1.3, 0.006, 0.006)
    law, noise = fit(BUDGETS, TRUTH.loss(BUDGETS)), pooled_noise(finals)
    draws = bootstrap(law, BUDGETS, RUNS, [1.9, 2.02], noise, at=2)
    refused, near = speedup(law, 1.9, TOKENS, draws, 0), speedup(law, 2.02, TOKENS, draws, 1)
    assert refused.value is None
    assert "floor" in refused.flags[0]
    assert not refused.excludes(1)
    assert near.high is None
    assert any("no upper end" in flag for flag in near.flags)
    assert near.excludes(1)


def test_seconds_are_tokens_times_the_ratio_of_step_times() -> None:
    finals, points = simulated(np.random.default_rng(4), 1.3, 0.006, 0.006)
    law, noise = fit(BUDGETS, points, weights=RUNS), pooled_noise(finals)
    draws = bootstrap(law, BUDGETS, RUNS, [2.35], noise, at=2)
    steps = step_ratio([0.06, 0.06, 0.06], [0.09, 0.09, 0.09])
    in_tokens, in_seconds = speedup(law, 2.35, TOKENS, draws, 0), speedup(law, 2.35, TOKENS, draws, 0, steps=steps)
    for one, other in ((in_tokens.value, in_seconds.value), (in_tokens.low, in_seconds.low)):
        assert other == pytest.approx(one * 2 / 3)


def test_one_calibration_round_is_refused() -> None:
    with pytest.raises(BadInput, match="2 or more"):
        step_ratio([0.06], [0.05])


def test_points_that_no_law_fits_widen_the_speedup() -> None:
    """The same noise, one law through its points and one that misses them: only the second is less certain."""
    budgets, runs = np.array([1.0, 2.0, 4.0, 8.0]), np.array([3.0, 3.0, 3.0, 3.0])
    noise = Noise(0.01, 8.0, 0.01, 6, (4, 3))
    fine = 3.0 + 1.0 * budgets**-0.5
    bent = fine + np.array([-0.06, 0.06, -0.06, 0.06])
    widths = []
    for losses in (fine, bent):
        law = fit(budgets, losses, weights=runs, sd=noise.sd, freedom=noise.freedom)
        draws = bootstrap(law, budgets, runs, [float(law.loss(5.0))], noise, at=2)
        told = speedup(law, float(law.loss(5.0)), 4.0, draws, 0)
        assert told.low is not None
        widths.append((told.value or 0) - told.low)
    assert widths[1] > 2 * widths[0]


def test_the_intervals_of_a_race_have_not_moved() -> None:
    """One race, its numbers from before the bootstrap served whole studies."""
    finals, points = simulated(np.random.default_rng(11), 1.3, 0.006, 0.006)
    noise = pooled_noise(finals)
    law = fit(BUDGETS, points, weights=RUNS, sd=noise.sd, freedom=noise.freedom)
    draws = bootstrap(law, BUDGETS, RUNS, finals[1:].mean(axis=1), noise, at=2)
    before = [
        (1.2418287568624904, 1.156788809809697, 1.3423616063058554),
        (0.8927902594021319, 0.8368090348939505, 0.9524151391848025),
        (1.075781687047277, 1.0070231620008938, 1.153266837836624),
    ]
    for place, expected in enumerate(before):
        told = speedup(law, float(finals[1 + place].mean()), TOKENS, draws, place)
        assert (told.value, told.low, told.high) == pytest.approx(expected, rel=1e-7)


def test_contenders_at_several_budgets_share_their_seeds_with_the_baseline_of_their_own() -> None:
    law, noise = fit(BUDGETS, TRUTH.loss(BUDGETS)), Noise(0.01, 100.0, 0.002, 100, (4, 3))
    random = np.random.default_rng(0)
    spread, means = variances(noise, 4000, random), [2.4, 2.5, 2.3]
    draws = redrawn(law, BUDGETS, RUNS, means, spread, random, at=[2, 1, -1], alone=[3, 2, 5])
    together = np.corrcoef(np.hstack([draws.points, draws.losses]).T)
    assert together[2, 4] > 0.9  # the first contender and the baseline where it stands
    assert together[1, 5] > 0.9
    assert np.all(np.abs(together[:4, 6]) < 0.06)  # one of other seeds goes with nobody
    assert np.std(draws.losses[:, 2]) == pytest.approx(0.01 / math.sqrt(5), rel=0.05)
    assert abs(together[1, 4]) < 0.06


def test_seeds_that_differ_cancel_nothing() -> None:
    noise = Noise(0.02, 8.0, 0.001, 6, (4, 3))
    told = unpaired_difference([3.0, 3.2], [3.0, 3.0, 3.0], noise)
    assert told.value == pytest.approx(0.1)
    assert (told.high or 0) - 0.1 == pytest.approx(student_t(0.95, 8) * 0.02 * math.sqrt(1 / 2 + 1 / 3))


def test_noise_that_is_given_is_the_run_s_own() -> None:
    noise = Noise.given(0.001, 106)
    assert (noise.sd, noise.own_sd, noise.own_freedom) == (0.001, 0.001, 106)
    with pytest.raises(BadInput, match="give sd > 0"):
        Noise.given(0, 10)
