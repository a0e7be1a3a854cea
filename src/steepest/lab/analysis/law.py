"""The loss-versus-tokens law of a baseline, L(D) = floor + alpha · D^(-exponent), and its inverse.

The form is that of Hoffmann et al. (arXiv 2203.15556, eq. 2) at one model size, and the one that Wen et al.
(arXiv 2509.02046) fit per size. For a given exponent the law is linear in floor and alpha, so the fit is a search
over one bounded number with the other two solved exactly (variable projection, Golub & Pereyra 1973): it cannot
stop in a local minimum, needs no starting point, and many bootstrap draws are fitted in one pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steepest.core.errors import BadInput
from steepest.lab.analysis.quantile import fisher_f

Array = NDArray[np.float64]

EXPONENTS = (0.02, 3.0)
POINTS = 4
_GRID, _ZOOMS = 41, 6
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
    of it count linearly instead of squared (Huber), and a fit that misses its points by more than noise allows
    is flagged. Raises BadInput for fewer than four different token counts, or for losses that are not finite.
    """
    x, y, w = _checked(tokens, losses, weights)
    law = _solve(x, y[None], w[None])
    if sd is not None:
        unit = sd / np.sqrt(w)
        for _ in range(_REWEIGHTS):
            miss = np.abs(y - law.loss(x)[0]) / unit
            law = _solve(x, y[None], (w * robust / np.maximum(miss, robust))[None])
    residuals = y - law.loss(x)[0]
    rms = float(np.sqrt(np.sum(w * residuals**2) / np.sum(w)))
    one = Law(law.alpha[0, 0], law.exponent[0, 0], law.floor[0, 0], float(x.min()), float(x.max()), rms)
    return _flagged(one, x, y, w, sd, freedom)


def fit_draws(tokens: ArrayLike, losses: ArrayLike, *, weights: ArrayLike | None = None) -> Law:
    """Fits ``losses[draws, points]`` row by row, plainly weighted; the fields of the result are [draws, 1]."""
    x, _, w = _checked(tokens, np.asarray(losses, dtype=float)[0], weights)
    y = np.asarray(losses, dtype=float)
    return _solve(x, y, np.broadcast_to(w, y.shape))


def invert(law: Law, loss: float) -> Inversion:
    """Tokens at which ``law`` reaches ``loss``; flagged outside the fitted range, refused at the floor."""
    if not loss > law.floor:
        return Inversion(None, (f"loss {loss:.4f} is at or below the fitted floor {law.floor:.4f}",))
    tokens = float(law.tokens(loss))
    if not law.low <= tokens <= law.high:
        span = f"{law.low:.3g} to {law.high:.3g} tokens"
        return Inversion(tokens, (f"outside the fitted range of {span}: an extrapolation",))
    return Inversion(tokens)


def _checked(tokens: ArrayLike, losses: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array]:
    x, y = np.asarray(tokens, dtype=float), np.asarray(losses, dtype=float)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=float)
    if x.shape != y.shape or w.shape != x.shape:
        raise BadInput(f"the law needs one loss and weight per budget: got {x.size}, {y.size} and {w.size}")
    if len(np.unique(x)) < POINTS:
        raise BadInput(f"the law has {len(np.unique(x))} token budgets and needs {POINTS}: add --budgets")
    if not (np.all(np.isfinite(y)) and np.all(np.isfinite(x)) and np.all(x > 0) and np.all(w > 0)):
        raise BadInput("the law needs finite losses, positive tokens and positive weights: drop diverged runs")
    return x, y, w


def _solve(x: Array, y: Array, w: Array) -> Law:
    """Weighted least squares of every row of y[draws, points]: zooms in on the exponent."""
    middle = np.exp(np.mean(np.log(x)))
    low = np.full((len(y), 1), np.log(EXPONENTS[0]))
    high = np.full((len(y), 1), np.log(EXPONENTS[1]))
    for _ in range(_ZOOMS):
        grid = low + (high - low) * np.linspace(0, 1, _GRID)
        _, _, cost = _linear(x / middle, y, w, np.exp(grid))
        best = np.argmin(cost, axis=1)[:, None]
        low = np.take_along_axis(grid, np.maximum(best - 1, 0), 1)
        high = np.take_along_axis(grid, np.minimum(best + 1, _GRID - 1), 1)
    exponent = np.exp(np.take_along_axis(grid, best, 1))
    floor, alpha, _ = _linear(x / middle, y, w, exponent)
    return Law(alpha * middle**exponent, exponent, floor, float(x.min()), float(x.max()), np.nan)


def _linear(x: Array, y: Array, w: Array, exponents: Array) -> tuple[Array, Array, Array]:
    """Floor, alpha and cost [draws, exponents] of the bounded linear problem at each exponent."""
    basis = x ** -exponents[:, :, None]
    total = w.sum(axis=1)[:, None]
    basis_mean = np.einsum("dp,dep->de", w, basis) / total
    loss_mean = (w * y).sum(axis=1)[:, None] / total
    centred = basis - basis_mean[:, :, None]
    spread = np.einsum("dp,dep->de", w, centred**2)
    alpha = np.maximum(0.0, np.einsum("dp,dep->de", w * y, centred) / spread)
    floor = loss_mean - alpha * basis_mean
    # Where the best floor is negative the bound binds, and alpha alone is fitted.
    through_zero = np.einsum("dp,dep->de", w * y, basis) / np.einsum("dp,dep->de", w, basis**2)
    bound = floor < 0
    alpha, floor = np.where(bound, np.maximum(0.0, through_zero), alpha), np.where(bound, 0.0, floor)
    residuals = y[:, None, :] - floor[:, :, None] - alpha[:, :, None] * basis
    return floor, alpha, np.einsum("dp,dep->de", w, residuals**2)


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
