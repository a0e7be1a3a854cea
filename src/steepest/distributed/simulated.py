"""Several workers within one process: their conversations side by side, each answered from what all say.

For trying out and for tests: the arithmetic is that of a process group, bit for bit but for the order in which a
dense sum adds; what is sent is counted in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.distributed.means import Errors, Say, T, Talk, compressed_mean
from steepest.distributed.workers import Workers
from steepest.linalg.onebit import padded


def workers(world: int) -> list[Workers]:
    """So many workers, one for each optimizer's ``group=``."""
    return [Workers(world, rank) for rank in range(world)]


@torch.no_grad()
def step(optimizers: Sequence[Any]) -> None:
    """One step of every worker's optimizer, from gradients that are each worker's own."""
    world = optimizers[0].workers.world
    if len(optimizers) != world:
        raise BadInput(f"{len(optimizers)} optimizers of {world} simulated workers: give all, in their order")
    together([optimizer.talk() for optimizer in optimizers], [optimizer.workers for optimizer in optimizers])


def walk(
    make: Callable[..., Any], senders: Sequence[str], weights: Mapping[str, Tensor], arrays: Mapping[str, Any]
) -> Callable[[int], Sequence[float]]:
    """What makes step t of a recorded run: each worker has the gradients ``SENDER/ttt/WEIGHT``, an optimizer
    ``make(weights, group)``, and copies of the weights, but for the first, which has the weights themselves."""
    copies = [weights] + [
        {n: w.detach().clone().requires_grad_() for n, w in weights.items()} for _ in senders[1:]
    ]
    made = [make(mine, worker) for mine, worker in zip(copies, workers(len(senders)), strict=True)]

    def stepped(t: int) -> Sequence[float]:
        for sender, mine in zip(senders, copies, strict=True):
            for name, w in mine.items():
                w.grad = torch.tensor(arrays[f"{sender}/{t:03d}/{name}"]).to(w.dtype)
        step(made)
        if odd := [n for n, w in weights.items() for mine in copies if not torch.equal(w, mine[n])]:
            raise BadInput(
                f"after step {t} not all {len(senders)} workers hold the same {odd[0]}: no such run is one"
            )
        return ()

    return stepped


def together(talks: Sequence[Talk[T]], members: Sequence[Workers]) -> list[T]:
    """The conversations of all workers to their end."""
    found: list[T] = []
    answers: Sequence[Tensor | None] = [None] * len(talks)
    while not found:
        said: list[Say] = []
        for talk, answer in zip(talks, answers, strict=True):
            try:
                said.append(next(talk) if answer is None else talk.send(answer))
            except StopIteration as end:
                found.append(end.value)
        if said:
            for member, say in zip(members, said, strict=True):
                member.sent[say.bill] += say.sent(len(members))
            answers = answered(said)
    return found


def answered(said: Sequence[Say]) -> list[Tensor]:
    """What each worker hears when all have said this."""
    if said[0].how == "sum":
        total = said[0].tensor.clone()
        for say in said[1:]:
            total += say.tensor
        return [total.clone() for _ in said]
    stacked = torch.stack([say.tensor for say in said])
    if said[0].how == "swap":
        return list(stacked.transpose(0, 1).contiguous())
    return [stacked for _ in said]


class Compressed:
    """The compressed mean of a vector of so many numbers over simulated workers, with their errors."""

    def __init__(self, numel: int, world: int, dtype: torch.dtype = torch.float32) -> None:
        size = padded(numel, world)
        self.members = workers(world)
        self.errors = [
            Errors(torch.zeros(size, dtype=dtype), torch.zeros(size // world, dtype=dtype)) for _ in range(world)
        ]

    def mean(self, tensors: Sequence[Tensor]) -> Tensor:
        """What every worker hears of one tensor of each; the errors go on."""
        world = len(self.members)
        talks = [compressed_mean([x], [e], world) for x, e in zip(tensors, self.errors, strict=True)]
        heard = together(talks, self.members)
        assert all(torch.equal(one[0], heard[0][0]) for one in heard)
        return heard[0][0]
