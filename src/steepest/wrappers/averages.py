"""Numbers that a wrapper keeps of each weight, or of each matrix under a rule for matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import Rule, Scope, Slot
from steepest.linalg.norms import frobenius, length

SURGE = 1e3
"""How many times the average so far one observation counts at most, so that no single step decides the average for
a thousand: the largest spikes of the paper on SPAM (arXiv 2501.06842) are so many times the usual gradient."""


def whole(rule: type[Rule]) -> Scope:
    """The scope of a wrapper that looks at a whole weight."""
    return "tensor" if rule.scope == "element" else rule.scope


def slot(scope: Scope, shape: tuple[int, ...]) -> Slot:
    """One number of a weight; of each matrix, (..., 1, 1), under a rule for matrices."""
    if scope != "matrix":
        return Slot(())
    return Slot((*shape[:-2], 1, 1) if len(shape) > 1 else (1,))


def largest(scope: Scope, x: Tensor) -> Tensor:
    """The largest absolute value."""
    return x.abs().amax(dim=(-2, -1), keepdim=True) if scope == "matrix" else x.abs().amax()


def norm(scope: Scope, x: Tensor) -> Tensor:
    """The Euclidean norm, row by row first as :func:`steepest.linalg.norms.frobenius`."""
    if scope == "matrix":
        return frobenius(x)
    return torch.linalg.vector_norm(length(x, -1) if x.ndim else x)


def surging(x: Tensor, average: Tensor, count: Tensor) -> Tensor:
    """An observation as it counts in its average, which so many came before."""
    return torch.where(count > 0, torch.minimum(x, SURGE * average), x)


def bias(log_rate: Any, count: Tensor) -> Tensor:
    """``1 - rate^count``, also where float32 has no such number beside 1; 1 before the first."""
    return -torch.expm1(count.clamp(min=1) * log_rate)


def same_gradient(rule: Rule) -> None:
    """Raises: BadInput for a rule that compares the gradient, which a wrapper changes, with a measured one."""
    if any(ask.kind == "next_gradient" for ask in (*rule.needs(1), *rule.asks(1))):
        raise BadInput(
            f"{rule.name()}: the rule compares the gradient, which is changed before it sees it, with one that "
            "is measured beside it: set exact=False"
        )
