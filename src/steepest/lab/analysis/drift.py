"""How the best value of a hyperparameter moves with the size of the model and the length of the training.

In each cell the best value is that of its best setting, and *near-best* are the values of all settings whose loss
lies within a threshold of it: the noise of a difference where seeds tell it, else the 6.4e-3 nats/token with which
Wen et al. (arXiv 2509.02046) decide what is sensitive to scale. What was tried is a grid, so the optimum itself is
known no better than to half a step beyond the near-best values; that is each cell's range.

Slopes are least squares of the axis's place (log10 of the value, or of 1/(1 - value) for averages) on log10 of the
non-embedding weights at fixed data-to-model ratio, and on log10 of the ratio at fixed size. Their intervals come
from drawing each cell's optimum evenly within its range: they hold the grid and the near-best, and no other noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steepest.lab.analysis.interval import LEVEL, Interval, Noise
from steepest.lab.analysis.law import Array
from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT, Cell, Run, Scalar, by_cell
from steepest.lab.analysis.sweeps import (
    LOG,
    MEMORY,
    STEPS,
    axis_of,
    is_number,
    most_held,
    place_of,
    settings,
    value_at,
)

NEAR = 6.4e-3
DRAWS = 300


@dataclass(frozen=True, slots=True)
class Optimum:
    """Of one cell. near: near-best values, ascending; low, high: the range of the optimum, None on an axis of
    steps or names; edge: ``low`` or ``high`` where the best value is the outermost one tried."""

    cell: Cell
    weights: int
    best: Scalar
    near: tuple[Scalar, ...]
    low: float | None
    high: float | None
    edge: str | None
    tried: int

    @property
    def ratio(self) -> float:
        """Tokens over 20 per non-embedding weight."""
        return self.cell.tokens / (TOKENS_PER_WEIGHT * self.weights)


@dataclass(frozen=True, slots=True)
class Drift:
    """One hyperparameter of one optimizer. by_size, by_ratio: decades of the value per decade; refused where the
    cells do not tell. threshold: of the near-best, nats/token."""

    optimizer: str
    variant: str
    name: str
    axis: str
    threshold: float
    optima: tuple[Optimum, ...]
    by_size: Interval
    by_ratio: Interval
    flags: tuple[str, ...] = ()


def drifts(
    runs: Sequence[Run], noise: Noise | None = None, threshold: float | None = None, random_state: int = 0
) -> list[Drift]:
    """Every hyperparameter that was varied in two cells of an optimizer or more, ``lr`` first."""
    if threshold is None:
        sd = None if noise is None else noise.own_sd * math.sqrt(2)
        threshold = NEAR if noise is None or sd is None else student_t((1 + LEVEL) / 2, noise.own_freedom) * sd
    found: dict[tuple[str, str], dict[str, list[_Tried]]] = {}
    for cell, members in by_cell(runs).items():
        for name, tried in _tried(cell, members, threshold).items():
            found.setdefault((cell.optimizer, cell.variant), {}).setdefault(name, []).append(tried)
    told = []
    for (optimizer, variant), names in found.items():
        for name in sorted(names, key=lambda name: (name != "lr", name)):
            if len(names[name]) > 1:
                told.append(_drift(optimizer, variant, name, names[name], threshold, random_state))
    return told


@dataclass(frozen=True, slots=True)
class _Tried:
    cell: Cell
    weights: int
    best: Scalar
    near: frozenset[Scalar]
    values: frozenset[Scalar]


def _tried(cell: Cell, runs: Sequence[Run], threshold: float) -> dict[str, _Tried]:
    found = settings(runs)
    seeds = most_held(found)
    losses = [setting.loss(seeds) for setting in found]
    lowest = min(losses, default=math.inf)
    if not math.isfinite(lowest):
        return {}
    best = dict(found[losses.index(lowest)].values)
    values: dict[str, set[Scalar]] = {}
    near: dict[str, set[Scalar]] = {}
    for setting, loss in zip(found, losses, strict=True):
        for name, value in setting.values:
            values.setdefault(name, set()).add(value)
            if loss <= lowest + threshold:
                near.setdefault(name, set()).add(value)
    return {
        name: _Tried(cell, found[0].runs[0].weights, best[name], frozenset(near[name]), frozenset(tried))
        for name, tried in values.items()
        if len(tried) > 1 and name in best
    }


def _drift(
    optimizer: str, variant: str, name: str, cells: Sequence[_Tried], threshold: float, random_state: int
) -> Drift:
    axis = _axis(name, cells)
    optima = sorted((_optimum(axis, cell) for cell in cells), key=lambda one: (one.weights, one.cell.tokens))
    flags = []
    edges = sum(one.edge is not None for one in optima)
    if edges:
        flags.append(f"in {edges} of {len(optima)} cells the best value is the outermost one tried")
    if axis not in (LOG, MEMORY):
        refused = Interval(None, None, None, LEVEL, ("its values have no common logarithm",))
        return Drift(optimizer, variant, name, axis, threshold, tuple(optima), refused, refused, tuple(flags))
    by_size, by_ratio = _slopes(axis, optima, random_state)
    return Drift(optimizer, variant, name, axis, threshold, tuple(optima), by_size, by_ratio, tuple(flags))


def _axis(name: str, cells: Sequence[_Tried]) -> str:
    """As in a sweep; but a value of 0 that is best nowhere stands apart, and the others have their logarithms."""
    values = {value for cell in cells for value in cell.values}
    axis = axis_of(name, values)
    if axis == STEPS and all(is_number(cell.best) and cell.best for cell in cells):
        return axis_of(name, values - {0})
    return axis


def _optimum(axis: str, cell: _Tried) -> Optimum:
    ordered = sorted((v for v in cell.values if is_number(v)), key=float)
    numbers = [v for v in ordered if v in cell.near]
    near = (*numbers, *sorted((v for v in cell.near if not is_number(v)), key=str))
    edge = None
    if is_number(cell.best) and len(ordered) > 1:
        edge = {ordered[0]: "low", ordered[-1]: "high"}.get(cell.best)
    if axis == LOG:
        ordered, numbers = ([v for v in part if v != 0] for part in (ordered, numbers))
    low = high = None
    if axis in (LOG, MEMORY) and numbers:
        places = [place_of(axis, value) or 0.0 for value in ordered]
        first, last = ordered.index(numbers[0]), ordered.index(numbers[-1])
        low, high = (value_at(axis, _beyond(places, place, way)) for place, way in ((first, -1), (last, 1)))
    return Optimum(cell.cell, cell.weights, cell.best, near, low, high, edge, len(cell.values))


def _beyond(places: Sequence[float], at: int, way: int) -> float:
    """Half a step of the grid beyond a tried place; past the last, half of the last step."""
    other = at + way if 0 <= at + way < len(places) else at - way
    if not 0 <= other < len(places):
        return places[at]
    return places[at] + way * abs(places[other] - places[at]) / 2


def _slopes(axis: str, optima: Sequence[Optimum], random_state: int) -> tuple[Interval, Interval]:
    """By size and by ratio."""
    known = [one for one in optima if is_number(one.best)]
    size = np.log10([one.weights for one in known])
    ratio = np.log10([one.ratio for one in known])
    columns = [column - column.mean() for column in (size, ratio) if np.ptp(column) > 0.01] if known else []
    design = np.stack([np.ones(len(known)), *columns], axis=1) if columns else np.ones((len(known), 1))
    refusals = ["all cells are of one size" if not known or np.ptp(size) <= 0.01 else None]
    refusals += ["all cells have one data-to-model ratio" if not known or np.ptp(ratio) <= 0.01 else None]
    if columns and np.linalg.matrix_rank(design, tol=1e-3) < design.shape[1]:
        refusals = [why or "size and ratio change together" for why in refusals]
        columns = []
    slopes: list[Interval] = []
    if columns:
        solve = np.linalg.pinv(design)
        low, best, high = (
            np.array([place_of(axis, value) for value in part], dtype=float)
            for part in ([o.low for o in known], [o.best for o in known], [o.high for o in known])
        )
        drawn = low + (high - low) * np.random.default_rng(random_state).random((DRAWS, len(known)))
        slopes = [_interval(solve[k + 1], best, drawn) for k in range(len(columns))]
    told = iter(slopes)
    by_size, by_ratio = (
        next(told) if why is None else Interval(None, None, None, LEVEL, (why,)) for why in refusals
    )
    return by_size, by_ratio


def _interval(row: Array, best: Array, drawn: Array) -> Interval:
    slopes = drawn @ row
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    value = float(row @ best)
    return Interval(value, min(low, value), max(high, value), LEVEL)
