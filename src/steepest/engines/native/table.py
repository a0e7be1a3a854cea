"""The pieces of a model as a table of pointers, filled anew at every step from the tensors as they are then."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.job import Piece
from steepest.core.lowbit import ABSMAX
from steepest.core.rule import Rule
from steepest.engines.native.program import Inexpressible, Types
from steepest.linalg.quantise import blocks_of

SHARE = 16384
"""Elements below which another thread costs more than it saves."""

DTYPE, IS_CPU = attrgetter("dtype"), attrgetter("is_cpu")


class Table:
    """Pieces of one :class:`Types`, each contiguous in an order of dimensions that :func:`order_of` finds."""

    def __init__(self, rule: Rule, types: Types, pieces: list[Piece]) -> None:
        self.rule, self.types, self.pieces, n = rule.name(), types, pieces, len(pieces)
        self.sizes = [p.weight.numel() for p in pieces]
        orders = [order_of(rule, p) for p in pieces]
        self.orders = orders if any(orders) else None
        self.total = sum(self.sizes)
        self.lengths = {name: [length(name, size, types) for size in self.sizes] for name in types.operands}
        self.grads: list[Tensor] = []
        self.c_sizes = (ctypes.c_int64 * n)(*self.sizes)
        self.c_index = (ctypes.c_uint32 * n)(*(p.index & 0xFFFFFFFF for p in pieces))
        self.pointers = (ctypes.c_uint64 * (n * len(types.operands)))()

    def run(self, kernel: Callable[..., None], numbers: Any, seed: int, t: int) -> None:
        """Calls a kernel with the pointers that :meth:`fill` read."""
        threads = max(1, min(torch.get_num_threads(), self.total // SHARE))
        kernel(len(self.pieces), self.c_sizes, self.c_index, self.pointers, numbers, seed, t, threads)
        self.grads = []

    def fill(self) -> None:
        """Reads every pointer; gradients that lie in another order are copied.

        Raises: BadInput for a tensor that is not what was arranged: a kernel would write beyond its memory.
        """
        pieces, n = self.pieces, len(self.pieces)
        grads = self.ordered([p.grad for p in pieces])
        if not all(map(Tensor.is_contiguous, grads)):
            grads = [g.contiguous() for g in grads]
        self.grads = grads  # the copies live until the kernel has read them
        columns = [grads, self.ordered([p.weight for p in pieces])]
        columns += [self.ordered([p.state[name] for p in pieces]) for name, _ in self.types.state]
        for k, (column, (name, dtype)) in enumerate(zip(columns, self.types.operands.items(), strict=True)):
            if (
                list(map(DTYPE, column)) != [dtype] * n
                or list(map(Tensor.numel, column)) != self.lengths[name]
                or not all(map(IS_CPU, column))
                or not all(map(Tensor.is_contiguous, column))
            ):
                raise self.fault(name, dtype, column)
            self.pointers[k * n : (k + 1) * n] = list(map(Tensor.data_ptr, column))

    def ordered(self, tensors: list[Tensor]) -> list[Tensor]:
        if self.orders is None:
            return tensors
        return [t.permute(order) if order else t for t, order in zip(tensors, self.orders, strict=True)]

    def fault(self, name: str, dtype: torch.dtype, column: list[Tensor]) -> BadInput:
        wrong = next(
            i
            for i, (x, size) in enumerate(zip(column, self.lengths[name], strict=True))
            if x.dtype != dtype or x.numel() != size or not x.is_cpu or not x.is_contiguous()
        )
        x, piece, size = column[wrong], self.pieces[wrong], self.lengths[name][wrong]
        return BadInput(
            f"{self.rule}: {name} of weight {piece.index} is {x.numel()} elements {x.dtype} on {x.device}, not "
            f"the {size} elements {dtype} with which the optimizer began: make the optimizer anew"
        )


def length(name: str, size: int, types: Types) -> int:
    """How many elements an operand of a piece of this size has."""
    if types.form is not None and types.low:
        if name.removesuffix(f".{ABSMAX}") != name:
            return blocks_of(size, types.form.block)
        if name in dict(types.low) and types.form.bits == 4:
            return -(-size // 2)
    return size


def check(rule: Rule, piece: Piece) -> None:
    """Whether a kernel can reach the piece's memory.

    Raises: Inexpressible for another device, a sparse tensor, or state that is not of the weight's shape.
    """
    for name, tensor in {"gradient": piece.grad, "weight": piece.weight, **piece.state}.items():
        if tensor.layout != torch.strided or not tensor.is_cpu:
            raise Inexpressible(f"{rule.name()}: {name} on {tensor.device}, {tensor.layout}: no native kernel")
        if tensor.shape != piece.weight.shape and not in_codes(name, piece):
            shapes = f"{tuple(tensor.shape)} for a weight {tuple(piece.weight.shape)}"
            raise Inexpressible(f"{rule.name()}: {name} of shape {shapes}: no native kernel")


def in_codes(name: str, piece: Piece) -> bool:
    return name.endswith(f".{ABSMAX}") or f"{name}.{ABSMAX}" in piece.state


def order_of(rule: Rule, piece: Piece) -> tuple[int, ...] | None:
    """The order of dimensions in which weight and state are contiguous: () for rows first, None for none."""
    tensors = [piece.weight, *piece.state.values()]
    if all(t.is_contiguous() for t in tensors):
        return ()
    # Draws count elements in row order, and so do blocks of codes.
    if rule.draws or any(in_codes(name, piece) for name in piece.state):
        return None
    stride, shape = piece.weight.stride(), piece.weight.shape
    order = tuple(sorted(range(len(stride)), key=lambda d: (stride[d], shape[d]), reverse=True))
    return order if all(t.permute(order).is_contiguous() for t in tensors) else None


def through_copies(
    rule: Rule, types: Types, piece: Piece, changed: Iterable[str], launch: Callable[[Table], None]
) -> None:
    """Runs one piece on contiguous copies of what is not contiguous, and stores what changed."""
    state = {name: tensor.contiguous() for name, tensor in piece.state.items()}
    copy = Piece(piece.grad.contiguous(), piece.weight.contiguous(), state, piece.index)
    table = Table(rule, types, [copy])
    table.fill()
    launch(table)
    for name in changed:
        old, new = (piece.weight, copy.weight) if name == "weight" else (piece.state[name], state[name])
        if new is not old:
            old.copy_(new)
