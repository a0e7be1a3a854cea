"""Fira: what lies outside of the subspace moves too, by how much, and what a zero gradient must not do."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from cases import give_gradients, same, walk

import steepest
from steepest.optimizer import Optimizer
from steepest.registry import rule_named

NAME = "blocks.0.attn.q.weight"
Named = dict[str, torch.nn.Parameter]


def one(shape: tuple[int, int] = (8, 6), kind: str = "Fira", **options: Any) -> tuple[Named, Optimizer]:
    draw = torch.Generator().manual_seed(0)
    named = {NAME: torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))}
    return named, getattr(steepest, kind)(list(named.items()), **options)


def walked(steps: int, **options: Any) -> Named:
    named, optimizer = one(**options)
    walk(optimizer, named, steps)
    return named


@pytest.mark.parametrize("shape", [(8, 6), (6, 8)], ids=str)
def test_a_step_has_all_directions_and_galores_has_those_of_its_subspace(shape: tuple[int, int]) -> None:
    ranks = {}
    for kind in ("Fira", "GaLore"):
        named, optimizer = one(shape, kind, rank=2)
        before = named[NAME].detach().clone()
        walk(optimizer, named, 3)
        ranks[kind] = int(torch.linalg.matrix_rank(named[NAME].detach() - before, rtol=1e-9))
    assert ranks == {"Fira": 6, "GaLore": 2}


def test_at_full_rank_nothing_is_left_over_and_it_is_galore() -> None:
    options: dict[str, Any] = {"rank": 6, "lr": 0.1, "update_proj_gap": 2}
    galore = walked(5, kind="GaLore", **options)
    torch.testing.assert_close(walked(5, residual="orthogonal", **options)[NAME], galore[NAME])
    code = (
        walked(5, **options)[NAME] - galore[NAME]
    ).detach()  # at a scale of .25 the code counts three quarters twice
    assert float(code.norm()) > 0.1


def test_papers_and_codes_residuals_are_the_same_at_scale_one_and_not_at_a_quarter() -> None:
    def both(scale: float) -> list[torch.Tensor]:
        return [walked(5, rank=2, scale=scale, residual=r)[NAME].detach() for r in ("scaled", "orthogonal")]

    torch.testing.assert_close(*both(1.0))
    assert not torch.allclose(*both(0.25))


def residuals(steps: int, *, zero_at: int = -1, **options: Any) -> list[float]:
    """The length of what moved outside of the subspace in each step, Adam's corrections taken out."""
    named, optimizer = one(rank=2, lr=1.0, correct_bias=False, residual="orthogonal", **options)
    (p,) = named.values()
    found = []
    for t in range(steps):
        before = p.detach().clone()
        give_gradients(named, t)
        if t == zero_at:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        q = optimizer.state[p]["projector_right"]
        move = p.detach() - before
        found.append(float((move - move @ q.mT @ q).norm()))
    return found


@pytest.mark.parametrize("growth", [1.01, 1.2])
@pytest.mark.parametrize("limiter", ["mended", "official"])
def test_the_residual_grows_by_limiter_growth_at_most(limiter: str, growth: float) -> None:
    found = residuals(12, limiter=limiter, limiter_growth=growth)
    assert all(b <= growth * (a + 2e-8) for a, b in itertools.pairwise(found))
    assert any(b > growth * 1.01 * a for a, b in itertools.pairwise(residuals(12, limiter="off")))


@pytest.mark.parametrize("zero_at", [0, 3])
def test_one_gradient_of_zeros_ends_the_official_residual_and_not_the_mended_one(zero_at: int) -> None:
    ended = residuals(zero_at + 40, zero_at=zero_at, limiter="official")
    assert max(ended[zero_at + 1 :]) < 1e-6
    mended = residuals(zero_at + 3, zero_at=zero_at, limiter="mended")
    assert mended[zero_at + 1] > 0.1 * max(mended[:zero_at], default=1.0)


def test_over_rmsprop_the_signs_of_singular_vectors_do_not_matter_and_over_adamw_they_do() -> None:
    for kind, matter in (("FiraRMSprop", False), ("Fira", True)):
        ways = [walked(9, kind=kind, rank=3, update_proj_gap=2, signs=s)[NAME] for s in ("largest", "lapack")]
        assert torch.allclose(*ways, rtol=1e-10, atol=1e-12) != matter


def test_over_rmsprop_the_companion_is_rmsprop_as_in_the_official_code() -> None:
    draw = torch.Generator().manual_seed(0)
    embed = torch.nn.Parameter(torch.randn(12, 4, generator=draw, dtype=torch.float64))
    own = torch.nn.Parameter(embed.detach().clone())
    a = steepest.FiraRMSprop([("embed.weight", embed)], lr=0.01)
    b = torch.optim.RMSprop([own], lr=0.01, alpha=0.9)
    for t in range(6):
        give_gradients({"e": embed}, t)
        give_gradients({"e": own}, t)
        a.step()
        b.step()
    torch.testing.assert_close(embed, own, rtol=1e-12, atol=1e-13)


def test_its_names_compose() -> None:
    assert rule_named("fira-lion") is steepest.FiraLion.rule
    assert rule_named("fira").name() == "fira" and steepest.Fira.rule is rule_named("fira")
    named, other = walked(4, kind="FiraLion", rank=2), walked(4, kind="FiraLion", rank=2, scale=0.5)
    assert np.isfinite(named[NAME].detach().numpy()).all() and not same(named, other)
