"""How weights of few bits keep what an update adds: at random, or by keeping what was lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import Case, build, cases, needs_compiler, walk, weights

import steepest
from steepest.core.errors import BadInput, UnknownName
from steepest.core.lowbit import LowBit
from steepest.linalg.rounding import rounded_at_random
from steepest.registry import resolve

BF16 = torch.bfloat16
LONG = {"lr": 2e-4, "weight_decay": 0.0}


def test_a_number_is_rounded_to_a_neighbour_and_on_average_to_itself() -> None:
    x = torch.tensor([1.0, 1 + 2**-10, -3.14159, 1e-30, 2 - 2**-9, 255.7])
    u = torch.rand(200_000, len(x), generator=torch.Generator().manual_seed(0))
    found = rounded_at_random(x.expand_as(u), u)
    assert torch.equal(found, found.bfloat16().float())
    gap = x.abs() * 2**-7
    assert ((found - x).abs() <= gap).all()
    assert ((found.double().mean(0) - x.double()).abs() <= 5 * gap / len(u) ** 0.5).all()


def test_numbers_that_fit_and_those_that_are_none_stay() -> None:
    x = torch.tensor([0.0, 1.0, -2.5, torch.inf, -torch.inf])
    assert torch.equal(rounded_at_random(x, torch.full_like(x, 0.999)), x)
    assert rounded_at_random(torch.tensor([torch.nan]), torch.tensor([0.9])).isnan().all()


@pytest.mark.parametrize("engine", ["loop", "batched", "auto"])
@pytest.mark.parametrize(("rounding", "arrives"), [("nearest", False), ("stochastic", True), ("kahan", True)])
def test_steps_far_below_a_gap_of_the_type_add_up(rounding: str, arrives: bool, engine: str) -> None:
    """300 steps of .0002 on a weight of 1, whose neighbours lie .004 and .008 away."""
    w = torch.nn.Parameter(torch.ones(300, 20, dtype=BF16))
    optimizer = steepest.SGD([w], **LONG, rounding=rounding, engine=engine)
    for _ in range(300):
        w.grad = torch.ones_like(w)
        optimizer.step()
    far = w.detach().float().mean().item()
    assert abs(far - 0.94) < 0.002 if arrives else far == 1.0


def test_kahan_is_within_a_gap_of_the_float32_walk_and_keeps_one_slot_more() -> None:
    narrow, wide = (torch.nn.Parameter(torch.ones(40, 30, dtype=dtype)) for dtype in (BF16, torch.float32))
    ours = steepest.AdamW([narrow], lr=1e-3, rounding="kahan")
    theirs = steepest.AdamW([wide], lr=1e-3)
    for t in range(200):
        wide.grad = torch.randn(40, 30, generator=torch.Generator().manual_seed(t)).to(BF16).float()
        narrow.grad = wide.grad.to(BF16)
        ours.step()
        theirs.step()
    rest = ours.state[narrow]["rest"]
    assert rest.dtype == BF16 and rest.shape == narrow.shape
    gap = wide.abs() * 2**-7
    assert ((narrow.float() - wide).abs() <= gap).all()
    assert ((narrow.float() + rest.float() - wide).abs() <= 0.1 * gap).all()


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.parametrize("case", cases(lambda rule: [{}]))
def test_every_rule_rounds_the_same_in_both_eager_engines(case: Case, rounding: str) -> None:
    loop, batched = weights(BF16), weights(BF16)
    walk(build(case, loop, engine="loop", rounding=rounding), loop, 3)
    walk(build(case, batched, engine="batched", rounding=rounding), batched, 3)
    for name, w in loop.items():  # where rounding differs in float32, rarely a neighbour is taken
        torch.testing.assert_close(batched[name].float(), w.float(), rtol=2**-6, atol=1e-4)
        assert (batched[name] != w).float().mean() <= 0.1


@needs_compiler
@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.parametrize("state", ["full", "8bit"])
def test_a_kernel_rounds_as_the_loop_does(state: str, rounding: str) -> None:
    made = {}
    for engine in ("loop", "compiled"):
        draw = torch.Generator().manual_seed(0)
        shapes = [(70, 67), (129,)]
        ws = [torch.nn.Parameter(torch.randn(s, generator=draw).to(BF16)) for s in shapes]
        optimizer = steepest.AdamW(ws, lr=1e-3, rounding=rounding, state=state, engine=engine)
        for _ in range(4):
            for w in ws:
                w.grad = torch.randn(w.shape, generator=draw).to(BF16)
            optimizer.step()
        made[engine] = torch.cat([w.detach().flatten() for w in ws])
    assert (made["loop"] != made["compiled"]).float().mean() < 0.005


@needs_compiler
@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_a_compiled_matrix_rule_rounds_as_the_loop_does(rounding: str) -> None:
    made = {}
    for engine in ("loop", "compiled"):
        draw = torch.Generator().manual_seed(0)
        w = torch.nn.Parameter(torch.randn(8, 6, generator=draw).to(BF16))
        optimizer = steepest.Muon([("h.0.q.weight", w)], lr=1e-3, rounding=rounding, engine=engine)
        for _ in range(3):
            w.grad = torch.randn(w.shape, generator=draw).to(BF16)
            optimizer.step()
        made[engine] = w.detach()
    assert (made["loop"] != made["compiled"]).float().mean() < 0.05


def test_a_resumed_run_is_bitwise_the_uninterrupted_one() -> None:
    for rounding in ("stochastic", "kahan"):
        options: dict[str, Any] = {"rounding": rounding, "state": LowBit(block=64, smallest=1)}
        whole, first, second = weights(BF16), weights(BF16), weights(BF16, 9)
        walk(build(("adamw", {}), whole, **options), whole, 5)
        saved = build(("adamw", {}), first, **options)
        walk(saved, first, 2)
        resumed = build(("adamw", {}), second, **options)
        with torch.no_grad():
            for name, p in second.items():
                p.copy_(first[name])
        resumed.load_state_dict(saved.state_dict())
        walk(resumed, second, 3, start=2)
        assert all(torch.equal(whole[n], second[n]) for n in whole)


def test_float32_weights_need_neither() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    assert "rest" not in steepest.AdamW([w], rounding="kahan").state[w]
    assert "rounding" not in resolve("adamw:rounding=nearest").identity(1e-3)
    assert resolve("adamw:rounding=kahan").identity(1e-3)["rounding"] == "kahan"


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(UnknownName, match="kahan"):
        steepest.AdamW([torch.nn.Parameter(torch.ones(2))], rounding="kahn")
    with pytest.raises(BadInput, match=r"float16.*kahan"):
        steepest.AdamW([torch.nn.Parameter(torch.ones(2, dtype=torch.float16))], rounding="stochastic")
