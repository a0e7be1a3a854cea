"""The fitted quintics: nearest to 1 on their interval, and what their composition does to singular values."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from references.muon import PRINTED

from steepest.core.errors import BadInput
from steepest.linalg.newton_schulz import KELLER, orthogonalise
from steepest.linalg.polar_express import SAFETY, Quintic, nearest_quintic, polar_express

INTERVALS = [(1e-6, 1.0), (1e-3, 1.0), (0.01, 1.99), (0.3, 1.0), (0.9, 1.1), (0.999, 1.001)]


def images(x: np.ndarray, *quintics: tuple[float, ...]) -> np.ndarray:
    for a, b, c in quintics:
        x = a * x + b * x**3 + c * x**5
    return x


def miss(x: np.ndarray, *quintics: tuple[float, ...]) -> float:
    return float(np.abs(1 - images(x, *quintics)).max())


@pytest.mark.parametrize("ends", INTERVALS, ids=str)
def test_the_nearest_quintic_misses_1_equally_far_with_alternating_signs_at_four_points(
    ends: tuple[float, float],
) -> None:
    a, b, c = quintic = nearest_quintic(*ends)
    inner = np.sqrt(np.roots([5 * c, 3 * b, a]).real)
    points = np.sort(np.array([*ends, *inner]))
    errors = 1 - images(points, quintic)
    assert points[0] == ends[0] and points[-1] == ends[1]
    np.testing.assert_allclose(errors, errors[0] * np.array([1, -1, 1, -1]), rtol=1e-6, atol=1e-14)
    assert errors[0] > 0
    assert miss(np.geomspace(*ends, 5001), quintic) <= errors[0] + 1e-12


def test_no_quintic_nearby_is_nearer() -> None:
    x, best = np.linspace(0.1, 1, 4001), np.array(nearest_quintic(0.1, 1.0))
    draw = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(50):
            assert miss(x, tuple(best + size * draw.normal(size=3))) > miss(x, tuple(best))


def test_at_the_end_of_the_way_stands_newton_schulz_of_order_five() -> None:
    for lower, upper in ((1.0, 1.0), (0.9999999, 1.0000001)):
        np.testing.assert_allclose(nearest_quintic(lower, upper), (15 / 8, -10 / 8, 3 / 8), rtol=1e-6)
    for gap in np.geomspace(1e-9, 1e-2, 200):  # also where the fit hands over to its limit
        ends = 1.5 * (1 - gap), 1.5
        assert miss(np.linspace(*ends, 101), nearest_quintic(*ends)) < max(gap**3, 1e-12)
    np.testing.assert_allclose(nearest_quintic(0.2, 2.0), np.array(nearest_quintic(0.1, 1.0)) / [2, 8, 32])


def test_the_fit_gives_the_papers_printed_coefficients() -> None:
    found = polar_express(len(PRINTED) + 2, safety=1.0)
    np.testing.assert_allclose(found[: len(PRINTED)], PRINTED, rtol=1e-8)
    np.testing.assert_allclose(found[-1], (1.875, -1.25, 0.375), rtol=1e-12)


@pytest.mark.parametrize("lower", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("cushion", [0.0, 0.024])
def test_more_steps_miss_1_by_less_and_by_less_than_kellers(lower: float, cushion: float) -> None:
    x = np.geomspace(lower, 1, 20001)
    missed = [miss(x, *polar_express(n, lower, cushion, 1.0)) for n in range(1, 11)]
    kellers = [miss(x, *[KELLER] * n) for n in range(1, 11)]
    assert all(after < before or before < 1e-12 for before, after in pairwise(missed))
    assert all(ours < theirs for ours, theirs in zip(missed, kellers, strict=True))
    assert missed[-1] < 1e-12 < 0.3 < kellers[-1]


def test_of_a_wide_interval_the_greedy_composition_beats_equal_steps_of_the_best_kind() -> None:
    x = np.geomspace(1e-3, 1, 20001)
    greedy = miss(x, *polar_express(4, cushion=0.0, safety=1.0))
    for a in np.linspace(1.5, 6, 10):
        for b in np.linspace(-12, 0, 13):
            assert miss(x, *[(a, b, 1.0 - a - b)] * 4) > greedy


def test_a_cushion_keeps_what_lies_between_from_being_pressed_down_at_little_cost() -> None:
    x = np.geomspace(1e-3, 1, 20001)

    def least_gain(quintic: Quintic) -> float:
        return float((images(x, quintic) / x).min())

    assert least_gain(polar_express(1, cushion=0.0, safety=1.0)[0]) < 0.02
    assert least_gain(polar_express(1, safety=1.0)[0]) > 0.2
    for steps in range(1, 6):
        exact = miss(x, *polar_express(steps, cushion=0.0, safety=1.0))
        assert exact < miss(x, *polar_express(steps, safety=1.0)) < 1.1 * exact


def test_with_safety_values_beyond_the_interval_by_rounding_do_not_run_away() -> None:
    x = np.geomspace(1e-3, 1.005, 20001)
    for steps in range(1, 12):
        found = images(x, *polar_express(steps))
        assert found.min() > 0 and found.max() < 2.1
    five = images(np.geomspace(1e-3, 1, 20001) / SAFETY, *polar_express(5))
    assert (five.min(), five.max()) == pytest.approx((0.840, 1.124), abs=1e-3)  # as muon's page says


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 40, 60), (60, 40)], ids=str)
def test_orthogonalise_takes_a_quintic_for_each_step(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalise(x.float().double(), 8, polar_express(8), dtype=dtype, margin=SAFETY)
    u, _, vh = torch.linalg.svd(x.float().double(), full_matrices=False)
    bound = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert (torch.linalg.svdvals(found) - 1).abs().max() < bound * 2
    assert (found - u @ vh).norm() < bound * 2 * u.norm()


def test_too_few_quintics_are_refused() -> None:
    with pytest.raises(BadInput, match="6 steps take"):
        orthogonalise(torch.eye(3), 6, polar_express(5))
