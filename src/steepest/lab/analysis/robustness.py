"""How much a hyperparameter may be off: the width of its good region, and what a guess costs on average.

Both are numbers of one sweep (:mod:`steepest.lab.analysis.sweeps`), on the axis that the sweep names and on the
curve through its points (:mod:`steepest.lab.analysis.monotone`), whose minimum is the best loss tried.

*Width at a margin*: the length of the region around the best value in which the loss stays within the margin of
the best. Where it reaches the last value tried, the width is a lower bound; where the next value diverged, its end
lies somewhere up to that value, and ``most`` says how wide it could be.

*Regret*: what a value drawn evenly on the axis costs, mean of min(loss, loss at the start) - best, after the
learning-rate sensitivity of Wortsman et al. (arXiv 2309.14322, section 2.2), there over three decades. Here over
all that was tried, and over values within a factor of the best one: what a practitioner pays who knows the best
value to that factor. A diverged run counts as the loss at the start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from steepest.lab.analysis.interval import LEVEL, Interval, Noise, pooled_noise
from steepest.lab.analysis.law import Array
from steepest.lab.analysis.monotone import HALVINGS, Curves
from steepest.lab.analysis.runs import Cell, Place, Run
from steepest.lab.analysis.sweeps import LOG, MEMORY, NAMES, Sweep, value_at

MARGINS = (0.01, 0.03, 0.1)
FACTORS = (2.0, 4.0, 10.0)
DRAWS = 100
CROSSED, EDGE, BROKE = "crossed", "edge", "diverged"
COVERED = 0.9
"""Share of a range that must have been tried before a mean over it is stated."""
_KINDS = (CROSSED, EDGE, BROKE)
_CHUNK = 1 << 14  # curves at once: their arrays stay in a core's cache
_COARSE = 6  # halvings for a draw: straight within a 64th of a gap, far below the noise


@dataclass(frozen=True, slots=True)
class Width:
    """The region within ``margin`` nats/token of the best.

    width: in the axis's unit, as far as the region was seen. most: how wide it may be, None where it is open.
    low, high: the hyperparameter at its ends, None on an axis of steps. low_end, high_end: ``crossed`` where the
    loss left the margin between two tried values, ``edge`` of what was tried, or ``diverged`` beyond.
    """

    margin: float
    width: Interval
    most: float | None
    low: float | None
    high: float | None
    low_end: str
    high_end: str

    @property
    def open(self) -> bool:
        """Whether the region reaches the edge of what was tried."""
        return EDGE in (self.low_end, self.high_end)


@dataclass(frozen=True, slots=True)
class Regret:
    """Mean loss above the best, nats/token, within ``factor`` of the best value; None: over all that was tried.

    covered: the share of that range that was tried; ``regret`` is refused below :data:`COVERED`.
    """

    factor: float | None
    regret: Interval
    covered: float


@dataclass(frozen=True, slots=True)
class Robustness:
    """What one sweep says; ``sd``: noise of one of its points, None where seeds tell none."""

    sweep: Sweep
    widths: tuple[Width, ...] = ()
    regrets: tuple[Regret, ...] = ()
    sd: float | None = None
    flags: tuple[str, ...] = field(default=())


def robustness(
    found: Sequence[Sweep],
    *,
    noise: Noise | None = None,
    start: Mapping[Place, float] | None = None,
    margins: Sequence[float] = MARGINS,
    factors: Sequence[float] = FACTORS,
    draws: int = DRAWS,
    random_state: int = 0,
) -> list[Robustness]:
    """Widths and regrets of every sweep, in its order; without any for a sweep over names or without two places.

    noise: of the seeds; if None, what the sweeps' own shared seeds tell, cell by cell. start: loss of a run that
    learned nothing (:func:`starts` finds what the runs show of it), for points that diverged; the highest loss of
    the sweep where it is not known. The intervals are percentiles of ``draws`` sweeps whose points are drawn
    anew within their noise.
    """
    own = {} if noise is not None else _own_noise(found)
    told = {k: Robustness(sweep, flags=_flags(sweep)) for k, sweep in enumerate(found)}
    curves: dict[int, list[tuple[int, _Curve]]] = {}
    for k, sweep in enumerate(found):
        curve = _curve(sweep, noise or own.get(sweep.cell), (start or {}).get(sweep.cell.place))
        if curve is not None:
            curves.setdefault(len(curve.places), []).append((k, curve))
    random = np.random.default_rng(random_state)
    for batch in curves.values():
        measured = _measured([curve for _, curve in batch], margins, factors, draws, random)
        told |= dict(zip([k for k, _ in batch], measured, strict=True))
    return list(told.values())


def starts(runs: Iterable[Run]) -> dict[Place, float]:
    """The highest loss that finished runs of each place recorded: first on their way, or at their end.

    A lower bound of the loss at the start, which records do not hold; better is the logarithm of the vocabulary.
    """
    highest: dict[Place, float] = {}
    for run in runs:
        if run.loss is not None:
            seen = max(run.loss, run.curve[0][1] if run.curve else run.loss)
            place = run.cell.place
            highest[place] = max(seen, highest.get(place, seen))
    return highest


class _Curve(NamedTuple):
    """A sweep as numbers: infinite losses for points that diverged, which count as ``top`` in a mean.

    sds: noise of each point, from ``freedom``; empty where seeds tell none.
    """

    sweep: Sweep
    places: list[float]
    losses: list[float]
    top: float
    sds: list[float]
    freedom: float


def _curve(sweep: Sweep, noise: Noise | None, start: float | None) -> _Curve | None:
    points = [point for point in sweep.points if point.place is not None]
    ended = [point.loss for point in points if point.loss is not None]
    if sweep.axis == NAMES or len(points) < 2 or not ended:
        return None
    losses = [math.inf if point.loss is None else point.loss for point in points]
    top = max([*ended, start] if start is not None else ended)
    places = [point.place for point in points if point.place is not None]
    if noise is None:
        return _Curve(sweep, places, losses, top, [], 0.0)
    # Over shared seeds only what a run does not share counts: the rest moves all points alike.
    sd, freedom = (noise.own_sd, noise.own_freedom) if sweep.seeds else (noise.sd, noise.freedom)
    sds = [sd / math.sqrt(max(1, len(point.losses))) for point in points]
    return _Curve(sweep, places, losses, top, sds, freedom)


def _own_noise(found: Sequence[Sweep]) -> dict[Cell, Noise]:
    """Seed noise of each cell from sweeps over two or more shared seeds, of points near their best: far from it
    runs are noisier, and no end of a region lies there."""
    tables: dict[Cell, list[list[tuple[float, ...]]]] = {}
    for sweep in found:
        best = sweep.best
        if len(sweep.seeds) < 2 or best is None or best.loss is None:
            continue
        near = [p.losses for p in sweep.points if p.loss is not None and p.loss <= best.loss + max(MARGINS)]
        if len(near) > 1:
            tables.setdefault(sweep.cell, []).append(near)
    return {cell: pooled_noise(*of_cell) for cell, of_cell in tables.items()}


class _Found(NamedTuple):
    """Of curves: places where each region was seen to end and may end, and how [margins, curves, sides]; regrets
    and the share of the range that they cover [ranges, curves]."""

    ends: Array
    beyond: Array
    kinds: np.ndarray
    regrets: Array
    covered: Array


def _measured(
    batch: Sequence[_Curve],
    margins: Sequence[float],
    factors: Sequence[float],
    draws: int,
    random: np.random.Generator,
) -> Iterator[Robustness]:
    """Sweeps of one number of points."""
    x, y = (np.array(rows, dtype=float).T for rows in zip(*((c.places, c.losses) for c in batch), strict=True))
    top = np.array([curve.top for curve in batch])
    at = _find(x, y, top, margins, factors, HALVINGS)
    spread = np.full((len(margins) + 1 + len(factors), len(batch), 2), np.nan)
    noisy = np.array([k for k, curve in enumerate(batch) if curve.sds], dtype=int)
    size = max(1, _CHUNK // draws)
    for rows in (noisy[first : first + size] for first in range(0, len(noisy), size)):
        freedom = np.array([batch[k].freedom for k in rows])[:, None]
        sds = np.array([batch[k].sds for k in rows]).T[:, :, None]
        sds = sds * np.sqrt(freedom / random.chisquare(freedom, (len(rows), draws)))
        drawn = y[:, rows, None] + sds * random.standard_normal(sds.shape)
        places, tops = (np.repeat(part[..., rows], draws, axis=-1) for part in (x, top))
        found = _find(places, drawn.reshape(len(x), -1), tops, margins, factors, _COARSE)
        for side, parts in enumerate((found.ends, found.beyond)):
            values = np.concatenate([parts[..., 1] - parts[..., 0], found.regrets])
            values = values.reshape(len(spread), len(rows), draws)
            q, method = ((1 + LEVEL) / 2, "higher") if side else ((1 - LEVEL) / 2, "lower")
            spread[:, rows, side] = np.quantile(values, q, axis=2, method=method)  # type: ignore[call-overload]
    ends, beyond, kinds = (part.transpose(1, 0, 2).tolist() for part in (at.ends, at.beyond, at.kinds))
    regrets, covered = at.regrets.T.tolist(), at.covered.T.tolist()
    spans = np.where(np.isfinite(spread), spread, np.nan).transpose(1, 0, 2).tolist()
    for k, curve in enumerate(batch):
        axis, sd = curve.sweep.axis, max(curve.sds, default=None)
        own = [[None if end != end else end for end in span] for span in spans[k]]
        widths = tuple(
            _width(axis, margin, ends[k][i], beyond[k][i], kinds[k][i], own[i], sd)
            for i, margin in enumerate(margins)
        )
        ranges: list[float | None] = [None, *factors] if axis in (LOG, MEMORY) else [None]
        costs = tuple(
            _regret(factor, regrets[k][i], covered[k][i], own[len(margins) + i]) for i, factor in enumerate(ranges)
        )
        yield Robustness(curve.sweep, widths, costs, sd, _flags(curve.sweep, curve.top))


def _find(
    x: Array, y: Array, top: Array, margins: Sequence[float], factors: Sequence[float], halvings: int
) -> _Found:
    """Everything that is measured of curves through ``y[points, curves]``, infinite where a point diverged."""
    points, count = x.shape
    lost = ~np.isfinite(y)
    curves = Curves(x, np.where(lost, top, y))
    best, every = np.argmin(y, axis=0), np.arange(count)
    lowest, middle = y[best, every], x[best, every]
    shape = (len(margins), count, 2)
    ends, beyond, kinds = np.empty(shape), np.empty(shape), np.empty(shape, dtype=int)
    for i, margin in enumerate(margins):
        level = lowest + margin
        left, right = np.full(count, -1), np.full(count, points)
        for p in range(points):
            bad = y[p] > level
            left = np.where(bad & (p < best), p, left)
            right = np.where(bad & (p > best) & (right == points), p, right)
        for side, (out, inside) in enumerate(((left, left + 1), (right, right - 1))):
            gone = (out < 0) | (out == points)
            next_out = np.where(gone, inside, out)
            broke = lost[next_out, every]
            found = x[inside, every]
            cut = np.flatnonzero(~gone & ~broke)
            found[cut] = curves.crossing(cut, np.minimum(out, inside)[cut], level[cut], halvings)
            ends[i, :, side] = found
            kinds[i, :, side] = np.where(gone, 1, np.where(broke, 2, 0))
            beyond[i, :, side] = np.where(broke, x[next_out, every], found)
            beyond[i, gone, side] = math.inf if side else -math.inf
    regrets, covered = np.empty((1 + len(factors), count)), np.ones((1 + len(factors), count))
    regrets[0] = curves.mean(x[0], x[-1]) - lowest
    for i, factor in enumerate(factors, 1):
        reach = math.log10(factor)
        low, high = np.maximum(middle - reach, x[0]), np.minimum(middle + reach, x[-1])
        inner = curves.mean(low, high) - lowest
        # What lies beyond an outermost value that diverged counts as diverged.
        outer = np.where(lost[0], low - (middle - reach), 0) + np.where(lost[-1], middle + reach - high, 0)
        regrets[i] = ((high - low) * inner + outer * (top - lowest)) / (high - low + outer)
        covered[i] = np.minimum(1, (high - low + outer) / (2 * reach))
    return _Found(ends, beyond, kinds, regrets, covered)


def _width(
    axis: str,
    margin: float,
    ends: Sequence[float],
    beyond: Sequence[float],
    kinds: Sequence[int],
    spread: Sequence[float | None],
    sd: float | None,
) -> Width:
    (low, high), (low_end, high_end) = ends, (_KINDS[kind] for kind in kinds)
    flags = []
    for end, side in ((low_end, "low"), (high_end, "high")):
        if end == EDGE:
            flags.append(f"reaches the {side}est value tried: at least so wide")
        elif end == BROKE:
            flags.append(f"the next value beyond its {side} end diverged")
    if sd is not None and margin < 2 * sd:
        flags.append(f"the margin lies within the noise of one point (sd {sd:.2g})")
    most = beyond[1] - beyond[0]
    width = Interval(high - low, spread[0], spread[1], LEVEL, tuple(flags))
    values = value_at(axis, low), value_at(axis, high)
    return Width(margin, width, most if math.isfinite(most) else None, *values, low_end, high_end)


def _regret(factor: float | None, value: float, covered: float, spread: Sequence[float | None]) -> Regret:
    if covered < COVERED:
        return Regret(
            factor, Interval(None, None, None, LEVEL, (f"only {covered:.0%} of the range was tried",)), covered
        )
    return Regret(factor, Interval(value, spread[0], spread[1], LEVEL), covered)


def _flags(sweep: Sweep, top: float | None = None) -> tuple[str, ...]:
    flags = []
    if sweep.best is None:
        flags.append("every value tried diverged")
    elif sweep.edge:
        flags.append(f"the best value is the {sweep.edge}est tried")
    if sweep.above:
        flags.append(f"the sweep's best lies {sweep.above:.4f} nats/token above the cell's best setting")
    if not sweep.seeds:
        flags.append("the values were not run with the same seeds")
    if top is not None and any(not point.losses for point in sweep.points):
        flags.append(f"diverged values count as {top:.2f} nats/token in the regret")
    return tuple(flags)
