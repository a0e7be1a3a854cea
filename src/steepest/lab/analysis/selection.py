"""How far the minimum over several noisy runs lies below the true loss of the setting that it picks.

The runs' losses are taken as the true losses of their settings, noise is put on them anew, and the lowest is
picked each time (parametric bootstrap): its true loss less its noisy one is what the choice flatters. Losses that
noise has already spread make this too small, as does a noise that was measured without varying the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell, Run, by_cell

DRAWS = 4000


@dataclass(frozen=True)
class Selection:
    """Of one cell: ``runs`` that ended, and ``bias``, nats/token by which their minimum flatters its setting."""

    cell: Cell
    runs: int
    bias: float


def bias_of_minimum(losses: Sequence[float], sd: float, draws: int = DRAWS, random_state: int = 0) -> float:
    """Nats/token that the minimum of ``losses`` is too low by, when each carries normal noise of ``sd``."""
    if not (sd >= 0 and len(losses)):
        raise BadInput(f"{len(losses)} losses with noise {sd}: give one or more, and a noise from 0 on")
    true = np.asarray(losses, dtype=float)
    noise = np.random.default_rng(random_state).normal(0.0, sd, (draws, true.size))
    picked = np.argmin(true + noise, axis=1)
    return float(-noise[np.arange(draws), picked].mean())


def selections(runs: Sequence[Run], sd: float, random_state: int = 0) -> Mapping[Cell, Selection]:
    """The bias of every cell with a finished run."""
    found = {}
    for cell, of_cell in by_cell(runs).items():
        losses = [run.loss for run in of_cell if run.loss is not None]
        if losses:
            bias = bias_of_minimum(losses, sd, random_state=random_state)
            found[cell] = Selection(cell, len(losses), bias)
    return found
