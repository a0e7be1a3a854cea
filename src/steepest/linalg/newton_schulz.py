"""Orthogonalisation of matrices by Newton-Schulz iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.linalg.symmetric import symmetric_baddbmm

KELLER = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of Jordan et al., "Muon" (2024): steep at 0, singular values end in [0.68, 1.13]."""


def cubic(beta: float = 0.5) -> tuple[float, float, float]:
    """The coefficients of ``X <- X + beta (I - XX^T) X``, which at beta = 1/2 is Newton's own and ends at 1.

    The coupled iteration on a Gram matrix, ``Y <- Y + beta Y (I - ZY)``, ``Z <- Z + beta (I - ZY) Z`` from
    ``Y = XX^T, Z = I``, is the same: Y and Z are polynomials of one matrix, so they commute, and ``ZX`` is here
    X after as many steps. Rounding takes the coupled one off that track.
    """
    return 1 + beta, -beta, 0.0


def orthogonalise(
    x: Tensor,
    steps: int = 5,
    coefficients: Sequence[float] | Sequence[Sequence[float]] = KELLER,
    eps: float = 1e-7,
    norm: str = "add",
    dtype: torch.dtype | None = None,
    margin: float = 1.0,
) -> Tensor:
    """Push the singular values of each matrix in x (..., rows, cols) towards 1; the result has x's type and shape.

    Each step is ``X <- (aI + bA + cA^2)X`` with ``A = XX^T``, on the side with fewer rows; ``coefficients`` are
    (a, b, c) for all steps, or a sequence with those of each. x is first divided by its Frobenius norm times
    ``margin``, with ``norm`` "add" by ``norm + eps`` (Keller Jordan's code), with "clamp" by ``max(norm, eps)``
    (torch). A zero matrix stays zero. ``dtype`` is the type to work in.

    Working memory: at most four copies of the stack in that type, the result among them.
    """
    each: Any = [coefficients] * steps if isinstance(coefficients[0], int | float) else coefficients[:steps]
    if len(each) != steps:
        raise BadInput(f"{steps} steps take (a, b, c) once or {steps} times, not {len(each)} times")
    transposed = x.shape[-2] > x.shape[-1]
    y = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]).to(dtype or x.dtype)
    y = (y.mT if transposed else y).contiguous()
    size = torch.linalg.vector_norm(y, dim=(-2, -1), keepdim=True) * margin
    y = y / (size + eps if norm == "add" else size.clamp(min=eps))
    # Written into buffers: fresh memory for every product cost up to a fifth of its time on a CPU.
    stack, n = y.shape[:2]
    square, other = y.new_empty(stack, n, n), torch.empty_like(y)
    polynomial = torch.empty_like(square)
    diagonal = (stack, n), (n * n, n + 1)  # size and strides; torch.diagonal makes the compiler warn
    for a, b, c in each:
        symmetric_baddbmm(square, y, y.mT, beta=0, out=square)
        if c == 0:
            torch.mul(square, b, out=polynomial)
        else:
            symmetric_baddbmm(square, square, square, beta=b, alpha=c, out=polynomial)
        polynomial.as_strided(*diagonal).add_(a)
        torch.bmm(polynomial, y, out=other)
        y, other = other, y
    return (y.mT if transposed else y).to(x.dtype).reshape(x.shape)


AMX_PAYS = 128
"""Smaller side from which the CPU's bfloat16 tiles outrun its float32 products: four times in a stack, and a
matrix alone no slower (benchmarks/products.py)."""

# AMX alone: AVX-512's bf16 dot products do not outrun its float32 ones. Asked once, outside of traced code.
_CPU_TILES = torch.cpu._is_amx_tile_supported()


def fast_dtype(x: Tensor) -> torch.dtype:
    """The type in which this hardware multiplies x's matrices fastest: bfloat16 where it has units for it.

    Without such units bfloat16 products are 4 to 10 times slower than float32 ones, so the working type is
    the hardware's choice, not the rule's. float64 stays float64: whoever asks for it wants its digits.
    """
    if x.device.type == "cuda":
        units = torch.cuda.get_device_properties(x.device).major >= 8
    else:
        units = x.device.type == "cpu" and _CPU_TILES and min(x.shape[-2:]) >= AMX_PAYS
    return torch.bfloat16 if units and x.dtype != torch.float64 else x.dtype
