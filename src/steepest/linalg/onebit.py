"""Signs with one scale: numbers as one bit each, and what that loses, to be added the next time.

1-bit Adam's compressor (arXiv 2102.02888, section 4): x becomes s * sign(x) with s = |x| / sqrt(size), so that the
norm is kept; 0 counts as positive.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def padded(numel: int, world: int) -> int:
    """The size to which a vector is filled with zeros, so that each of so many workers gets whole bytes of it.

    A multiple of world * lcm(world, 8), as DeepSpeed aligns: it is a part of the numbers, because the scale is of
    the padded vector and the errors of the padding go on."""
    align = world * math.lcm(world, 8)
    return -(-numel // align) * align


def compressed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A vector as (eight signs to a byte, scale (1,), what is lost); its size is a multiple of 8."""
    # In float64: over millions of numbers at once torch's norm in float32 is wrong in the third digit.
    norm = torch.linalg.vector_norm(x, dtype=torch.float64)
    scale = (norm / math.sqrt(max(x.numel(), 1))).to(x.dtype).view(1)
    positive = x >= 0
    return packed(positive), scale, x - torch.where(positive, scale, -scale)


def packed(positive: Tensor) -> Tensor:
    """Truth values (..., 8k) as bytes (..., k), the first in the lowest bit."""
    return (positive.unflatten(-1, (-1, 8)).to(torch.uint8) * _places(positive.device)).sum(-1, dtype=torch.uint8)


def unpacked(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes (..., k) as signs (..., 8k), 1 and -1."""
    ones = bits.unsqueeze(-1).bitwise_and(_places(bits.device)).ne(0)
    return ones.flatten(-2).to(dtype).mul_(2).sub_(1)


def _places(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
