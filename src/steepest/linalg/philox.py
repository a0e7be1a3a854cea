"""Random numbers from counters: Philox4x32-10, so that every engine draws the same whatever it cuts or joins.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3. Counter: (element
index low word, high word, piece, stream); key: (seed, step t). All are taken modulo 2^32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["uniform", "normal", "rademacher"]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""The odd multipliers of the rounds, and what the key grows by from round to round (golden ratio, sqrt(3) - 1)."""
ROUNDS = 10
WORD = 0xFFFFFFFF
BLOCK = 65536
"""Elements drawn at a time: a draw writes some hundred tensors of int64 in between, which then stay in a cache."""


def philox(counter: Sequence[Any], key: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of Philox4x32-10 for each counter, as int64 in [0, 2^32).

    ``counter`` holds four int64 tensors (or whole numbers) that broadcast against each other, ``key`` two numbers.
    """
    # An int64 product wraps modulo 2^64, so that both its halves are those of the unsigned product.
    a, b, c, d = (torch.as_tensor(word) & WORD for word in counter)
    k, l = (word & WORD for word in key)  # noqa: E741
    for _ in range(ROUNDS):
        left, right = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (right >> 32 & WORD) ^ b ^ k, right & WORD, (left >> 32 & WORD) ^ d ^ l, left & WORD
        k, l = (k + WEYL[0]) & WORD, (l + WEYL[1]) & WORD  # noqa: E741
    return a, b, c, d


def draw(
    kind: Kind,
    n: int,
    *,
    seed: int,
    t: int,
    piece: int = 0,
    stream: int = 0,
    start: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """``n`` draws, those of the elements ``start``, ``start + 1``, ... of a piece at step ``t``: shape (n,).

    uniform: the upper 24 bits of word 0, times 2^-24: in [0, 1), exact in every type of at least 24 bits.
    rademacher: -1 or 1, by the upper bit of word 0. normal: see :func:`normal`.
    """
    out = torch.empty(n, dtype=dtype, device=device)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        index = torch.arange(start + low, start + high, device=device)
        words = philox((index, index >> 32, piece, stream), (seed, t))
        out[low:high] = KINDS[kind](words[0], words[1], dtype)
    return out


def uniform(word: Tensor, _: Tensor, dtype: torch.dtype) -> Tensor:
    return (word >> 8).to(dtype) * 2.0**-24


def rademacher(word: Tensor, _: Tensor, dtype: torch.dtype) -> Tensor:
    return (word >> 31).to(dtype) * 2 - 1


def normal(word: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """Box and Muller: sqrt(-2 ln u) cos(2 pi v), u in (0, 1] from word 0, v in [0, 1) from word 1, 24 bits each.

    At most sqrt(48 ln 2) = 5.77 in size.
    """
    u, v = ((word >> 8) + 1).to(dtype) * 2.0**-24, (other >> 8).to(dtype) * 2.0**-24
    return (-2 * u.log()).sqrt() * (2 * math.pi * v).cos()


KINDS: dict[str, Callable[[Tensor, Tensor, torch.dtype], Tensor]] = {
    "uniform": uniform,
    "normal": normal,
    "rademacher": rademacher,
}
