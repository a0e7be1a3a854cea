"""Which pieces run together as one tensor, as far as a rule's scope allows, and how they are joined and parted.

A unit is called at every step and yields what a rule runs on; what was written there is back in the weights when
the unit is exhausted. State is not copied at all: pieces that are joined keep it in joint tensors for good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.job import NO_GRAD, Piece
from steepest.core.rule import Rule

Unit = Callable[[], Iterator[Piece]]


@dataclass(frozen=True)
class Sizes:
    """What pays on a kind of device, in elements.

    Element rules: pieces of at most ``small`` are joined, up to ``bucket`` together, and others are cut to blocks
    of ``block``. Other rules: equal shapes are stacked, up to ``stack`` together, state included.
    """

    small: float
    bucket: float
    block: float
    stack: float


CPU = Sizes(16384, 65536, 65536, 2**19)
"""What a dozen operations write in between then stays in a cache. Copying a small piece in and out costs less
than operations of its own. Stacks of 2 MiB were within a tenth of the best for Muon and SOAP, sides 64 to 768."""
GPU = Sizes(2**22, 2**25, math.inf, 2**26)
"""Nothing to gain from blocks, and a launch to pay for each: a piece that takes less time than its launches is
joined. From arithmetic, not from measurement: 4M weights move in some 30 us, a kernel's call costs more."""


def on_cpu(pieces: list[Piece]) -> bool:
    return bool(pieces) and pieces[0].weight.device.type == "cpu"


def units(rule: Rule, pieces: list[Piece], sizes: Sizes) -> list[Unit]:
    """Units for these pieces, in an order of their own."""
    found: list[Unit] = []
    element, buckets = rule.scope == "element", together(rule, pieces, sizes)
    room = Room(b for b in buckets if len(b) > 1)
    for bucket in buckets:
        if len(bucket) > 1:
            found.append(joined(bucket, room, stacked=not element))
        elif element:
            found.append(cut(bucket[0], sizes.block))
        else:
            found.append(alone(bucket[0]))
    return found


def together(rule: Rule, pieces: list[Piece], sizes: Sizes) -> list[list[Piece]]:
    """Which pieces run as one."""
    if rule.scope == "element":
        small = [p for p in pieces if p.weight.numel() <= sizes.small]
        buckets = [b for kind in alike(small, _types) for b in packed(kind, sizes.bucket, elements)]
        return buckets + [[p] for p in pieces if p.weight.numel() > sizes.small]
    if rule.scope == "model":
        return [[p] for p in pieces]
    return [b for kind in alike(pieces, _types_and_shapes) for b in packed(kind, sizes.stack, everything)]


class Room:
    """Scratch memory that joined units take turns to use: as much as the largest of them needs."""

    def __init__(self, buckets: Iterable[list[Piece]]) -> None:
        most: dict[tuple[str, torch.dtype, torch.device], int] = {}
        for bucket in buckets:
            size = sum(p.weight.numel() for p in bucket)
            for what, tensor in (("grad", bucket[0].grad), ("weight", bucket[0].weight)):
                key = (what, tensor.dtype, tensor.device)
                most[key] = max(most.get(key, 0), size)
        self.buffers = {key: torch.empty(n, dtype=key[1], device=key[2]) for key, n in most.items()}

    def of(self, what: str, like: Tensor, size: int) -> Tensor:
        return self.buffers[what, like.dtype, like.device][:size]


def joined(pieces: list[Piece], room: Room, *, stacked: bool) -> Unit:
    """Several pieces as one: flat, or stacked along a new first dimension."""
    first, weights = pieces[0], [p.weight for p in pieces]
    size = sum(w.numel() for w in weights)
    grad, weight = (room.of(what, getattr(first, what), size) for what in ("grad", "weight"))
    grad_parts, weight_parts = parts(grad, weights), parts(weight, weights)
    state = {}
    for name, like in first.state.items():
        own = [p.state[name] for p in pieces]
        buffer = torch.empty(sum(t.numel() for t in own), dtype=like.dtype, device=like.device)
        for piece, part in zip(pieces, parts(buffer, own), strict=True):
            piece.state[name] = part.copy_(piece.state[name])
        state[name] = buffer.view(len(pieces), *like.shape) if stacked else buffer
    if stacked:
        grad, weight = (t.view(len(pieces), *first.weight.shape) for t in (grad, weight))
    whole = Piece(grad, weight, state, members=tuple(pieces))

    def unit() -> Iterator[Piece]:
        torch._foreach_copy_(grad_parts, [p.grad for p in pieces])
        torch._foreach_copy_(weight_parts, weights)
        yield whole
        torch._foreach_copy_(weights, weight_parts)

    return unit


def whole_elements(name: str, length: int) -> int:
    return length


def cut(piece: Piece, block: float, held: Callable[[str, int], int] = whole_elements) -> Unit:
    """A piece as flat views of ``block`` elements; whole if it has no flat view.

    ``held``: into how many of its own a slot of this name packs so many of the weight's elements.
    """
    size = piece.weight.numel()
    if not all(t.is_contiguous() for t in (piece.weight, *piece.state.values())):
        return alone(piece)
    length = int(min(size, block))
    slots = (t.view(-1).split(held(name, length)) for name, t in piece.state.items())
    views = zip(piece.weight.view(-1).split(length), *slots, strict=True)
    blocks = [
        Piece(NO_GRAD, w, dict(zip(piece.state, state, strict=True)), piece.index, start=i * length)
        for i, (w, *state) in enumerate(views)
    ]

    def unit() -> Iterator[Piece]:
        for part, grad in zip(blocks, piece.grad.reshape(-1).split(length), strict=True):
            part.grad = grad
            yield part
            part.grad = NO_GRAD

    return unit


def alone(piece: Piece) -> Unit:
    return lambda: iter((piece,))


def parts(buffer: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Consecutive views of a flat buffer in the shapes of these tensors."""
    return [part.view(t.shape) for part, t in zip(buffer.split([t.numel() for t in like]), like, strict=True)]


def packed(pieces: list[Piece], most: float, size_of: Callable[[Piece], int]) -> Iterator[list[Piece]]:
    """The pieces in order, as many together as have at most this size, but at least one."""
    bucket: list[Piece] = []
    size = 0
    for piece in pieces:
        if bucket and size + size_of(piece) > most:
            yield bucket
            bucket, size = [], 0
        bucket.append(piece)
        size += size_of(piece)
    if bucket:
        yield bucket


def elements(piece: Piece) -> int:
    return piece.weight.numel()


def everything(piece: Piece) -> int:
    return elements(piece) + sum(t.numel() for t in piece.state.values())


def alike(pieces: list[Piece], key: Callable[[Piece], Hashable]) -> Iterable[list[Piece]]:
    """The pieces that may be joined, in the order in which each kind first comes."""
    kinds: dict[Hashable, list[Piece]] = {}
    for piece in pieces:
        kinds.setdefault(key(piece), []).append(piece)
    return kinds.values()


def _types(piece: Piece) -> Hashable:
    tensors = (piece.grad, piece.weight, *piece.state.values())
    return (piece.weight.device, *piece.state, *[t.dtype for t in tensors])


def _types_and_shapes(piece: Piece) -> Hashable:
    return (_types(piece), piece.weight.shape, *[t.shape for t in piece.state.values()])
