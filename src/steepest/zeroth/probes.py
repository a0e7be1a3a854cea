"""How a direction's slope is measured: two losses beside the weights, one, or forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.zeroth.directions import Directions, Key

Loss = Callable[[], float]
"""Evaluates the loss at the weights as they are."""


@contextmanager
def probing(directions: Directions, key: Key, copied: bool) -> Iterator[Callable[[float], None]]:
    """Inside, ``to(offset)`` puts the weights at offset z from where they are; afterwards they are back, whatever
    happened: by the same steps, up to rounding, or from a copy.
    """
    kept = [p.detach().clone() for p in directions.weights] if copied else []
    at = 0.0

    def to(offset: float) -> None:
        nonlocal at
        if offset != at:
            directions.move(key, offset - at)
            at = offset

    try:
        yield to
    finally:
        if kept:
            torch._foreach_copy_([p.detach() for p in directions.weights], kept)
        else:
            to(0.0)


def two_sided(directions: Directions, key: Key, eps: float, loss: Loss, copied: bool) -> tuple[float, float]:
    """(slope, loss): exact for a quadratic loss, and up to eps^2 for any other."""
    with probing(directions, key, copied) as to:
        to(eps)
        plus = loss()
        to(-eps)
        minus = loss()
    return (plus - minus) / (2 * eps), (plus + minus) / 2


def one_sided(
    directions: Directions, key: Key, eps: float, loss: Loss, copied: bool, base: float | None
) -> tuple[float, float]:
    """(slope, loss at the weights), where ``base`` is that loss if it is known: up to eps."""
    with probing(directions, key, copied) as to:
        to(eps)
        plus = loss()
    base = loss() if base is None else base
    return (plus - base) / eps, base


def along(directions: Directions, key: Key, closure: Callable[[], Any]) -> tuple[float, float]:
    """(slope, loss): the loss's exact derivative along z, by one forward pass with tangents of the weights' size.

    A weight is given its tangent by copying onto itself a view that has one: any closure then computes with it.
    """
    with forward.dual_level():
        for p in directions.weights:
            z = directions.estimate(p, 0, p.numel(), [(key, 1.0)]).view(p.shape).to(p.dtype, copy=True)
            p.copy_(forward.make_dual(p.detach(), z))
        try:
            value = closure()
        except NotImplementedError as error:
            reason = str(error).partition("\n")[0][:160]
            raise BadInput(
                f"forward gradient: {reason}; run attention under sdpa_kernel(SDPBackend.MATH)"
            ) from error
        if not isinstance(value, Tensor):
            raise BadInput("forward gradient: the closure must return the loss as a tensor, not as a number")
        primal, tangent = forward.unpack_dual(value)
        return float(tangent) if tangent is not None else 0.0, float(primal)
