"""From shards to batches: a pure function, so that resume and re-sharding come free."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from steepest.core.errors import BadInput
from steepest.lab.corpus import Corpus, Tokens

_ROUNDS = 6
_Word = TypeVar("_Word", np.uint64, npt.NDArray[np.uint64])


def batch(
    corpus: Corpus, *, seed: int, step: int, size: int, seq: int, rank: int = 0, world: int = 1
) -> torch.Tensor:
    """The training batch of ``step`` (from 0): int64[rank's size, seq + 1]; inputs [:, :-1], targets [:, 1:].

    An epoch visits the training tokens in windows of ``seq``, which do not overlap, each once, in an order
    drawn from (seed, epoch); the first window's start is drawn too, so that epochs cut the text
    differently. ``size`` counts the windows of all ranks; the ranks' parts, one after another, are the
    batch of ``world=1``.

    Raises BadInput when the corpus holds less than two windows or the arguments are out of range.
    """
    _check(size=size, seq=seq, world=world)
    if step < 0 or not 0 <= rank < world:
        raise BadInput(f"no batch at step {step}, rank {rank} of {world}: steps and ranks count from 0")
    count = windows_per_epoch(corpus.train, seq)
    numbers = np.arange(size * rank // world, size * (rank + 1) // world, dtype=np.int64) + step * size
    starts = np.empty_like(numbers)
    for epoch in range(int(numbers[0] // count), int(numbers[-1] // count) + 1) if len(numbers) else ():
        chosen = numbers // count == epoch
        key = _mix(_mix(np.uint64(seed % 2**64)) ^ np.uint64(epoch))
        starts[chosen] = _permuted(numbers[chosen] % count, count, key) * seq + int(_mix(key) % np.uint64(seq))
    return torch.from_numpy(corpus.train.windows(starts.tolist(), seq + 1))


def validation_batches(corpus: Corpus, size: int, seq: int, tokens: int | None = None) -> list[torch.Tensor]:
    """Fixed validation windows, spread evenly over the held-out text: list of int64[size, seq + 1].

    About ``tokens`` tokens are predicted (all when None, or when there are fewer). Whole batches only, so
    that the mean over batches is the mean over tokens; a text of less than one batch gives one smaller
    batch. The result depends on corpus, size, seq and tokens alone: it is the same for every run.
    """
    _check(size=size, seq=seq)
    available = (len(corpus.val) - 1) // seq
    if available < 1:
        raise BadInput(
            f"the validation text has {len(corpus.val)} tokens, sequence {seq} needs {seq + 1}: "
            "shorten the sequence, add text or raise the validation share"
        )
    wanted = available if tokens is None else max(1, min(available, tokens // seq))
    wanted = wanted // size * size or wanted
    starts = np.arange(wanted, dtype=np.int64) * available // wanted * seq
    windows = torch.from_numpy(corpus.val.windows(starts.tolist(), seq + 1))
    return list(windows.split(size))


def passes(corpus: Corpus, tokens: int) -> float:
    """How often training on ``tokens`` tokens goes over the training text; above 1 the text repeats."""
    return tokens / len(corpus.train)


def windows_per_epoch(train: Tokens, seq: int) -> int:
    """How many windows of ``seq`` tokens an epoch has, wherever its first one starts."""
    count = (len(train) - seq) // seq
    if count < 1:
        raise BadInput(
            f"the training text has {len(train)} tokens, sequence {seq} needs {2 * seq}: "
            "shorten the sequence or add text"
        )
    return count


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise BadInput(f"{name} {number} is below 1: give a positive number")


def _permuted(positions: npt.NDArray[np.int64], count: int, key: np.uint64) -> npt.NDArray[np.int64]:
    """Where a keyed permutation of ``range(count)`` sends ``positions``, without holding the permutation.

    A Feistel network over an a x b grid just larger than ``count``, walking on while outside it
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    rows = np.uint64(max(1, int(count**0.5)))
    columns = np.uint64(-(-count // int(rows)))
    keys = _mix(key ^ np.arange(_ROUNDS, dtype=np.uint64))
    x = positions.astype(np.uint64)
    outside = np.ones(len(x), dtype=bool)
    while outside.any():
        high, low = np.divmod(x[outside], columns)
        for number in range(0, _ROUNDS, 2):
            high = (high + _mix(low ^ keys[number]) % rows) % rows
            low = (low + _mix(high ^ keys[number + 1]) % columns) % columns
        x[outside] = high * columns + low
        outside = x >= np.uint64(count)
    return x.astype(np.int64)


def _mix(x: _Word) -> _Word:
    """splitmix64's output function (Steele, Lea and Flood 2014): every input bit moves every output bit."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
