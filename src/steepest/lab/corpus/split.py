"""Which text trains and which validates: by document, or by block where documents are few."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEWEST_DOCUMENTS = 20
BLOCK_BYTES = (4096, 65536)  # smallest and largest block of a cut document
BLOCKS = 200  # about so many, where the bounds above allow
LINE_SEARCH = 512


@dataclass(frozen=True)
class Piece:
    """Bytes ``start:stop`` of document number ``document``: what becomes one run of tokens."""

    document: int
    start: int
    stop: int


def by_document(lengths: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """Mark the validation documents: bool[n], about ``share`` of the bytes, at least one document.

    ``lengths`` is in shuffled order. The first documents are taken; one that would overshoot the share by
    half is left to training, so that a single long document cannot become most of the validation text.
    """
    target = share * float(lengths.sum())
    chosen = np.zeros(len(lengths), dtype=bool)
    taken = 0
    for index, length in enumerate(lengths.tolist()):
        if taken >= target:
            break
        if taken + length <= 1.5 * target:
            chosen[index] = True
            taken += length
    if not chosen.any():
        chosen[int(lengths.argmin())] = True
    return chosen


def by_block(
    lengths: Sequence[int], text: Callable[[int], memoryview | bytes], share: float, seed: int
) -> tuple[list[Piece], list[Piece]]:
    """Cut documents into blocks and hold some out: (training pieces, validation pieces).

    A validation block loses an eighth of its length at each end that borders training text. That gap
    belongs to neither side, so that no training text runs on into validation text. Neighbouring blocks of a
    side are one piece.
    """
    smallest, largest = BLOCK_BYTES
    block = min(max(sum(lengths) // BLOCKS, smallest), largest)
    counts = [max(1, round(length / block)) for length in lengths]
    ranked = sorted(range(sum(counts)), key=lambda index: _draw(seed, index))
    held_out = set(ranked[: max(1, round(share * len(ranked)))])
    training: list[Piece] = []
    validation: list[Piece] = []
    first = 0
    for document, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        content = text(document)
        edges = [0, *(line_end(content, length * i // count) for i in range(1, count)), length]
        sides = [first + i in held_out for i in range(count)]
        first += count
        start = 0
        for i in range(1, count + 1):
            if i < count and sides[i] == sides[start]:
                continue
            low, high = edges[start], edges[i]
            if sides[start]:
                low = line_end(content, low + block // 8) if start > 0 else low
                high = line_end(content, high - block // 8) if i < count else high
            if low < high:
                (validation if sides[start] else training).append(Piece(document, low, high))
            start = i
    return training, validation


def line_end(content: memoryview | bytes, position: int) -> int:
    """The first place from ``position`` on where a line starts, or, without one near, a character starts."""
    newline = bytes(content[position : position + LINE_SEARCH]).find(b"\n")
    if newline >= 0:
        return position + newline + 1
    while position < len(content) and content[position] & 0xC0 == 0x80:
        position += 1
    return position


def _draw(seed: int, index: int) -> bytes:
    """A random rank that is the same on every machine and with every version of numpy."""
    return hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
