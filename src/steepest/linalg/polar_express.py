"""Coefficients of Newton-Schulz steps that push an interval of singular values to 1 as fast as five powers can.

Amsel, Persson, Musco, Gower, "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm", arXiv 2505.16932. Each step takes the odd quintic that is nearest to 1 on the interval where the steps
before it have left the singular values; this greedy composition is the best of all (Theorem 3.1).
"""

from __future__ import annotations

import functools
import math

Quintic = tuple[float, float, float]

LIMIT: Quintic = (15 / 8, -10 / 8, 3 / 8)
"""What the nearest quintic becomes when the interval shrinks to 1: value 1, slope and curvature 0 there."""

CLOSE = 1 - 1e-4
"""Ends of an interval in this ratio leave too few digits for the differences of the points between them, and the
limit misses 1 by no more than 4e-13 there."""

CUSHION = 0.02407327424182761
"""The authors': an interval is fitted from this share of its upper end on."""

SAFETY = 1.01
"""Each step that has not reached the limit sees values smaller by this, so that rounding in bfloat16, which may
carry one beyond the interval's end, does not reach where the quintic runs away."""


def nearest_quintic(lower: float, upper: float) -> Quintic:
    """The (a, b, c) whose ``ax + bx^3 + cx^5`` differs least from 1 on [lower, upper], 0 < lower <= upper.

    Remez: the best one misses 1 by the same E, with alternating signs, at both ends and at its two extrema between
    them (Chebyshev); points and polynomial are found in turns.
    """
    if lower > CLOSE * upper:
        return scaled(LIMIT, (lower + upper) / 2)
    q, r = (3 * lower + upper) / 4, (lower + 3 * upper) / 4
    for _ in range(100):
        a, b, c = quintic = _alternating((lower, q, r, upper))
        spread = math.sqrt(9 * b * b - 20 * a * c)
        before, q, r = (q, r), math.sqrt((-3 * b - spread) / (10 * c)), math.sqrt((-3 * b + spread) / (10 * c))
        if max(abs(q - before[0]), abs(r - before[1])) <= 1e-14 * upper:
            break
    return quintic


def _alternating(points: tuple[float, float, float, float]) -> Quintic:
    """The odd quintic that misses 1 by E, -E, E, -E at these points."""
    squares = [x * x for x in points]
    # With these weights odd powers up to the fifth sum to zero over the points, which leaves an equation for E.
    weights = [
        1 / (x * math.prod(square - other for j, other in enumerate(squares) if j != i))
        for i, (x, square) in enumerate(zip(points, squares, strict=True))
    ]
    signs = (1, -1, 1, -1)
    error = sum(weights) / sum(w * sign for w, sign in zip(weights, signs, strict=True))
    # p(x) / x is a quadratic in x^2: Newton's divided differences over the three larger points.
    s, t, u = squares[1:]
    f, g, h = ((1 - sign * error) / x for x, sign in zip(points[1:], signs[1:], strict=True))
    slope, other = (g - f) / (t - s), (h - g) / (u - t)
    c = (other - slope) / (u - s)
    return f - s * (slope - t * c), slope - (s + t) * c, c


@functools.cache
def polar_express(
    steps: int, lower: float = 1e-3, cushion: float = CUSHION, safety: float = SAFETY
) -> tuple[Quintic, ...]:
    """The coefficients of so many steps, for singular values that start in [lower, 1].

    ``cushion``: on a wide interval the best quintic falls back near 0 between the ends, and what it presses down
    there drowns in rounding before later steps lift it. Fitted from ``cushion`` times the upper end on, and scaled
    so that the image of the whole interval lies around 1, it does not, at little cost. 0 is the best composition
    in exact arithmetic, if ``safety`` is 1.
    """
    upper, found = 1.0, []
    for _ in range(steps):
        start = max(lower, cushion * upper)
        quintic = nearest_quintic(start, upper)
        if start > lower:
            middle = (value(quintic, lower) + value(quintic, upper)) / 2
            quintic = tuple(x / middle for x in quintic)  # type: ignore[assignment]
        at_limit = lower > CLOSE * upper
        lower = value(quintic, lower)
        upper = 2 - lower
        found.append(quintic if at_limit else scaled(quintic, safety))
    return tuple(found)


def value(quintic: Quintic, x: float) -> float:
    a, b, c = quintic
    return x * (a + x * x * (b + x * x * c))


def scaled(quintic: Quintic, by: float) -> Quintic:
    """The polynomial at x / by."""
    a, b, c = quintic
    return a / by, b / by**3, c / by**5
