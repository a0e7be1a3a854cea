"""Conda's basis: whose singular vectors, what does not matter, and what must not destroy it."""

from __future__ import annotations

import pytest
import torch
from cases import walk

import steepest
from steepest.core.rule import Step
from steepest.optimizer import Optimizer

NAME = "blocks.0.attn.q.weight"
Named = dict[str, torch.nn.Parameter]


def one(shape: tuple[int, int] = (7, 4), **options: object) -> tuple[Named, Optimizer]:
    draw = torch.Generator().manual_seed(0)
    named = {NAME: torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))}
    return named, steepest.Conda(list(named.items()), lr=0.01, **options)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)], ids=str)
def test_the_basis_diagonalises_the_updated_moment_and_is_orthogonal(shape: tuple[int, int]) -> None:
    named, optimizer = one(shape, update_proj_gap=3)
    walk(optimizer, named, 4)
    state = optimizer.state[named[NAME]]
    m, b = state["exp_avg"], state["basis"]
    gram = b @ m.mT @ m @ b.mT if shape[0] >= shape[1] else b.mT @ m @ m.mT @ b
    torch.testing.assert_close(b @ b.mT, torch.eye(min(shape), dtype=torch.float64))
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()))
    walk(optimizer, named, 2, start=4)
    assert torch.equal(optimizer.state[named[NAME]]["basis"], b)


def test_the_signs_of_singular_vectors_do_not_matter() -> None:
    rule = steepest.Conda.rule(lr=0.01)
    draw = torch.Generator().manual_seed(1)
    g, w, m = (torch.randn(7, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    basis = torch.linalg.svd(m)[2]
    turned = basis * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)[:, None]
    step = Step("keep", rule.corrections(3))
    us = [rule.update(g, w, step, {"exp_avg": m, "exp_avg_sq": g * g, "basis": b})[0] for b in (basis, turned)]
    torch.testing.assert_close(*us)


def test_without_a_first_gradient_it_is_adamw_until_the_next_basis() -> None:
    """The moment is then zero and has no singular vectors: the basis is the identity."""
    named, optimizer = one(update_proj_gap=4)
    own = named[NAME].detach().clone().requires_grad_()
    hf = {"lr": 0.01, "eps": 1e-8, "eps_form": "hf", "decay": "after", "weight_decay": 0.0}
    adamw = steepest.AdamW([(NAME, own)], **hf)
    named[NAME].grad, own.grad = torch.zeros(7, 4).double(), torch.zeros(7, 4).double()
    optimizer.step()
    adamw.step()
    for t in range(3):
        walk(optimizer, named, 1, start=t)
        own.grad = named[NAME].grad.clone()  # type: ignore[union-attr]
        adamw.step()
        torch.testing.assert_close(named[NAME], own)
    walk(optimizer, named, 1, start=3)
    assert not torch.equal(optimizer.state[named[NAME]]["basis"], torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("bad", [0.0, torch.inf, torch.nan])
def test_a_moment_without_singular_vectors_leaves_the_basis_and_nan_shows(bad: float) -> None:
    named, optimizer = one(update_proj_gap=3)
    walk(optimizer, named, 3)
    state = optimizer.state[named[NAME]]
    before = state["basis"].clone()
    state["exp_avg"].zero_()
    named[NAME].grad = torch.zeros(7, 4, dtype=torch.float64)
    named[NAME].grad[0, 0] = bad
    optimizer.step()
    assert torch.equal(optimizer.state[named[NAME]]["basis"], before)
    assert bool(named[NAME].isfinite().all()) == (bad == 0.0)


def test_the_state_is_adamws_and_a_square_of_the_shorter_side() -> None:
    for rows, cols in [(64, 64), (64, 16), (16, 64)]:
        short = min(rows, cols)
        assert steepest.Conda.rule().state_bytes((rows, cols)) == 4 + 4 * (2 * rows * cols + short * short)


def test_spread_bases_fall_on_different_steps_and_the_first_on_the_first() -> None:
    rule = steepest.Conda.rule(update_proj_gap=4, spread=True)
    told = [[t for t in range(1, 9) if rule.phase(t, turn) == "refresh"] for turn in range(rule.turns)]
    assert told == [[1, 5], [1, 4, 8], [1, 3, 7], [1, 2, 6]]
