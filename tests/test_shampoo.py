"""What Shampoo promises beyond its numpy text: identities of its exponents, grafting, blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import steepest
from steepest.core.errors import BadInput
from steepest.core.rule import Step
from steepest.rules.shampoo import Shampoo

FORGETFUL = {"betas": (0.0, 0.0), "average": "ema", "correct_bias": False, "eps": 1e-15}


def gradients(*shape: int, steps: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(steps)]


def directions(rule: Shampoo, grads: list[Tensor], turn: int = 0) -> list[Tensor]:
    state = {n: torch.zeros(s.shape, dtype=torch.float64) for n, s in rule.slots(tuple(grads[0].shape)).items()}
    found = []
    for t, g in enumerate(grads, start=1):
        u, state = rule.update(g, torch.zeros_like(g), Step(rule.phase(t, turn), rule.corrections(t)), state)
        found.append(u)
    return found


def polar(g: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)], ids=str)
def test_without_memory_exponents_of_a_quarter_on_both_sides_give_the_polar_factor(
    shape: tuple[int, int],
) -> None:
    grads = gradients(*shape)
    for g, u in zip(grads, directions(Shampoo(**FORGETFUL), grads), strict=True):
        torch.testing.assert_close(u, polar(g), rtol=1e-6, atol=1e-6)
    first = directions(Shampoo(betas=(0.0, 0.9), eps=1e-15), grads)[0]  # a sum of one gradient
    torch.testing.assert_close(first, polar(grads[0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
def test_without_memory_a_factor_of_the_smaller_side_alone_gives_the_polar_factor_by_a_half(
    shape: tuple[int, int],
) -> None:
    grads = gradients(*shape)
    one_sided = Shampoo(**FORGETFUL, large="identity", max_precond_dim=4)
    for g, u in zip(grads, directions(one_sided, grads), strict=True):
        torch.testing.assert_close(u, polar(g), rtol=1e-6, atol=1e-6)


def test_without_memory_exponents_of_a_half_on_both_sides_give_the_inverse() -> None:
    grads = gradients(6, 6)
    for g, u in zip(grads, directions(Shampoo(**FORGETFUL, exponent=0.5), grads), strict=True):
        torch.testing.assert_close(u, torch.linalg.inv(g).T, rtol=1e-6, atol=1e-6)


def test_a_vector_has_one_factor_and_its_first_direction_is_of_length_one() -> None:
    rule = Shampoo(betas=(0.0, 0.9))
    assert set(rule.slots((7,))) == {"factor_right", "root_right"}
    state = {n: torch.zeros(s.shape, dtype=torch.float64) for n, s in rule.slots((7,)).items()}
    g = gradients(1, 7)[0]
    u, _ = rule.update(g, g, Step(rule.phase(1), rule.corrections(1)), state)
    torch.testing.assert_close(u, g / g.norm())


@pytest.mark.parametrize("grafting", ["sgd", "adagrad", "rmsprop", "adam"])
def test_grafting_gives_each_block_the_step_length_of_the_grafted_method(grafting: str) -> None:
    grads = gradients(7, 5, steps=5)
    options: dict[str, Any] = {"betas": (0.9, 0.99), "average": "ema", "grafting": grafting}
    found = directions(Shampoo(**options, max_precond_dim=4, start_step=3), grads)
    alone = directions(Shampoo(**options, max_precond_dim=4, start_step=100), grads)
    for t in range(5):
        if t < 2:
            assert torch.equal(found[t], alone[t])  # before start_step the grafted method itself
            continue
        assert not torch.allclose(found[t], alone[t], rtol=0.1)
        for rows in (slice(0, 4), slice(4, 7)):
            for columns in (slice(0, 4), slice(4, 5)):
                torch.testing.assert_close(found[t][rows, columns].norm(), alone[t][rows, columns].norm())


def test_before_its_first_root_shampoo_grafted_to_adam_is_adamw() -> None:
    weights = [torch.nn.Parameter(gradients(5, 4)[0].clone()) for _ in range(2)]
    ours = steepest.Shampoo([("w", weights[0])], variant="adam-grafted", lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW([weights[1]], lr=1e-2, weight_decay=0.1)
    for g in gradients(5, 4, steps=6):
        for w, optimizer in zip(weights, (ours, theirs), strict=True):
            w.grad = g.clone()
            optimizer.step()
    torch.testing.assert_close(*weights)


def test_blocks_are_shampoo_by_themselves_and_large_enough_ones_change_nothing() -> None:
    grads = gradients(7, 5, steps=4)
    options: dict[str, Any] = {"average": "ema", "eps": 1e-6, "grafting": "adam", "momentum": 0.5}
    blocked = directions(Shampoo(**options, max_precond_dim=3), grads)
    for i in (0, 3, 6):
        for j in (0, 3):
            part = slice(i, i + 3), slice(j, j + 3)
            alone = directions(Shampoo(**options, max_precond_dim=3), [g[part] for g in grads])
            for u, block in zip(blocked, alone, strict=True):
                torch.testing.assert_close(u[part], block, rtol=1e-8, atol=1e-10)
    whole = directions(Shampoo(**options, max_precond_dim=1024), grads)
    for u, other in zip(whole, directions(Shampoo(**options, max_precond_dim=7), grads), strict=True):
        assert torch.equal(u, other)


def test_roots_fall_on_the_start_and_on_every_multiple_of_the_frequency() -> None:
    def roots(turn: int = 0, **options: Any) -> list[int]:
        rule = Shampoo(precondition_frequency=3, **options)
        return [t for t in range(1, 11) if rule.phase(t, turn) == "root"]

    assert roots() == [1, 3, 6, 9]
    assert roots(grafting="sgd") == [3, 6, 9]
    assert roots(grafting="sgd", start_step=5) == [5, 6, 9]
    assert roots(turn=1, grafting="sgd", spread=True) == [3, 5, 8]


def test_an_all_zero_gradient_moves_nothing_and_freezes_nothing() -> None:
    for options in ({}, {"grafting": "adam", "average": "ema"}, {"root": "newton"}):
        grads = [torch.zeros(6, 4, dtype=torch.float64), *gradients(6, 4)]
        first, *later = directions(Shampoo(**options), grads)
        assert not first.any()
        assert all(u.isfinite().all() and u.norm() > 0 for u in later)


def test_options_that_exclude_each_other_say_what_to_set() -> None:
    with pytest.raises(BadInput, match='set eps_form="relative"'):
        Shampoo(root="newton", eps_form="absolute")
    with pytest.raises(BadInput, match="takes exponents 1/1, 1/2, 1/3"):
        Shampoo(root="newton", exponent=0.3)
    with pytest.raises(BadInput, match="nesterov needs momentum > 0"):
        Shampoo(nesterov=True)
