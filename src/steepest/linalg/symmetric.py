"""Products that are known to be symmetric, such as x x^T, by half."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from steepest.linalg.adam import ema

PANEL = 128
"""Columns of a panel: from two panels on, the half that is saved outweighs the narrower products."""


def symmetric_baddbmm(
    c: Tensor, a: Tensor, b: Tensor, beta: float = 1.0, alpha: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """``beta * c + alpha * a b`` of stacks (k, n, n), (k, n, m), (k, m, n), of which c and a b are symmetric.

    torch.baddbmm's arguments and result, to rounding. On a CPU panels of the lower triangle are multiplied and
    mirrored. Units for low precision, and those of a GPU, want whole products; a compiler fuses no mirroring.
    """
    out = torch.empty_like(c) if out is None else out
    n = c.shape[-1]
    halved = c.device.type == "cpu" and c.dtype in (torch.float32, torch.float64) and n > PANEL
    if not halved or torch.compiler.is_compiling():
        if beta == 0:
            return torch.bmm(a, b, out=out) if alpha == 1 else torch.bmm(a, b, out=out).mul_(alpha)
        return torch.baddbmm(c, a, b, beta=beta, alpha=alpha, out=out)
    for start in range(0, n, PANEL):
        stop = min(start + PANEL, n)
        panel = out[:, start:, start:stop]
        if beta != 0:
            panel.copy_(c[:, start:, start:stop])
        panel.baddbmm_(a[:, start:], b[:, :, start:stop], beta=beta, alpha=alpha)
        out[:, start:stop, stop:] = panel[:, stop - start :].mT
    return out


def ema_of_gram(average: Tensor, x: Tensor, beta: Any) -> Tensor:
    """``beta * average + (1 - beta) * x x^T`` of a symmetric average (..., n, n) and x (..., n, m)."""
    if isinstance(beta, Tensor):  # the fused product takes Python numbers alone; a compiler fuses this one
        return ema(average, x @ x.mT, beta)
    stack = math.prod(x.shape[:-2])
    c, a = average.reshape(stack, *average.shape[-2:]), x.reshape(stack, *x.shape[-2:])
    return symmetric_baddbmm(c, a, a.mT, beta, 1 - beta).view(average.shape)
