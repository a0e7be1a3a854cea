"""AdaBelief's own claims: what its epsilon is, what a steady gradient does, when the rectified step begins."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from cases import moves

import steepest
from steepest.core.errors import BadInput

steps = functools.partial(moves, steepest.AdaBelief)


def test_a_gradient_that_does_not_change_makes_steps_far_longer_than_adams() -> None:
    """Adam's are 1 at every step."""
    plain, rectified = (steps([0.01] * 1000, variant=name) for name in ("paper", "package"))
    assert plain[0] == pytest.approx(1 / 0.9) and plain[-1] == pytest.approx(20.03, abs=0.01)
    assert max(rectified[:90]) < 1 and rectified[-1] == pytest.approx(12.93, abs=0.01)


@pytest.mark.parametrize("eps", [1e-16, 1e-12, 1e-8])
def test_epsilon_is_a_floor_of_sqrt_of_eps_over_1_minus_beta2_under_the_gradient(eps: float) -> None:
    """Gradients far below it make steps proportional to themselves: SGD."""
    floor = (eps / 1e-3) ** 0.5
    for small in (1e-2, 1e-3):
        moved = steps([small * floor] * 50, variant="paper", eps=eps)
        assert moved[-1] == pytest.approx(small, rel=1e-3)


def test_below_the_floor_float32_neither_overflows_nor_stops() -> None:
    """Squares of 1e-30 are zero in float32, and 1e-16 is lost beside any s above 1e-9."""
    moved = steps([0.0, 1e-30, 0.0, 1e-30], torch.float32, variant="paper")
    assert moved[0] == 0 and 0 < moved[1] < 1e-20
    moved = steps([1.0, 1e-3, 1.0, 1e-3], torch.float32, variant="paper")
    assert all(0 < m < 3 for m in moved)


@pytest.mark.parametrize(("beta2", "first"), [(0.999, 6), (0.9, 6), (0.7, 10), (0.6, None)])
def test_the_first_steps_are_sgds_until_the_rectified_one(beta2: float, first: int | None) -> None:
    gradients = [0.5, 0.25] * 10
    moved = steps(gradients, betas=(0.0, beta2))  # m is the gradient
    unrectified = [m == pytest.approx(g) for m, g in zip(moved, gradients, strict=True)]
    assert unrectified.index(False) + 1 == first if first else all(unrectified)
    still = steps(gradients, betas=(0.0, beta2), degenerated_to_sgd=False)
    assert [m == 0 for m in still] == unrectified


def test_a_weight_that_waits_for_the_rectified_step_decays_meanwhile() -> None:
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = steepest.AdaBelief([w], lr=0.1, weight_decay=0.1, degenerated_to_sgd=False)
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert w.item() == pytest.approx(0.99)


def test_amsgrad_with_a_step_that_ignores_it_is_refused() -> None:
    with pytest.raises(BadInput, match=r"amsgrad=True .* rectify=False"):
        steepest.AdaBelief([torch.nn.Parameter(torch.ones(1))], amsgrad=True)


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ({"rectify": True, "amsgrad": True}, {}),
        ({"rectify": False, "amsgrad": True}, {"amsgrad": True, "rectify": False}),
        ({"rectify": True, "weight_decouple": True, "fixed_decay": True}, {"decay": "fixed"}),
        ({"rectify": True, "weight_decouple": False, "fixed_decay": True}, {"decay": "coupled"}),
        ({"rectify": True, "degenerated_to_sgd": False}, {"degenerated_to_sgd": False}),
    ],
)
def test_a_trajectory_tells_the_packages_options(told: dict[str, Any], meant: dict[str, Any]) -> None:
    rule = steepest.AdaBelief.rule
    assert rule(**rule.of_trajectory({"hyperparameters": told}, {})) == rule(**meant)
