"""What an optimizer hands to an engine: the pieces that stay together, and the moment of each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.core.rule import Rule

NO_GRAD = torch.empty(0)

Rounding = Literal["nearest", "stochastic", "kahan"]
"""How a new weight becomes one of its type, where that is narrower than the type in which it was computed.

nearest: an update of less than half a gap is lost. stochastic: up or down at random, right on average. kahan: what
is lost is kept, in the weight's type, and added the next time (Kahan, CACM 1965; Zamirai et al., 2010.06192).
"""

ROUNDINGS: tuple[Rounding, ...] = ("nearest", "stochastic", "kahan")

REST = "rest"
"""The slot of what rounding lost."""


@dataclass(slots=True, eq=False)
class Piece:
    """What a rule sees as one weight: a parameter, or a part of one (the q of a fused qkv).

    ``grad``, ``weight`` and the tensors of ``state`` are views of the real ones; for a matrix rule all have at
    least two dimensions (a vector is one row). ``grad`` is another tensor at each step, of the same type, and
    :data:`NO_GRAD` between steps, so that nothing keeps a gradient alive that its owner has dropped.
    ``index`` counts the pieces of an optimizer: random draws and spread refreshes depend on it. A block of a
    larger piece has its ``start`` there; several pieces joined to one are its ``members``.
    """

    grad: Tensor
    weight: Tensor
    state: dict[str, Tensor]
    index: int = 0
    start: int = 0
    members: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Moment:
    """One step of pieces that share it: the rule with the hyperparameters of now, and its step t.

    ``turn`` is the pieces' share of a spread calendar, see :meth:`steepest.core.rule.Rule.phase`; ``peak_lr``
    is the learning rate that the schedule's factor multiplies, read by independent and fixed decay; ``totals``
    are the step's numbers over all weights of the rule.
    """

    rule: Rule
    t: int
    peak_lr: Any
    turn: int = 0
    totals: Mapping[str, Tensor] = field(default_factory=dict)
    rounding: Rounding = "nearest"

    @cached_property
    def phase(self) -> str:
        return self.rule.phase(self.t, self.turn)

    @cached_property
    def corrections(self) -> dict[str, Any]:
        return {**self.rule.corrections(self.t), **self.totals}


Run = Callable[[Moment], None]
"""Runs a step: reads the pieces' gradients as they are now, and writes weights and state in place."""

Engine = Callable[[Rule, list[Piece]], Run]
"""Arranges pieces that will be moved together, once; what it returns is called at every step.

An engine may put a piece's state elsewhere (``piece.state[name] = view of a joint buffer``); the optimizer then
keeps that tensor. It reads ``piece.grad`` anew at every step; weight and state are the same memory until the
optimizer arranges anew.
"""
