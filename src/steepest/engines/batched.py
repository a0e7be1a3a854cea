"""Batched: pieces of an element rule joined or cut to blocks of one size, equal matrices of a matrix rule stacked.

Bitwise the loop's result for element rules. For matrix rules a batched product may round otherwise than a
single one, so equality there is to the working type's precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator

import torch
from torch import Tensor

from steepest.core.job import Job, Piece
from steepest.core.rule import Step
from steepest.engines.loop import one
from steepest.engines.write import shrinkage

SMALL = 65536
"""Elements up to which gathering a piece costs less than a dozen operations of its own."""
BLOCK = 65536
"""Elements of a block on a CPU: what a dozen operations write in between then stays in its cache. A GPU has
nothing to gain from blocks and a launch to pay for each."""


def run(job: Job) -> None:
    """Run the job bucket by bucket; temporary memory is a few copies of the largest bucket."""
    step = Step(job.rule.phase(job.t), job.rule.corrections(job.t))
    shrink = shrinkage(job.rule, job.peak_lr)
    cached = bool(job.pieces) and job.pieces[0].weight.device.type == "cpu"
    for bucket, gather, scatter in buckets(job, BLOCK if cached else math.inf):
        if len(bucket) > 1:
            whole = gathered(bucket, gather)
            one(job, step, shrink, whole)
            spread(whole, bucket, scatter)
        else:
            for piece in blocks(bucket[0]) if cached and job.rule.scope == "element" else bucket:
                one(job, step, shrink, piece)


Gather = Callable[[list[Tensor]], Tensor]
Scatter = Callable[[Tensor, list[Tensor]], list[Tensor]]


def buckets(job: Job, most: float = math.inf) -> Iterator[tuple[list[Piece], Gather, Scatter]]:
    """Pieces that the rule's scope allows to run as one tensor, with how to join and part them; of an element
    rule's at most ``most`` elements together."""
    if job.rule.scope == "element":
        small = [p for p in job.pieces if p.weight.numel() <= SMALL]
        for piece in job.pieces:
            if piece.weight.numel() > SMALL:
                yield [piece], flat, parts
        for kind in alike(small, _types):
            for bucket in packed(kind, most):
                yield bucket, flat, parts
    elif job.rule.scope == "matrix":
        for bucket in alike(job.pieces, _types_and_shapes):
            yield bucket, torch.stack, lambda whole, _: list(whole.unbind())
    else:
        for piece in job.pieces:
            yield [piece], flat, parts


def packed(pieces: list[Piece], most: float) -> Iterator[list[Piece]]:
    """The pieces in order, as many together as have at most ``most`` elements."""
    bucket: list[Piece] = []
    size = 0
    for piece in pieces:
        if bucket and size + piece.weight.numel() > most:
            yield bucket
            bucket, size = [], 0
        bucket.append(piece)
        size += piece.weight.numel()
    yield bucket


def blocks(piece: Piece) -> Iterable[Piece]:
    """A large piece as flat views of ``BLOCK`` elements; whole if it is small, or has no flat view."""
    tensors = (piece.grad, piece.weight, *piece.state.values())
    if piece.weight.numel() <= BLOCK or not all(t.is_contiguous() for t in tensors):
        return [piece]
    cut = [t.view(-1).split(BLOCK) for t in tensors]
    return [Piece(g, w, dict(zip(piece.state, state, strict=True))) for g, w, *state in zip(*cut, strict=True)]


def gathered(bucket: list[Piece], gather: Gather) -> Piece:
    """One piece that holds copies of all the bucket's."""
    return Piece(
        gather([p.grad for p in bucket]),
        gather([p.weight for p in bucket]),
        {name: gather([p.state[name] for p in bucket]) for name in bucket[0].state},
    )


def spread(whole: Piece, bucket: list[Piece], scatter: Scatter) -> None:
    """Write the weights and state of the joined piece back into the pieces that it was made of."""
    weights = [p.weight for p in bucket]
    torch._foreach_copy_(weights, scatter(whole.weight, weights))
    for name, tensor in whole.state.items():
        states = [p.state[name] for p in bucket]
        torch._foreach_copy_(states, scatter(tensor, states))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def parts(whole: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [part.view(t.shape) for part, t in zip(whole.split([t.numel() for t in like]), like, strict=True)]


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
