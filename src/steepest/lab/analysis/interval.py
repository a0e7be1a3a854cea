"""Seed noise and what it leaves open: intervals of final losses, of differences, of speedups.

The model of the noise. Every optimizer trains with the same seeds, and one seed gives all of them the same
initial weights and the same order of the data, so a final loss is

    loss[optimizer, seed] = mean[optimizer] + shared[seed] + own[optimizer, seed]

with normal ``shared`` and ``own`` of one variance each for all optimizers: the two-way analysis of variance. What
the seed shares cancels in a difference between optimizers at one budget; that, and nothing more, is how pairing
narrows an interval. Runs at different budgets are taken as independent even under one seed, which can only widen.

Each interval stands alone (no correction for several optimizers) and holds seed noise, the fit of the law and, in
seconds, the spread of the step times. It does not hold what a finer tuning of any side might still bring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from steepest.core.errors import BadInput
from steepest.lab.analysis.law import Array, Law, fit_draws, invert
from steepest.lab.analysis.quantile import student_t

LEVEL = 0.9
DRAWS = 4000


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval at ``level``; None where it is refused or has no end."""

    value: float | None
    low: float | None
    high: float | None
    level: float = LEVEL
    flags: tuple[str, ...] = ()

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside; a missing end lies at infinity, a refused interval excludes nothing."""
        if self.value is None:
            return False
        return (self.low is not None and self.low > value) or (self.high is not None and self.high < value)


@dataclass(frozen=True)
class Noise:
    """Seed noise pooled over optimizers, nats/token.

    sd, freedom: of one run, with Satterthwaite's degrees of freedom. own_sd, own_freedom: of what one run does
    not share with the other optimizers under its seed. shape: (optimizers, seeds) it comes from.
    """

    sd: float
    freedom: float
    own_sd: float
    own_freedom: int
    shape: tuple[int, int]


def pooled_noise(losses: ArrayLike) -> Noise:
    """Noise from ``losses[optimizers, seeds]``, all finite. Needs two seeds; BadInput otherwise."""
    table = np.asarray(losses, dtype=float)
    if table.ndim != 2 or table.shape[1] < 2 or table.shape[0] < 1:
        seeds = table.shape[-1] if table.ndim else 0
        raise BadInput(f"{seeds} seed tells nothing about seed noise: give --seeds 2 or more")
    if not np.all(np.isfinite(table)):
        raise BadInput("seed noise needs finite losses: leave diverged optimizers out")
    optimizers, seeds = table.shape
    of_optimizer, of_seed = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    own_freedom, seed_freedom = (optimizers - 1) * (seeds - 1), seeds - 1
    own = table - of_optimizer - of_seed + table.mean()
    seed_square = optimizers * float(np.sum((of_seed - table.mean()) ** 2)) / seed_freedom
    own_square = float(np.sum(own**2)) / own_freedom if own_freedom else seed_square
    # The pooled variance of a run is this mixture of the two mean squares; Satterthwaite (1946) for its freedom.
    parts = [(seed_square / optimizers, seed_freedom)]
    if own_freedom:
        parts.append((own_square * (optimizers - 1) / optimizers, own_freedom))
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread > 0 else float(seed_freedom)
    return Noise(
        math.sqrt(variance), freedom, math.sqrt(own_square), own_freedom or seed_freedom, (optimizers, seeds)
    )


def final_loss(losses: ArrayLike, noise: Noise, level: float = LEVEL) -> Interval:
    """Mean of ``losses[seeds]`` with Student's t interval from the pooled noise of a run."""
    values = np.asarray(losses, dtype=float)
    half = student_t((1 + level) / 2, noise.freedom) * noise.sd / math.sqrt(values.size)
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half, level)


def difference(losses: ArrayLike, baseline: ArrayLike, noise: Noise, level: float = LEVEL) -> Interval:
    """Mean of ``losses[seeds] - baseline[seeds]`` (same seeds, same order), with the noise not shared by them."""
    gaps = np.asarray(losses, dtype=float) - np.asarray(baseline, dtype=float)
    half = student_t((1 + level) / 2, noise.own_freedom) * noise.own_sd * math.sqrt(2 / gaps.size)
    mean = float(gaps.mean())
    return Interval(mean, mean - half, mean + half, level)


@dataclass(frozen=True)
class Draws:
    """Parametric bootstrap of one race: ``law`` with fields [draws, 1], ``losses`` [draws, contenders]."""

    law: Law
    losses: Array


def bootstrap(
    law: Law,
    budgets: ArrayLike,
    runs: ArrayLike,
    contenders: ArrayLike,
    noise: Noise,
    *,
    at: int,
    draws: int = DRAWS,
    random_state: int = 0,
) -> Draws:
    """Draws races that could have been: baseline points around ``law``, contenders around their means.

    budgets[points] are the law's token counts and runs[points] how many runs each mean holds; contenders are mean
    final losses at budget ``at`` (an index), over the same seeds as the baseline there. Each draw first draws the
    noise's variances from what their degrees of freedom leave open (scaled inverse chi-square), so that few seeds
    give wide intervals, then the means, then fits the law anew. Points that the law misses by more than noise
    vary by that much (``law.scale``).
    """
    x, n = np.asarray(budgets, dtype=float), np.asarray(runs, dtype=float)
    means = np.asarray(contenders, dtype=float)
    random = np.random.default_rng(random_state)
    own = noise.own_sd**2 * noise.own_freedom / random.chisquare(noise.own_freedom, draws)
    whole = noise.sd**2 * noise.freedom / random.chisquare(noise.freedom, draws)
    own, whole = own[:, None], whole[:, None]
    shared = np.maximum(0.0, whole - own)

    points = law.loss(x) + law.scale * random.standard_normal((draws, x.size)) * np.sqrt(whole / n)
    common = random.standard_normal((draws, 1)) * np.sqrt(shared / n[at])
    alone = law.scale * random.standard_normal((draws, 1)) * np.sqrt(own / n[at])
    points[:, [at]] = law.loss(x[at]) + common + alone
    losses = means + common + random.standard_normal((draws, means.size)) * np.sqrt(own / n[at])
    return Draws(fit_draws(x, points, weights=n), losses)


@dataclass(frozen=True)
class StepRatio:
    """How many times faster the contender's step is than the baseline's: geometric mean over paired rounds."""

    value: float
    log_sd: float
    freedom: int


def step_ratio(baseline: ArrayLike, contender: ArrayLike) -> StepRatio:
    """From seconds per step of ``[rounds]`` of one interleaved calibration, the same rounds for both."""
    logs = np.log(np.asarray(baseline, dtype=float)) - np.log(np.asarray(contender, dtype=float))
    if logs.size < 2:
        raise BadInput(f"{logs.size} calibration round has no spread: time 2 or more")
    return StepRatio(float(np.exp(logs.mean())), float(logs.std(ddof=1)) / math.sqrt(logs.size), logs.size - 1)


def speedup(
    law: Law,
    loss: float,
    tokens: float,
    draws: Draws,
    contender: int,
    *,
    steps: StepRatio | None = None,
    level: float = LEVEL,
    random_state: int = 1,
) -> Interval:
    """The baseline's tokens for ``loss`` over the contender's ``tokens``, with a percentile interval of ``draws``.

    With ``steps`` the same in seconds: times the ratio of step times, whose spread is drawn along. A loss at or
    below the law's floor is refused; one outside its range is flagged; an end that runs to the floor is None.
    """
    inverse = invert(law, loss)
    if inverse.tokens is None:
        return Interval(None, None, None, level, inverse.flags)
    value, flags = inverse.tokens / tokens, list(inverse.flags)
    drawn = draws.law.tokens(draws.losses[:, [contender]])[:, 0] / tokens
    if steps is not None:
        value *= steps.value
        random = np.random.default_rng(random_state)
        drawn = drawn * steps.value * np.exp(steps.log_sd * random.standard_t(steps.freedom, drawn.size))
    low = float(np.quantile(drawn, (1 - level) / 2, method="lower"))
    high = float(np.quantile(drawn, (1 + level) / 2, method="higher"))
    if not math.isfinite(high):
        flags.append("no upper end: the noise reaches the fitted floor")
    elif not inverse.flags and not (law.low <= low * tokens and high * tokens <= law.high) and steps is None:
        flags.append("the interval reaches outside the fitted range")
    return Interval(
        value, low if math.isfinite(low) else None, high if math.isfinite(high) else None, level, tuple(flags)
    )
