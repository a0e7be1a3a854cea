"""Adalayer's identities, its frozen form and its hybrid with SGD."""

from __future__ import annotations

import pytest
import torch
from cases import build, give_gradients, walk, weights
from torch import nn

import steepest
from steepest.core.rule import Step
from steepest.linalg.row_means import mean_square
from steepest.registry import resolve, rules
from steepest.rules.adalayer import thirds
from steepest.schedules import schedule


def test_for_tensors_of_one_element_it_is_adamw() -> None:
    found = []
    for rule in ("adalayer", "adamw"):
        named = {
            str(i): nn.Parameter(torch.full(shape, 0.5 + i, dtype=torch.float64))
            for i, shape in enumerate([(1,), (1, 1), ()])
        }
        walk(build((rule, {"betas": (0.9, 0.95)}), named), named, 6)
        found.append([w.item() for w in named.values()])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 50_000), (4096, 4096), (50_000, 64)], ids=str)
def test_the_mean_over_millions_of_numbers_is_right_to_float32(shape: tuple[int, int]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = g.double().square().mean().item()
    assert mean_square(g, shape[0]).item() == pytest.approx(expected, rel=3e-6)


def test_a_tensor_moves_as_adam_would_with_the_mean_of_its_squares() -> None:
    """All of a layer has one step size: the direction is the momentum's."""
    named = {"w": nn.Parameter(torch.zeros(5, 3, dtype=torch.float64))}
    optimizer = build(("adalayer", {"eps": 0.0, "weight_decay": 0.0}), named)
    give_gradients(named, 0)
    optimizer.step()
    grad = named["w"].grad
    assert grad is not None
    torch.testing.assert_close(named["w"].detach(), -0.01 * grad / grad.square().mean().sqrt())


def test_the_hybrid_without_an_adaptive_role_is_sgd_on_an_average_of_gradients() -> None:
    named, expected, m = weights(), weights(), {}
    optimizer = build(("adalayer", {"blocks": "none", "betas": (0.8, 0.95)}), named)
    for t in range(5):
        give_gradients(named, t)
        for name, w in expected.items():
            g = named[name].grad
            assert g is not None
            m[name] = 0.8 * m.get(name, 0) + 0.2 * g
            w.data = (1 - 0.01 * 0.1) * w.data - 0.01 * m[name] / (1 - 0.8 ** (t + 1))
        optimizer.step()
    for name, w in expected.items():
        torch.testing.assert_close(named[name], w, rtol=1e-12, atol=1e-14)
    assert all("exp_avg_sq" not in state for state in optimizer.state.values())


def test_the_hybrid_adapts_head_and_norms_alone_at_a_rate_of_their_own() -> None:
    named = weights()
    optimizer = build(("adalayer", {"variant": "sgd-hybrid", "lr": 3.0}), named)
    adaptive = {name for name, w in named.items() if "exp_avg_sq" in optimizer.state[w]}
    assert adaptive == {"head.weight", "norm.weight"}
    rates = {w: g["lr"] for g in optimizer.param_groups for w in g["params"]}
    assert {rates[named[name]] for name in adaptive} == {3.16e-3}
    assert {rates[w] for name, w in named.items() if name not in adaptive} == {3.0}


def test_the_hybrid_is_searched_where_sgds_learning_rates_lie() -> None:
    grid = resolve("adalayer:variant=sgd-hybrid").lr_grid
    assert (
        min(grid) > max(resolve("adalayer").lr_grid) and rules()["adalayer"].variants["sgd-hybrid"]["lr"] in grid
    )


def test_star_gives_each_logit_its_second_moment_and_a_fused_qkv_three() -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(4, 12), "head": nn.Linear(4, 12)})
    optimizer = steepest.Adalayer(model, variant="adalayer-star", layouts={"qkv.weight": "qkv"})
    of = {name: optimizer.state[p] for name, p in model.named_parameters()}
    assert of["head.weight"]["exp_avg_sq"].shape == (12, 1)
    assert [of["qkv.weight"][f"exp_avg_sq.{part}"].shape for part in "qkv"] == [(1, 1)] * 3
    plain = steepest.Adalayer(model, layouts={"qkv.weight": "whole"})
    assert {plain.state[p]["exp_avg_sq"].numel() for p in model.parameters()} == {1}


@pytest.mark.parametrize(("rows", "parts"), [(24, [8, 8, 8]), (25, [8, 8, 9]), (26, [8, 9, 9])])
def test_a_fused_qkv_is_cut_where_the_official_code_cuts_it(rows: int, parts: list[int]) -> None:
    assert list(thirds(rows).values()) == parts


def test_frozen_second_moments_are_the_mean_over_one_step_more_and_stay() -> None:
    rule = rules()["adalayer"](t_freeze=3)
    state = {"exp_avg": torch.zeros(2, 2), "exp_avg_sq": torch.zeros(1, 1)}
    grads, seen = [torch.full((2, 2), float(g)) for g in (1, 2, 3, 10)], []
    for t, g in enumerate(grads, start=1):
        _, state = rule.update(g, g, Step(rule.phase(t), rule.corrections(t)), state)
        seen.append(state["exp_avg_sq"].item())
    assert seen == pytest.approx([1 / 2, 5 / 3, 14 / 4, 14 / 4])


def test_frozen_head_and_norms_go_on_adapting() -> None:
    named = weights()
    optimizer = build(("adalayer", {"variant": "frozen", "t_freeze": 2}), named)
    walk(optimizer, named, 2)
    before = {name: optimizer.state[w]["exp_avg_sq"].clone() for name, w in named.items()}
    walk(optimizer, named, 2, start=2)
    changed = {
        name for name, w in named.items() if not torch.equal(before[name], optimizer.state[w]["exp_avg_sq"])
    }
    assert changed == {"head.weight", "norm.weight"}


def test_while_a_schedule_freezes_it_only_second_moments_and_momenta_are_gathered() -> None:
    named, before = weights(), weights()
    optimizer = build(("adalayer", {"variant": "frozen", "t_freeze": 3}), named)
    scheduler = schedule(optimizer, "cosine", 8, warmup=1, freeze=3)
    for t in range(4):
        assert all(torch.equal(named[name], before[name]) for name in named)
        walk(optimizer, named, 1, start=t)
        scheduler.step()
    assert not any(torch.equal(named[name], before[name]) for name in named)


def test_without_norm_training_norms_stay_and_all_else_moves() -> None:
    named, before = weights(), weights()
    walk(build(("adalayer", {"variant": "no-norm-training"}), named), named, 2)
    assert {name for name in named if torch.equal(named[name], before[name])} == {"norm.weight"}
