"""What MARS' instances are without variance reduction, and what its previous gradient is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import give_gradients, same, walk, weights

import steepest
from steepest.core.errors import BadInput
from steepest.core.rule import Ask
from steepest.optimizer import Optimizer

PLAIN = {"gamma": 0.0, "clip": "none", "optimize_1d": True}
ASK = Ask("next_gradient", "before")


def hidden() -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in weights().items() if "blocks" in name and p.ndim == 2}


def moved_by(optimizer: Optimizer) -> dict[str, str]:
    return {route.parameter: route.rule for route in optimizer.routing()}


@pytest.mark.parametrize(
    ("mars", "other", "options"),
    [
        ({"betas": (0.9, 0.99)}, "AdamW", {"betas": (0.9, 0.99)}),
        ({"betas": (0.9, 0.99), "amsgrad": True}, "AdamW", {"betas": (0.9, 0.99), "amsgrad": True}),
        ({"instance": "lion", "betas": (0.9, 0.99)}, "Signum", {"momentum": 0.9}),
        ({"instance": "shampoo", "eps": 1e-7 / 0.05}, "Muon", {"nesterov": False}),
        ({"instance": "m", "eps": 1e-7}, "Muon", {"nesterov": False, "scale": "match_rms"}),
    ],
    ids=["adamw", "amsgrad", "lion", "shampoo", "m"],
)
def test_without_variance_reduction_it_is_the_rule_that_it_is_built_on(
    mars: dict[str, Any], other: str, options: dict[str, Any]
) -> None:
    a, b = hidden(), hidden()
    shared = {"lr": 0.02, "weight_decay": 0.1}
    walk(steepest.MARS(list(a.items()), **shared, **PLAIN, **mars), a, 5)
    walk(getattr(steepest, other)(list(b.items()), **shared, **options), b, 5)
    for name, w in a.items():
        torch.testing.assert_close(b[name], w, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("instance", ["lion", "shampoo", "m"])
def test_without_clipping_no_previous_gradient_is_needed(instance: str) -> None:
    """m = (1 - gamma) ema(g) + gamma g: the exact form, given the gradients before, keeps and needs them."""
    a, b = hidden(), hidden()
    options: dict[str, Any] = {"lr": 0.02, "instance": instance, "clip": "none", "gamma": 0.1}
    short = steepest.MARS(list(a.items()), **options)
    walk(short, a, 6)
    long = steepest.MARS(list(b.items()), exact=True, **options)
    for t in range(6):
        give_gradients(b, t)
        long.step()
        long.observe(ASK, {p: p.grad for p in b.values()})
    for name, p in a.items():
        torch.testing.assert_close(b[name], p, rtol=1e-9, atol=1e-11)
        assert set(short.state[p]) == {"step", "exp_avg"}
        assert set(long.state[b[name]]) == {"step", "exp_avg", "previous_grad"}


def test_exact_with_the_gradient_of_the_step_before_is_the_approximation() -> None:
    a, b = weights(), weights()
    walk(steepest.MARS(list(a.items()), lr=0.02), a, 5)
    exact = steepest.MARS(list(b.items()), lr=0.02, exact=True)
    for t in range(5):
        assert exact.asks() == (ASK,)
        give_gradients(b, t)
        exact.step()
        exact.observe(ASK, {p: p.grad for p in b.values()})
    assert same(a, b)


def test_exact_takes_no_step_on_a_previous_gradient_that_nobody_measured() -> None:
    named = weights()
    optimizer = steepest.MARS(list(named.items()), exact=True)
    give_gradients(named, 0)
    optimizer.step()
    with pytest.raises(BadInput, match="next_gradient"):
        optimizer.step()


def test_exact_reduces_the_variance_of_the_gradient_that_it_averages() -> None:
    """A batch's noise cancels between its two gradients, so that only the movement of the weights enters; the
    approximation adds the difference of the noise of two batches."""
    spread = {}
    for exact in (False, True):
        draw = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.zeros(40, 30, dtype=torch.float64))
        optimizer = steepest.MARS([("w", p)], lr=1e-3, gamma=0.5, clip="none", exact=exact, optimize_1d=True)
        noise = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        for _ in range(60):  # the loss is p^2 / 2 + noise * p: the gradient is p + noise of the batch
            following = torch.randn(p.shape, generator=draw, dtype=torch.float64)
            p.grad = p.detach() + noise
            before = p.detach().clone()
            optimizer.step()
            if exact:
                optimizer.observe(ASK, {p: before + following})
            noise = following
        spread[exact] = (optimizer.state[p]["exp_avg"] - p.detach()).std().item()
    assert spread[True] < 0.5 * spread[False]


@pytest.mark.parametrize("engine", ["loop", "batched"])
def test_gradients_zeroed_in_place_leave_the_previous_one_alone(engine: str) -> None:
    a, b = weights(), weights()
    walk(steepest.MARS(list(a.items()), lr=0.02, engine=engine), a, 4)
    optimizer = steepest.MARS(list(b.items()), lr=0.02, engine=engine)
    fresh = weights()
    for p in b.values():
        p.grad = torch.zeros_like(p)
    for t in range(4):
        give_gradients(fresh, t)
        for name, p in b.items():
            assert p.grad is not None and fresh[name].grad is not None
            p.grad += fresh[name].grad
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert same(a, b)


@pytest.mark.parametrize("engine", ["loop", "batched"])
def test_global_clipping_measures_every_weight_before_any_moves(engine: str) -> None:
    named = weights()
    optimizer = steepest.MARS(list(named.items()), clip="global", optimize_1d=True, gamma=0.1, engine=engine)
    give_gradients(named, 0)
    optimizer.step()
    c = {name: (1 + 0.1 * 0.95 / 0.05) * p.grad for name, p in named.items() if p.grad is not None}
    size = torch.stack([x.square().sum() for x in c.values()]).sum().sqrt()
    assert size > 1
    for name, p in named.items():
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], 0.05 * c[name] / (size + 1e-6))


def test_a_small_correction_is_not_clipped() -> None:
    for clip in ("tensor", "global"):
        p = torch.nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
        optimizer = steepest.MARS([("w", p)], clip=clip, first_previous="same")
        p.grad = torch.full_like(p, 0.1)
        optimizer.step()
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], 0.05 * p.grad)


def test_norms_and_biases_have_the_companion_and_embedding_and_head_have_not() -> None:
    vectors = {name for name, p in weights().items() if p.ndim < 2}
    told = moved_by(steepest.MARS(list(weights().items())))
    assert {name for name, rule in told.items() if rule == "adamw"} == vectors
    assert set(moved_by(steepest.MARS(list(weights().items()), optimize_1d=True)).values()) == {"mars"}
    told = moved_by(steepest.MARS(list(weights().items()), variant="m"))
    assert {name for name, rule in told.items() if rule == "adamw"} == vectors | {"embed.weight", "head.weight"}


def test_the_companions_rate_is_a_share_of_the_main_one() -> None:
    optimizer = steepest.MARS(list(weights().items()), lr=6e-3, companion={"lr_ratio": 0.5})
    assert {group["rule"]: group["lr"] for group in optimizer.param_groups} == {"mars": 6e-3, "adamw": 3e-3}


def test_shampoos_vectors_move_as_adamws_but_a_matrix_of_one_row_is_orthogonalised() -> None:
    for role, shampoo in (("bias", False), ("matrix", True)):
        g = torch.tensor([3.0, -4.0], dtype=torch.float64)
        p = torch.nn.Parameter(torch.zeros(2 if role == "bias" else (1, 2), dtype=torch.float64))
        optimizer = steepest.MARS([("w", p)], instance="shampoo", optimize_1d=True, lr=1.0, roles={"w": role})
        p.grad = g.view(p.shape)
        optimizer.step()
        assert ("exp_avg_sq" in optimizer.state[p]) == (not shampoo)
        u = -p.detach().flatten()
        if shampoo:  # along the gradient, with a singular value near 1
            torch.testing.assert_close(u / u.norm(), g / 5)
            assert 0.68 <= u.norm() <= 1.13
        else:  # the first step of Adam
            torch.testing.assert_close(u, torch.sign(g), rtol=1e-6, atol=1e-6)


def test_levanters_form_moves_every_weight_and_decays_matrices_alone() -> None:
    optimizer = steepest.MARS(list(weights().items()), variant="levanter")
    roles = {route.parameter: route.role for route in optimizer.routing()}
    for group in optimizer.param_groups:
        for name in group["param_names"]:
            plain = roles[name] in ("embed", "norm", "bias", "vector")
            assert group["rule"] == "mars" and group["weight_decay"] == (0.0 if plain else 0.1)
