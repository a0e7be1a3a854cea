"""Cutting matrices into equal blocks and joining them again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.linalg.blocks import Size, block_shape, cut, join

SHAPES = [(6, 6), (7, 5), (3, 7, 5), (2, 3, 8, 4), (1, 5), (5, 1), (0, 4), (2, 5, 0)]
SIZES = [1, 3, 4, 7, 100, None, (2, None), (None, 3), (3, 2)]


def numbered(*shape: int) -> Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_join_undoes_cut_and_the_shape_is_known_before(shape: tuple[int, ...], size: Size) -> None:
    x = numbered(*shape)
    blocks = cut(x, size)
    assert blocks.shape == (*shape[:-2], *block_shape(shape, size))
    assert torch.equal(join(blocks, shape), x)
    assert blocks.sum() == x.sum()  # what is filled up is zero


def test_blocks_lie_row_by_row_and_only_the_last_are_filled_up() -> None:
    x = numbered(5, 7)
    blocks = cut(x, 3)
    assert blocks.shape == (6, 3, 3)
    grid = [x[i : i + 3, j : j + 3] for i in (0, 3) for j in (0, 3, 6)]
    for block, part in zip(blocks, grid, strict=True):
        rows, columns = part.shape
        assert torch.equal(block[:rows, :columns], part)
        assert block.count_nonzero() == part.numel()


def test_a_side_of_at_most_the_size_is_left_whole() -> None:
    assert cut(numbered(5, 7), 7).shape == (1, 5, 7)
    assert cut(numbered(5, 7), 6).shape == (2, 5, 6)
    assert cut(numbered(5, 7), (2, None)).shape == (3, 2, 7)


def test_stacks_are_cut_matrix_by_matrix() -> None:
    x = numbered(2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            assert torch.equal(cut(x, 3)[i, j], cut(x[i, j], 3))


def test_blocks_of_another_shape_are_refused() -> None:
    with pytest.raises(BadInput, match="6 blocks of 3 x 3 do not make a matrix of shape"):
        join(cut(numbered(5, 7), 3), (5, 10))
