"""When SGD-SaI measures its gain, and what becomes of gradients that tell none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import build, give_gradients, step, walk, weights
from test_trajectories import INPUTS, ORACLES

import steepest

SIZE = 48


def gain_of(g: torch.Tensor, **options: object) -> torch.Tensor:
    p = torch.nn.Parameter(torch.zeros(g.shape))
    optimizer = steepest.SGDSaI([p], **options)
    p.grad = g.clone()
    optimizer.step()
    return optimizer.state[p]["gain"]


@pytest.mark.parametrize("engine", ["loop", "batched"])
def test_gains_are_the_recorded_ones_of_the_official_code(engine: str) -> None:
    with np.load(ORACLES / "sgd_sai" / "default.npz") as arrays:
        told = {key.removeprefix("extra/gsnr/"): float(arrays[key]) for key in arrays if "gsnr" in key}
    assert len(told) == 7
    named = {name: torch.nn.Parameter(torch.tensor(INPUTS[f"init/{name}"])) for name in told}
    optimizer = steepest.SGDSaI(list(named.items()), engine=engine)
    for t in range(3):
        for name, p in named.items():
            p.grad = torch.tensor(INPUTS[f"grad/{t:03d}/{name}"])
        optimizer.step()
    found = {name: optimizer.state[p]["gain"].item() for name, p in named.items()}
    assert found == pytest.approx(told, rel=1e-12)


def test_after_gradients_of_zeros_it_walks_as_if_they_had_not_been() -> None:
    late, prompt = weights(), weights()
    theirs = build(("sgd_sai", {"weight_decay": 0.0}), prompt)
    ours = build(("sgd_sai", {"weight_decay": 0.0}), late)
    for _ in range(3):
        for p in late.values():
            p.grad = torch.zeros_like(p)
        ours.step()
    walk(ours, late, 4)
    walk(theirs, prompt, 4)
    for name, p in prompt.items():
        torch.testing.assert_close(late[name], p, rtol=1e-12, atol=1e-14)


def test_officially_a_tensor_whose_first_gradient_is_zero_never_trains() -> None:
    named, before = weights(), weights()
    optimizer = build(("sgd_sai", {"variant": "official", "weight_decay": 0.0}), named)
    for p in named.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    walk(optimizer, named, 4)
    assert all(torch.equal(named[name], before[name]) for name in named)


def test_one_number_has_a_gain_of_1_where_it_is_officially_1e8_times_its_gradient() -> None:
    g = torch.tensor([0.5])
    assert gain_of(g).item() == pytest.approx(1.0)
    assert gain_of(g, variant="official").item() == pytest.approx(0.5e8)


def test_a_constant_first_gradient_has_a_bounded_gain() -> None:
    g = torch.full((6, 8), 0.3)
    assert gain_of(g).item() == pytest.approx(10 * math.sqrt(SIZE), rel=1e-5)
    assert gain_of(g, most=2.0).item() == pytest.approx(2 * math.sqrt(SIZE), rel=1e-5)
    assert gain_of(g, variant="official").item() > 1e5


@pytest.mark.parametrize("factor", [1e-4, 1e-2, 1e4, 1e30])
def test_the_gain_does_not_see_the_scale_of_the_gradient(factor: float) -> None:
    g = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    assert gain_of(factor * g).item() == pytest.approx(gain_of(g).item(), rel=2e-4)


def test_the_gain_is_about_the_root_of_the_size_and_right_for_millions_of_numbers() -> None:
    g = torch.randn(1500, 1500, generator=torch.Generator().manual_seed(0))
    exact = g.double().norm().item() / g.double().std().item()
    assert gain_of(g, momentum=0.0).item() == pytest.approx(exact, rel=1e-6)
    assert exact == pytest.approx(1500, rel=1e-3)


@pytest.mark.parametrize("variant", ["mended", "official"])
def test_the_gain_is_kept_for_ever_and_through_a_checkpoint(variant: str) -> None:
    named = weights()
    optimizer = build(("sgd_sai", {"variant": variant}), named)
    walk(optimizer, named, 1)
    before = {name: optimizer.state[p]["gain"].clone() for name, p in named.items()}
    walk(optimizer, named, 3, start=1)
    other = build(("sgd_sai", {"variant": variant}), (copies := weights()))
    other.load_state_dict(optimizer.state_dict())
    give_gradients(copies, 9)
    step(other)
    for name, gain in before.items():
        assert torch.equal(optimizer.state[named[name]]["gain"], gain)
        assert torch.equal(other.state[copies[name]]["gain"], gain)


@pytest.mark.parametrize("variant", ["mended", "official"])
def test_without_momentum_it_is_scaled_sgd_where_the_official_code_fails(variant: str) -> None:
    p = torch.nn.Parameter(torch.zeros(6, 8, dtype=torch.float64))
    optimizer = steepest.SGDSaI([p], lr=0.1, momentum=0.0, weight_decay=0.0, variant=variant)
    walked = torch.zeros_like(p)
    for t in range(3):
        give_gradients({"w": p}, t)
        assert p.grad is not None
        optimizer.step()
        assert set(optimizer.state[p]) == {"step", "gain"}
        walked -= 0.1 * optimizer.state[p]["gain"] * p.grad
    torch.testing.assert_close(p.detach(), walked)
