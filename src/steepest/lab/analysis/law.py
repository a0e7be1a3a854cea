"""The loss-versus-tokens law of a baseline, L(D) = floor + alpha · D^(-exponent), and its inverse.

The form is that of Hoffmann et al. (arXiv 2203.15556, eq. 2) at one model size, and the one that Wen et al.
(arXiv 2509.02046) fit per size. For a given exponent the law is linear in floor and alpha, so the fit is a search
over one bounded number with the other two solved exactly (variable projection, Golub & Pereyra 1973): a grid over
the whole range, so that it cannot stop in a local minimum, then the root of the derivative (Kaufman 1975). It
needs no starting point, and many bootstrap draws are fitted in one pass. The same search fits several curves with
one exponent and their own alphas and floors (:func:`fit_shared`), for four points hardly hold three parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steepest.core.errors import BadInput
from steepest.lab.analysis.quantile import fisher_f

Array = NDArray[np.float64]

EXPONENTS = (0.02, 3.0)
POINTS = 4
_GRID, _STEPS = 61, 16
_REWEIGHTS = 8


@dataclass(frozen=True)
class Law:
    """L(D) = floor + alpha · D^(-exponent); the fields may be arrays, one entry per bootstrap draw.

    ``low`` and ``high`` are the smallest and largest tokens fitted; ``rms`` is the weighted root mean square of
    the residuals in the unit of the losses; ``flags`` says in words what weakens the fit. ``scale`` is how many
    times more than noise allows the law misses its points, 1 unless that is flagged: the bootstrap widens the
    points by it, as the Particle Data Group widens averages of measurements that disagree (its scale factor).
    """

    alpha: Array
    exponent: Array
    floor: Array
    low: float
    high: float
    rms: float
    flags: tuple[str, ...] = ()
    scale: float = 1.0

    def loss(self, tokens: ArrayLike) -> Array:
        """Loss after ``tokens``; shapes broadcast against the fields."""
        return self.floor + self.alpha * np.asarray(tokens, dtype=float) ** -self.exponent

    def tokens(self, loss: ArrayLike) -> Array:
        """Tokens that the law needs for ``loss``; infinite at or below the floor."""
        above = np.asarray(loss, dtype=float) - self.floor
        with np.errstate(divide="ignore", over="ignore"):
            needed = (self.alpha / np.where(above > 0, above, np.nan)) ** (1 / self.exponent)
        return np.where(above > 0, needed, np.inf)

    def slope(self, tokens: ArrayLike) -> Array:
        """-dL / d ln D at ``tokens``: the loss that is worth one e-fold of tokens."""
        return self.exponent * (self.loss(tokens) - self.floor)


@dataclass(frozen=True)
class Inversion:
    """The tokens at which the law reaches a loss. ``tokens`` is None where that is refused; see ``flags``."""

    tokens: float | None
    flags: tuple[str, ...] = ()


def fit(
    tokens: ArrayLike,
    losses: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    sd: float | None = None,
    freedom: float = 1e9,
    robust: float = 3.0,
) -> Law:
    """Fits the law to ``losses[points]`` (nats/token) at ``tokens[points]``, bounded: floor >= 0, alpha >= 0.

    weights: how much each point counts, such as its number of runs; equal if None. sd, freedom: standard
    deviation of a point of weight 1 and its degrees of freedom, where they are known: residuals beyond ``robust``
    of it count linearly instead of squared (Huber; infinite: plain least squares), and a fit that misses its
    points by more than noise allows is flagged. Raises BadInput for fewer than four different token counts, or for
    losses that are not finite.
    """
    x, y, w = _checked(tokens, losses, weights)
    (law,) = _solve([(x, y[None], w[None])])
    if sd is not None and math.isfinite(robust):
        unit = sd / np.sqrt(w)
        for _ in range(_REWEIGHTS):
            miss = np.abs(y - law.loss(x)[0]) / unit
            (law,) = _solve([(x, y[None], (w * robust / np.maximum(miss, robust))[None])])
    return _flagged(_single(law, x, y, w), x, y, w, sd, freedom)


def fit_draws(tokens: ArrayLike, losses: ArrayLike, *, weights: ArrayLike | None = None) -> Law:
    """Fits ``losses[draws, points]`` row by row; the fields of the result are [draws, 1].

    ``weights`` [points], or [draws, points] where a weight of 0 leaves a point out of its row.
    """
    y = np.asarray(losses, dtype=float)
    given = np.ones(y.shape[1:]) if weights is None else np.asarray(weights, dtype=float)
    x, _, _ = _checked(tokens, y[0], given.max(axis=0) if given.ndim == 2 else given)
    (law,) = _solve([(x, y, np.atleast_2d(given))])
    return law


@dataclass(frozen=True)
class Curve:
    """Points of one law: ``losses`` [points], or [draws, points] of as many draws in every curve, at ``tokens``
    [points]; ``weights`` [points] on one scale for all curves fitted together, such as runs over variance."""

    tokens: ArrayLike
    losses: ArrayLike
    weights: ArrayLike


def fit_shared(curves: Sequence[Curve]) -> tuple[Law, ...]:
    """One law per curve with one exponent for all, alphas and floors their own; fields [draws, 1] for draws.

    Curves may be model sizes, optimizers, or both. Plain weighted least squares over all points together; the
    flags of each law are those of its own curve. Raises BadInput unless every curve has two different token counts
    and all of them together more points than parameters (two per curve and the exponent).
    """
    checked = [_values(curve.tokens, curve.losses, curve.weights) for curve in curves]
    budgets = [len(np.unique(x)) for x, _, _ in checked]
    if min(budgets, default=0) < 2 or sum(budgets) < 2 * len(budgets) + 2:
        counts = ", ".join(map(str, budgets)) or "none"
        raise BadInput(f"one exponent for {len(budgets)} curves of {counts} points: no point is left to check it")
    laws = _solve([(x, np.atleast_2d(y), w[None]) for x, y, w in checked])
    if any(y.ndim == 2 for _, y, _ in checked):
        return laws
    told = zip(laws, checked, strict=True)
    return tuple(_flagged(_single(law, x, y, w), x, y, w, None, 0) for law, (x, y, w) in told)


def invert(law: Law, loss: float) -> Inversion:
    """Tokens at which ``law`` reaches ``loss``; flagged outside the fitted range, refused at the floor."""
    if not loss > law.floor:
        return Inversion(None, (f"loss {loss:.4f} is at or below the fitted floor {law.floor:.4f}",))
    tokens = float(law.tokens(loss))
    if not law.low <= tokens <= law.high:
        span = f"{law.low:.3g} to {law.high:.3g} tokens"
        return Inversion(tokens, (f"outside the fitted range of {span}: an extrapolation",))
    return Inversion(tokens)


def _values(tokens: ArrayLike, losses: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array]:
    x, y = np.asarray(tokens, dtype=float), np.asarray(losses, dtype=float)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=float)
    if x.shape != y.shape[-1:] or w.shape != x.shape:
        raise BadInput(f"the law needs one loss and weight per budget: got {x.size}, {y.size} and {w.size}")
    if not (np.all(np.isfinite(y)) and np.all(np.isfinite(x)) and np.all(x > 0) and np.all(w > 0)):
        raise BadInput("the law needs finite losses, positive tokens and positive weights: drop diverged runs")
    return x, y, w


def _checked(tokens: ArrayLike, losses: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array]:
    x, y, w = _values(tokens, losses, weights)
    if len(np.unique(x)) < POINTS:
        raise BadInput(f"the law has {len(np.unique(x))} token budgets and needs {POINTS}: add --budgets")
    return x, y, w


def _single(law: Law, x: Array, y: Array, w: Array) -> Law:
    """The law of one row as numbers, with its residuals."""
    residuals = y - law.loss(x)[0]
    rms = float(np.sqrt(np.sum(w * residuals**2) / np.sum(w)))
    return Law(law.alpha[0, 0], law.exponent[0, 0], law.floor[0, 0], float(x.min()), float(x.max()), rms)


_Points = tuple[Array, Array, Array]  # tokens [points], losses [draws, points], weights [draws or 1, points]


def _solve(curves: Sequence[_Points]) -> tuple[Law, ...]:
    """Weighted least squares of every row, one exponent for all curves: searches the logarithm of the exponent."""
    middles = [np.exp(np.mean(np.log(x))) for x, _, _ in curves]
    scaled = [(np.log(x / middle), y, w) for (x, y, w), middle in zip(curves, middles, strict=True)]
    low, high = math.log(EXPONENTS[0]), math.log(EXPONENTS[1])
    grid = np.linspace(low, high, _GRID)
    cost: Array = sum((_grid_cost(x, y, w, grid) for x, y, w in scaled), np.zeros(1))
    at = grid[np.argmin(cost, axis=1)]
    cell = (high - low) / (_GRID - 1)
    left, right = np.maximum(at - cell, low), np.minimum(at + cell, high)
    found = _parts(scaled, at)
    step = found.step
    for _ in range(_STEPS):
        left, right = np.where(found.slope > 0, at, left), np.where(found.slope > 0, right, at)
        inside = (left <= at + step) & (at + step <= right)
        target = np.where(inside, at + step, (left + right) / 2)
        moved, before = target - at, found
        if np.max(np.abs(moved), initial=0) < 1e-8:
            break
        at, found = target, _parts(scaled, target)
        turn = before.slope - found.slope
        step = found.slope * moved / np.where(turn == 0, np.inf, turn)
        # A step that did not halve the derivative met the bend where a bound begins to bind: halve the interval.
        slow = inside & (2 * np.abs(found.slope) > np.abs(before.slope)) & (np.abs(moved) > 1e-8)
        step = np.where(slow, np.inf, step)
    exponent = np.exp(at)[:, None]
    return tuple(
        Law(alpha * middle**exponent, exponent, floor, float(x.min()), float(x.max()), np.nan)
        for (x, _, _), middle, alpha, floor in zip(curves, middles, found.alphas, found.floors, strict=True)
    )


def _grid_cost(x: Array, y: Array, w: Array, grid: Array) -> Array:
    """Cost [draws, grid] of the bounded linear problem at each exponent; x is log tokens."""
    basis = np.exp(-np.exp(grid)[:, None] * x)
    total = w.sum(axis=1)[:, None]
    centre = (w * y).sum(axis=1)[:, None] / total
    away = y - centre
    mean, square = w @ basis.T / total, w @ (basis**2).T
    across, spread = (w * away) @ basis.T, square - total * mean**2
    alpha = np.maximum(0.0, across / spread)
    cost = (w * away**2).sum(axis=1)[:, None] - alpha * across
    bound = centre - alpha * mean < 0
    if np.any(bound):  # where the best floor is negative the bound binds, and alpha alone is fitted
        through_zero = np.maximum(0.0, across + centre * total * mean)
        cost = np.where(bound, (w * y**2).sum(axis=1)[:, None] - through_zero**2 / square, cost)
    return cost


@dataclass(frozen=True)
class _Parts:
    """At one log exponent per row: how the cost falls towards larger exponents (half its negative derivative) and
    the Gauss-Newton step to where it stops falling [draws]; alpha and floor [draws, 1] per curve."""

    slope: Array
    step: Array
    alphas: list[Array]
    floors: list[Array]


def _parts(curves: Sequence[_Points], at: Array) -> _Parts:
    up = down = np.zeros(1)
    alphas, floors = [], []
    for x, y, w in curves:
        rate = -np.exp(at)[:, None] * x
        basis = np.exp(rate)
        total = w.sum(axis=1, keepdims=True)
        basis_mean = (w * basis).sum(axis=1, keepdims=True) / total
        loss_mean = (w * y).sum(axis=1, keepdims=True) / total
        centred = basis - basis_mean
        alpha = (w * centred * (y - loss_mean)).sum(axis=1, keepdims=True)
        alpha = np.maximum(0.0, alpha / (w * centred**2).sum(axis=1, keepdims=True))
        floor = loss_mean - alpha * basis_mean
        bound = floor < 0
        if np.any(bound):
            through_zero = (w * y * basis).sum(axis=1, keepdims=True) / (w * basis**2).sum(axis=1, keepdims=True)
            alpha, floor = np.where(bound, np.maximum(0.0, through_zero), alpha), np.where(bound, 0.0, floor)
            centred = np.where(bound, basis, centred)
        residual = y - floor - alpha * basis
        # Kaufman: the derivative of the basis, less what floor and alpha follow of it.
        bend = basis * rate
        bend = bend - np.where(bound, 0.0, (w * bend).sum(axis=1, keepdims=True) / total)
        follow = (w * bend * centred).sum(axis=1, keepdims=True) / (w * centred**2).sum(axis=1, keepdims=True)
        bend = alpha * (bend - follow * centred)
        up, down = up + (w * residual * bend).sum(axis=1), down + (w * bend**2).sum(axis=1)
        alphas.append(alpha)
        floors.append(floor)
    return _Parts(up, np.where(down > 0, up / np.where(down > 0, down, 1.0), 0.0), alphas, floors)


def _flagged(law: Law, x: Array, y: Array, w: Array, sd: float | None, freedom: float) -> Law:
    flags: list[str] = []
    scale = 1.0
    if law.alpha <= 0:
        flags.append("the losses do not fall with tokens: no law")
    if law.floor <= 0:
        flags.append("the floor is at its bound of 0")
    if not EXPONENTS[0] * 1.001 < law.exponent < EXPONENTS[1] / 1.001:
        flags.append(f"the exponent is at its bound of {law.exponent:.3g}")
    order = np.argsort(x)
    if np.any(np.diff(y[order]) >= 0):
        flags.append("a larger budget did not end lower")
    if sd is not None and sd > 0:
        left = max(1, len(x) - 3)
        excess = float(np.sum(w * (y - law.loss(x)) ** 2)) / sd**2 / left
        if excess > fisher_f(0.99, left, freedom):
            scale = math.sqrt(excess)
            flags.append(
                f"the law misses its points by more than seed noise allows (rms {law.rms:.4f}): "
                f"its points are taken as {scale:.1f} times as noisy"
            )
    return replace(law, flags=tuple(flags), scale=scale)
