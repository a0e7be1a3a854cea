"""Matrices cut into equal blocks, for rules whose cost grows with the cube of a side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from steepest.core.errors import BadInput

Size = int | tuple[int | None, int | None] | None
"""Largest rows and columns of a block: one number for both, a pair, None for a side that is not cut."""


def block_shape(shape: Sequence[int], size: Size) -> tuple[int, int, int]:
    """(number of blocks, rows, columns) of the blocks that :func:`cut` makes of a matrix of this shape."""
    (down, rows), (across, columns) = _sides(shape, size)
    return down * across, rows, columns


def cut(x: Tensor, size: Size) -> Tensor:
    """x (..., rows, columns) as blocks (..., n, at most size, at most size), row by row of the grid of blocks.

    A side of at most ``size`` is left whole; a longer one becomes blocks of ``size``, the last filled up with
    zeros. A view of x where one side alone is cut and nothing filled up.
    """
    (down, rows), (across, columns) = _sides(x.shape, size)
    fill = down * rows - x.shape[-2], across * columns - x.shape[-1]
    if any(fill):
        x = pad(x, (0, fill[1], 0, fill[0]))
    grid = x.unflatten(-1, (across, columns)).unflatten(-3, (down, rows)).transpose(-3, -2)
    return grid.flatten(-4, -3)


def join(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """The matrices (..., rows, columns) whose blocks these are; of ``shape`` the last two numbers count."""
    n, rows, columns = blocks.shape[-3:]
    down, across = _count(shape[-2], rows), _count(shape[-1], columns)
    if down * across != n:
        raise BadInput(
            f"{n} blocks of {rows} x {columns} do not make a matrix of shape {tuple(shape[-2:])}: "
            f"give the shape that was cut"
        )
    whole = blocks.unflatten(-3, (down, across)).transpose(-3, -2).flatten(-2, -1).flatten(-3, -2)
    return whole[..., : shape[-2], : shape[-1]]


def _sides(shape: Sequence[int], size: Size) -> list[tuple[int, int]]:
    """(number of blocks, length of one) down and across."""
    sizes = size if isinstance(size, tuple) else (size, size)
    lengths = [max(1, n if most is None else min(n, most)) for n, most in zip(shape[-2:], sizes, strict=True)]
    return [(_count(n, length), length) for n, length in zip(shape[-2:], lengths, strict=True)]


def _count(n: int, length: int) -> int:
    return -(-n // length)


def block_means(x: Tensor, size: int) -> Tensor:
    """Each number replaced by the mean of its block of ``size`` consecutive ones, in the order of x's memory; the
    last block may be shorter."""
    flat = x.reshape(-1)
    full = flat.numel() // size * size
    whole, rest = flat[:full].view(-1, size), flat[full:]
    means = [whole.mean(-1, keepdim=True).expand_as(whole).reshape(-1)]
    if rest.numel():
        means.append(rest.mean().expand_as(rest))
    return torch.cat(means).view(x.shape)
