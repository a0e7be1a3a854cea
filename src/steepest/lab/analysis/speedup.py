"""Speedups of a whole study: the baseline's tokens for the same loss over the optimizer's, cell by cell.

At every size the baseline's final losses give a law (:mod:`steepest.lab.analysis.law`), and its inverse the tokens
that the baseline would need for a contender's loss (Wen et al., arXiv 2509.02046, section 4 of their estimator).
Their rule is kept (plain least squares, weighted by the number of runs); what they leave out stands beside it: an
interval of seed noise and fit together, the range over fits with one of the law's points left out, the value under
one exponent shared by all sizes, and flags where the law is asked outside its points. All intervals of a study
come from one set of draws, so that what cells share (the law, the noise) stays shared in what is made of them
(:mod:`steepest.lab.analysis.trend`).

Measured on 1,000 simulated studies of three seeds (``pytest tests/lab/test_coverage.py``): nominal 90 % holds the
true speedup, difference and trend 89 to 92 times in 100. Where the true law bends in a way that the fitted form
cannot, that stays so between the law's points; past its last one the interval holds 84 of 100, its middle 0.05 too
high, and with a third of the noise about half. Such speedups carry the flag "outside the fitted range".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.analysis.costs import Costs
from steepest.lab.analysis.interval import (
    LEVEL,
    Interval,
    Noise,
    Redrawn,
    difference,
    final_loss,
    quantiles,
    redrawn,
    speedup_interval,
    unpaired_difference,
    variances,
)
from steepest.lab.analysis.law import POINTS, Array, Curve, Law, fit, fit_draws, fit_shared, invert
from steepest.lab.analysis.noise import repeats, seed_noise
from steepest.lab.analysis.runs import Cell, Final, grouped
from steepest.lab.analysis.verdict import judge

DRAWS = 2000
OWN_FREEDOM = 6
"""A size measures its own noise from this many degrees of freedom on; with fewer it takes the whole study's."""


class Scale(NamedTuple):
    """Where one law holds: a model size and a variant of the architecture."""

    size: str
    variant: str = ""


@dataclass(frozen=True)
class Fitted:
    """The baseline at one scale.

    law: its own law, or None for ``reason``; shared: the law with the exponent that all scales share, None where
    they cannot be fitted together. drawn: what its points and the contenders could have been, and own_draws and
    shared_draws the laws of these points, fields [draws, 1]; None without noise. without: the law fitted without
    each of its points in turn, fields [points, 1].
    """

    weights: int
    points: tuple[Final, ...]
    law: Law | None
    reason: str
    noise: Noise | None
    shared: Law | None
    drawn: Redrawn | None
    own_draws: Law | None
    shared_draws: Law | None
    without: Law | None


@dataclass(frozen=True)
class Speedup:
    """One contender in one cell. ``tokens``, ``steps``, ``flops``, ``seconds``: how many times less of each.

    gap: final loss minus the baseline's, None where the baseline has no run there. shared: the speedup in tokens
    under the shared exponent. leave_one_out: the smallest and largest value when one point of the law is left
    out, infinite at the floor. word: the verdict in tokens (see :mod:`steepest.lab.analysis.verdict`).
    """

    final: Final
    tokens: Interval
    steps: Interval | None
    flops: Interval | None
    seconds: Interval | None
    gap: Interval | None
    shared: Interval | None
    leave_one_out: tuple[float, float] | None
    word: str


@dataclass(frozen=True)
class Speedups:
    """All of a study. ``logs``: draws of the logarithm of every speedup in tokens, [draws, speedups] in their
    order: infinite where a draw reaches the floor, not a number where none is stated; None without noise."""

    baseline: str
    level: float
    scales: Mapping[Scale, Fitted]
    speedups: tuple[Speedup, ...]
    logs: Array | None
    noise: Noise | None


def scale_of(final: Final) -> Scale:
    """The scale that a final loss belongs to."""
    return Scale(final.cell.size, final.cell.variant)


def _seeded(final: Final) -> tuple[object, ...]:
    """Equal for cells of one place over the same seeds; a seed that is not known is nobody else's."""
    return (final.cell,) if None in final.seeds else (final.cell.place, final.seeds)


def speedups(
    finals: Sequence[Final],
    baseline: str,
    *,
    noise: Noise | None = None,
    costs: Mapping[Cell, Costs] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    random_state: int = 0,
) -> Speedups:
    """Every speedup over ``baseline`` that ``finals`` (one per cell) allow.

    noise: of a run, where it is known from elsewhere; otherwise each size measures its own from cells with several
    seeds (with fewer than six degrees of freedom: the whole study). Without either, values stand without
    intervals. BadInput for two finals of one cell, for none of the baseline, for a size of two weights.
    """
    _check(finals, baseline)
    random = np.random.default_rng(random_state)
    pooled = noise or seed_noise(repeats(finals))
    spread = variances(pooled, draws, random) if pooled else None
    by_scale = grouped(sorted(finals, key=lambda final: final.weights), scale_of)
    base = {s: _points(found, baseline) for s, found in by_scale.items()}
    noises = {s: noise or _own_noise(found) or pooled for s, found in by_scale.items()}
    shared = _shared_laws(base, noises)

    scales: dict[Scale, Fitted] = {}
    for scale, points in base.items():
        rivals = [final for final in by_scale[scale] if final.cell.optimizer != baseline]
        law, reason = _own_law(points, noises[scale])
        center, drawn, local = law or shared.get(scale), None, noises[scale]
        if center is not None and local is not None:
            known = spread if spread and local is pooled else variances(local, draws, random)
            drawn = _drawn(center, points, rivals, known, random)
        scales[scale] = Fitted(
            weights=by_scale[scale][0].weights,
            points=tuple(points),
            law=law,
            reason=reason,
            noise=local,
            shared=shared.get(scale),
            drawn=drawn,
            own_draws=None if law is None or drawn is None else _redraw_law(points, drawn),
            shared_draws=None,
            without=None if law is None else _without(points),
        )
    scales = _with_shared_draws(scales, noises)
    told: list[Speedup] = []
    logs = []
    for scale, fitted in scales.items():
        rivals = [final for final in by_scale[scale] if final.cell.optimizer != baseline]
        own = _ratios(fitted.own_draws, fitted.drawn, rivals)
        told += _scale_speedups(rivals, fitted, own, noise is not None, costs or {}, level, random)
        with np.errstate(divide="ignore"):
            logs.append(np.full((draws, len(rivals)), np.nan) if own is None else np.log(own))
    return Speedups(baseline, level, scales, tuple(told), np.hstack(logs) if pooled else None, pooled)


def _check(finals: Sequence[Final], baseline: str) -> None:
    if not any(final.cell.optimizer == baseline for final in finals):
        names = ", ".join(sorted({final.cell.optimizer for final in finals})) or "none"
        raise BadInput(f"baseline {baseline!r} has no final loss; there are {names}")
    seen: dict[Cell, Final] = {}
    weights: dict[str, int] = {}
    for final in finals:
        if final.cell in seen:
            raise BadInput(f"two final losses for {final.cell.optimizer} at {_place(final)}: give one per cell")
        seen[final.cell] = final
        if weights.setdefault(final.cell.size, final.weights) != final.weights:
            both = f"{weights[final.cell.size]:,} and {final.weights:,}"
            raise BadInput(f"size {final.cell.size} has {both} weights: sizes of one name must be one size")


def _place(final: Final) -> str:
    return f"{final.cell.size}, {final.cell.tokens:,} tokens"


def _points(finals: Sequence[Final], baseline: str) -> list[Final]:
    return sorted((f for f in finals if f.cell.optimizer == baseline), key=lambda final: final.cell.tokens)


def _own_noise(finals: Sequence[Final]) -> Noise | None:
    found = seed_noise(repeats(finals))
    return found if found and min(found.freedom, found.own_freedom) >= OWN_FREEDOM else None


def _arrays(points: Sequence[Final]) -> tuple[Array, Array, Array]:
    """Tokens, mean losses and runs."""
    columns = [(f.cell.tokens, f.loss, len(f.losses)) for f in points]
    x, y, n = np.array(columns, dtype=float).T
    return x, y, n


def _own_law(points: Sequence[Final], noise: Noise | None) -> tuple[Law | None, str]:
    budgets = len(points)
    if budgets < POINTS:
        runs = f"{budgets} token budget{'s' * (budgets != 1)}" if budgets else "no run"
        return None, f"the baseline has {runs} at this size, and a law needs {POINTS}"
    x, y, n = _arrays(points)
    known = {} if noise is None else {"sd": noise.sd, "freedom": noise.freedom}
    try:
        law = fit(x, y, weights=n, robust=math.inf, **known)
    except BadInput as error:
        return None, str(error)
    return (None, "; ".join(law.flags)) if law.alpha <= 0 else (law, "")


def _shared_laws(base: Mapping[Scale, Sequence[Final]], noises: Mapping[Scale, Noise | None]) -> dict[Scale, Law]:
    """One exponent for all scales where the baseline has two budgets or more."""
    usable = {scale: points for scale, points in base.items() if len(points) > 1}
    try:
        laws = fit_shared([_curve(points, noises[scale]) for scale, points in usable.items()])
    except BadInput:
        return {}
    return {scale: law for scale, law in zip(usable, laws, strict=True) if law.alpha > 0}


def _curve(points: Sequence[Final], noise: Noise | None, losses: Array | None = None) -> Curve:
    x, y, n = _arrays(points)
    return Curve(x, y if losses is None else losses, n if noise is None else n / noise.sd**2)


def _without(points: Sequence[Final]) -> Law:
    x, y, n = _arrays(points)
    rows = np.broadcast_to(y, (len(x), len(x)))
    return fit_draws(x, rows, weights=n * (1 - np.eye(len(x))))


def _drawn(
    law: Law,
    points: Sequence[Final],
    rivals: Sequence[Final],
    spread: tuple[Array, Array],
    random: np.random.Generator,
) -> Redrawn:
    x, _, n = _arrays(points)
    place = {_seeded(final): index for index, final in enumerate(points)}
    at = np.array([place.get(_seeded(f), -1) for f in rivals], dtype=int)
    means, alone = [f.loss for f in rivals], [len(f.losses) for f in rivals]
    return redrawn(law, x, n, means, spread, random, at=at, alone=alone)


def _redraw_law(points: Sequence[Final], drawn: Redrawn) -> Law:
    x, _, n = _arrays(points)
    return fit_draws(x, drawn.points, weights=n)


def _with_shared_draws(
    scales: Mapping[Scale, Fitted], noises: Mapping[Scale, Noise | None]
) -> dict[Scale, Fitted]:
    """The bootstrap's points of all scales fitted anew with one exponent, draw by draw."""
    usable = {s: f for s, f in scales.items() if f.shared is not None and f.drawn is not None}
    if not usable or len(usable) < sum(fitted.shared is not None for fitted in scales.values()):
        return dict(scales)
    curves = [_curve(f.points, noises[s], f.drawn.points) for s, f in usable.items() if f.drawn is not None]
    laws = dict(zip(usable, fit_shared(curves), strict=True))
    return {s: replace(f, shared_draws=laws[s]) if s in laws else f for s, f in scales.items()}


def _scale_speedups(
    rivals: Sequence[Final],
    fitted: Fitted,
    own: Array | None,
    given: bool,
    costs: Mapping[Cell, Costs],
    level: float,
    random: np.random.Generator,
) -> list[Speedup]:
    own_ends = _ends(own, len(rivals), level)
    shared_ends = _ends(_ratios(fitted.shared_draws, fitted.drawn, rivals), len(rivals), level)
    at_points = {final.cell.tokens: final for final in fitted.points}
    told = []
    for index, final in enumerate(rivals):
        noted = _noted(final, fitted, given)
        reason = fitted.reason or "no law"
        in_tokens = _stated(final, fitted.law, reason, own_ends[index], level, noted)
        gap = _gap(final, at_points.get(final.cell.tokens), fitted.noise, level)
        cost = costs.get(final.cell, Costs())
        seconds = None
        if cost.seconds is not None:
            times = own[:, index] * cost.seconds.drawn(len(own), random) if own is not None else None
            ends = _ends(None if times is None else times[:, None], 1, level)[0]
            seconds = _stated(final, fitted.law, reason, ends, level, noted, cost.seconds.value)
        told.append(
            Speedup(
                final=final,
                tokens=in_tokens,
                steps=_times(in_tokens, cost.steps),
                flops=_times(in_tokens, cost.flops),
                seconds=seconds,
                gap=gap,
                shared=_stated(final, fitted.shared, "", shared_ends[index], level, ()) if fitted.shared else None,
                leave_one_out=_left_out(fitted.without, final),
                word=judge(in_tokens, gap),
            )
        )
    return told


def _ratios(law: Law | None, drawn: Redrawn | None, rivals: Sequence[Final]) -> Array | None:
    """Drawn speedups [draws, contenders]."""
    if law is None or drawn is None:
        return None
    return law.tokens(drawn.losses) / np.array([final.cell.tokens for final in rivals], dtype=float)


def _ends(ratios: Array | None, count: int, level: float) -> list[tuple[float, float] | None]:
    """Both ends of each drawn speedup; None without draws."""
    if ratios is None:
        return [None] * count
    low, high = quantiles(ratios, level)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _noted(final: Final, fitted: Fitted, given: bool) -> tuple[str, ...]:
    if fitted.noise is None:
        return ("no noise is known: no interval",)
    if len(final.losses) > 1:
        return ()
    whose = "given" if given else "that of other cells"
    return (f"one run: its noise is not measured here but {whose} (sd {fitted.noise.sd:.2g})",)


def _stated(
    final: Final,
    law: Law | None,
    reason: str,
    ends: tuple[float, float] | None,
    level: float,
    noted: tuple[str, ...],
    cost: float | None = None,
) -> Interval:
    """A speedup with its interval, or the reason why there is none; ``cost`` where it is not in tokens."""
    if law is None:
        return Interval(None, None, None, level, (reason,))
    inverse = invert(law, final.loss)
    if inverse.tokens is None:
        return Interval(None, None, None, level, inverse.flags)
    tokens = final.cell.tokens
    value = inverse.tokens / tokens * (1.0 if cost is None else cost)
    if ends is None:
        return Interval(value, None, None, level, inverse.flags + noted)
    reach = None if cost is not None or inverse.flags else (law.low / tokens, law.high / tokens)
    found = speedup_interval(value, *ends, level, inverse.flags, reach)
    return replace(found, flags=found.flags + noted)


def _times(interval: Interval, factor: float | None) -> Interval | None:
    if factor is None:
        return None
    value, low, high = (None if e is None else e * factor for e in (interval.value, interval.low, interval.high))
    return replace(interval, value=value, low=low, high=high)


def _gap(final: Final, base: Final | None, noise: Noise | None, level: float) -> Interval | None:
    if base is None or noise is None:
        return None
    if _seeded(final) == _seeded(base):
        return difference(final.losses, base.losses, noise, level)
    return unpaired_difference(final.losses, base.losses, noise, level)


def _left_out(without: Law | None, final: Final) -> tuple[float, float] | None:
    if without is None:
        return None
    values = without.tokens(final.loss) / final.cell.tokens
    return float(values.min()), float(values.max())


def points_told(fitted: Fitted, level: float) -> list[Interval]:
    """The loss of each point of the law with its interval; without ends where no noise is known."""
    if fitted.noise is None:
        return [Interval(final.loss, None, None, level) for final in fitted.points]
    return [final_loss(final.losses, fitted.noise, level) for final in fitted.points]
