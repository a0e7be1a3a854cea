"""What every rule and variant survives: no gradient, a huge one, bfloat16, one row, a large vocabulary."""

from __future__ import annotations

import pytest
import torch
from cases import Case, build, cases, variants, weights

from steepest import estimates
from steepest.core.rule import Ask
from steepest.optimizer import Optimizer

Named = dict[str, torch.nn.Parameter]
ALL = cases(variants)
FREEZES = [("apollo", "official"), ("apollo", "official-mini"), ("sgd_sai", "official")]
"""Their authors' code remembers a norm of zero, see test_low_rank.py, test_sgd_sai.py; the default is mended."""


def made(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> Named:
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for name, shape in shapes.items()
    }


def step(optimizer: Optimizer, named: Named, t: int, factor: float = 1.0) -> None:
    """One step on gradients that depend on t alone; what the rule asks for is answered likewise."""
    draw = torch.Generator().manual_seed(1000 + t)
    for p in named.values():
        p.grad = factor * torch.randn(p.shape, generator=draw).to(p.dtype)

    def measured(ask: Ask) -> estimates.Measured:
        return {p: factor * torch.randn(p.shape, generator=draw).to(p.dtype) for p in named.values()}

    estimates.step(optimizer, measured)


def moved(optimizer: Optimizer, named: Named, steps: range) -> dict[str, float]:
    """How far each weight goes in these steps."""
    before = {name: p.detach().clone() for name, p in named.items()}
    for t in steps:
        step(optimizer, named, t)
    return {name: float((p.detach() - before[name]).norm()) for name, p in named.items()}


@pytest.mark.parametrize("at", [0, 4], ids=["first", "later"])
@pytest.mark.parametrize(
    "case", [c for c in ALL if (c.values[0][0], c.values[0][1].get("variant")) not in FREEZES]
)
def test_a_gradient_of_zeros_freezes_nothing(case: Case, at: int) -> None:
    """After it every weight goes on about as far as one that never saw it."""
    struck, untouched = weights(torch.float32), weights(torch.float32)
    ours, theirs = build(case, struck), build(case, untouched)
    for t in range(at):
        step(ours, struck, t)
        step(theirs, untouched, t)
    step(ours, struck, at, factor=0.0)
    found = moved(ours, struck, range(at, at + 8))
    expected = moved(theirs, untouched, range(at, at + 8))
    assert all(p.isfinite().all() for p in struck.values())
    for name, distance in expected.items():
        if distance > 0:  # a rule may hold weights still at first
            assert 0.2 < found[name] / distance < 5, f"{name}: {found[name]:.3g} instead of {distance:.3g}"


@pytest.mark.parametrize("case", ALL)
def test_one_gradient_times_100_leaves_every_weight_finite_and_moving(case: Case) -> None:
    named = weights(torch.float32)
    optimizer = build(case, named)
    for t in range(5):
        step(optimizer, named, t)
    step(optimizer, named, 5, factor=100.0)
    distances = moved(optimizer, named, range(6, 16))
    assert all(p.isfinite().all() for p in named.values())
    if any(moved(build(case, fresh := weights(torch.float32)), fresh, range(5)).values()):
        assert all(distances[name] > 0 for name in ("blocks.0.attn.q.weight", "blocks.0.mlp.in_.weight"))


@pytest.mark.parametrize("case", ALL)
def test_bfloat16_weights_walk_beside_their_float32_twins(case: Case) -> None:
    """State and step are float32, so that only the rounding of each new weight comes between them."""
    half = weights(torch.bfloat16)
    full = {name: torch.nn.Parameter(p.detach().float()) for name, p in half.items()}
    a, b = build(case, half), build(case, full)
    steps = 10
    for t in range(steps):
        draw = torch.Generator().manual_seed(1000 + t)
        for name, p in half.items():
            p.grad = torch.randn(p.shape, generator=draw).bfloat16()
            full[name].grad = p.grad.float()
        measured = {name: torch.randn(p.shape, generator=draw).bfloat16() for name, p in half.items()}
        for optimizer, named in ((a, half), (b, full)):
            found = {p: measured[name].to(p.dtype) for name, p in named.items()}
            estimates.step(optimizer, lambda ask, found=found: found)  # type: ignore[misc]
    for name, p in full.items():
        assert half[name].isfinite().all()
        rounding = steps * 2.0**-8 * float(p.detach().abs().max().clamp(min=1))
        torch.testing.assert_close(half[name].detach().float(), p.detach(), rtol=0, atol=rounding)


@pytest.mark.parametrize("case", ALL)
def test_matrices_of_one_row_one_column_and_one_number_train(case: Case) -> None:
    shapes = {
        "blocks.0.attn.q.weight": (1, 7),
        "blocks.0.attn.o.weight": (7, 1),
        "blocks.0.mlp.in_.weight": (1, 1),
        "embed.weight": (1, 5),
        "head.weight": (5, 1),
        "norm.weight": (1,),
    }
    named, loop = made(shapes), made(shapes)
    distances = moved(build(case, named), named, range(6))
    moved(build(case, loop, engine="loop"), loop, range(6))
    usual = moved(build(case, fresh := weights(torch.float32)), fresh, range(6))
    for name, p in named.items():
        assert p.isfinite().all(), name
        torch.testing.assert_close(p, loop[name], rtol=1e-4, atol=1e-5)
        if usual.get(name, any(usual.values())):
            assert distances[name] > 0, name


@pytest.mark.parametrize("case", ALL)
def test_a_head_of_50_000_rows_costs_no_square_of_its_rows(case: Case) -> None:
    """No state of 50,000 x 50,000 or near it, and no step that would allocate one: 10 GB."""
    kept = {}
    for rows in (50_000, 100_000):
        wide = torch.nn.Parameter(torch.empty(rows, 768, device="meta"))
        kept[rows] = sum(t.numel() for t in build(case, {"head.weight": wide}).state[wide].values())
    assert kept[100_000] <= 2.1 * kept[50_000]
    assert kept[50_000] <= 32 * 50_000 * 768  # AlgoPerf's Shampoo, in blocks of 8,192, keeps 26 times the weights
    named = made({"head.weight": (50_000, 16)})
    optimizer = build(case, named)
    step(optimizer, named, 0)
    assert named["head.weight"].isfinite().all()


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("case", [c for c in ALL if c.values[0][0] in ("scale", "sinkgd", "swan")])
def test_gradients_of_any_size_leave_finite_weights(case: Case, factor: float) -> None:
    """Of rules that keep no state for matrices: a first gradient has nothing beside it."""
    named = weights(torch.float32)
    optimizer = build(case, named)
    for p in named.values():
        p.grad = factor * torch.ones_like(p).cumsum(0)
    optimizer.step()
    assert all(p.isfinite().all() for p in named.values())
