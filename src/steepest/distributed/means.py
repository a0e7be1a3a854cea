"""Means over workers, as conversations: what a worker says, and what it makes of the answers.

A conversation is a generator of this worker's requests. Who answers them, a process group or a simulation of all
workers in one process, is not its concern, so that both run the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from steepest.linalg.onebit import compressed, unpacked

T = TypeVar("T")


@dataclass(frozen=True)
class Say:
    """One request: every worker makes the same at the same time, with a tensor of its own.

    sum: the sum over workers. swap: row r of a tensor (world, bytes) goes to worker r, whose row comes back in
    its place. gather: the bytes of all, (world, bytes). ``bill``: what the bytes are counted under.
    """

    how: Literal["sum", "swap", "gather"]
    tensor: Tensor
    bill: str

    def sent(self, world: int) -> int:
        """Bytes that a worker sends for it: a sum as a ring makes it, in twice world - 1 parts; the others
        directly, to each of the other workers its own."""
        size = self.tensor.numel() * self.tensor.element_size()
        return {"sum": 2 * size // world, "swap": size // world, "gather": size}[self.how] * (world - 1)


Talk = Generator[Say, Tensor, T]


@dataclass
class Errors:
    """What one vector's compression has lost so far: of this worker's messages (padded size), and as the server
    of its part of everybody's (1/world of that)."""

    worker: Tensor
    server: Tensor


def dense_mean(tensors: Sequence[Tensor], world: int) -> Talk[list[Tensor]]:
    """The mean of each tensor over workers: one sum for all tensors of a type."""
    found: dict[int, Tensor] = {}
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, x in enumerate(tensors):
        kinds.setdefault((x.dtype, x.device), []).append(i)
    for members in kinds.values():
        flat = yield Say("sum", torch.cat([tensors[i].reshape(-1) for i in members]), "dense")
        parts = flat.div_(world).split([tensors[i].numel() for i in members])
        found |= {i: part.view(tensors[i].shape) for i, part in zip(members, parts, strict=True)}
    return [found[i] for i in range(len(tensors))]


def compressed_mean(tensors: Sequence[Tensor], errors: Sequence[Errors], world: int) -> Talk[list[Tensor]]:
    """The mean of each vector over workers by one bit a number, twice: to the worker that serves its part, and
    from there to all. ``errors`` are read and replaced.

    1-bit Adam's two phases (arXiv 2102.02888, section 5; DeepSpeed runtime/comm/compressed.py), each vector with
    scales of its own, but in two messages however many vectors there are: scales travel behind the bits.
    """
    bits, scales = [], []
    for x, error in zip(tensors, errors, strict=True):
        whole = error.worker.clone()
        whole[: x.numel()] += x.reshape(-1)
        packed, scale, error.worker = compressed(whole)
        bits.append(packed.view(world, -1))
        scales.append(scale)
    heard = yield Say("swap", torch.cat([*bits, _bytes(scales).expand(world, -1)], dim=1).contiguous(), "onebit")
    sizes = [b.shape[1] for b in bits]
    parts, told = _read(heard, sizes, tensors)
    bits, scales = [], []
    for part, scale, error in zip(parts, told, errors, strict=True):
        # Worker by worker: of all at once it would be the memory of a whole vector for each.
        served = torch.zeros_like(error.server)
        for w in range(world):
            served += scale[w] * unpacked(part[w], served.dtype)
        packed, own, error.server = compressed(served / world + error.server)
        bits.append(packed.view(1, -1))
        scales.append(own)
    heard = yield Say("gather", torch.cat([*bits, _bytes(scales)], dim=1).view(-1), "onebit")
    parts, told = _read(heard, sizes, tensors)
    return [
        (unpacked(part, x.dtype) * scale).view(-1)[: x.numel()].view(x.shape)
        for part, scale, x in zip(parts, told, tensors, strict=True)
    ]


def _bytes(scales: Sequence[Tensor]) -> Tensor:
    return torch.cat([scale.view(torch.uint8) for scale in scales]).view(1, -1)


def _read(heard: Tensor, sizes: Sequence[int], like: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The bits (world, bytes) and scales (world, 1) of each vector, from what all workers sent."""
    *parts, tail = heard.split([*sizes, heard.shape[1] - sum(sizes)], dim=1)
    told = tail.split([x.element_size() for x in like], dim=1)
    return parts, [
        t.clone(memory_format=torch.contiguous_format).view(x.dtype) for t, x in zip(told, like, strict=True)
    ]
