"""What every tuner returns, and the neighbours that a certificate wants."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from steepest.lab.study.ruler import Ruler
from steepest.lab.study.search import Ask, Key, Losses, key, lowest, tried
from steepest.lab.study.trial import Space, Values


@dataclass(frozen=True)
class Found:
    """How a search ended. values: what it chose, None if all diverged. losses: of every run. notes: as JSON."""

    values: Values | None
    losses: Losses
    notes: Mapping[str, Any] = field(default_factory=dict)


def certified(space: Space, found: Found, ask: Ask, most: int, accept: float = 3e-3) -> Generator[Any, Any, Found]:
    """Runs the choice's neighbours one step away along every hyperparameter, as far as they are not run.

    One that is better by more than ``accept`` is the new choice, and its neighbours follow, until ``most`` runs
    are spent. notes: ``certified``, whether every neighbour was run and none is better by more than that.
    """
    values, losses, left = found.values, dict(found.losses), most
    while values is not None and left:
        wanted = [n for n in adjacent(values, space) if key(n) not in losses][:left]
        if not wanted:
            break
        ended = yield from tried(ask, wanted)
        # What cannot run is no better.
        losses |= {key(n): ended.get(key(n), math.inf) for n in wanted}
        left -= len(wanted)
        near = {key(n): losses[key(n)] for n in adjacent(values, space) if key(n) in losses}
        best = lowest(near)
        if best is not None and losses[key(best)] < losses[key(values)] - accept:
            values = best
    whole = values is not None and is_certified(values, losses, space, accept)
    return Found(values, losses, {**found.notes, "certified": whole})


def is_certified(values: Values, losses: Mapping[Key, float], space: Space, accept: float = 3e-3) -> bool:
    """Whether every neighbour one step away was run and none is better by more than ``accept``."""
    bound = losses[key(values)] - accept
    return all(losses.get(key(n), -math.inf) >= bound for n in adjacent(values, space))


def adjacent(values: Values, space: Space) -> list[Values]:
    """The configurations one grid step away along one hyperparameter; of what has no order, every other value."""
    found: list[Values] = []
    for name, grid in space.items():
        ruler = Ruler(tuple(grid))
        here, (low, high) = ruler.position(values[name]), ruler.ends
        if not ruler.ordered:
            found += [{**values, name: v} for v in grid if v != values[name]]
            continue
        for there in (here - 1, here + 1):
            at = min(max(there, min(low, here)), max(high, here))
            if at != here:
                found.append({**values, name: ruler.value(at)})
    return found
