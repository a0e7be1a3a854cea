"""What the sentences about the release are made from, and the words that they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.lab.analysis.noise import Irrelevant
from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.speedup import Speedups
from steepest.lab.replay.released import At, Released

Told = Mapping[str, Any]

ACCEPTED = 3e-3
"""Nats/token by which the paper's descent must improve to move: what its authors took for a difference."""


@dataclass(frozen=True)
class Evidence:
    """What the sentences are made from.

    noise: None where no runs tell any. noisier: the speedups, were a run as noisy as ACCEPTED.
    """

    released: Released
    study: Told
    noise: Irrelevant | None
    noisier: Speedups
    labels: Mapping[str, str]

    def named(self, optimizer: str) -> str:
        """As people read it."""
        return self.labels.get(optimizer, optimizer)

    def loss(self, optimizer: str, size: str, ratio: float) -> float | None:
        """The published minimum."""
        found = [cell.loss for cell in self.released.cells if cell.at == At(optimizer, size, ratio)]
        return found[0] if found else None

    @property
    def apart(self) -> float:
        """The gap of two runs that noise alone exceeds in one of ten cases; 0 where no noise is known."""
        if self.noise is None:
            return 0.0
        return student_t(0.95, self.noise.floor.freedom) * math.sqrt(2) * self.noise.floor.sd


def end(value: float | None) -> str:
    """An interval's end."""
    return "no end" if value is None else f"{value:.2f}"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
