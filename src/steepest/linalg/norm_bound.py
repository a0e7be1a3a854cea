"""Lower bounds of the 2-norm of symmetric and skew-symmetric matrices, for a few products with vectors.

All take (..., n, n), and give (..., 1, 1). From X.-L. Li, arXiv 2402.11858, and his psgd_torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steepest.linalg.norms import diagonal, length


def column_bound(a: Tensor) -> Tensor:
    """By one step of power iteration from the largest column of a symmetric matrix; 0 for a matrix of zeros."""
    largest = a.abs().amax(dim=(-2, -1), keepdim=True)
    s = a / (largest + tiny(a))
    x = s @ _largest_row(s).mT
    return largest * length(s @ (x / (length(x, -2) + tiny(a))), -2)


def spd_bound(a: Tensor, probes: Tensor) -> Tensor:
    """By two rounds of subspace iteration on the probes (..., k, n), normal draws, for a positive matrix."""
    return _subspace_bound(a, diagonal(a).amax(dim=-1)[..., None, None], probes)


def skew_bound(a: Tensor, probes: Tensor) -> Tensor:
    """The same of a skew-symmetric matrix."""
    return _subspace_bound(a, a.abs().amax(dim=(-2, -1), keepdim=True), probes)


class Probes:
    """The probes of each length, (..., k, n), each to be used once and in order.

    Matrices of a stack may have used different numbers of them, where an iteration ends earlier for some.
    """

    def __init__(self, draws: Mapping[int, Sequence[Tensor]]) -> None:
        self.draws = draws
        self.used: dict[int, int | Tensor] = dict.fromkeys(draws, 0)

    def take(self, like: Tensor, where: Tensor | None = None) -> Tensor:
        """The next one for matrices (..., n, n) like these, used up ``where`` (..., 1, 1) is true."""
        n = like.shape[-1]
        at = self.used[n]
        self.used[n] = at + (1 if where is None else where.long())
        if isinstance(at, int):
            return self.draws[n][at]
        pool = torch.stack(tuple(self.draws[n]), dim=-3)
        index = at.unsqueeze(-1).expand(*pool.shape[:-3], 1, *pool.shape[-2:])
        return pool.gather(-3, index).squeeze(-3)


def _subspace_bound(a: Tensor, scale: Tensor, probes: Tensor) -> Tensor:
    """``scale`` brings the entries of ``a`` near 1, so that no product overflows."""
    scale = scale + tiny(a)
    a = a / scale
    row = _largest_row(a)  # probes on its side of the hyperplane find a low-rank matrix's range at once
    v = row + (probes @ row.mT).sign() * probes
    for _ in range(2):
        v = v @ a
        v = (v / (length(v, -1) + tiny(a))) @ a
    return scale * length(v, -1).amax(dim=-2, keepdim=True)


def _largest_row(a: Tensor) -> Tensor:
    """The longest row of each matrix, (..., 1, n)."""
    longest = length(a, -1).argmax(dim=-2, keepdim=True)
    return a.gather(-2, longest.expand(*a.shape[:-2], 1, a.shape[-1]))


def tiny(x: Tensor) -> float:
    """The smallest normal number of x's type: what is added to a divisor that may be zero."""
    return torch.finfo(x.dtype).smallest_normal
