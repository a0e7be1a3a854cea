"""What the machine can do: bytes streamed in place, square matrix products by side and type.

Both are timed in the rounds of the steps themselves, as actions among the others, so that a bound is as quick or
slow as the machine was in that round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.lab.bench.timing import Block, timed

LEAST, MOST = 1 << 20, 1 << 30
"""Bytes of the streamed buffer, at least and at most."""
LONG_ENOUGH = 5e-3
"""Seconds that one probe takes at least, in as many repetitions as that needs."""
TOGETHER = 16
"""Matrices in a batch of products."""


@dataclass(frozen=True)
class Probe:
    """Something timed whose amount is known: ``amount`` bytes or operations in each of ``times`` calls."""

    action: Callable[[], object]
    amount: float
    times: int
    what: str

    def block(self, device: torch.device) -> Block:
        return timed(self.action, self.times, device)


def stream(size: float, device: torch.device) -> Probe:
    """A buffer of about ``size`` bytes multiplied in place: each pass reads and writes it once.

    ``size`` should be what a step touches, so that a model that fits a cache is held to the cache's speed.
    """
    elements = int(min(max(size, LEAST), MOST) // 4)
    buffer = torch.ones(elements, device=device)
    return _long_enough(lambda: buffer.mul_(1.0000001), 8.0 * elements, f"{4 * elements:,} bytes in place", device)


def products(side: int, types: Iterable[str], device: torch.device) -> Probe:
    """The quickest way to square products of that side: in which of the types, and alone or ``TOGETHER``."""
    probes = [_product(side, kind, count, device) for kind in types for count in (1, TOGETHER)]
    return min(probes, key=lambda probe: min(probe.block(device).seconds) / probe.amount)


def _product(side: int, kind: str, count: int, device: torch.device) -> Probe:
    dtype = getattr(torch, kind)
    x = torch.randn((side, side) if count == 1 else (count, side, side), device=device).to(dtype)
    out = torch.empty_like(x)

    def multiply(x: Tensor = x, out: Tensor = out) -> Tensor:
        return torch.matmul(x, x, out=out)

    words = f"{'' if count == 1 else f'{count} '}products of {side} x {side}, {kind}"
    return _long_enough(multiply, 2.0 * count * side**3, words, device)


def _long_enough(action: Callable[[], object], amount: float, what: str, device: torch.device) -> Probe:
    timed(action, 2, device)  # pages, threads and kernels are there afterwards
    each = min(timed(action, 3, device).seconds)
    return Probe(action, amount, max(2, min(1000, round(LONG_ENOUGH / max(each, 1e-7)))), what)


def rate(probe: Probe, block: Block) -> float:
    """Bytes or operations per second in that block."""
    return probe.amount / block.mean
