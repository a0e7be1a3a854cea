"""Rounding of float32 to bfloat16 at random: up or down, so that on average nothing is lost."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded_at_random(x: Tensor, u: Tensor) -> Tensor:
    """x, float32, as a number that bfloat16 holds: a neighbour, the nearer the more likely, so that its mean is x.

    u: uniform in [0, 1), of x's shape, of which the first 16 bits are read. What is not finite stays.
    """
    # The lower half of a float32's word is what bfloat16 does not hold: added to, it carries into the upper half.
    word = x.view(torch.int32) + (u * 2**16).to(torch.int32)
    return torch.where(x.isfinite(), (word & -(2**16)).view(torch.float32), x)
