"""A rule on an estimate of the gradient that is made block by block, used, and made no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from steepest.arrangement import Arrangement
from steepest.core.job import NO_GRAD, Engine, Moment, Piece, Run
from steepest.core.rule import Rule
from steepest.engines.write import move
from steepest.optimizer import Optimizer
from steepest.zeroth.directions import blocks

Estimate = Callable[[int, int], Tensor]
"""The gradient's estimate at a weight's numbers from a start on, so many, flat."""


class Streamed:
    """One weight of an optimizer.

    A rule of scope element sees a block of the estimate at a time; a rule that must see more sees the weight's
    whole, one weight after the other.
    """

    def __init__(self, optimizer: Optimizer, p: Tensor) -> None:
        self.optimizer, self.p = optimizer, p
        self._estimate: Estimate | None = None
        self._arranged: Arrangement | None = None

    def step(self, rule: Rule, peak_lr: Any, totals: Mapping[str, Tensor], estimate: Estimate) -> None:
        """Move the weight by its rule."""
        by_blocks = rule.scope == "element" and not self.optimizer.in_codes
        engine = self._engine if by_blocks else None
        # The stand-in has the gradient's shape and type, and one number of memory.
        grad = torch.zeros((), dtype=self.p.dtype, device=self.p.device).expand(self.p.shape)
        with self._given(grad if by_blocks else self._whole(estimate)):
            arranged = self._fitting(rule, engine)
            self._estimate = estimate
            try:
                arranged.step(rule, peak_lr, totals)
            finally:
                self._estimate = None

    def contributions(self, rule: Rule, peak_lr: Any, estimate: Estimate) -> list[dict[str, Tensor]]:
        """What the weight adds to the rule's numbers over all weights."""
        with self._given(self._whole(estimate)):
            return list(self._fitting(rule, None, keep=False).contributions(rule, peak_lr))

    def uncount(self) -> None:
        """The step that was made last was a trial."""
        assert self._arranged is not None
        self._arranged.steps.sub_(1)

    def _fitting(self, rule: Rule, engine: Engine | None, keep: bool = True) -> Arrangement:
        if self._arranged is not None and keep and self._arranged.fits(rule, [self.p]):
            return self._arranged
        made = self.optimizer.arranged(rule, [self.p], self.optimizer.first_pieces(), engine)
        self._arranged = made if keep else None
        return made

    def _whole(self, estimate: Estimate) -> Tensor:
        return estimate(0, self.p.numel()).view(self.p.shape).to(self.p.dtype, copy=True)

    @contextmanager
    def _given(self, grad: Tensor) -> Iterator[None]:
        before = self.p.grad
        self.p.grad = grad
        try:
            yield
        finally:
            self.p.grad = before

    def _engine(self, rule: Rule, pieces: list[Piece]) -> Run:
        parts = [part for piece in pieces for part in cut(piece)]

        def run(moment: Moment) -> None:
            assert self._estimate is not None
            for part in parts:
                part.grad = self._estimate(part.start, part.weight.numel()).view(part.weight.shape)
                move(moment, part)
                part.grad = NO_GRAD

        return run


def cut(piece: Piece) -> list[Piece]:
    """A piece in the blocks of its weight."""
    found = list(blocks(piece.weight))
    alike = all(t.is_contiguous() and t.shape == piece.weight.shape for t in piece.state.values())
    if len(found) == 1 or not alike:
        return [Piece(NO_GRAD, piece.weight, piece.state, piece.index)]
    state = {name: [part for _, part in blocks(t)] for name, t in piece.state.items()}
    return [
        Piece(NO_GRAD, part, {name: parts[i] for name, parts in state.items()}, piece.index, start)
        for i, (start, part) in enumerate(found)
    ]
