"""Where weights start, for rules whose theory says so."""

from __future__ import annotations

import torch

from steepest.arrangement import local, pieces_of
from steepest.core.errors import BadInput
from steepest.core.rule import working_dtype
from steepest.linalg.philox import draw
from steepest.optimizer import Optimizer


@torch.no_grad()
def initialise(optimizer: Optimizer, seed: int = 0) -> None:
    """Give weights the start that their rule asks for: its ``init`` of normal noise drawn from the seed.

    Scion's start on the boundary of their balls, each part of a fused weight on its own, and its biases at zero.
    A companion's weights stay as they are.

    Raises: BadInput for a rule that does not say where weights start.
    """
    name = optimizer.rule.name()
    if not hasattr(optimizer.rule, "init"):
        raise BadInput(f"{name} does not say where weights start: leave them as the model made them")
    firsts = optimizer.first_pieces()
    for group in optimizer.param_groups:
        rule = optimizer.rule_of(group)
        for p in group["params"] if group["rule"] == name else ():
            pieces = pieces_of(p, local(p.detach()), rule, {}, optimizer._layout[p])
            for index, (piece, _) in enumerate(pieces, start=firsts[p]):
                w, dtype = piece.weight, working_dtype(p.dtype)
                noise = draw("normal", w.numel(), seed=seed, t=0, piece=index, dtype=dtype, device=w.device)
                w.copy_(rule.init(noise.view(w.shape)))  # type: ignore[attr-defined]
