"""Numbers of matrices: norms that stay right for millions of elements, traces."""

from __future__ import annotations

import torch
from torch import Tensor


def frobenius(x: Tensor) -> Tensor:
    """The Frobenius norm of each matrix (..., n, m), as (..., 1, 1).

    Row by row first: over millions of numbers at once torch's norm in float32 is wrong in the third digit.
    """
    return length(length(x, -1), -2)


def length(x: Tensor, dim: int) -> Tensor:
    """The Euclidean norm along a dimension, which stays with size 1."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True)


def diagonal(a: Tensor) -> Tensor:
    """The diagonal of each square matrix (..., n, n), as (..., n). torch's own makes its compiler warn."""
    return a.flatten(-2)[..., :: a.shape[-1] + 1]
