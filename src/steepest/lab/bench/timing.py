"""How steps are timed: in turn, round by round, the order turned by one each round; memory, too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch

Action = Callable[[], object]


@dataclass(frozen=True)
class Block:
    """Consecutive calls of one action: seconds of each by the clock, processor seconds of a call on average."""

    seconds: list[float]
    processor: float

    @property
    def mean(self) -> float:
        return sum(self.seconds) / len(self.seconds)


@dataclass
class Rounds:
    """Blocks by action, one a round as far as was got; ``ended``: "Ctrl-C" or "time", if early."""

    blocks: dict[str, list[Block]] = field(default_factory=dict)
    ended: str = ""


def timed(action: Action, times: int, device: torch.device) -> Block:
    """The action so many times in a row. On a GPU its own events count, and launches overlap as in training."""
    began = time.process_time()
    if device.type == "cuda":
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
        torch.cuda.synchronize(device)
        marks[0].record()
        for mark in marks[1:]:
            action()
            mark.record()
        torch.cuda.synchronize(device)
        seconds = [first.elapsed_time(last) / 1e3 for first, last in pairwise(marks)]
    else:
        clock = [time.perf_counter()]
        for _ in range(times):
            action()
            clock.append(time.perf_counter())
        seconds = [last - first for first, last in pairwise(clock)]
    return Block(seconds, (time.process_time() - began) / times)


def once(action: Action, device: torch.device) -> float:
    """Seconds of one call from a device at rest to a device at rest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def turned(names: Sequence[str], turn: int) -> list[str]:
    """The names from the ``turn``-th on, then those before: each is first, second, ... equally often."""
    turn %= len(names)
    return [*names[turn:], *names[:turn]]


def interleaved(
    actions: Mapping[str, Callable[[], Block]],
    rounds: int,
    *,
    until: float = math.inf,
    tell: Callable[[str], None] = lambda words: None,
) -> Rounds:
    """One block of every action a round, so that a slow spell of the machine meets them all.

    ``until`` is a time of ``time.monotonic`` after which no block begins once each action has one. A first Ctrl-C
    ends the rounds and keeps what they gave.
    """
    found, names = Rounds({name: [] for name in actions}), list(actions)
    try:
        for turn in range(rounds):
            for name in turned(names, turn):
                if turn and time.monotonic() > until:
                    found.ended = "time"
                    return found
                tell(f"round {turn + 1} of {rounds}: {name}")
                found.blocks[name].append(actions[name]())
    except KeyboardInterrupt:
        found.ended = "Ctrl-C"
    return found


def extra_bytes(action: Action, device: torch.device) -> int:
    """The most memory that the action holds beyond what was held before it, as torch's allocator tells."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        action()
        torch.cuda.synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    return max(0, 0, *levels(action))


def levels(action: Action) -> list[int]:
    """What the action holds on the CPU beyond what was held before it, after each allocation and each release."""
    # The old profiler's records: the new one writes to stderr, and sees no more of the allocator.
    autograd = torch.autograd
    nothing = torch._C._profiler._ExperimentalConfig()
    state = autograd.ProfilerState.CPU
    torch._C._autograd._enable_record_function(False)  # of operations: it takes gigabytes for a large model's
    autograd._enable_profiler_legacy(autograd.ProfilerConfig(state, False, True, False, False, False, nothing))
    try:
        action()
    finally:
        records = autograd._disable_profiler_legacy()
        torch._C._autograd._enable_record_function(True)
    changes = [e.cpu_memory_usage() for thread in records for e in thread if e.kind() == "memory_alloc"]
    return list(accumulate(changes))


def ratios(over: Sequence[Block], under: Sequence[Block]) -> list[float]:
    """Mean step of the one over that of the other, round by round, as far as both go."""
    return [a.mean / b.mean for a, b in zip(over, under, strict=False)]
