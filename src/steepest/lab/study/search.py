"""What every search is made of: asking for configurations, sweeping one hyperparameter, reading brackets.

All of it takes ``ask: Callable[[Values], T]``, which makes a trial of a configuration, so that a search runs on
studies and on synthetic surfaces (``surfaces.py``) alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Scalar
from steepest.lab.study.asking import Failed, TrialFailed
from steepest.lab.study.trial import Space, Values

Key = tuple[tuple[str, Scalar], ...]
"""A configuration that can be a key: its items sorted by name, as :class:`~steepest.lab.study.trial.Trial` holds
them."""

Losses = dict[Key, float]
"""Final losses by configuration, nats/token; infinite where the run diverged."""

K = TypeVar("K")
Ask = Callable[[Values], Any]


def key(values: Values) -> Key:
    """The configuration as a key."""
    return tuple(sorted(values.items(), key=lambda item: item[0]))


def tried(ask: Ask, wanted: Iterable[Values]) -> Generator[Any, Any, Losses]:
    """Asks for configurations at once. Returns the losses of those that could be run.

    Raises: TrialFailed where none could.
    """
    found = yield from results({key(values): ask(values) for values in wanted})
    return {name: _loss(result) for name, result in found.items()}


def results(trials: Mapping[K, Any]) -> Generator[Any, Any, dict[K, Any]]:
    """Asks for trials at once. Returns the results of those that could be run; TrialFailed where none could."""
    try:
        found = yield list(trials.values())
    except TrialFailed:
        # One that cannot run ends no search: each is asked alone, to know which it is.
        alone = yield {name: _one(trial) for name, trial in trials.items()}
        left = {name: result for name, result in alone.items() if not isinstance(result, Failed)}
        if not left:
            raise
        return left
    return {name: found[trial] for name, trial in trials.items()}


def _one(trial: Any) -> Generator[Any, Any, Any]:
    return (yield [trial])[trial]


def _loss(result: Any) -> float:
    return math.inf if result.loss is None or not math.isfinite(result.loss) else float(result.loss)


def lowest(losses: Mapping[Key, float]) -> Values | None:
    """The configuration of the lowest loss; None where all diverged."""
    best = min(losses, key=losses.__getitem__, default=None)
    return None if best is None or not math.isfinite(losses[best]) else dict(best)


def sweep(
    ask: Ask, centre: Values, name: str, grid: Sequence[Scalar], reach: int = 0
) -> Generator[Any, Any, Losses]:
    """One hyperparameter over its grid, all else as in ``centre``; returns the losses.

    reach: how many values the grid may grow by at each of its ends while the lowest loss lies there, each by the
    factor between the last two. Where every run diverged it grows downwards.
    """
    values = list(grid)
    losses = yield from tried(ask, ({**centre, name: value} for value in values))
    left = {"low": reach, "high": reach}
    while len(values) > 1:
        end = _end({value: losses.get(key({**centre, name: value}), math.inf) for value in values})
        if end is None or not left[end] or (further := beyond(values, end)) is None:
            break
        left[end] -= 1
        values = [further, *values] if end == "low" else [*values, further]
        losses |= yield from tried(ask, [{**centre, name: further}])
    return losses


def _end(losses: Mapping[Scalar, float]) -> str | None:
    """At which end of an ascending grid the lowest loss lies; low where all diverged."""
    values = list(losses)
    best = min(values, key=losses.__getitem__)
    return "low" if best == values[0] else "high" if best == values[-1] else None


def beyond(grid: Sequence[Scalar], end: str) -> Scalar | None:
    """The next value past an end of an ascending grid, by its last factor; None where it has no factor."""
    near, last = (grid[1], grid[0]) if end == "low" else (grid[-2], grid[-1])
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in (near, last)):
        return None
    further = float(last) * float(last) / float(near)  # type: ignore[arg-type]
    if isinstance(last, int):
        return round(further) if round(further) not in (0, last) else None
    return rounded(further)


def rounded(value: float) -> float:
    """Three significant digits, so that equal values are equal runs."""
    return float(f"{value:.3g}")


def neighbours(values: Values, space: Space) -> list[Values]:
    """Every configuration that differs in one hyperparameter, by any value of its grid (arXiv 2509.02046)."""
    return [{**values, name: v} for name, grid in space.items() for v in grid if v != values.get(name)]


def ordered(grid: Sequence[Scalar]) -> bool:
    """Whether a grid has a low and a high end: numbers, none of them a switch."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in grid)


def brackets(values: Values, losses: Mapping[Key, float], space: Space) -> dict[str, str]:
    """For each hyperparameter of ``space``, where the chosen value stands among those tried with all else equal.

    "bracketed": worse on both sides (a choice without order: every other one tried and worse); "low", "high": no
    value was tried below, above; "alone": no other was tried; "passed": a better one was tried.
    """
    own = losses.get(key(values), math.inf)
    return {name: _stand(name, values, own, losses, grid) for name, grid in space.items()}


def _stand(name: str, values: Values, own: float, losses: Mapping[Key, float], grid: Sequence[Scalar]) -> str:
    rest = {k: v for k, v in values.items() if k != name}
    others = {
        dict(k)[name]: loss
        for k, loss in losses.items()
        if dict(k).get(name) != values[name] and {n: v for n, v in k if n != name} == rest
    }
    if not others:
        return "alone"
    if min(others.values()) < own:
        return "passed"
    if not ordered(grid):
        return "bracketed" if set(grid) <= {*others, values[name]} else "alone"
    here = values[name]
    below, above = any(v < here for v in others), any(v > here for v in others)  # type: ignore[operator]
    return "bracketed" if below and above else "high" if below else "low"


def checked(space: Space, start: Values) -> None:
    """Raises BadInput for a space that nothing can be searched in."""
    for name, grid in space.items():
        if not grid:
            raise BadInput(f"grid of {name} is empty: give it values, or leave {name} out of the space")
        if name not in start:
            raise BadInput(f"start has no {name}, which the space searches: give it a value")
        if ordered(grid) and list(grid) != sorted(set(grid), key=float):  # type: ignore[arg-type]
            raise BadInput(f"grid of {name} {list(grid)}: give its values ascending, each once")
