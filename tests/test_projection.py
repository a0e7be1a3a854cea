"""AdamP and SGDP: what is projected when, as the formula; what a missing gradient shows; which buffer is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from cases import needs_compiler
from references.adamp import projected
from torch import Tensor

import steepest
from steepest.linalg.projection import tangential

BOTH = pytest.mark.parametrize("name", ["AdamP", "SGDP"])
SHAPES = [(4, 6), (1, 5), (5, 1), (1, 1), (3, 2, 4), (7,), ()]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def across(w: Tensor, seed: int = 1) -> Tensor:
    """A gradient each row of which is at right angles to the row of w."""
    g = random(*w.shape, seed=seed)
    along = (g * w).flatten(1).sum(1) / w.flatten(1).square().sum(1)
    return g - along.view(-1, *[1] * (w.ndim - 1)) * w


def gradients(w: Tensor) -> Iterator[Tensor]:
    """Of every kind: at right angles by rows, as a whole alone, not at all, with rows of zeros, none."""
    yield random(*w.shape, seed=2)
    yield torch.zeros_like(w)
    if w.ndim > 1:
        yield across(w)
        g = random(*w.shape, seed=3)
        yield g - (g * w).sum() / w.square().sum() * w
        holes = across(w)
        holes[0] = 0
        yield holes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("official", [True, False])
def test_the_step_is_projected_as_the_formula_says(shape: tuple[int, ...], official: bool) -> None:
    w, u = random(*shape, seed=4), random(*shape, seed=5)
    hits = set()
    for delta in (0.0, 0.1, 1.5):
        for g in gradients(w):
            found, was = tangential(u, g, w, delta, 1e-8, zero_is_orthogonal=official)
            expected, expected_was = projected(u.numpy(), g.numpy(), w.numpy(), delta, 1e-8, official)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
            assert bool(was) == expected_was
            hits.add(expected_was)
    assert hits == ({False, True} if len(shape) > 1 else {False})


def test_what_is_left_of_a_step_is_at_right_angles_to_each_row() -> None:
    w, u = random(50, 30, dtype=torch.float32), random(50, 30, seed=1, dtype=torch.float32)
    left, was = tangential(u, across(w.double()).float(), w, 0.1, 1e-8, zero_is_orthogonal=False)
    assert was and (left * w).sum(1).abs().max() < 1e-4 * (u * w).sum(1).abs().max()


def test_rows_without_gradient_neither_hinder_nor_prove() -> None:
    w = random(6, 8)
    g = across(w)
    g[2:] = 0
    assert tangential(w, g, w, 0.1, 1e-8, zero_is_orthogonal=False)[1]
    for still in (torch.zeros_like(w), torch.zeros_like(w).index_fill(0, torch.tensor([1]), torch.nan)):
        assert not tangential(w, still, w, 0.1, 1e-8, zero_is_orthogonal=False)[1]
    assert not tangential(w, g, torch.zeros_like(w), 0.1, 1e-8, zero_is_orthogonal=False)[1]


def test_the_angle_does_not_depend_on_the_gradients_scale() -> None:
    """Until squares leave float32: from there on nothing is known."""
    w = random(6, 8, dtype=torch.float32)
    radial, sideways = 0.3 * w, across(w.double()).float()
    for scale in (1e-25, 1e-12, 1.0, 1e12, 1e18, 1e25, 1e30):
        seen = [
            bool(tangential(w, scale * g, w, 0.1, 1e-8, zero_is_orthogonal=False)[1]) for g in (radial, sideways)
        ]
        assert not seen[0] and (seen[1] or not 1e-15 < scale < 1e18)
    assert tangential(w, 1e-12 * radial, w, 0.1, 1e-8, zero_is_orthogonal=True)[1]  # the code's: below eps
    assert not tangential(w, radial, w, 0.1, 1e-8, zero_is_orthogonal=True)[1]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)], ids=str)
def test_an_empty_weight_is_let_pass(shape: tuple[int, ...]) -> None:
    nothing = torch.zeros(shape)
    assert tangential(nothing, nothing, nothing, 0.1, 1e-8, zero_is_orthogonal=True)[0].shape == shape


def test_a_transposed_weight_is_projected_as_its_copy() -> None:
    w, u = random(6, 4, 5).transpose(0, 2), random(5, 4, 6, seed=1)
    one, other = (tangential(u, across(x), x, 0.1, 1e-8, zero_is_orthogonal=False) for x in (w, w.contiguous()))
    assert one[1] and torch.equal(one[0], other[0])


def walked(name: str, w: Tensor, grads: list[Tensor], **options: Any) -> Tensor:
    p = torch.nn.Parameter(w.clone())
    optimizer = getattr(steepest, name)([p], **options)
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


def test_without_a_bound_they_are_adamw_and_sgdw() -> None:
    w, grads = random(5, 4), [random(5, 4, seed=s) for s in range(1, 6)]
    grads.append(across(w))
    shared: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    torch.testing.assert_close(walked("AdamP", w, grads, delta=0.0, **shared), walked("AdamW", w, grads, **shared))
    plain = {"lr": 0.01, "momentum": 0.9}
    torch.testing.assert_close(
        walked("SGDP", w, grads, delta=0.0, weight_decay=0.1, **plain),
        walked("SGD", w, grads, decay="before", weight_decay=1.0, **plain),
    )


@BOTH
def test_a_projected_step_keeps_the_norm_and_has_a_tenth_of_the_decay(name: str) -> None:
    w = random(5, 4)
    moved = walked(name, w, [across(w)], lr=1e-4)
    assert abs((moved.norm() / w.norm() - 1).item()) < 1e-6 < (moved - w).norm()
    full, tenth = (walked(name, w, [g], lr=1e-4, weight_decay=0.5) for g in (0.1 * w, across(w)))
    without = [walked(name, w, [g], lr=1e-4) for g in (0.1 * w, across(w))]
    torch.testing.assert_close(10 * (tenth - without[1]), full - without[0])


@BOTH
@pytest.mark.parametrize(("variant", "left"), [(None, 1 - 0.05), ("official", 1 - 0.005)])
def test_a_gradient_of_zeros_decays_in_full_unless_the_code_is_asked_for(
    name: str, variant: str | None, left: float
) -> None:
    w = random(5, 4)
    moved = walked(name, w, [torch.zeros_like(w)], lr=0.1, weight_decay=0.5, variant=variant)
    torch.testing.assert_close(moved, left * w)


def test_the_buffer_keeps_what_the_step_loses_unless_it_is_written_back() -> None:
    """A step along the weight, then one across it: the old radial momentum is left in the buffer, or gone."""
    w = random(5, 4)
    for write_back, nesterov, kept in ((False, False, True), (True, False, False), (True, True, True)):
        p = torch.nn.Parameter(w.clone())
        optimizer = steepest.SGDP([p], lr=1e-9, momentum=0.9, nesterov=nesterov, write_back=write_back)
        for g in (w, across(w)):
            p.grad = g.clone()
            optimizer.step()
        along = (optimizer.state[p]["momentum_buffer"] * w).sum() / w.square().sum()
        assert along.item() == pytest.approx(0.9 if kept else 0.0, abs=1e-6)


@BOTH
def test_the_whole_tensor_is_seen_at_once(name: str) -> None:
    """As its scope claims: half a matrix moves otherwise alone, stacked with its like it does not."""
    w = random(6, 4)
    g = random(6, 4, seed=1)
    g = g - (g * w).sum() / w.square().sum() * w
    options = {"lr": 0.1} if name == "AdamP" else {"lr": 0.1, "momentum": 0.9}
    whole = walked(name, w, [w, g], **options)
    assert not torch.allclose(walked(name, w[:3], [w[:3], g[:3]], **options), whole[:3])
    params = [torch.nn.Parameter(w.clone()) for _ in range(3)]
    optimizer = getattr(steepest, name)(params, lr=0.1, engine="batched")  # stacked
    for p, one in zip(params, (g, 0.1 * w, torch.zeros_like(w)), strict=True):
        p.grad = one
    optimizer.step()
    for p, one in zip(params, (g, 0.1 * w, torch.zeros_like(w)), strict=True):
        torch.testing.assert_close(p.detach(), walked(name, w, [one], lr=0.1))


@needs_compiler
@BOTH
@pytest.mark.slow
def test_compiled_chooses_by_the_numbers_of_each_step(name: str) -> None:
    w = random(5, 4)
    grads = [across(w), random(5, 4, seed=7), torch.zeros_like(w)]
    options = {"lr": 1e-3, "weight_decay": 0.1}
    torch.testing.assert_close(
        walked(name, w, grads, engine="compiled", **options), walked(name, w, grads, engine="loop", **options)
    )
