"""The joint law of one optimizer over sizes and tokens, L(N, D) = floor + A · N^(-a) + B · D^(-b).

Hoffmann et al. (arXiv 2203.15556, eq. 2); Wen et al. (arXiv 2509.02046) carry it from 0.1-1.2B weights to 7B to
say which optimizer would lead there. For given exponents the law is linear in floor, A and B, all three bounded by
zero and solved exactly; the two exponents are searched over their whole range (a grid that moves and narrows), so
that no starting point is needed and all fits with one point left out are made at once.

Such a law is no better than what it leaves over: :func:`compared` sets the difference that two laws predict beside
their residuals and their errors on points left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from steepest.core.errors import BadInput
from steepest.lab.analysis.law import Array

EXPONENTS = (0.02, 3.0)
POINTS = 7
"""Fewest points: two more than parameters, so that one can be left out and something still be left over."""
_GRID, _PASSES, _NARROWS = 15, 60, 3


@dataclass(frozen=True)
class JointLaw:
    """L(N, D) = floor + n_factor · N^(-n_exponent) + d_factor · D^(-d_exponent), N in weights and D in tokens.

    rms: of the residuals; left_out_rms: of each point's error under the law fitted without it; largest_out_rms: of
    the largest size's errors under the law of the smaller ones, None with fewer than four sizes. All nats/token.
    weights, tokens: smallest and largest fitted. residuals, left_out [points]: loss minus law.
    """

    floor: float
    n_factor: float
    n_exponent: float
    d_factor: float
    d_exponent: float
    rms: float
    left_out_rms: float
    largest_out_rms: float | None
    weights: tuple[float, float]
    tokens: tuple[float, float]
    residuals: Array
    left_out: Array
    flags: tuple[str, ...] = ()

    def loss(self, weights: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss of ``weights`` after ``tokens``; shapes broadcast."""
        n, d = np.asarray(weights, dtype=float), np.asarray(tokens, dtype=float)
        return self.floor + self.n_factor * n**-self.n_exponent + self.d_factor * d**-self.d_exponent


def fit_joint(weights: ArrayLike, tokens: ArrayLike, losses: ArrayLike, runs: ArrayLike | None = None) -> JointLaw:
    """Least squares over ``losses[points]`` at ``weights[points]`` and ``tokens[points]``, weighted by ``runs``.

    BadInput for fewer than three sizes, three ratios of tokens to weights, or seven points.
    """
    n, d, y = (np.asarray(values, dtype=float) for values in (weights, tokens, losses))
    count = np.ones_like(y) if runs is None else np.asarray(runs, dtype=float)
    sizes, ratios = len(np.unique(n)), len(np.unique(np.round(np.log(d / n), 2)))
    if y.size < POINTS or sizes < 3 or ratios < 3:
        raise BadInput(
            f"the joint law has {y.size} points of {sizes} sizes and {ratios} ratios: "
            f"it needs {POINTS} points, 3 sizes and 3 ratios"
        )
    if not all(np.all(np.isfinite(values)) and np.all(values > 0) for values in (n, d, y, count)):
        raise BadInput("the joint law needs finite losses, positive weights and tokens: drop diverged runs")
    # Row 0 holds all points, row 1 all but the largest size's, every other row leaves one out.
    largest = n == n.max()
    rows = np.vstack([count, count * ~largest, count * (1 - np.eye(y.size))])
    middle = np.exp(np.mean(np.log(n))), np.exp(np.mean(np.log(d)))
    log_n, log_d = np.log(n / middle[0]), np.log(d / middle[1])
    at = _search(log_n, log_d, y, rows)
    floor, a, b, _ = (part[:, 0, 0] for part in _solve(log_n, log_d, y, rows, at[:, :1], at[:, 1:]))
    exponents = np.exp(at)
    hat = floor[:, None] + a[:, None] * np.exp(-exponents[:, :1] * log_n)
    hat = hat + b[:, None] * np.exp(-exponents[:, 1:] * log_d)
    residuals, left_out = y - hat[0], y - np.diagonal(hat[2:])
    flags = [
        f"the exponent of {name} is at its bound of {value:.3g}"
        for name, value in zip(("weights", "tokens"), exponents[0], strict=True)
        if not EXPONENTS[0] * 1.001 < value < EXPONENTS[1] / 1.001
    ]
    if floor[0] <= 0:
        flags.append("the floor is at its bound of 0")
    return JointLaw(
        floor=float(floor[0]),
        n_factor=float(a[0] * middle[0] ** exponents[0, 0]),
        n_exponent=float(exponents[0, 0]),
        d_factor=float(b[0] * middle[1] ** exponents[0, 1]),
        d_exponent=float(exponents[0, 1]),
        rms=_rms(residuals, count),
        left_out_rms=_rms(left_out, count),
        largest_out_rms=_rms((y - hat[1])[largest], count[largest]) if sizes > 3 else None,
        weights=(float(n.min()), float(n.max())),
        tokens=(float(d.min()), float(d.max())),
        residuals=residuals,
        left_out=left_out,
        flags=tuple(flags),
    )


def _rms(errors: Array, count: Array) -> float:
    return float(np.sqrt(np.sum(count * errors**2) / np.sum(count)))


def _search(log_n: Array, log_d: Array, y: Array, rows: Array) -> Array:
    """Logarithms of both exponents [rows, 2]: a window moves to the best point and narrows once that is inside."""
    low, high = np.log(EXPONENTS)
    center = np.full((len(rows), 2), (low + high) / 2)
    half = np.full((len(rows), 1), (high - low) / 2)
    places = np.linspace(-1, 1, _GRID)
    for _ in range(_PASSES):
        axes = [np.clip(center[:, [axis]] + half * places, low, high) for axis in (0, 1)]
        cost = _solve(log_n, log_d, y, rows, *axes)[3]
        best = np.argmin(cost.reshape(len(rows), -1), axis=1)
        steps = np.stack([best // _GRID, best % _GRID], axis=1)
        center = np.stack([axis[np.arange(len(rows)), step] for axis, step in zip(axes, steps.T, strict=True)], 1)
        inside = np.all(np.abs(places[steps]) < 0.7, axis=1, keepdims=True)
        half = np.where(inside, half / _NARROWS, half)
        if np.all(half < 1e-9):
            break
    return center


def _solve(log_n: Array, log_d: Array, y: Array, rows: Array, a: Array, b: Array) -> tuple[Array, ...]:
    """Floor, both factors and cost, [rows, len a, len b] each, at log exponents ``a`` and ``b`` [rows, ...]."""
    u = np.exp(-np.exp(a)[:, :, None] * log_n)
    v = np.exp(-np.exp(b)[:, :, None] * log_d)
    total = rows.sum(axis=1)[:, None]
    loss_mean = (rows @ y)[:, None] / total
    u_mean, v_mean = (np.einsum("rp,rep->re", rows, basis) / total for basis in (u, v))
    free = _pair(u - u_mean[:, :, None], v - v_mean[:, :, None], y - loss_mean, rows)
    floor = loss_mean[:, :, None] - free[0] * u_mean[:, :, None] - free[1] * v_mean[:, None, :]
    # The cost is convex: where the best floor is negative, the best allowed one is zero.
    zero = _pair(u, v, np.broadcast_to(y, rows.shape), rows)
    factors = [np.where(floor < 0, bound, best) for bound, best in zip(zero, free, strict=True)]
    return np.maximum(floor, 0.0), *factors


def _pair(u: Array, v: Array, y: Array, rows: Array) -> tuple[Array, Array, Array]:
    """Two factors, bounded by zero, and the cost of y = A u + B v: [rows, u's, v's] each."""
    uu, vv = (np.einsum("rp,rep->re", rows, basis**2) for basis in (u, v))
    uy, vy = (np.einsum("rp,rep->re", rows * y, basis) for basis in (u, v))
    uv = np.einsum("rap,rbp->rab", rows[:, None, :] * u, v)
    uu, uy, vv, vy = uu[:, :, None], uy[:, :, None], vv[:, None, :], vy[:, None, :]
    yy = np.sum(rows * y**2, axis=1)[:, None, None]
    det = uu * vv - uv**2
    safe = np.where(det > 1e-12 * uu * vv, det, np.inf)
    both = (uy * vv - vy * uv) / safe, (vy * uu - uy * uv) / safe
    inside = (both[0] > 0) & (both[1] > 0)
    # Otherwise one of the two is at its bound: whichever alone costs less.
    only_u, only_v = np.maximum(uy, 0) / uu, np.maximum(vy, 0) / vv
    prefers_u = np.maximum(uy, 0) ** 2 / uu > np.maximum(vy, 0) ** 2 / vv
    a = np.where(inside, both[0], np.where(prefers_u, only_u, 0.0))
    b = np.where(inside, both[1], np.where(prefers_u, 0.0, only_v))
    return a, b, yy - 2 * (a * uy + b * vy) + a**2 * uu + b**2 * vv + 2 * a * b * uv


@dataclass(frozen=True)
class Prediction:
    """What two joint laws say at one size and number of tokens: ``difference`` is one minus other, nats/token.

    error: root of the summed squares of both laws' errors on what was left out: the largest size where that is
    known, else single points. extrapolated: outside the fitted sizes or tokens. checked: both laws have been tried
    on a size beyond those they were fitted to.
    """

    weights: float
    tokens: float
    loss: float
    other: float
    difference: float
    error: float
    extrapolated: bool
    checked: bool

    @property
    def reason(self) -> str:
        """Why the difference is not to be believed; empty where the laws allow it."""
        if abs(self.difference) <= self.error:
            return f"less than the laws' error on what was left out ({self.error:.4f})"
        if self.extrapolated and not self.checked:
            return "with too few sizes to try a law on one that it was not fitted to"
        return ""


def compared(law: JointLaw, other: JointLaw, weights: float, tokens: float) -> Prediction:
    """The prediction of ``law`` beside that of ``other``."""
    laws = (law, other)
    one, two = (float(each.loss(weights, tokens)) for each in laws)
    error = math.hypot(*(max(each.left_out_rms, each.largest_out_rms or 0.0) for each in laws))
    inside = all(
        each.weights[0] <= weights <= each.weights[1] and each.tokens[0] <= tokens <= each.tokens[1]
        for each in laws
    )
    checked = all(each.largest_out_rms is not None for each in laws)
    return Prediction(weights, tokens, one, two, one - two, error, not inside, checked)
