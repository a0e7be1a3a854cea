"""Which n of every m consecutive weights are kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nm_mask(w: Tensor, n: int, m: int) -> Tensor:
    """True for the n largest magnitudes of every m consecutive entries along the last dimension.

    Of equals the first are kept, so that the mask is a function of the weights alone, and keeps what it kept when
    the others are set to 0. A row whose length m does not divide is looked at as if it went on with zeros, which
    are never kept before a weight: filled up so, it fits hardware that wants n of m.
    """
    length = w.shape[-1]
    groups = F.pad(w.abs(), (0, -length % m), value=-1.0).unflatten(-1, (-1, m))
    place = torch.arange(m, device=w.device)
    # Counting what goes before each entry is m passes; sorting groups of four is far slower.
    before = torch.zeros(groups.shape, dtype=torch.int32, device=w.device)
    for i in range(m):
        one = groups[..., i : i + 1]
        before = before + ((one > groups) | ((one == groups) & (place > i)))
    return (before < n).flatten(-2)[..., :length]
