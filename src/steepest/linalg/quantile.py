"""Quantiles of a matrix's magnitudes, as thresholds between its bulk and its outliers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def quantile_of_nonzero(x: Tensor, q: float) -> Tensor:
    """The q-quantile of the magnitudes of each matrix's entries that are not zero, interpolated linearly: (...,
    1, 1).

    Rows and columns of zeros (an expert's, a dead unit's) change nothing, which a quantile over all entries would
    feel: it is 0 where more than a share q of them is zero. A zero matrix has 0.
    """
    size = math.prod(x.shape[-2:])
    # Only the largest are put in order: five times quicker than all.
    largest = x.abs().flatten(-2).topk(min(size, math.floor((1 - q) * (size - 1)) + 2), dim=-1).values
    place = (1 - q) * (x.flatten(-2).count_nonzero(dim=-1) - 1).clamp(min=0).unsqueeze(-1).double()
    above = place.floor().long()
    upper = largest.gather(-1, above)
    lower = largest.gather(-1, (above + 1).clamp(max=largest.shape[-1] - 1))
    return (upper - (upper - lower) * (place - above).to(x.dtype)).unsqueeze(-1)


def quantile_in_float32(x: Tensor, q: float, plus: float = 0.0) -> Tensor:
    """The q-quantile of all magnitudes plus a number, computed in float32 whatever the type, its place too: (...,
    1, 1).

    For the replay of code that does so: the threshold differs from the exact one by some 1e-8 of itself, in
    matrices of more than 16 million entries by as much as neighbours do.
    """
    values = x.abs().flatten(-2).float()
    size = values.shape[-1]
    place = torch.tensor(q, dtype=torch.float32) * (size - 1)
    below = min(int(place), size - 1)
    kept = values.topk(size - below, dim=-1).values
    lower, upper = kept[..., -1:], kept[..., max(0, kept.shape[-1] - 2)].unsqueeze(-1)
    return (torch.lerp(lower, upper, float(place - below)) + plus).unsqueeze(-1)
