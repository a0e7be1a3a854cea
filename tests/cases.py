"""Every rule in every shape of its options, derived from what the rules declare: a new rule needs no edit here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from steepest import estimates
from steepest.core.errors import SteepestError
from steepest.core.rule import Rule, defaults, hyperparameters
from steepest.engines import why_not_compiled
from steepest.faces import face
from steepest.optimizer import Optimizer
from steepest.registry import rule_named, rules

SHAPES: dict[str, tuple[int, ...]] = {
    "blocks.0.attn.q.weight": (6, 6),
    "blocks.1.attn.q.weight": (6, 6),
    "blocks.0.mlp.in_.weight": (9, 4),
    "blocks.0.mlp.out.weight": (4, 9),
    "blocks.0.mlp.gate.weight": (1, 5),
    "embed.weight": (12, 4),
    "head.weight": (12, 4),
    "norm.weight": (4,),
    "blocks.0.mlp.out.bias": (5,),
    "scale": (),
}

Case = tuple[str, dict[str, Any]]


def variants(rule: type[Rule]) -> Iterator[dict[str, Any]]:
    """The defaults and every named variant, without lr where it has none; momentum where it is off by default, so
    that there is state."""
    for name, values in rule.variants.items():
        yield {"variant": name} | {k: v for k, v in values.items() if (k, v) == ("lr", None)}
    for name, hyper in hyperparameters(rule).items():
        if hyper.is_number and getattr(rule, name, None) == 0.0 and name == "momentum":
            yield {name: 0.9}


def options(rule: type[Rule]) -> Iterator[dict[str, Any]]:
    """Each choice at each other value, and all numbers at the far end of their grids."""
    known = hyperparameters(rule)
    momentum = {"momentum": 0.9} if "momentum" in known else {}
    for name, hyper in known.items():
        for value in (hyper.options or ())[:6] if hyper.options else ():
            if value != defaults(rule)[name] and not name.endswith("dtype"):
                yield momentum | {name: value}
    far = {
        n: (h.grid[-1] if not isinstance(h.grid[0], tuple) else tuple(g[-1] for g in h.grid))
        for n, h in known.items()
        if h.grid and n != "lr"
    }
    yield far


def cases(*kinds: Any, scope: str | None = None) -> list[Any]:
    """pytest parameters (rule name, constructor arguments)."""
    found = []
    for name, rule in rules().items():
        if scope is not None and rule.scope != scope:
            continue
        for kind in kinds:
            for arguments in kind(rule):
                try:
                    build((name, arguments), weights())
                except SteepestError:
                    continue  # two options that exclude each other
                told = ",".join(f"{k}={v}" for k, v in arguments.items())
                found.append(pytest.param((name, arguments), id=f"{name}:{told}"))
    return found


def needs_compiler(test: Any) -> Any:
    """Skips, visibly, where there is no compiler; one worker, so that it compiles each kernel once."""
    missing = why_not_compiled()
    grouped = pytest.mark.xdist_group("compiled")(test)
    return pytest.mark.skipif(missing is not None, reason=f"compiled engine: {missing}")(grouped)


def weights(dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype))
        for name, shape in SHAPES.items()
    }


def build(case: Case, named: dict[str, torch.nn.Parameter], **more: Any) -> Optimizer:
    rule, arguments = case
    given = {"lr": 0.01, "weight_decay": 0.1} | untold(rule_named(rule)) | arguments
    return face(rule_named(rule))(list(named.items()), **(given | more))


def untold(rule: type[Rule]) -> dict[str, Any]:
    """What a rule would read from a model or a run, and these weights do not tell."""
    return ({"head_dim": 3} if "head_dim" in hyperparameters(rule) else {}) | of_run(rule)


def of_run(rule: type[Rule]) -> dict[str, Any]:
    """The length of the run, for a rule that wants it."""
    return {"total_steps": 12} if "total_steps" in hyperparameters(rule) else {}


def give_gradients(named: dict[str, torch.nn.Parameter], t: int) -> None:
    """Gradients that depend on the step alone, so that two walks see the same."""
    draw = torch.Generator().manual_seed(1000 + t)
    for p in named.values():
        p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p.dtype)


def walk(optimizer: Optimizer, named: dict[str, torch.nn.Parameter], steps: int, start: int = 0) -> None:
    for t in range(start, start + steps):
        give_gradients(named, t)
        step(optimizer)


def step(optimizer: Optimizer) -> None:
    """A step, and what it asks for: in the place of every measurement something made of the gradient.

    It is away from zero, because rules divide by it: a sum's rounding would become a part of the step.
    """
    members = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    estimates.step(optimizer, lambda ask: {p: 0.5 * p.grad + 2 for p in members})


def curvature(shape: tuple[int, ...], t: int) -> torch.Tensor:
    """In the place of a measurement of step t, counted from 0: one of either sign."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)


def moves(kind: Any, gradients: list[float], dtype: torch.dtype = torch.float64, **options: Any) -> list[float]:
    """How far each of these gradients moves one weight, in learning rates."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    optimizer, found = kind([w], lr=1.0, **options), []
    for g in gradients:
        w.data.zero_()
        w.grad = torch.full_like(w, g)
        optimizer.step()
        found.append(-w.item())
    return found


def same(a: dict[str, torch.nn.Parameter], b: dict[str, torch.nn.Parameter]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)
