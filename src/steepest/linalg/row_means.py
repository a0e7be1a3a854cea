"""Means over blocks of a matrix's rows, for rules that keep one number for each block."""

from __future__ import annotations

from torch import Tensor

from steepest.linalg.norms import length


def mean_square(x: Tensor, rows: int) -> Tensor:
    """(..., n, m) to (..., n / rows, 1): the mean of the squares of each block of so many rows.

    Row by row first: over millions of numbers at once torch's norm in float32 is wrong in the third digit.
    """
    squares = length(x, -1).square() / x.shape[-1]
    return squares if rows == 1 else squares.unflatten(-2, (-1, rows)).mean(dim=-2)


def for_rows(x: Tensor, rows: int) -> Tensor:
    """(..., n / rows, 1) to (..., n, 1): each block's number for each of its rows; one for all is left to
    broadcasting."""
    return x if x.shape[-2] == 1 or rows == 1 else x.repeat_interleave(rows, dim=-2)
