"""How state may lie in memory: as the rule has it, or in codes of few bits with a scale for each block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from steepest.core.errors import BadInput, UnknownName
from steepest.core.rule import Slot

ABSMAX = "absmax"
"""The key of a slot's scales is the slot's with this after a point."""


@dataclass(frozen=True)
class LowBit:
    """A format of state: ``bits`` for each number, one float32 scale for each ``block`` of them in row order.

    Weights of fewer than ``smallest`` numbers keep full state, as do slots that are not of the weight's shape.
    ``keep_sign``: no negative number gets the code of 0, as in the authors' CUDA kernel and not in their others.

    Raises: BadInput.
    """

    bits: int = 8
    block: int = 256
    smallest: int = 4096
    keep_sign: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise BadInput(f"state of {self.bits} bits: there are 8bit and 4bit")
        if self.block < 64 or self.block % 64:  # whole cache lines of codes, so that threads never share one
            raise BadInput(f"state in blocks of {self.block}: it must be a multiple of 64, such as 256")

    def holds(self, slot: Slot, shape: tuple[int, ...]) -> bool:
        """Whether this slot of a weight (or part of one) of this shape is kept in codes."""
        return slot.dtype is None and slot.shape == shape and math.prod(shape) >= self.smallest

    def stored(self, slot: Slot) -> dict[str, Slot]:
        """What is kept of a slot, by what is put behind its name: codes, flat if two share a byte, and scales."""
        n = math.prod(slot.shape)
        codes = Slot(slot.shape if self.bits == 8 else (-(-n // 2),), torch.uint8)
        return {"": codes, f".{ABSMAX}": Slot((-(-n // self.block),), torch.float32)}

    def told(self) -> dict[str, Any]:
        """Itself as what checkpoints and records hold."""
        return {"bits": self.bits, "block": self.block, "smallest": self.smallest, "keep_sign": self.keep_sign}


FORMATS: dict[str, LowBit | None] = {"full": None, "8bit": LowBit(), "4bit": LowBit(bits=4, block=128)}
"""By name; the blocks are those of bitsandbytes and of Li et al., arXiv 2309.01507."""


def format_of(given: str | LowBit | Mapping[str, Any] | None) -> LowBit | None:
    """The format that a user means; None for full state.

    Raises: UnknownName, BadInput.
    """
    if given is None or isinstance(given, LowBit):
        return given
    if isinstance(given, Mapping):
        if unknown := sorted(set(given) - set(LowBit().told())):
            raise UnknownName.among("setting of low-bit state", unknown[0], LowBit().told())
        return LowBit(**given)
    if given not in FORMATS:
        raise UnknownName.among("format of state", given, FORMATS)
    return FORMATS[given]


def of_trajectory(told: Mapping[str, Any]) -> LowBit:
    """The format of a trajectory of 8-bit state.

    The authors' kernels keep small weights in full by default; what was derived from the text of their CUDA kernel
    keeps signs, and all in codes.
    """
    h, derived = told["hyperparameters"], "CUDA kernel" in told["source"] or "cudarule" in told["source"]
    smallest = h.get("min_8bit_size", 1 if derived else LowBit.smallest)
    return LowBit(block=h["blocksize"], smallest=smallest, keep_sign=derived)
