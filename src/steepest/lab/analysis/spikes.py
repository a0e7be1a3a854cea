"""How often a series of losses or gradient norms leaps: pure functions of the series.

Every score is a share of all values of the series; a value that has too little around it to be judged counts as a
value and never as a spike, and a series without one that can be judged has no score, None. Values that are not
numbers (None, nan, infinities) are left out of everything but :func:`diverged`.

====================  =================================================================================
spike_score           OLMo 2's: per cent of values at least 7 standard deviations from the mean of the
                      1000 values before them; from 100 values on, and until there are 1000 all that
                      there are. A short run's first fall lies within its window, and widens it.
above_median          per 10,000 values: those more than 0.1 above the median of the 201 values around
                      them (100 on either side, all of which must be there)
z_spikes              per 10,000 values: those more than 2.5 standard deviations above a moving average
                      (0.97 of the old, begun as mean and variance of the first 25), ZClip's measure
gradient_spikes       SPAM's, per entry of a gradient over time: |g| more than 50 times its mean
====================  =================================================================================

ZClip and SPAM clip what they find. These count what was there, so that found values enter the averages whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Series = Sequence[float | None] | np.ndarray

WINDOW, LEAST, SIGMAS = 1000, 100, 7.0
AROUND, ABOVE = 201, 0.1
KEPT, FIRST, Z = 0.97, 25, 2.5
PER = 10_000
ROUNDING = 1e-12
"""Deviations below this share of the mean are rounding: a constant series has none."""


def spike_score(series: Series, window: int = WINDOW, sigmas: float = SIGMAS, least: int = LEAST) -> float | None:
    """Per cent of values at least ``sigmas`` standard deviations from the mean of the ``window`` values before.

    least: how many earlier values a value must have to be judged.
    """
    found = spikes(series, window, sigmas, least)
    return None if found is None else 100.0 * len(found) / len(_numbers(series))


def spikes(series: Series, window: int = WINDOW, sigmas: float = SIGMAS, least: int = LEAST) -> list[int] | None:
    """Where those values are, counted among the numbers of the series; None where none can be judged."""
    values = _numbers(series)
    if len(values) <= least:
        return None
    mean, deviation = np.empty((2, len(values) - least))
    for place in range(least, min(window, len(values))):
        before = values[:place]
        mean[place - least], deviation[place - least] = before.mean(), before.std()
    for start in range(window, len(values), 1000):  # in parts, for a window's deviations need its length in memory
        stop = min(start + 1000, len(values))
        before = sliding_window_view(values[start - window : stop - 1], window)
        mean[start - least : stop - least] = before.mean(1)
        deviation[start - least : stop - least] = before.std(1)
    gap = np.abs(values[least:] - mean)
    found = (gap >= sigmas * deviation) & (gap > ROUNDING * np.abs(mean))
    return [int(place) + least for place in np.flatnonzero(found)]


def above_median(series: Series, window: int = AROUND, above: float = ABOVE) -> float | None:
    """Values per 10,000 that lie more than ``above`` over the median of the ``window`` values around them."""
    values = _numbers(series)
    if len(values) < window:
        return None
    half = window // 2
    middle = values[half : len(values) - (window - 1 - half)]
    parts = range(0, len(middle), 1000)
    around = sliding_window_view(values, window)
    medians = np.concatenate([np.median(around[start : start + 1000], axis=1) for start in parts])
    return float(PER * np.count_nonzero(middle - medians > above) / len(values))


def z_spikes(series: Series, kept: float = KEPT, z: float = Z, first: int = FIRST) -> float | None:
    """Values per 10,000 that lie more than ``z`` standard deviations above the moving average before them."""
    values = _numbers(series)
    if len(values) <= first:
        return None
    mean, variance = float(values[:first].mean()), float(values[:first].var())
    count = 0
    for value in map(float, values[first:]):
        gap = value - mean
        count += gap > z * math.sqrt(variance) and gap > ROUNDING * abs(mean)
        mean += (1 - kept) * gap
        variance = kept * variance + (1 - kept) * gap * gap
    return PER * count / len(values)


def gradient_spikes(gradients: np.ndarray, threshold: float = 50.0) -> int:
    """Entries of recorded gradients (steps first) that are more than ``threshold`` times their own mean size.

    The mean is over all steps given; SPAM takes the first 1000. An entry that is zero throughout has no spike. No
    entry exceeds its mean by more than the number of steps: fewer than ``threshold`` have no spike.
    Training does not count them: each entry's mean over all steps must be known before its first can be judged.
    """
    sizes = np.abs(np.asarray(gradients, dtype=float))
    return int(np.count_nonzero(sizes > threshold * sizes.mean(0))) if len(sizes) else 0


def diverged(losses: Series, multiple: float = 2.0) -> bool:
    """Whether some value is no number, or the last above ``multiple`` times the first, as training judges it."""
    values = _numbers(losses)
    return len(values) < len(losses) or (len(values) > 0 and bool(values[-1] > multiple * values[0]))


SCORES: dict[str, Callable[[Series], float | None]] = {
    "spike_score": spike_score,
    "above_median": above_median,
    "z_spikes": z_spikes,
}

SCORED = {"loss": ("spike_score", "above_median", "z_spikes"), "gradient_norm": ("spike_score", "z_spikes")}
"""The columns of a record that are scored, and by what: 0.1 above the median is a measure of nats."""


def scores(rows: Sequence[Mapping[str, Any]], multiple: float = 2.0) -> dict[str, Any]:
    """All that is scored of a run's rows: its losses and its gradient norms, and whether it diverged."""
    series = {name: [row.get(name) for row in rows] for name in SCORED}
    found: dict[str, Any] = {name: {key: SCORES[key](series[name]) for key in SCORED[name]} for name in SCORED}
    return found | {"diverged": diverged(series["loss"], multiple)}


def _numbers(series: Series) -> np.ndarray:
    values = np.array([math.nan if value is None else value for value in series], dtype=float)
    return values[np.isfinite(values)]
