"""RMSprop beside torch's own, and where that one breaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import give_gradients, walk, weights

import steepest


@pytest.mark.parametrize("engine", ["loop", "batched"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        {"centered": True},
        {"momentum": 0.9, "lr": 1e-3},
        {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "alpha": 0.8},
    ],
    ids=str,
)
def test_it_walks_as_torchs_own(options: dict[str, Any], engine: str) -> None:
    ours, theirs = weights(), weights()
    a = steepest.RMSprop(list(ours.items()), engine=engine, **options)
    b = torch.optim.RMSprop(theirs.values(), **options)
    for t in range(12):
        for named in (ours, theirs):
            give_gradients(named, t)
        a.step()
        b.step()
    for name, p in theirs.items():
        torch.testing.assert_close(ours[name], p, rtol=1e-12, atol=1e-13)


def test_a_variance_that_rounding_makes_negative_is_none_where_torch_has_nan() -> None:
    named = {"w": torch.nn.Parameter(torch.zeros(64))}
    own = torch.nn.Parameter(torch.zeros(64))
    options: dict[str, Any] = {"centered": True, "alpha": 0.5, "eps": 1e-3}
    a, b = steepest.RMSprop(list(named.items()), **options), torch.optim.RMSprop([own], **options)
    constant = torch.linspace(0.1, 3.0, 64)
    for _ in range(60):
        named["w"].grad, own.grad = constant.clone(), constant.clone()
        a.step()
        b.step()
    assert own.isnan().any()
    assert named["w"].isfinite().all()
    before = named["w"].detach().clone()
    walk(a, named, 3)
    assert (named["w"] != before).all()


def test_without_momentum_it_keeps_one_number_a_weight() -> None:
    kept = {(c, m): steepest.RMSprop.rule(centered=c, momentum=m) for c in (False, True) for m in (0.0, 0.9)}
    assert [(rule.state_bytes((10, 10)) - 4) // 400 for rule in kept.values()] == [1, 2, 2, 3]
