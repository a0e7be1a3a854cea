"""Coordinate descent over grids, as "Fantastic Pretraining Optimizers" runs it (arXiv 2509.02046, Phase I).

    centre: the run of the lowest loss among all runs of the cell
    a pass: the centre with each hyperparameter at every other value of its grid, all at once
    end: every such neighbour of some configuration within ``accept`` of the lowest loss has been run

The centre may so move in several coordinates at once. To save runs, a pass goes on from another configuration
within ``accept`` where that one has at least ``saving`` fewer neighbours left to run (the authors' code).
Pairs of hyperparameters are never revisited: what comes out is a local optimum of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.study.search import Ask, Key, Losses, checked, key, lowest, neighbours, tried
from steepest.lab.study.trial import Space, Values


@dataclass(frozen=True)
class Coordinate:
    """accept: a neighbour must be better by more than this, nats/token. saving: see above. most: runs, None for
    no bound; a pass that does not fit is cut."""

    accept: float = 3e-3
    saving: int = 10
    most: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.accept) and self.accept >= 0):
            raise BadInput(f"accept={self.accept}: give a difference of loss of at least 0, such as 3e-3")
        if self.saving < 1:
            raise BadInput(f"saving={self.saving}: give at least 1 run")
        if self.most is not None and self.most < 1:
            raise BadInput(f"most={self.most}: give at least 1 run, or leave it out")


@dataclass(frozen=True)
class Descended:
    """How a descent ended. values: of the lowest loss, None if all diverged. losses: of every run. centre: the
    configuration within ``accept`` whose neighbours were all run, None where the runs ended first. passes: the
    centre of each pass with the number of its runs."""

    values: Values | None
    losses: Losses
    centre: Values | None
    passes: tuple[tuple[Values, int], ...]


def descend(
    space: Space, start: Values, ask: Ask, rule: Coordinate | None = None, known: Mapping[Key, float] | None = None
) -> Generator[Any, Any, Descended]:
    """Coordinate descent from ``start``. known: runs of the cell that are there already."""
    rule = rule or Coordinate()
    checked(space, start)
    losses: Losses = dict(known or {})
    done = set(losses)  # and what could not be run
    passes: list[tuple[Values, int]] = []
    spent, wanted = 0, [start]
    while True:
        new = [values for values in wanted if key(values) not in done]
        new = new if rule.most is None else new[: rule.most - spent]
        if new:
            losses |= yield from tried(ask, new)
            done |= {key(values) for values in new}
            spent += len(new)
        best = lowest(losses)
        # Around a start that diverged there may be others that do not.
        near = [start] if best is None else _near(losses, losses[key(best)] + rule.accept)
        left = [[n for n in neighbours(centre, space) if key(n) not in done] for centre in near]
        fewest = min(range(len(near)), key=lambda i: len(left[i]))
        ended = not left[fewest]
        if ended or spent == rule.most:
            return Descended(best, losses, near[fewest] if ended and best else None, tuple(passes))
        go = fewest if len(left[0]) - len(left[fewest]) >= rule.saving else 0
        wanted = left[go]
        passes.append((near[go], len(wanted)))


def _near(losses: Losses, bound: float) -> list[Values]:
    """The configurations up to a loss, lowest first."""
    return [dict(k) for k in sorted((k for k in losses if losses[k] <= bound), key=losses.__getitem__)]


def expected(space: Space, passes: int = 3) -> tuple[int, int]:
    """Runs that a descent takes in ``passes`` passes, and at most: the whole grid and a start beside it."""
    one = sum(len(grid) - 1 for grid in space.values())
    whole = 1 + math.prod(len(grid) for grid in space.values())
    # A later pass shares the coordinate along which the centre moved with the one before.
    shared = min((len(grid) - 1 for grid in space.values()), default=0)
    return min(whole, 1 + one + (passes - 1) * (one - shared)), whole
