"""Seed noise and what it leaves open: intervals of final losses, of differences, of speedups.

The model of the noise. Every optimizer trains with the same seeds, and one seed gives all of them the same
initial weights and the same order of the data, so a final loss is

    loss[optimizer, seed] = mean[optimizer] + shared[seed] + own[optimizer, seed]

with normal ``shared`` and ``own`` of one variance each for all optimizers: the two-way analysis of variance. What
the seed shares cancels in a difference between optimizers at one budget; that, and nothing more, is how pairing
narrows an interval. Runs at different budgets are taken as independent even under one seed, which can only widen.
A race (one budget) and a study (many budgets, many sizes) go through the same functions.

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

    @classmethod
    def given(cls, sd: float, freedom: float) -> Noise:
        """Noise known from elsewhere, all of it the run's own; ``freedom`` says from how many differences."""
        if not (sd > 0 and math.isfinite(sd) and freedom >= 1):
            raise BadInput(f"noise of sd {sd:g} from {freedom:g} degrees of freedom: give sd > 0 and 1 or more")
        return cls(sd, freedom, sd, max(1, int(freedom)), (0, 0))


def pooled_noise(*tables: ArrayLike) -> Noise:
    """Noise from ``losses[optimizers, seeds]``, all finite; several tables, each of its own place, are pooled.

    Needs two seeds; BadInput otherwise.
    """
    checked = [np.asarray(table, dtype=float) for table in tables]
    for table in checked:
        if table.ndim != 2 or table.shape[1] < 2 or table.shape[0] < 1:
            seeds = table.shape[-1] if table.ndim else 0
            raise BadInput(f"{seeds} seed tells nothing about seed noise: give --seeds 2 or more")
        if not np.all(np.isfinite(table)):
            raise BadInput("seed noise needs finite losses: leave diverged optimizers out")
    if not checked:
        raise BadInput("no cell with two seeds tells anything about seed noise: give --seeds 2 or more")
    optimizers = np.array([len(table) for table in checked])
    seed_freedom = np.array([table.shape[1] - 1 for table in checked])
    own_freedom = int(np.sum((optimizers - 1) * seed_freedom))
    of_seed = [table.mean(axis=0, keepdims=True) - table.mean() for table in checked]
    own = [t - t.mean(axis=1, keepdims=True) - seed for t, seed in zip(checked, of_seed, strict=True)]
    seed_square = optimizers * np.array([float(np.sum(seed**2)) for seed in of_seed]) / seed_freedom
    share = seed_freedom / seed_freedom.sum()
    own_square = sum(float(np.sum(left**2)) for left in own)
    own_square = own_square / own_freedom if own_freedom else float(share @ seed_square)
    # The pooled variance of a run is this mixture of the mean squares; Satterthwaite (1946) for its freedom.
    parts = [*zip(share * seed_square / optimizers, seed_freedom, strict=True)]
    if own_freedom:
        parts.append((own_square * float(share @ ((optimizers - 1) / optimizers)), own_freedom))
    variance = float(sum(part for part, _ in parts))
    spread = float(sum(part**2 / freedom for part, freedom in parts))
    freedom = variance**2 / spread if spread > 0 else float(seed_freedom.sum())
    shape = (int(optimizers.max()), int(seed_freedom.max()) + 1)
    own_known = own_freedom or int(seed_freedom.sum())
    return Noise(math.sqrt(variance), float(freedom), math.sqrt(own_square), own_known, shape)


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


def unpaired_difference(losses: ArrayLike, baseline: ArrayLike, noise: Noise, level: float = LEVEL) -> Interval:
    """The same where the seeds differ: nothing cancels."""
    one, other = np.asarray(losses, dtype=float), np.asarray(baseline, dtype=float)
    half = student_t((1 + level) / 2, noise.freedom) * noise.sd * math.sqrt(1 / one.size + 1 / other.size)
    gap = float(one.mean() - other.mean())
    return Interval(gap, gap - half, gap + half, level)


def variances(noise: Noise, draws: int, random: np.random.Generator) -> tuple[Array, Array]:
    """What the degrees of freedom leave open of the noise: own and whole variance of a run, [draws, 1] each.

    Scaled inverse chi-square, so that few seeds give wide intervals.
    """
    own = noise.own_sd**2 * noise.own_freedom / random.chisquare(noise.own_freedom, draws)
    whole = noise.sd**2 * noise.freedom / random.chisquare(noise.freedom, draws)
    return own[:, None], whole[:, None]


@dataclass(frozen=True)
class Redrawn:
    """Mean losses that could have been: the baseline's ``points`` and the contenders' ``losses``, [draws, ...]."""

    points: Array
    losses: Array


def redrawn(
    law: Law,
    budgets: ArrayLike,
    runs: ArrayLike,
    contenders: ArrayLike,
    spread: tuple[Array, Array],
    random: np.random.Generator,
    *,
    at: ArrayLike,
    alone: ArrayLike | None = None,
) -> Redrawn:
    """Parametric bootstrap at one size: baseline points around ``law``, contenders around their means.

    budgets[points] are the law's token counts and runs[points] how many runs each mean holds; spread is what
    :func:`variances` drew. contenders are mean final losses, ``at`` the index of the budget of each where it ran
    over the same seeds as the baseline; -1 where it did not: its runs, ``alone[contenders]`` of them, then share
    nothing with others. Points that the law misses by more than noise vary by that much (``law.scale``).
    """
    x, n, means = (np.asarray(values, dtype=float) for values in (budgets, runs, contenders))
    places = np.asarray(at, dtype=int)
    own, whole = spread
    draws, shared = len(own), np.maximum(0.0, whole - own)
    met, paired = np.unique(places[places >= 0]), places >= 0

    points = law.loss(x) + law.scale * random.standard_normal((draws, x.size)) * np.sqrt(whole / n)
    common = random.standard_normal((draws, met.size)) * np.sqrt(shared / n[met])
    only = law.scale * random.standard_normal((draws, met.size)) * np.sqrt(own / n[met])
    points[:, met] = law.loss(x[met]) + common + only
    count = np.where(paired, n[places], 1.0 if alone is None else np.asarray(alone, dtype=float))
    losses = means + random.standard_normal((draws, means.size)) * np.sqrt(np.where(paired, own, whole) / count)
    losses[:, paired] += common[:, np.searchsorted(met, places[paired])]
    return Redrawn(points, losses)


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
    """Draws races that could have been: :func:`redrawn` losses, and the law fitted anew to each draw.

    contenders are mean final losses at budget ``at`` (an index), over the same seeds as the baseline there.
    """
    random = np.random.default_rng(random_state)
    places = np.full(np.size(contenders), at)
    found = redrawn(law, budgets, runs, contenders, variances(noise, draws, random), random, at=places)
    return Draws(fit_draws(budgets, found.points, weights=runs), found.losses)


@dataclass(frozen=True)
class StepRatio:
    """How many times faster the contender's step is than the baseline's: geometric mean over paired rounds."""

    value: float
    log_sd: float
    freedom: int

    def drawn(self, draws: int, random: np.random.Generator) -> Array:
        """Draws of what it may be."""
        return self.value * np.exp(self.log_sd * random.standard_t(self.freedom, draws))


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
    value = inverse.tokens / tokens
    found = draws.law.tokens(draws.losses[:, [contender]])[:, 0] / tokens
    if steps is not None:
        value *= steps.value
        found = found * steps.drawn(found.size, np.random.default_rng(random_state))
    low, high = (float(end) for end in quantiles(found, level))
    reach = None if steps is not None or inverse.flags else (law.low / tokens, law.high / tokens)
    return speedup_interval(value, low, high, level, inverse.flags, reach)


def quantiles(drawn: Array, level: float) -> tuple[Array, Array]:
    """The ends of the percentile interval of ``drawn[draws, ...]``, from draw to draw; infinite draws are kept."""
    ranked, last = np.sort(drawn, axis=0), len(drawn) - 1
    return ranked[math.floor(last * (1 - level) / 2)], ranked[math.ceil(last * (1 + level) / 2)]


def speedup_interval(
    value: float,
    low: float,
    high: float,
    level: float,
    flags: tuple[str, ...],
    reach: tuple[float, float] | None,
) -> Interval:
    """A stated speedup with its ends: an infinite one is None; one outside ``reach`` (of the law) is flagged."""
    if not math.isfinite(high):
        flags += ("no upper end: the noise reaches the fitted floor",)
    elif reach is not None and not (reach[0] <= low and high <= reach[1]):
        flags += ("the interval reaches outside the fitted range",)
    return Interval(
        value, low if math.isfinite(low) else None, high if math.isfinite(high) else None, level, flags
    )
