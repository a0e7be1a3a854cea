"""The part of a step that leaves a weight's norm alone, for weights whose scale the loss does not feel.

From Heo et al., arXiv 2006.08217: the gradient of such a weight is at right angles to it, and momentum alone moves
it outwards, where the same step turns it less and less.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from steepest.linalg.norms import length


def tangential(
    u: Tensor, g: Tensor, w: Tensor, delta: Any, eps: Any, *, zero_is_orthogonal: bool
) -> tuple[Tensor, Tensor]:
    """The step u without its part along the weight w where the gradient g has none; and a 0-d True if it was so.

    Each row of w (its first dimension against all others) is held against its own gradient. If |cos| is below
    delta / sqrt(its length) for every one, each row's step is projected; else the whole is tried as one row.
    Vectors are left alone.

    Args:
        eps: added to the norm of w, and with ``zero_is_orthogonal`` the least norm in a cosine: a gradient of
            zeros, or one below eps, is then at right angles to everything. Without, a row that has no gradient or
            no weight is passed over, and where none has both, or a norm overflows, nothing is known.
    """
    if w.ndim < 2 or w.numel() == 0:
        return u, torch.zeros((), dtype=torch.bool, device=w.device)
    rows, of_g = w.flatten(1), g.flatten(1)
    along, step = ((rows * x).sum(dim=-1, keepdim=True) for x in (of_g, u.flatten(1)))
    size, size_of_g = length(rows, -1), length(of_g, -1)

    def orthogonal(along: Tensor, size: Tensor, size_of_g: Tensor, count: int) -> Tensor:
        least = eps if zero_is_orthogonal else 0.0
        product = size.clamp(min=least) * size_of_g.clamp(min=least)
        small = along.abs() < delta / math.sqrt(count) * product
        if zero_is_orthogonal:
            return small.all()
        known = product > 0
        return (small | ~known).all() & known.any() & product.isfinite().all()

    all_along, all_step = (x.sum(dim=0, keepdim=True) for x in (along, step))
    all_size, all_of_g = length(size, 0), length(size_of_g, 0)
    by_rows = orthogonal(along, size, size_of_g, rows.shape[1])
    as_one = orthogonal(all_along, all_size, all_of_g, w.numel())
    share = torch.where(by_rows, unscaled(step, size, eps), unscaled(all_step, all_size, eps))
    return torch.where(by_rows | as_one, u - (share * rows).reshape(u.shape), u), by_rows | as_one


def unscaled(product: Tensor, size: Tensor, eps: Any) -> Tensor:
    """<w, u> / (||w|| + eps)^2; nothing where w is zero. Twice by the norm: its square would leave float32."""
    size = (size + eps).clamp(min=torch.finfo(size.dtype).tiny)
    return product / size / size
