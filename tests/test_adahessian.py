"""AdaHessian: what is measured and when, what shares a mean, and the guards that its authors do not have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest import AdaHessian, estimates
from steepest.core.errors import BadInput
from steepest.core.rule import Ask
from steepest.rules.adahessian import AdaHessian as Rule


def seen(x: Tensor, **options: Any) -> Tensor:
    """The estimates that enter the second moment, from none before."""
    rule = Rule(**({"floor": 0.0} | options))
    found = rule.observe("hutchinson", x, x, {"exp_avg_sq": torch.zeros_like(x)})["exp_avg_sq"]
    return (found / (1 - rule.betas[1])).sqrt()


def made(x: Tensor, measured: Tensor | None, **options: Any) -> tuple[nn.Parameter, Any]:
    """A weight of zeros and its optimizer, after one step on gradient x with this estimate."""
    p = nn.Parameter(torch.zeros_like(x))
    optimizer = AdaHessian([p], lr=1.0, **options)
    taken(optimizer, p, x, measured)
    return p, optimizer


def taken(optimizer: Any, p: nn.Parameter, x: Tensor, measured: Tensor | None) -> None:
    p.grad = x
    estimates.step(optimizer, lambda ask: {} if measured is None else {p: measured})


def test_every_step_reads_its_own_estimate_of_random_signs_on_the_whole_batch() -> None:
    ask = Ask("hutchinson", "before", probe="rademacher", whole=True)
    assert all(Rule().needs(t) == (ask,) and Rule().asks(t) == () for t in range(1, 9))
    assert [t for t in range(1, 12) if Rule(hessian_interval=5).needs(t)] == [1, 6, 11]
    p, _ = made(torch.tensor([3.0, 3.0]), torch.tensor([1.5, -6.0]), eps=0.0)
    torch.testing.assert_close(p.detach(), torch.tensor([-2.0, -0.5]))  # Newton's step in the very first move


def test_on_a_quadratic_of_diagonal_hessian_one_full_step_reaches_the_minimum() -> None:
    h, p = torch.tensor([5.0, 0.3, 40.0]), nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = AdaHessian([p], lr=1.0, eps=0.0)

    def loss() -> Tensor:
        return (h * p.square()).sum() / 2

    loss().backward()
    draw = estimates.generator(0, 1)
    estimates.step(optimizer, lambda ask: estimates.hutchinson([p], loss(), draw, ask.probe))
    torch.testing.assert_close(p.detach(), torch.zeros(3), rtol=0, atol=1e-6)


def test_what_shares_a_mean() -> None:
    x = torch.tensor([[1.0, -3.0, 5.0], [0.0, 2.0, 4.0]])
    assert torch.allclose(seen(x), torch.tensor([[3.0] * 3, [2.0] * 3]))
    assert torch.allclose(seen(x, block_2d=None), x.abs())
    four = [[2.25, 2.25, 2.25], [2.25, 3.0, 3.0]]  # the last block is shorter
    assert torch.allclose(seen(x, block_2d=4), torch.tensor(four))
    assert torch.allclose(seen(x, block_2d=4, absolute=False), torch.tensor([[0.75] * 3, [0.75, 3.0, 3.0]]))
    assert seen(x[0]).tolist() == pytest.approx([1.0, 3.0, 5.0])
    assert seen(x[0], block_1d=2).tolist() == pytest.approx([2.0, 2.0, 5.0])
    kernels = torch.arange(16.0).view(2, 2, 2, 2)
    for size in (-1, None, 32):
        assert torch.allclose(seen(kernels, block_2d=size)[:, :, 0, 0], torch.tensor([[1.5, 5.5], [9.5, 13.5]]))
    assert seen(torch.tensor(-2.0)) == pytest.approx(2.0)
    assert seen(torch.zeros(0, 3)).shape == (0, 3)


def test_the_papers_signed_mean_is_never_above_the_mean_of_absolute_values() -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert (seen(x, absolute=False) <= seen(x) + 1e-6).all()
    assert (seen(x, absolute=False) < 0.8 * seen(x)).any()


def test_the_bias_correction_counts_estimates_and_not_steps() -> None:
    rule = Rule(hessian_interval=4)
    x, state = torch.tensor([2.0]), {"exp_avg_sq": torch.zeros(1)}
    for t in range(1, 10):
        for ask in rule.needs(t):
            state = rule.observe(ask.kind, x, x, state)
        root = state["exp_avg_sq"].sqrt() / rule.corrections(t)["powered_bias2"]
        assert float(root) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("variant", ["rows", "instruction"])
def test_a_row_without_curvature_makes_a_huge_step_in_the_official_code_alone(variant: str) -> None:
    curved = torch.tensor([[2.0, 2.0], [0.0, 0.0]])
    p, _ = made(torch.full((2, 2), 1e-2), curved, variant=variant)
    size = p.detach().abs()
    if variant == "instruction":
        assert (size[1] > 1e4 * size[0]).all()
    else:
        assert (size[1] < 300 * size[0]).all()


def test_a_weight_without_any_measured_curvature_waits_for_one() -> None:
    g = torch.ones(3)
    p, optimizer = made(g, None)
    assert torch.equal(p.detach(), torch.zeros(3))
    taken(optimizer, p, g, torch.full((3,), 4.0))
    assert (p < 0).all()
    official, _ = made(g, None, variant="instruction")
    assert official.detach().tolist() == pytest.approx([-1e4] * 3)


def test_an_estimate_that_overflows_stops_no_weight_for_ever() -> None:
    g = torch.ones(4, 4)
    for spike in (1e30, torch.inf):
        p, optimizer = made(g, g)
        struck = g.clone()
        struck[1, 2] = spike
        taken(optimizer, p, g, struck)
        before = p.detach().clone()
        taken(optimizer, p, g, g)
        assert p.isfinite().all() and (p < before - 0.1).all()
    p, optimizer = made(g, struck, variant="instruction")
    for _ in range(5):
        taken(optimizer, p, g, g)
    assert (p.detach()[1] == 0).all()


def test_an_estimate_that_is_not_a_number_shows() -> None:
    p, _ = made(torch.ones(2, 2), torch.tensor([[torch.nan, 1.0], [1.0, 1.0]]))
    assert p.isnan().any()


def test_a_step_without_its_estimate_is_refused_in_one_line() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = AdaHessian([p])
    p.grad = torch.ones(3)
    with pytest.raises(BadInput, match=r"^adahessian asked for hutchinson .* steepest\.estimates$"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3))


def test_a_block_of_no_entries_is_refused() -> None:
    for name in ("block_1d", "block_2d"):
        with pytest.raises(BadInput, match=f"{name}=0"):
            Rule(**{name: 0})


def test_a_convolution_trains_and_its_loss_falls() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
    weights = list(model.parameters())
    x, labels = torch.randn(32, 1, 5, 5), torch.randint(3, (32,))
    optimizer, found = AdaHessian(model, lr=0.15, layouts={"0.weight": "whole"}), []
    for t in range(30):
        loss = F.cross_entropy(model(x), labels)
        found.append(float(loss.detach()))
        loss.backward()
        draw = estimates.generator(0, t)
        estimates.step(
            optimizer,
            lambda ask, draw=draw: estimates.hutchinson(  # type: ignore[misc]
                weights, F.cross_entropy(model(x), labels), draw, ask.probe
            ),
        )
        optimizer.zero_grad()
    assert found[-1] < found[0] - 0.3
