"""The estimates that Sophia asks for, against exact Hessians and Gauss-Newton matrices of small models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian

from steepest import estimates


def exact_diagonal(loss: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    return hessian(loss, w.detach()).reshape(w.numel(), w.numel()).diagonal().view_as(w)


def regression(rows: int = 5, width: int = 3, classes: int = 4) -> tuple[Tensor, nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    return x, nn.Parameter(torch.randn(classes, width, generator=draw, dtype=torch.float64))


def averaged(estimate: Callable[[int], Tensor], times: int) -> tuple[Tensor, Tensor]:
    """The mean over many draws and its standard error."""
    found = torch.stack([estimate(t) for t in range(times)])
    return found.mean(0), found.std(0) / times**0.5


@pytest.mark.parametrize("probe", ["normal", "rademacher"])
def test_hutchinsons_mean_is_the_hessians_diagonal_of_a_quadratic(probe: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    a = a + a.T  # indefinite: the estimate has a sign
    w = nn.Parameter(torch.randn(6, generator=draw, dtype=torch.float64))

    def estimate(t: int) -> Tensor:
        return estimates.hutchinson([w], w @ a @ w / 2, estimates.generator(1, t), probe)[w]

    mean, error = averaged(estimate, 3000)
    assert a.diagonal().min() < 0
    assert ((mean - a.diagonal()).abs() < 4.5 * error).all()
    assert error.max() < 0.1 * a.diagonal().abs().max()


def test_random_signs_tell_a_diagonal_hessian_exactly_in_every_draw() -> None:
    h = torch.tensor([2.0, -1.0, 0.0, 5.0])
    w = nn.Parameter(torch.ones(4))
    for t in range(5):
        found = estimates.hutchinson([w], (h * w.square()).sum() / 2, estimates.generator(1, t), "rademacher")
        assert torch.equal(found[w], h)


def test_hutchinsons_mean_is_the_hessians_diagonal_of_a_network() -> None:
    x, w = regression()
    labels = torch.tensor([0, 1, 2, 3, 0])

    def loss(w: Tensor) -> Tensor:
        return F.cross_entropy(torch.tanh(x @ w.T) * 3, labels)

    exact = exact_diagonal(loss, w)
    mean, error = averaged(lambda t: estimates.hutchinson([w], loss(w), estimates.generator(2, t))[w], 2000)
    assert ((mean - exact).abs() < 4.5 * error).all()
    assert error.max() < 0.1 * exact.abs().max()


def test_a_hessian_vector_product_is_the_hessian_times_the_vector() -> None:
    x, w = regression()

    def loss(w: Tensor) -> Tensor:
        return torch.tanh(x @ w.T).pow(3).mean()

    z = torch.randn(w.shape, generator=estimates.generator(0, 1), dtype=w.dtype)
    matrix = hessian(loss, w.detach()).view(w.numel(), w.numel())
    found = estimates.hutchinson([w], loss(w), estimates.generator(0, 1))[w]
    torch.testing.assert_close(found, z * (matrix @ z.flatten()).view_as(z))


def gauss_newton_diagonal(x: Tensor, w: Tensor) -> Tensor:
    """Of softmax regression: mean over rows of (p - p^2) x^2, by enumeration of the labels."""
    p = (x @ w.T).softmax(-1).detach()
    total = torch.zeros_like(w)
    for row, probability in zip(x, p, strict=True):
        for label, chance in enumerate(probability):
            slope = probability.clone()
            slope[label] -= 1
            total += chance * torch.outer(slope, row).square()
    return total / len(x)


def test_gauss_newton_bartletts_mean_square_is_the_gauss_newton_diagonal_of_softmax_regression() -> None:
    x, w = regression()
    exact = gauss_newton_diagonal(x, w)
    torch.testing.assert_close(exact, exact_diagonal(lambda w: F.cross_entropy(x @ w.T, torch.zeros(5).long()), w))

    def estimate(t: int) -> Tensor:
        loss = estimates.sampled_loss(x @ w.T, estimates.generator(3, t))
        return estimates.gauss_newton_bartlett([w], loss, len(x))[w].square()

    mean, error = averaged(estimate, 4000)
    assert ((mean - exact).abs() < 4.5 * error).all()
    assert error.max() < 0.1 * exact.max()


def test_the_clip_bounds_the_norm_over_all_weights_and_leaves_smaller_ones() -> None:
    x, w = regression()
    b = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def norm(clip: float) -> float:
        loss = estimates.sampled_loss(x @ w.T + b, estimates.generator(0, 0))
        found = estimates.gauss_newton_bartlett([w, b], loss, 1, clip=clip)
        return float(torch.cat([g.flatten() for g in found.values()]).norm())

    whole = norm(float("inf"))
    assert norm(whole / 2) == pytest.approx(whole / 2)
    assert norm(whole * 2) == pytest.approx(whole)


@pytest.mark.parametrize("kind", ["gradient", "hutchinson"])
def test_equal_parts_of_a_batch_give_the_whole_batchs_estimate(kind: str) -> None:
    x, w = regression(rows=6)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])

    def estimate(parts: int) -> Tensor:
        losses = (
            F.cross_entropy(torch.tanh(a @ w.T), b)
            for a, b in zip(x.chunk(parts), labels.chunk(parts), strict=True)
        )
        if kind == "gradient":
            return estimates.gradient([w], losses)[w]
        return estimates.hutchinson([w], losses, estimates.generator(0, 0))[w]

    torch.testing.assert_close(estimate(3), estimate(1))


def test_labels_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, -torch.inf, 1.0, -torch.inf]).expand(40_000, 6)
    found = estimates.sampled(logits, estimates.generator(0, 0))
    share = torch.bincount(found, minlength=6) / len(found)
    p = logits[0].softmax(-1)
    assert share[3] == share[5] == 0
    assert ((share - p).abs() < 4.5 * (p * (1 - p) / len(found)).sqrt() + 1e-12).all()


def test_draws_depend_on_seed_and_step_alone() -> None:
    def draws(seed: int, t: int) -> list[float]:
        return torch.rand(3, generator=estimates.generator(seed, t)).tolist()

    assert draws(5, 7) == draws(5, 7)
    assert len({tuple(draws(*key)) for key in ((5, 7), (5, 8), (6, 7), (7, 5), (5 + 2**32, 7))}) == 5


def test_weights_that_the_loss_leaves_out_or_takes_linearly_do_no_harm() -> None:
    x, w = regression()
    unused, linear = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3, dtype=torch.float64))
    loss = (x @ w.T).square().mean() + (x @ linear).mean()
    found = estimates.hutchinson([w, unused, linear], loss, estimates.generator(0, 0))
    assert set(found) == {w}
    loss = (x @ linear).mean()
    assert estimates.hutchinson([w, linear], loss, estimates.generator(0, 0)) == {}
    assert set(estimates.gradient([w, linear], (x @ linear).mean())) == {linear}
