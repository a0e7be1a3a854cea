"""A grid as a ruler: its values are one step apart, whatever their spacing, and what lies between is found too.

Whoever wrote a grid said what a step is: a factor of 2 of a learning rate, 0.95 to 0.98 of a beta. In steps,
hyperparameters can be compared. Between two values above 0 a step is even in the logarithm, else in the value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steepest.lab.analysis.runs import Scalar
from steepest.lab.study.search import ordered

DIGITS = 4
"""Significant digits of a value between those of its grid, so that 0.99 to 0.999 holds some."""


@dataclass(frozen=True)
class Ruler:
    """One grid, ascending where it is ordered. reach: steps past its ends that are on the ruler, too."""

    grid: tuple[Scalar, ...]
    reach: int = 0

    @property
    def ordered(self) -> bool:
        """Whether it has a low and a high end."""
        return ordered(self.grid)

    @property
    def continuous(self) -> bool:
        """Whether there is anything between two values: not for whole numbers, switches and names."""
        return len(self.grid) > 1 and self.ordered and any(isinstance(v, float) for v in self.grid)

    @property
    def ends(self) -> tuple[float, float]:
        """The positions between which values lie."""
        reach = self.reach if self.continuous and all(v > 0 for v in self.grid) else 0  # type: ignore[operator]
        return float(-reach), float(len(self.grid) - 1 + reach)

    def position(self, value: Scalar) -> float:
        """Where a value stands, in steps from the first one; beyond the ends by the outermost step."""
        if value in self.grid:
            return float(self.grid.index(value))
        if not self.ordered or len(self.grid) < 2:
            return 0.0
        above = next((k for k, v in enumerate(self.grid) if v > value), len(self.grid) - 1)  # type: ignore[operator]
        low = min(max(above - 1, 0), len(self.grid) - 2)
        a, b, x = (float(v) for v in (self.grid[low], self.grid[low + 1], value))  # type: ignore[arg-type]
        if a > 0 and x > 0:
            a, b, x = math.log(a), math.log(b), math.log(x)
        return low + (x - a) / (b - a)

    def value(self, position: float) -> Scalar:
        """The value at a position; the nearest of the grid where there is nothing between."""
        near = round(position)
        if 0 <= near < len(self.grid) and (near == position or not self.continuous):
            return self.grid[near]
        if not self.continuous:
            return self.grid[min(max(near, 0), len(self.grid) - 1)]
        low = min(max(math.floor(position), 0), len(self.grid) - 2)
        a, b = float(self.grid[low]), float(self.grid[low + 1])  # type: ignore[arg-type]
        part = position - low
        return _rounded(a * (b / a) ** part if a > 0 else a + (b - a) * part)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
