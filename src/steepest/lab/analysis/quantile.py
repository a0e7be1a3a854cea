"""Quantiles of the two distributions that the intervals stand on (scipy, imported when called)."""

from __future__ import annotations

from steepest.core.errors import MissingExtra


def student_t(probability: float, freedom: float) -> float:
    """Quantile of Student's t with ``freedom`` degrees of freedom, a fraction allowed."""
    try:
        from scipy.special import stdtrit
    except ImportError:
        raise MissingExtra.of("an interval", "scipy") from None
    return float(stdtrit(freedom, probability))


def fisher_f(probability: float, above: float, below: float) -> float:
    """Quantile of F with ``above`` and ``below`` degrees of freedom."""
    try:
        from scipy.special import fdtri
    except ImportError:
        raise MissingExtra.of("the fit of the law", "scipy") from None
    return float(fdtri(above, below, probability))
