"""The random tensors that a rule declares, for the engines that run its text on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from steepest.core.job import Moment, Piece
from steepest.core.rule import Rule, working_dtype
from steepest.linalg.philox import draw


def draws_of(moment: Moment, piece: Piece) -> dict[str, Tensor]:
    """The draws of a piece, of a block of one, or of several that are joined: the same for every way to cut."""
    if not piece.members:
        return drawn(moment.rule, moment.t, piece.weight, piece.index, piece.start)
    own = [drawn(moment.rule, moment.t, p.weight, p.index) for p in piece.members]
    flat = {name: torch.cat([draws[name].reshape(-1) for draws in own]) for name in moment.rule.draws}
    return {name: draw.view(piece.weight.shape) for name, draw in flat.items()}


def drawn(rule: Rule, t: int, like: Tensor, index: int, start: int = 0) -> dict[str, Tensor]:
    """What ``step.<name>`` is for each of ``rule.draws``: draws of the shape and device of ``like``.

    ``like`` is the weight of a piece, or a slice of its elements in row order that begins at element ``start``;
    ``index`` is the piece's. The type is the working type of ``like``.
    """
    dtype, n, key = working_dtype(like.dtype), like.numel(), {"seed": seed_of(rule), "t": t, "piece": index}
    return {
        name: draw(kind, n, **key, stream=stream, start=start, dtype=dtype, device=like.device).view(like.shape)
        for stream, (name, kind) in enumerate(rule.draws.items())
    }


def seed_of(rule: Rule) -> int:
    """The seed of a rule with draws; 0 for one without."""
    return int(getattr(rule, "seed", 0))
