"""Block-wise quantisation: a code of few bits for each number, and one scale for each block of numbers.

A code is a place in a map of 2**bits ascending numbers in [-1, 1]; a number is that entry times its block's scale,
the largest absolute value in the block (Dettmers et al., arXiv 2110.02861).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

TINY = 1e-38
"""Smallest divisor: a block of zeros has scale 0 and all codes nearest 0."""


@functools.cache
def dynamic_map(bits: int, signed: bool) -> Tensor:
    """The dynamic map of so many bits, ascending, float32: more decades near 0, finer steps near 1.

    Signed: for i = 0 ... bits - 2 the middles of 2**i equal parts of [.1, 1], times +-10**(i - bits + 2); and 0
    and 1. Unsigned, the sign's bit is one more of the fraction: twice as many parts (arXiv 2110.02861, section 1.3
    and appendix F.2).
    """
    signs = (-1.0, 1.0) if signed else (1.0,)
    entries = [torch.tensor([0.0, 1.0])]
    for i in range(bits - 1):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        middles = 10.0 ** (i - bits + 2) * (edges[:-1] + edges[1:]) / 2
        entries += [sign * middles for sign in signs]
    return torch.cat(entries).sort().values


@functools.cache
def linear_map(bits: int) -> Tensor:
    """1 / 2**bits, ..., 1: equal steps without 0, which a divisor must not be (Li et al., arXiv 2309.01507)."""
    return torch.arange(1, 2**bits + 1) / 2**bits


@functools.cache
def midpoints(bits: int, signed: bool, keep_sign: bool = False) -> Tensor:
    """Between each two neighbours of :func:`map_of`; the code of y is the number of midpoints below y.

    ``keep_sign``: the last one below 0 lies at 0, so that no negative y gets the code of 0.
    """
    entries = map_of(bits, signed)
    middle = (entries[:-1] + entries[1:]) / 2
    if keep_sign and signed:
        middle[int((middle < 0).sum()) - 1] = -torch.finfo(torch.float32).tiny
    return middle


def map_of(bits: int, signed: bool) -> Tensor:
    """The map of a format: of 8 bits dynamic, of 4 bits dynamic for signed numbers and linear for others."""
    return linear_map(bits) if bits == 4 and not signed else dynamic_map(bits, signed)


def blocks_of(numbers: int, block: int) -> int:
    """How many blocks so many numbers have; the last may be short."""
    return -(-numbers // block)


def quantised(x: Tensor, bits: int, block: int, signed: bool, keep_sign: bool = False) -> tuple[Tensor, Tensor]:
    """Codes and scales of x (..., n) along its last dimension: uint8 (..., n) or, of 4 bits, (..., ceil(n / 2)),
    and float32 (..., blocks).

    To the nearest entry, of two the lower. ``keep_sign``: a negative number never gets the code of 0, as in the
    authors' CUDA kernel. A block with nan or infinity has a scale that is not finite: it shows.
    """
    n, short = x.shape[-1], -x.shape[-1] % block
    parts = torch.nn.functional.pad(x.float(), (0, short)).unflatten(-1, (-1, block))
    scale = parts.abs().amax(-1)
    y = parts * (1 / scale.clamp(min=TINY)).unsqueeze(-1)
    codes = torch.bucketize(y, midpoints(bits, signed, keep_sign).to(x.device), out_int32=True)
    found = codes.flatten(-2)[..., :n].to(torch.uint8)
    return (packed(found) if bits == 4 else found), scale


def dequantised(codes: Tensor, scale: Tensor, n: int, bits: int, block: int, signed: bool) -> Tensor:
    """The n numbers, float32 (..., n), of which these are codes and scales."""
    whole = unpacked(codes, n) if bits == 4 else codes
    entries = map_of(bits, signed).to(codes.device)[whole.int()]
    return entries * scale.repeat_interleave(block, dim=-1)[..., :n]


def packed(codes: Tensor) -> Tensor:
    """Two codes of 4 bits (..., n) in a byte, the first in its lower half: (..., ceil(n / 2))."""
    pairs = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2)).unflatten(-1, (-1, 2))
    return pairs[..., 0] | pairs[..., 1] << 4


def unpacked(codes: Tensor, n: int) -> Tensor:
    """The n codes that :func:`packed` put into bytes."""
    return torch.stack([codes & 15, codes >> 4], -1).flatten(-2)[..., :n]
