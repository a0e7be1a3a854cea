"""The joint law over sizes and tokens: exact points come back, and no more is told than its errors allow."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from steepest.core.errors import BadInput
from steepest.lab.analysis.joint import JointLaw, compared, fit_joint

DATA = Path(__file__).with_name("data") / "fantastic_losses.csv"
WEIGHTS = {"130m": 134_217_728, "300m": 301_989_888, "520m": 536_870_912, "1.2b": 1_207_959_552}
N, R = (column.ravel() for column in np.meshgrid([2e4, 5e4, 1.1e5, 3e5], [1.0, 2.0, 4.0, 8.0]))
D = 20 * N * R


def law(n: np.ndarray, d: np.ndarray, floor: float = 1.7) -> np.ndarray:
    return floor + 30 * n**-0.3 + 80 * d**-0.33


def published(optimizer: str) -> JointLaw:
    """From the final losses of arXiv 2509.02046 at 1 to 8 times Chinchilla."""
    rows = list(csv.DictReader(DATA.read_text().splitlines()))
    rows = [row for row in rows if row["optimizer"] == optimizer and row["ratio"] != "16"]
    n = [WEIGHTS[row["size"]] for row in rows]
    d = [20 * WEIGHTS[row["size"]] * int(row["ratio"]) for row in rows]
    return fit_joint(n, d, [float(row["loss"]) for row in rows])


def test_exact_points_give_back_their_law() -> None:
    found = fit_joint(N, D, law(N, D))
    assert (found.floor, found.n_exponent, found.d_exponent) == pytest.approx((1.7, 0.3, 0.33), rel=1e-4)
    assert (found.n_factor, found.d_factor) == pytest.approx((30, 80), rel=1e-3)
    assert max(found.rms, found.left_out_rms, found.largest_out_rms or 1) < 1e-6
    assert found.flags == ()


def test_the_fit_is_the_best_that_many_starts_find() -> None:
    from scipy.optimize import least_squares

    random = np.random.default_rng(0)
    losses = law(N, D) + random.normal(size=N.size) * 0.01
    n, d = N / 1e5, D / 1e7

    def residuals(p: np.ndarray) -> np.ndarray:
        return p[0] + p[1] * n ** -p[2] + p[3] * d ** -p[4] - losses

    bounds = ([0, 0, 0.02, 0, 0.02], [9, 9, 3, 9, 3])
    starts = random.uniform([1, 0.1, 0.1, 0.1, 0.1], [3, 1, 1, 1, 1], size=(20, 5))
    best = min(least_squares(residuals, start, bounds=bounds, ftol=1e-12, xtol=1e-12).cost for start in starts)
    assert fit_joint(N, D, losses).rms == pytest.approx(np.sqrt(2 * best / N.size), rel=1e-4)


def test_published_points_predict_what_the_study_said_of_7b() -> None:
    """AdamW 2.5719, Muon 2.5723, with residuals ten times the difference: nothing is told."""
    adamw, muon = published("adamw"), published("muon")
    told = compared(muon, adamw, 7e9, 140e9)
    assert (told.other, told.loss) == pytest.approx((2.5719, 2.5723), abs=5e-5)
    assert (adamw.rms, muon.rms) == pytest.approx((0.0051, 0.0029), abs=1e-4)
    assert muon.rms > 7 * abs(told.difference)
    assert told.extrapolated
    assert "less than the laws' error" in told.reason


def test_the_left_out_errors_are_those_of_fits_without_the_point() -> None:
    losses = law(N, D) + np.random.default_rng(1).normal(size=N.size) * 0.01
    found = fit_joint(N, D, losses)
    for point in (0, 7, 15):
        kept = np.arange(N.size) != point
        without = fit_joint(N[kept], D[kept], losses[kept])
        assert found.left_out[point] == pytest.approx(losses[point] - without.loss(N[point], D[point]), abs=1e-6)
    smaller = N.max() > N
    without = fit_joint(N[smaller], D[smaller], losses[smaller])
    missed = losses[~smaller] - without.loss(N[~smaller], D[~smaller])
    assert found.largest_out_rms == pytest.approx(np.sqrt(np.mean(missed**2)), abs=1e-6)


def test_a_difference_that_the_data_show_is_told() -> None:
    one, other = fit_joint(N, D, law(N, D)), fit_joint(N, D, law(N, D, floor=1.8))
    assert compared(other, one, 1e6, 2e7).reason == ""
    assert compared(other, one, 1e6, 2e7).difference == pytest.approx(0.1, abs=1e-4)


def test_three_sizes_do_not_tell_what_a_fourth_would_do() -> None:
    small = N.max() > N
    one, other = (fit_joint(N[small], D[small], law(N, D, floor)[small]) for floor in (1.7, 1.8))
    assert one.largest_out_rms is None
    assert "too few sizes" in compared(other, one, 1e6, 2e7).reason
    assert compared(other, one, 5e4, 2e6).reason == ""  # between its points it may speak


def test_more_runs_weigh_more() -> None:
    losses = law(N, D)
    losses[5] += 0.05
    light, heavy = fit_joint(N, D, losses), fit_joint(N, D, losses, np.where(np.arange(N.size) == 5, 50, 1))
    assert abs(heavy.residuals[5]) < abs(light.residuals[5]) / 5


def test_a_floor_below_zero_is_bounded_and_flagged() -> None:
    found = fit_joint(N, D, law(N, D, floor=0.0) - 0.2)
    assert found.floor == 0
    assert "the floor is at its bound of 0" in found.flags


@pytest.mark.parametrize(
    ("kept", "word"), [(N < 1e5, "2 sizes"), (R < 3, "2 ratios"), (np.arange(16) < 6, "6 points")]
)
def test_too_few_points_are_refused(kept: np.ndarray, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        fit_joint(N[kept], D[kept], law(N, D)[kept])


def test_losses_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match="finite"):
        fit_joint(N, D, np.full(N.size, np.nan))
