"""The one rule by which every optimizer's learning rate is tuned.

Each side gets the same number of runs. The first three are a grid with one factor around the middle of the
optimizer's own search grid; while the best lies at an edge, the grid grows there by the same factor; once the best
has a worse neighbour on both sides, the runs that are left halve the gaps around it. A diverged run counts as
worse than any loss. What is still at an edge when the runs are spent is said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from steepest.core.errors import BadInput

Losses = dict[float, float]


@dataclass(frozen=True)
class Rule:
    """runs: how many for each optimizer. factor: between neighbours of the first grid. first: its points. refine:
    whether runs that are left once the best is bracketed are spent on halving the gaps around it.
    """

    runs: int = 6
    factor: float = 4.0
    first: int = 3
    refine: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 1):
            raise BadInput(f"tuning factor {self.factor}: neighbours differ by a factor above 1, such as 4")
        if not 3 <= self.first <= self.runs:
            raise BadInput(f"tuning runs {self.runs}: give at least 3, or nothing can be bracketed")


@dataclass(frozen=True)
class Tuned:
    """best: lr of the lowest loss, None if all diverged. edge: "low", "high" or None. losses: lr to final loss."""

    best: float | None
    bracketed: bool
    edge: str | None
    losses: Losses


def search(middle: float, rule: Rule) -> Generator[list[float], Losses, Tuned]:
    """Yields learning rates to try at once, is sent their final losses (infinite: diverged), returns the best."""
    if not (math.isfinite(middle) and middle > 0):
        raise BadInput(f"lr {middle}: a learning rate is finite and above 0, such as 3e-4")
    left = rule.runs
    half = rule.first // 2
    wanted = [_rounded(middle * rule.factor**k) for k in range(-half, rule.first - half)]
    losses: Losses = {}
    while wanted:
        found = yield wanted
        losses |= {lr: _comparable(found[lr]) for lr in wanted}
        left -= len(wanted)
        wanted = _next(losses, rule)[:left]
    return summary(losses)


def summary(losses: Losses) -> Tuned:
    """The best of ``losses`` and whether both neighbours are worse."""
    rates = sorted(losses)
    best = min(rates, key=lambda lr: losses[lr], default=None)
    if best is None or not math.isfinite(losses[best]):
        return Tuned(None, False, None, losses)
    place = rates.index(best)
    edge = "low" if place == 0 else "high" if place == len(rates) - 1 else None
    return Tuned(best, edge is None, edge if len(rates) > 1 else None, losses)


def _next(losses: Losses, rule: Rule) -> list[float]:
    """What to try next, most wanted first."""
    rates, tuned = sorted(losses), summary(losses)
    if tuned.best is None or tuned.edge == "low":
        # Where everything diverged, smaller is the only way out.
        return [_rounded(rates[0] / rule.factor)]
    if tuned.edge == "high":
        return [_rounded(rates[-1] * rule.factor)]
    if not rule.refine:
        return []
    place = rates.index(tuned.best)
    sides = sorted((rates[place - 1], rates[place + 1]), key=lambda lr: losses[lr])
    return [lr for lr in (_rounded(math.sqrt(side * tuned.best)) for side in sides) if lr not in losses]


def _comparable(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _rounded(lr: float) -> float:
    """Three significant digits, so that equal rates are equal runs."""
    return float(f"{lr:.3g}")


def interpolated(tokens: float, known: Sequence[tuple[float, float]]) -> float:
    """Learning rate at ``tokens`` from the (tokens, lr) around it, straight in logarithms; the ends are kept."""
    points = sorted(known)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= tokens <= x1:
            share = math.log(tokens / x0) / math.log(x1 / x0)
            return _rounded(y0 * (y1 / y0) ** share)
    return points[0][1] if tokens < points[0][0] else points[-1][1]
