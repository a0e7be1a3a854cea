"""Probabilities and quantiles of the distributions that the intervals stand on (scipy, imported when called)."""

from __future__ import annotations

import math
from typing import Any

from steepest.core.errors import MissingExtra

NORMAL = 1e6
"""Degrees of freedom from which on Student's t is taken as normal."""


def student_t(probability: float, freedom: float) -> float:
    """Quantile of Student's t with ``freedom`` degrees of freedom, a fraction allowed."""
    return float(_special("an interval").stdtrit(freedom, probability))


def two_sided(t: float, freedom: float) -> float:
    """How likely Student's t lies as far from zero as ``t``, on either side."""
    return float(2 * _special("a p-value").stdtr(freedom, -abs(t)))


def fisher_f(probability: float, above: float, below: float) -> float:
    """Quantile of F with ``above`` and ``below`` degrees of freedom."""
    return float(_special("the fit of the law").fdtri(above, below, probability))


def chi_square(probability: float, freedom: float) -> float:
    """Quantile of chi-square with ``freedom`` degrees of freedom, a fraction allowed."""
    return float(_special("an interval").chdtri(freedom, 1 - probability))


def shifted_t(value: float, freedom: float, shift: float) -> float:
    """How likely noncentral t (noncentrality ``shift``) lies below ``value``."""
    special = _special("a power")
    if freedom > NORMAL:
        return float(special.ndtr(value - shift))
    found = float(special.nctdtr(freedom, shift, value))
    # Far in a tail the series runs out; there the answer is 0 or 1 to all digits that matter.
    return found if math.isfinite(found) else float(special.ndtr(value - shift))


def _special(what: str) -> Any:
    try:
        from scipy import special
    except ImportError:
        raise MissingExtra.of(what, "scipy") from None
    return special
