"""Kronecker products of a left and a right factor, acting on matrices: Q x stands for Q_left x Q_right^T.

``factors`` maps "left" and "right" to a dense factor (..., n, n), or to a diagonal one in the shape in which it
multiplies a matrix: (..., m, 1) left, (..., 1, n) right. A vector is one row, and has no left factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.linalg.symmetric import symmetric_baddbmm

Factors = Mapping[str, Tensor]
SIDES = {"left": -2, "right": -1}


def is_dense(q: Tensor) -> bool:
    """Whether a factor is dense; one of size 1 is diagonal."""
    return q.shape[-1] == q.shape[-2] > 1


def factor_shape(n: int, side: str, dense: bool) -> tuple[int, int]:
    """The shape of a factor for a side of n."""
    if dense:
        return n, n
    return (n, 1) if side == "left" else (1, n)


def scaled_identity(like: Tensor, scale: Any) -> Tensor:
    """The factor ``scale`` times the identity, in the shape of ``like``."""
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device) if is_dense(like) else 1
    return torch.ones_like(like) * (eye * scale)


def apply(factors: Factors, x: Tensor) -> Tensor:
    """Q x."""
    for side, q in factors.items():
        if not is_dense(q):
            x = q * x
            continue
        x = q @ x if side == "left" else x @ q.mT
    return x


def apply_transposed(factors: Factors, x: Tensor) -> Tensor:
    """Q^T x."""
    return apply({side: q.mT if is_dense(q) else q for side, q in factors.items()}, x)


def apply_inverse_transposed(factors: Factors, x: Tensor) -> Tensor:
    """Q^-T x, dense factors being upper triangular."""
    for side, q in factors.items():
        if not is_dense(q):
            x = x / q
        elif side == "left":
            x = torch.linalg.solve_triangular(q.mT, x, upper=False)
        else:
            x = torch.linalg.solve_triangular(q, x, upper=True, left=False)
    return x


def gram(x: Tensor, side: str, dense: bool) -> Tensor:
    """x x^T or x^T x; of a diagonal factor's side the diagonal alone, in that factor's shape."""
    if not dense:
        return x.square().sum(dim=-1 if side == "left" else -2, keepdim=True)
    rows = x if side == "left" else x.mT
    stack, n = math.prod(x.shape[:-2]), rows.shape[-2]
    flat, out = rows.reshape(stack, n, rows.shape[-1]), x.new_empty(stack, n, n)
    return symmetric_baddbmm(out, flat, flat.mT, beta=0, out=out).view(*x.shape[:-2], n, n)


def balanced(factors: Factors) -> dict[str, Tensor]:
    """The same Kronecker product with factors of equal largest entries, so that none overflows."""
    if len(factors) < 2:
        return dict(factors)
    largest = {side: q.abs().amax(dim=(-2, -1), keepdim=True) for side, q in factors.items()}
    mean = largest["left"].sqrt() * largest["right"].sqrt()
    return {side: q * (mean / largest[side]) for side, q in factors.items()}
