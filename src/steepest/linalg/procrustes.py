"""Steps of an online solution of the orthogonal Procrustes problem: rotate Q until it is symmetric.

Among U Q with U orthogonal the symmetric positive one is nearest to the identity. One step rotates by exp(a R),
R = Q^T - Q brought to 2-norm 1, expanded to its second or third order; a maximises the trace, that is, brings
it nearest. X.-L. Li, psgd_torch; arXiv 2402.11858.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steepest.linalg.norm_bound import skew_bound, tiny
from steepest.linalg.norms import diagonal

LONGEST = {2: 1 / 8, 3: 1 / 3}
"""Largest a of each order: what the expansion leaves of orthogonality is of the order of a^4 (a^6 / 18)."""


def rotated(q: Tensor, probes: Tensor, order: int = 2) -> Tensor:
    """q (..., n, n) one step nearer to symmetric; ``probes`` (..., k, n) are normal draws for the norm of R."""
    r = q.mT - q
    r = r / (skew_bound(r, probes) + tiny(q))
    first = r @ q
    second = r @ first
    rising, bending = trace(first), trace(second)
    if order == 2:
        best = -rising / torch.where(bending < 0, bending, 1)
        a = torch.where(bending < 0, best.clamp(max=LONGEST[2]), LONGEST[2])
        return q + a * (first + a / 2 * second)
    third = r @ second
    falling = trace(third)
    # The larger root of rising + bending a + 3/8 falling a^2, which has one of each sign; bending is negative near
    # the end, so that nothing cancels.
    solvable = (rising > 0) & (falling < 0)
    under = (bending.square() - 1.5 * rising * falling).clamp(min=0).sqrt()
    best = 2 * rising / torch.where(solvable, under - bending, 1)
    # Of a symmetric q only rounding is left as R, brought to norm 1: that must not turn it.
    a = torch.where(solvable, best.clamp(max=LONGEST[3]), 0)
    return q + a * (first + a / 2 * (second + a / 4 * third))


def asymmetry(q: Tensor) -> Tensor:
    """The largest entry of q^T - q over the largest of q, (..., 1, 1)."""
    largest = q.abs().amax(dim=(-2, -1), keepdim=True)
    return (q.mT - q).abs().amax(dim=(-2, -1), keepdim=True) / (largest + tiny(q))


def trace(a: Tensor) -> Tensor:
    return diagonal(a).sum(dim=-1)[..., None, None]
