"""EXAdam's own claims: how long its first step is, where its cross terms vanish, what does not break it."""

from __future__ import annotations

import functools

import pytest
import torch
from cases import moves

import steepest
from steepest.core.errors import BadInput

steps = functools.partial(moves, steepest.EXAdam)


def test_the_first_step_is_16_times_adams_and_11_without_cross_terms() -> None:
    assert steps([1.0])[0] == pytest.approx(15.95, abs=0.05)
    assert steps([1.0], eps=1.0)[0] == pytest.approx(11 / 2, rel=0.01)  # Adam's, too, is half as long by that eps
    assert steps([1e-6])[0] == pytest.approx(11 / 1.01, rel=0.01)


def test_the_cross_terms_of_a_language_models_gradients_come_back_with_a_smaller_epsilon() -> None:
    gradients = [3.0, -1.0, 2.0, 0.5]
    full = steps(gradients, eps=1e-30)
    for scale in (1e-2, 1e-6):
        small = [scale * g for g in gradients]
        assert steps(small, eps=1e-30) == pytest.approx(full, rel=1e-6)
    lost = steps([1e-6 * g for g in gradients])
    assert abs(lost[0] / full[0] - 1) > 0.25


def test_the_growing_step_is_the_log_and_leaves_the_decay_alone() -> None:
    gradients = [1.0, -0.5, 2.0]
    plain, grown = steps(gradients), steps(gradients, variant="v1")
    assert [b / a for a, b in zip(plain, grown, strict=True)] == pytest.approx([0.6931, 0.8959, 1.0397], abs=1e-4)
    for variant in ("v1", "v2"):
        w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = steepest.EXAdam([w], lr=0.1, weight_decay=0.1, variant=variant)
        w.grad = torch.zeros_like(w)
        optimizer.step()
        assert w.item() == pytest.approx(0.99)


@pytest.mark.parametrize("engine", ["loop", "batched"])
def test_zeros_and_a_square_that_overflows_leave_a_number(engine: str) -> None:
    moved = steps([0.0, 1.0, 1e30, 0.0, 1.0], torch.float32, engine=engine)
    assert moved[0] == 0 and all(abs(m) < 100 for m in moved)


def test_a_trajectory_with_another_growth_is_told() -> None:
    rule = steepest.EXAdam.rule
    assert rule.of_trajectory({"hyperparameters": {"lr": 0.1}}, {}) == {"lr": 0.1, "growth": "none"}
    with pytest.raises(BadInput, match="step_growth 'sqrt"):
        rule.of_trajectory({"hyperparameters": {"step_growth": "sqrt(t)"}}, {})
