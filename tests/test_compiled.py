"""The compiled engine: the loop's numbers, nothing recompiled for a new number, nothing done silently."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

import pytest
import torch
from cases import Case, build, cases, give_gradients, needs_compiler, options, step, variants, walk, weights

from steepest.core.errors import BadInput
from steepest.engines import why_not_compiled
from steepest.engines.compiled import KERNELS
from steepest.registry import rules, wrappers

FEW = (
    "blocks.0.attn.q.weight",
    "blocks.1.attn.q.weight",
    "blocks.0.mlp.in_.weight",
    "embed.weight",
    "norm.weight",
)


def few(dtype: torch.dtype) -> dict[str, torch.nn.Parameter]:
    """Weights of few shapes: each shape of a matrix rule is a kernel."""
    return {name: p for name, p in weights(dtype).items() if name in FEW}


def compare(case: Case, dtype: torch.dtype, rtol: float) -> None:
    loop, fast = few(dtype), few(dtype)
    walk(build(case, loop, engine="loop"), loop, 3)
    walk(build(case, fast, engine="compiled"), fast, 3)
    for name, w in loop.items():
        torch.testing.assert_close(fast[name], w, rtol=rtol, atol=rtol / 10)


def quick(found: list[Any]) -> list[Any]:
    """All cases, those that need a kernel of torch.compile for each shape marked slow, but for a rule's first.

    Rules with many phases take minutes for one case, and what wrappers add is little text; a trajectory of each
    is walked compiled anyway.
    """
    many = ("kron", "psgd", *wrappers())
    first = {p.values[0][0]: p.id for p in reversed(found) if p.values[0][0] not in many}
    return [
        p
        if p.id in first.values() or rules()[p.values[0][0]].scope == "element"
        else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow)
        for p in found
    ]


@needs_compiler
@pytest.mark.parametrize("case", quick(cases(variants)))
def test_compiled_walks_as_the_loop_does_to_float32_rounding(case: Case) -> None:
    compare(case, torch.float32, 1e-4)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("case", cases(variants, options))
def test_compiled_walks_as_the_loop_does_for_every_option_in_float64(case: Case) -> None:
    compare(case, torch.float64, 1e-9)


@needs_compiler
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in wrappers() else []) for n in rules()]
)
def test_no_gradient_is_modified_and_empty_weights_do_no_harm_when_compiled(name: str) -> None:
    named = few(torch.float32) | {
        "none": torch.nn.Parameter(torch.ones(0, 3)),
        "one": torch.nn.Parameter(torch.ones(())),
    }
    optimizer = build((name, {}), named, engine="compiled")
    give_gradients(named, 0)
    before = {n: p.grad.clone() for n, p in named.items() if p.grad is not None}
    step(optimizer)
    assert all(torch.equal(before[n], p.grad) for n, p in named.items() if p.grad is not None)


def made() -> tuple[int, int, int]:
    """How many native kernels, kernels for torch.compile and compilations there have been."""
    from torch._dynamo.utils import counters

    natives = importlib.import_module("steepest.engines.native").KERNELS
    return len(natives), len(KERNELS), counters["stats"]["unique_graphs"]


@needs_compiler
@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "muon"])
def test_new_numbers_steps_and_sizes_recompile_nothing(name: str) -> None:
    arguments = {"momentum": 0.9} if name == "sgd" else {}
    named = few(torch.float32)
    optimizer = build((name, arguments), named, engine="compiled")
    walk(optimizer, named, 2)
    before = made()
    for t in range(2, 6):
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
            group["weight_decay"] += 0.01
            if "betas" in group:
                group["betas"] = (0.9 - t / 100, 0.99)
            elif "momentum" in group:
                group["momentum"] -= 0.01
        walk(optimizer, named, 1, start=t)
    if rules()[name].scope == "element":  # another shape of a matrix is another kernel
        for shape in ((7, 11), (3,)):
            other = {"w": torch.nn.Parameter(torch.ones(shape))}
            walk(build((name, arguments), other, engine="compiled"), other, 2)
    assert made() == before


@needs_compiler
def test_large_weights_run_alone_and_strided_ones_too() -> None:
    """A weight too large to be joined is updated through a flat view, or as a copy where it has none."""

    def made() -> dict[str, torch.nn.Parameter]:
        draw = torch.Generator().manual_seed(0)
        large = torch.randn(300, 300, generator=draw)
        return {"a": torch.nn.Parameter(large.clone()), "b": torch.nn.Parameter(large.clone().t())}

    loop, fast = made(), made()
    walk(build(("adamw", {}), loop, engine="loop"), loop, 2)
    walk(build(("adamw", {}), fast, engine="compiled"), fast, 2)
    for name, w in loop.items():
        torch.testing.assert_close(fast[name], w, rtol=1e-5, atol=1e-6)


def test_without_a_compiler_the_compiled_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    why_not_compiled.cache_clear()
    try:
        with pytest.raises(BadInput, match=r"no C\+\+ compiler .* use engine='batched'"):
            build(("adamw", {}), few(torch.float32), engine="compiled")
    finally:
        why_not_compiled.cache_clear()
