"""How a speedup changes with model size: a line through its logarithm over the logarithm of the weights.

The headline of Wen et al. (arXiv 2509.02046: about 1.4 times at 0.1B weights, 1.1 at 1.2B) is such a trend, read
off one fit per size. Here its interval comes from the draws of the speedups themselves, so that what the speedups
of a study share moves the line as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steepest.lab.analysis.interval import Interval, quantiles
from steepest.lab.analysis.law import Array
from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.runs import grouped
from steepest.lab.analysis.speedup import Speedup, Speedups


@dataclass(frozen=True)
class Trend:
    """Of one optimizer at one ratio of data to model.

    per_decade: slope of the natural logarithm of the speedup in tokens per tenfold weights; 0 is no trend, and
    its exponential what ten times the weights multiply the speedup by. line: the speedup on the line at each of
    ``weights``.
    """

    optimizer: str
    ratio: float
    variant: str
    sizes: tuple[str, ...]
    weights: tuple[int, ...]
    per_decade: Interval
    line: tuple[Interval, ...]


def nominal(ratio: float) -> float:
    """A ratio of data to model in two digits: what a study calls 8 may be 7.98 at one size and 8.01 at another."""
    return float(f"{ratio:.2g}")


def trends(study: Speedups) -> list[Trend]:
    """Of every optimizer, ratio and variant whose speedup is stated at two sizes or more."""
    stated = [index for index, found in enumerate(study.speedups) if found.tokens.value is not None]

    def key(index: int) -> tuple[str, float, str]:
        final = study.speedups[index].final
        return final.cell.optimizer, nominal(final.ratio), final.cell.variant

    found = []
    for (optimizer, ratio, variant), places in grouped(stated, key).items():
        told = [study.speedups[place] for place in places]
        if len({one.final.weights for one in told}) > 1:
            logs = None if study.logs is None else study.logs[:, places]
            found.append(_trend(optimizer, ratio, variant, told, logs, study.level))
    return found


def _trend(
    optimizer: str, ratio: float, variant: str, told: Sequence[Speedup], logs: Array | None, level: float
) -> Trend:
    weights = tuple(one.final.weights for one in told)
    x = np.log10(np.array(weights, dtype=float))
    y = np.log([one.tokens.value or math.nan for one in told])
    flags = []
    if logs is None:
        counts = np.ones_like(x)
    else:
        counts = _counts(logs, level)
        loose = [one.final.cell.size for one, count in zip(told, counts, strict=True) if count == 0]
        if loose:
            flags.append(f"no weight on {', '.join(loose)}: its speedup has no upper end")
    if len(set(weights)) < 3:
        flags.append("two sizes: a line through them says nothing about its own form")
    if any("outside the fitted range" in flag for one in told for flag in one.tokens.flags):
        flags.append("some of its speedups lie outside the fitted range of their law")
    sizes = tuple(one.final.cell.size for one in told)
    if len(set(x[counts > 0])) < 2:
        nothing = Interval(None, None, None, level, (*flags, "fewer than two sizes bear a slope"))
        return Trend(optimizer, ratio, variant, sizes, weights, nothing, ())
    # Slope and line are fixed linear combinations of the logarithms: one matrix serves the values and all draws.
    basis = np.stack([np.ones_like(x), x], axis=1)
    solve = np.linalg.solve(basis.T @ (counts[:, None] * basis), basis.T * counts)
    used = counts > 0
    combine = np.vstack([solve[1:], basis @ solve])[:, used]
    values = combine @ y[used]
    if logs is None:
        ends: list[tuple[float | None, float | None]] = [(None, None)] * len(values)
    else:
        scale = _excess(y[used], (basis @ solve)[used][:, used], logs[:, used])
        if scale > 1:
            told_as = f"its interval is widened {scale:.1f} times"
            flags.append(f"the line misses its points by more than their noise allows: {told_as}")
        ends = [
            (_stretched(value, low, scale), _stretched(value, high, scale))
            for value, (low, high) in zip(values, _ends(combine, logs[:, used], level), strict=True)
        ]
    slope = Interval(float(values[0]), *ends[0], level, tuple(flags))
    line = tuple(
        Interval(math.exp(value), _exp(low), _exp(high), level)
        for value, (low, high) in zip(values[1:], ends[1:], strict=True)
    )
    return Trend(optimizer, ratio, variant, sizes, weights, slope, line)


def _exp(end: float | None) -> float | None:
    return None if end is None else math.exp(end)


def _counts(logs: Array, level: float) -> Array:
    """Inverse variances [sizes] from the width of the draws' middle; 0 where that has no upper end."""
    low, high = quantiles(logs, level)
    width = (high - low) / (2 * student_t((1 + level) / 2, 1e9))
    return np.where(np.isfinite(width) & (width > 0), 1 / np.where(width > 0, width, 1.0) ** 2, 0.0)


def _ends(combine: Array, logs: Array, level: float) -> list[tuple[float | None, float | None]]:
    """Percentile interval of each combination; a draw that runs to the floor counts as infinite on its side."""
    bound = np.isinf(logs)
    finite = np.where(bound, 0.0, logs) @ combine.T
    ups = (bound @ (combine > 0).T.astype(float)) > 0
    downs = (bound @ (combine < 0).T.astype(float)) > 0
    low, _ = quantiles(np.where(downs, -np.inf, np.where(ups, np.inf, finite)), level)
    _, high = quantiles(np.where(ups, np.inf, np.where(downs, -np.inf, finite)), level)
    return [
        (float(a) if math.isfinite(a) else None, float(b) if math.isfinite(b) else None)
        for a, b in zip(low, high, strict=True)
    ]


def _excess(y: Array, hat: Array, logs: Array) -> float:
    """How many times more than the draws allow the line misses its points; 1 within 99 of 100 of the draws.

    The scale factor of the Particle Data Group, as in :class:`steepest.lab.analysis.law.Law`.
    """
    if len(y) < 3:
        return 1.0
    kept = logs[np.all(np.isfinite(logs), axis=1)]
    away = kept - np.median(kept, axis=0)
    scale = np.var(away, axis=0)
    missed = float(np.sum((y - hat @ y) ** 2 / scale))
    drawn = np.sum((away - away @ hat.T) ** 2 / scale, axis=1)
    return math.sqrt(missed / float(drawn.mean())) if missed > np.quantile(drawn, 0.99) else 1.0


def _stretched(value: float, end: float | None, scale: float) -> float | None:
    return None if end is None else float(value + scale * (end - value))
