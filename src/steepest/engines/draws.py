"""The random tensors that a rule reads, for the engines that run its text on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from steepest.core.job import Moment, Piece
from steepest.core.rule import Rule, working_dtype
from steepest.linalg.philox import draw

Recorded = Callable[[int, int], Mapping[str, Tensor]]
"""Step t and index of a piece to the draws that were recorded for it."""

_recorded: ContextVar[Recorded | None] = ContextVar("recorded", default=None)


@contextmanager
def replayed(recorded: Recorded) -> Iterator[None]:
    """Inside, what was recorded replaces the draws of the same names."""
    token = _recorded.set(recorded)
    try:
        yield
    finally:
        _recorded.reset(token)


ROUNDS = "which way to round"
"""The draw that decides how a weight is rounded; no attribute of a step can be called so."""
ROUNDS_STREAM = 255
"""Its stream: beyond those of any rule."""


def draws_of(moment: Moment, piece: Piece) -> dict[str, Tensor]:
    """The draws of a piece, of a block of one, or of several that are joined: the same for every way to cut.

    With them goes the one under :data:`ROUNDS` where the weight is rounded at random.
    """
    rule, t, phase = moment.rule, moment.t, moment.phase
    rounds = rounds_at_random(moment, piece.weight.dtype)
    if not piece.members:
        return drawn(rule, t, piece.weight, piece.index, piece.start, phase=phase, rounds=rounds)
    own = [drawn(rule, t, p.weight, p.index, phase=phase, rounds=rounds) for p in piece.members]
    if rule.scope != "element":  # equal shapes, stacked
        return {name: torch.stack([draws[name] for draws in own]) for name in own[0]}
    flat = {name: torch.cat([draws[name].reshape(-1) for draws in own]) for name in own[0]}
    return {name: draw.view(piece.weight.shape) for name, draw in flat.items()}


def rounds_at_random(moment: Moment, dtype: torch.dtype) -> bool:
    return moment.rounding == "stochastic" and dtype == torch.bfloat16


def drawn(
    rule: Rule, t: int, like: Tensor, index: int, start: int = 0, *, phase: str = "", rounds: bool = False
) -> dict[str, Tensor]:
    """What ``step.<name>`` is for each of ``rule.randoms``, on the device and in the working type of ``like``.

    ``like`` is the weight of a piece, or a slice of its elements in row order that begins at element ``start``;
    ``index`` is the piece's.
    """
    dtype, key = working_dtype(like.dtype), {"seed": seed_of(rule), "t": t, "piece": index}
    found, recorded = {}, _recorded.get()
    known = recorded(t, index) if recorded is not None else {}
    for stream, (name, wanted) in enumerate(rule.randoms(tuple(like.shape), phase).items()):
        if name in known:
            value = known[name].to(like.device, dtype)
        else:
            n = math.prod(wanted.shape)
            value = draw(wanted.kind, n, **key, stream=stream, start=start, dtype=dtype, device=like.device)
        found[name] = value.view(wanted.shape)
    if rounds:
        n, stream = like.numel(), ROUNDS_STREAM
        u = draw("uniform", n, **key, stream=stream, start=start, dtype=torch.float32, device=like.device)
        found[ROUNDS] = u.view(like.shape)
    return found


def seed_of(rule: Rule) -> int:
    """The seed of a rule with draws; 0 for one without."""
    return int(getattr(rule, "seed", 0))
