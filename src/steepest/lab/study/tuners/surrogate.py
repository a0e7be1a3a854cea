"""A tuner that fits a bowl: a quadratic in grid steps around the best run, under a prior of what losses are like.

    first       the start, and one step from it along every hyperparameter, at once
    then        ``batch`` at a time: where the bowl is lowest, and where bowls drawn from its posterior are
    the end     the configuration whose fitted loss is lowest, among those that were run

Coordinate descent learns from a pass which run was the best; a bowl learns from every run how steep each
hyperparameter is and how pairs of them hang together, and finds optima between the values of a grid. It has
more coefficients than there are runs, and what they leave open the prior decides: upwards in every direction, as
steep as the losses so far make likely, in pairs weakly coupled. Far from the best run no loss is a bowl, so that a
run counts the less the farther it is, by the cube of its distance. A diverged run counts as somewhat above the
best, and nothing nearer to it than to a run that ended is tried; where all diverge, lr goes down.

Bayesian linear regression: Bishop, Pattern Recognition and Machine Learning (2006), sections 3.3 to 3.5. Minima of
posterior draws, as a batch: Thompson sampling, Kandasamy et al. (arXiv 1705.09236).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.study.ruler import Ruler
from steepest.lab.study.search import Ask, Losses, checked, key, tried
from steepest.lab.study.trial import Space, Values
from steepest.lab.study.tuners.found import Found

Array = np.ndarray

SLOPE, CURVE, CROSS = 1.0, 0.5, 0.35
"""Prior sds of a bowl's coefficients over its steepness: slopes, curvatures (around 1), products of pairs."""

MISFIT = 0.05
"""Prior sd of what a bowl misses one step from its centre, over its steepness."""

LEVEL = 0.05
"""Prior sd of the loss at the centre, over the lowest so far, nats/token."""

CAP, UNSURE = 0.15, 0.1
"""A diverged run's loss over the lowest so far, and how unsure that is; one that ended counts as 1 at most."""

NEAR, FAR = 1.0, 2.0
"""Steps from the best run within which draws, and the bowl itself, are followed."""

STEPS = math.log(2) * np.arange(-2.5, 3)
"""Factors by which a steepness is tried when it is learned, as logarithms."""


@dataclass(frozen=True)
class Surrogate:
    """runs: of the search. batch: of a question after the first. noise: sd of a loss between seeds, nats/token.
    bend: what a hyperparameter's steepness is about, nats/token per step², by a factor of e either way (1 sd).
    reach: steps past the ends of lr's grid. parts: into how many a step is divided, where values lie between.
    """

    runs: int = 24
    batch: int = 2
    noise: float = 1e-3
    bend: float = 0.02
    reach: int = 2
    parts: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("runs", 2), ("batch", 2), ("parts", 1), ("reach", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"{name}={getattr(self, name)}: give at least {least}")
        for name, such in (("noise", "1e-3"), ("bend", "0.02")):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"{name}={getattr(self, name)}: it must be finite and above 0, such as {such}")


def fit_bowl(space: Space, start: Values, ask: Ask, rule: Surrogate | None = None) -> Generator[Any, Any, Found]:
    """The search, see the head of this file."""
    rule = rule or Surrogate()
    checked(space, start)
    known = _Known(space, start, rule)
    losses: Losses = {}
    wanted = known.first()
    while wanted and len(losses) < rule.runs:
        wanted = wanted[: rule.runs - len(losses)]
        named = {key(values): x for x in wanted for values in [known.values(x)]}
        found = yield from tried(ask, (dict(name) for name in named))
        losses |= {name: found.get(name, math.inf) for name in named}
        known.add(list(named.values()), [losses[name] for name in named])
        wanted = known.next(rule.batch)
    return Found(known.best(), losses)


@dataclass(frozen=True)
class Bowl:
    """A quadratic's posterior around ``centre``: coefficients ``mean`` + ``root`` · standard normal."""

    centre: Array
    mean: Array
    root: Array

    def at(self, x: Array) -> Array:
        """Fitted loss at positions (n, d), over the lowest so far."""
        return _features(x - self.centre) @ self.mean


class _Known:
    """What a search knows: positions ``x`` (n, d) in grid steps, their losses ``y``, infinite where diverged."""

    def __init__(self, space: Space, start: Values, rule: Surrogate) -> None:
        self.rule, self.rng = rule, np.random.default_rng(rule.seed)
        self.rulers = {name: Ruler(tuple(grid), rule.reach * (name == "lr")) for name, grid in space.items()}
        self.low, self.high = np.array([ruler.ends for ruler in self.rulers.values()]).T
        self.parts = np.array([rule.parts if ruler.continuous else 1 for ruler in self.rulers.values()])
        self.given = start
        self.start = np.array([ruler.position(start[name]) for name, ruler in self.rulers.items()])
        self.x, self.y = np.empty((0, len(space))), np.empty(0)

    def values(self, x: Array) -> Values:
        # A start off the grid is taken as it was given, not as its position rounds.
        own = zip(self.rulers.items(), x.tolist(), self.start.tolist(), strict=True)
        return {name: self.given[name] if p == start else ruler.value(p) for (name, ruler), p, start in own}

    def add(self, x: list[Array], y: list[float]) -> None:
        self.x, self.y = np.vstack([self.x, *x]), np.append(self.y, y)

    def first(self) -> list[Array]:
        """The start, and a step along each hyperparameter: lr down, where less diverges, the others up."""
        found = [self.start]
        for k, name in enumerate(self.rulers):
            step = -1.0 if name == "lr" else 1.0
            inside = self.low[k] <= self.start[k] + step <= self.high[k]
            x = self.start.copy()
            x[k] = np.clip(x[k] + (step if inside else -step), self.low[k], self.high[k])
            found += [x] if x[k] != self.start[k] else []
        return found

    def next(self, count: int) -> list[Array]:
        """Where the bowl is lowest, then where bowls drawn from its posterior are; fewer where all is tried."""
        if not np.isfinite(self.y).any() and (lower := self._lower(count)):
            return lower
        bowl = self.bowl()
        found: list[Array] = []
        self._take(found, bowl.mean, bowl.centre, FAR)
        for _ in range(8 * count):
            if len(found) >= count:
                break
            drawn = bowl.mean + bowl.root @ self.rng.standard_normal(len(bowl.mean))
            self._take(found, drawn, bowl.centre, NEAR)
        return found

    def _lower(self, count: int) -> list[Array]:
        """The start at the next lower learning rates: where all diverges, the way out."""
        found = []
        for k in (k for k, name in enumerate(self.rulers) if name == "lr"):
            for lr in np.arange(self.x[:, k].min() - 1, self.low[k] - 0.5, -1)[:count]:
                found.append(np.where(np.arange(len(self.start)) == k, lr, self.start))
        return found

    def best(self) -> Values | None:
        """Of what was run, the lowest fitted loss."""
        ran = np.isfinite(self.y)
        if not ran.any():
            return None
        return self.values(self.x[int(np.argmin(np.where(ran, self.bowl().at(self.x), np.inf)))])

    def bowl(self) -> Bowl:
        """Fitted around the run whose fitted loss is lowest."""
        ran = np.isfinite(self.y)
        if not ran.any():
            return self._around(self.start, self.start[None], np.zeros(1), np.ones(1))
        y = np.where(ran, np.minimum(self.y - self.y[ran].min(), 1.0), CAP)
        noise = np.where(ran, self.rule.noise, UNSURE)
        centre = int(np.argmin(self.y))
        for _ in range(3):
            bowl = self._around(self.x[centre], self.x, y, noise)
            lowest = int(np.argmin(np.where(ran, bowl.at(self.x), np.inf)))
            if lowest == centre:
                break
            centre = lowest
        return bowl

    def _around(self, centre: Array, x: Array, y: Array, noise: Array) -> Bowl:
        features, cubes = _features(x - centre), np.abs(x - centre) ** 3
        bends = self._bends(features, cubes, y, noise)
        mean, sd = _prior(bends)
        # Coefficients over their prior sd: well-conditioned, however small the noise.
        white = features * sd / (variance := noise**2 + (MISFIT * cubes @ bends) ** 2)[:, None] ** 0.5
        precision = np.eye(len(sd)) + white.T @ white
        left = (y - features @ mean) / variance**0.5
        root = np.linalg.inv(np.linalg.cholesky(precision)).T
        return Bowl(centre, mean + sd * (root @ (root.T @ (white.T @ left))), sd[:, None] * root)

    def _bends(self, features: Array, cubes: Array, y: Array, noise: Array) -> Array:
        """The likeliest steepness of each hyperparameter: of all at once, of each, then again in finer steps."""
        size = cubes.shape[1]
        logs = np.zeros(size + 1)
        sds = np.array([1.0] + [0.7] * size)

        def likelihood(logs: Array) -> Array:
            bends = self.rule.bend * np.exp(logs[:, :1] + logs[:, 1:])
            mean, sd = _prior(bends)
            spread = (features * sd[:, None] ** 2) @ features.T
            spread[:, range(len(y)), range(len(y))] += noise**2 + (MISFIT * bends @ cubes.T) ** 2
            root = np.linalg.cholesky(spread)
            left = np.linalg.solve(root, (y - mean @ features.T)[..., None])[..., 0]
            fit = (left**2).sum(1) / 2 + np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
            return -fit - ((logs / sds) ** 2).sum(1) / 2

        for steps in (STEPS, STEPS / 3):
            for k in range(size + 1):
                some = np.repeat(logs[None], len(steps) + 1, 0)
                some[1:, k] += steps
                logs = some[int(np.argmax(likelihood(some)))]
        return self.rule.bend * np.exp(logs[0] + logs[1:])

    def _take(self, taken: list[Array], weights: Array, centre: Array, radius: float) -> None:
        """Adds the lowest new position of a quadratic within ``radius`` steps of its centre."""
        low = np.ceil(np.maximum(self.low, centre - radius) * self.parts)
        high = np.floor(np.minimum(self.high, centre + radius) * self.parts)
        x = self.rng.integers(low.astype(int), high.astype(int) + 1, (300, len(centre))) / self.parts
        x = x[np.argsort(_features(x - centre) @ weights)]
        lowest = self._descended(x[0], weights, centre, low, high)
        for candidate in (lowest, *x[:20]):
            if self._worth(candidate, taken):
                taken.append(candidate)
                return

    def _descended(self, x: Array, weights: Array, centre: Array, low: Array, high: Array) -> Array:
        """A minimum of a quadratic along every hyperparameter."""
        for _ in range(4):
            before = x
            for k in range(len(x)):
                line = np.arange(low[k], high[k] + 1) / self.parts[k]
                along = np.repeat(x[None], len(line), 0)
                along[:, k] = line
                x = along[int(np.argmin(_features(along - centre) @ weights))]
            if (x == before).all():
                break
        return x

    def _worth(self, x: Array, taken: list[Array]) -> bool:
        """Whether a position is new, and not nearer to a diverged run than to one that ended."""
        if any((x == other).all() for other in (*self.x, *taken)):
            return False
        away, ran = np.abs(self.x - x).sum(1), np.isfinite(self.y)
        return bool(ran.all() or (ran.any() and away[ran].min() < away[~ran].min()) or not ran.any())


def _features(z: Array) -> Array:
    """1, z, z²/2, products of pairs: (n, d) to (n, p)."""
    i, j = np.triu_indices(z.shape[1], 1)
    return np.hstack([np.ones((len(z), 1)), z, z * z / 2, z[:, i] * z[:, j]])


def _prior(bends: Array) -> tuple[Array, Array]:
    """Means and sds of the coefficients, (..., p), at steepnesses (..., d)."""
    i, j = np.triu_indices(bends.shape[-1], 1)
    pairs, one = np.sqrt(bends[..., i] * bends[..., j]), np.ones_like(bends[..., :1])
    mean = np.concatenate([0 * one, 0 * bends, bends, 0 * pairs], -1)
    return mean, np.concatenate([LEVEL * one, SLOPE * bends, CURVE * bends, CROSS * pairs], -1)
