"""What tuning costs: the best loss after so many trials, and after so many tokens spent on them.

Where the order in which the runs were made is known, the curve is what happened: the lowest loss so far. Where it
is not, it is what these trials give on average over all orders, exactly: of k trials drawn without putting back
from the n that were made, the j-th lowest is the best with probability C(n - j, k - 1) / C(n, k) (the unbiased
form of Dodge et al., arXiv 1909.03004, "Show Your Work", after Tang et al., arXiv 2004.13705). The trials are
those that somebody chose to make: a search around a good guess looks cheaper than one from nowhere.

A trial is one setting of a cell, its loss that of the seeds that the most settings have; runs that measure a
setting already chosen, over fresh seeds, are no tuning. A diverged trial is worse than any loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from steepest.core.errors import BadInput
from steepest.lab.analysis.finals import FRESH
from steepest.lab.analysis.law import Array
from steepest.lab.analysis.robustness import MARGINS
from steepest.lab.analysis.runs import Cell, Run, by_cell
from steepest.lab.analysis.sweeps import Setting, most_held, settings

SHOWN = 64
"""Most numbers of trials at which a curve is given: all up to 32, then evenly in logarithms."""
QUARTERS = (0.25, 0.75)


@dataclass(frozen=True, slots=True)
class TuningCost:
    """The tuning curve of one cell.

    trials[points], tokens[points]: spent so far, a trial's repetitions over the compared seeds counted. best: mean
    of the best loss, nats/token, infinite where some order has met nothing but divergence; low, high: its
    quartiles over the orders, equal to it where the order is known. within: for each margin, the mean number of
    trials until one lies within it of the lowest loss of all.
    """

    cell: Cell
    weights: int
    trials: tuple[int, ...]
    tokens: tuple[int, ...]
    best: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    made: int
    diverged: int
    ordered: bool
    within: Mapping[float, float]


def tuning_costs(
    runs: Iterable[Run], order: Mapping[str, float] | None = None, margins: Sequence[float] = MARGINS
) -> list[TuningCost]:
    """The curve of every cell in which anything was tried, in order of first appearance.

    order: when each run was made, by its name, in any unit that grows; a cell with a run that is missing there
    gets the mean over all orders.
    """
    tuning = by_cell(run for run in runs if run.purpose not in FRESH)
    return [cost for cell, members in tuning.items() if (cost := _of_cell(cell, members, order, margins))]


def expected_best(losses: ArrayLike, trials: ArrayLike) -> Array:
    """Mean of the lowest of k losses drawn without putting back, for every k of ``trials``.

    Raises BadInput where a k is not between 1 and the number of losses.
    """
    return _over_orders(np.sort(np.asarray(losses, dtype=float)), _checked(losses, trials))[0]


def best_quantile(losses: ArrayLike, trials: ArrayLike, probability: float) -> Array:
    """The loss that the lowest of k stays at or below with ``probability``, for every k of ``trials``."""
    return _over_orders(np.sort(np.asarray(losses, dtype=float)), _checked(losses, trials), (probability,))[1]


def expected_trials(made: int, good: int) -> float:
    """Mean number of trials, drawn without putting back, until the first of ``good`` among ``made`` is met."""
    return (made + 1) / (good + 1)


def _checked(losses: ArrayLike, trials: ArrayLike) -> Array:
    k, n = np.asarray(trials, dtype=float), np.asarray(losses).size
    if np.any(k < 1) or np.any(k > n):
        raise BadInput(f"{np.max(k):g} trials of {n}: draw from 1 to all of them")
    return k


def _over_orders(ordered: Array, trials: Array, probabilities: Sequence[float] = ()) -> tuple[Array, ...]:
    """Mean and quantiles of the lowest of k of the ascending losses."""
    n = len(ordered)
    j = np.arange(n)[:, None]
    # Probability that all k drawn lie beyond the j-th lowest: C(n - j, k) / C(n, k), as a running product.
    beyond = np.cumprod(np.maximum(0.0, (n - trials - j) / (n - j)), axis=0)
    first = np.concatenate([np.ones((1, len(trials))), beyond[:-1]]) - beyond
    with np.errstate(invalid="ignore"):
        mean = np.where(first > 0, ordered[:, None] * first, 0.0).sum(axis=0)
    reached = 1 - beyond
    return mean, *(ordered[np.argmax(reached >= p - 1e-12, axis=0)] for p in probabilities)


def _of_cell(
    cell: Cell, runs: Sequence[Run], order: Mapping[str, float] | None, margins: Sequence[float]
) -> TuningCost | None:
    found = settings(runs)
    seeds = most_held(found)
    tried = [setting for setting in found if all(seed in setting.ends for seed in seeds)]
    if not tried:
        return None
    made, when = len(tried), _when(tried, order)
    if when is not None:
        tried = [tried[k] for k in sorted(range(made), key=when.__getitem__)]
    losses = np.array([setting.loss(seeds) for setting in tried])
    k = _shown(made)
    if when is None:
        best, low, high = _over_orders(np.sort(losses), k.astype(float), QUARTERS)
    else:
        best = low = high = np.minimum.accumulate(losses)[k - 1]
    lowest = losses.min()
    good = {margin: int(np.sum(losses <= lowest + margin)) for margin in margins} if math.isfinite(lowest) else {}
    until = {
        margin: expected_trials(made, count) if when is None else 1.0 + int(np.argmax(losses <= lowest + margin))
        for margin, count in good.items()
    }
    return TuningCost(
        cell=cell,
        weights=runs[0].weights,
        trials=tuple(k.tolist()),
        tokens=tuple((k * cell.tokens * len(seeds)).tolist()),
        best=tuple(best.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        made=made,
        diverged=int(np.sum(~np.isfinite(losses))),
        ordered=when is not None,
        within=until,
    )


def _when(tried: Sequence[Setting], order: Mapping[str, float] | None) -> list[float] | None:
    """When each setting was complete; None unless that is known of all."""
    if order is None or any(run.run not in order for setting in tried for run in setting.runs):
        return None
    return [max(order[run.run] for run in setting.runs) for setting in tried]


def _shown(made: int) -> np.ndarray:
    if made <= SHOWN:
        return np.arange(1, made + 1)
    few = SHOWN // 2
    return np.unique(np.concatenate([np.arange(1, few + 1), np.geomspace(few, made, few).round().astype(int)]))
