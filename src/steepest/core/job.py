"""What an optimizer hands to an engine: one rule at one moment, and the tensors that it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steepest.core.rule import Rule


@dataclass(frozen=True)
class Piece:
    """What a rule sees as one weight: a parameter, or a part of one (the q of a fused qkv).

    ``grad``, ``weight`` and the tensors of ``state`` are views of the real ones; for a matrix rule all have at
    least two dimensions (a vector is one row).
    """

    grad: Tensor
    weight: Tensor
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Job:
    """Pieces that one rule, with the same hyperparameters, moves at its step t.

    ``peak_lr`` is the learning rate that the schedule's factor multiplies; only independent decay reads it.
    """

    rule: Rule
    t: int
    peak_lr: Any
    pieces: list[Piece] = field(default_factory=list)


Engine = Callable[[Job], None]
"""Runs a job: writes the new weights and state in place, and leaves the gradients as they are."""
