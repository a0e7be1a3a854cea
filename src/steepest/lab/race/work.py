"""Floating-point operations of a training step: matrix products alone, a multiply-add being two.

Passes of the model and of what a rule asks for are counted as they run, with attention in separate products for
all of them, so that a fused kernel, whose products torch does not see, makes no contender cheaper than another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from steepest.core.rule import Ask, Rule
from steepest.lab.bench.bounds import work_of
from steepest.lab.estimate import Estimator
from steepest.lab.fused import twice_differentiable
from steepest.optimizer import Optimizer


def flops_per_step(
    forward_backward: Callable[[], object], optimizer: torch.optim.Optimizer, estimator: Estimator, period: int
) -> dict[str, float]:
    """{"model", "estimates", "optimizer"}, averaged over ``period`` steps of the rule's asking.

    ``forward_backward`` leaves gradients; a foreign optimizer makes one step with them.
    """
    found = {"model": counted(forward_backward), "estimates": 0.0}
    for ask, times in Counter(asked(optimizer, period)).items():
        found["estimates"] += times / period * counted(partial(estimator.measure, ask, 1))
    if isinstance(optimizer, Optimizer):
        dtype = next(p.dtype for group in optimizer.param_groups for p in group["params"])
        return found | {"optimizer": work_of(optimizer, dtype).flops}
    return found | {"optimizer": counted(optimizer.step)}


def asked(optimizer: torch.optim.Optimizer, steps: int) -> list[Ask]:
    """All that an optimizer asks for in its first ``steps`` steps."""
    if not isinstance(optimizer, Optimizer):
        return []
    rules = [optimizer.rule_of(g) for g in optimizer.param_groups if g["rule"] == optimizer.rule.name()]
    return [ask for t in range(1, steps + 1) for ask in wanted(rules[0], t)] if rules else []


def wanted(rule: Rule, t: int) -> tuple[Ask, ...]:
    """All that is measured for step t, whether it reads that itself or leaves it to the next."""
    return (*rule.needs(t), *rule.asks(t))


def counted(run: Callable[[], object]) -> float:
    """The products that ``run`` makes."""
    with twice_differentiable(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
