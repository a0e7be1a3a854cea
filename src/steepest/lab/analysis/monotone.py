"""Curves through tried points that make up no minimum: monotone cubic interpolation, many curves at once.

Between two points the cubic rises or falls throughout, and its slope is zero at a point that is lower than both
neighbours (Fritsch & Butland, SIAM J. Sci. Stat. Comput. 5, 1984; the weights are those of scipy's
PchipInterpolator, which takes one set of places at a time). So the lowest loss on the curve is a loss that was
measured, as with straight lines, but a bowl is round at its bottom: straight lines make a bowl seem as narrow as
the grid is coarse.

Arrays are [points, curves]: an operation runs along the curves, of which there are many.
"""

from __future__ import annotations

import numpy as np

from steepest.lab.analysis.law import Array

HALVINGS = 30
"""Of an interval, before the rest is taken as straight: to rounding."""


class Curves:
    """Through ``y[points, curves]`` at ``x[points, curves]``, ascending; two points or more.

    In an interval of length h the curve is y + t (a + t (b + t c)) with t from 0 to 1.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.y = x, y
        self.h = x[1:] - x[:-1]
        up = y[1:] - y[:-1]
        slope = _slopes(self.h, up / self.h)
        self.a, end = slope[:-1] * self.h, slope[1:] * self.h
        self.b, self.c = 3 * up - 2 * self.a - end, self.a + end - 2 * up

    def crossing(self, which: np.ndarray, interval: np.ndarray, level: Array, halvings: int = HALVINGS) -> Array:
        """Where the curves ``which`` take ``level`` in their ``interval``, whose ends lie on both sides of it."""
        count = self.x.shape[1]
        place, after = interval * count + which, (interval + 1) * count + which
        start, up = self.y.take(place), self.y.take(after) - self.y.take(place)
        sign = np.where(up >= 0, 1.0, -1.0)
        a, b, c = (sign * part.take(place) for part in (self.a, self.b, self.c))
        wanted, t = sign * (level - start), np.zeros(len(which))
        below, above, step = np.zeros(len(which)), np.abs(up), 1.0
        for _ in range(halvings):
            step /= 2
            value = (t + step) * (a + (t + step) * (b + (t + step) * c))
            beyond = value > wanted
            above = np.where(beyond, value, above)
            below = np.where(beyond, below, value)
            t = np.where(beyond, t, t + step)
        rest = np.where(above > below, above - below, 1.0)
        t += step * np.clip((wanted - below) / rest, 0, 1)
        return self.x.take(place) + t * self.h.take(place)

    def mean(self, low: Array, high: Array) -> Array:
        """Mean of each curve from ``low`` to ``high``, both within its points and apart."""
        area = np.zeros(len(low))
        for p in range(len(self.h)):
            y, a, b, c = self.y[p], self.a[p] / 2, self.b[p] / 3, self.c[p] / 4
            for sign, end in ((1.0, high), (-1.0, low)):
                t = np.clip((end - self.x[p]) / self.h[p], 0, 1)
                area += sign * self.h[p] * t * (y + t * (a + t * (b + t * c)))
        return area / (high - low)


def _slopes(h: Array, rise: Array) -> Array:
    """dy/dx at every point, from the intervals' lengths and their mean slopes."""
    if len(rise) == 1:
        return np.repeat(rise, 2, axis=0)
    before, after = rise[:-1], rise[1:]
    w0, w1 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    turns = before * after <= 0
    inner = (w0 + w1) / (w0 / np.where(turns, 1, before) + w1 / np.where(turns, 1, after))
    first = _end(h[0], h[1], rise[0], rise[1])
    last = _end(h[-1], h[-2], rise[-1], rise[-2])
    return np.concatenate([first[None], np.where(turns, 0.0, inner), last[None]])


def _end(h: Array, next_h: Array, rise: Array, next_rise: Array) -> Array:
    """Slope at an outermost point: of the parabola through three, as far as that keeps the cubic monotone."""
    slope = ((2 * h + next_h) * rise - h * next_rise) / (h + next_h)
    slope = np.where(slope * rise <= 0, 0.0, slope)
    return np.where((rise * next_rise < 0) & (np.abs(slope) > 3 * np.abs(rise)), 3 * rise, slope)
