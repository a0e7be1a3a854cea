"""One form for repeated measurements: median, first and last decile."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, first and last decile (between neighbours, linearly); of a single value that value."""
    if not values:
        return {}
    low, *_, high = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [*values] * 2
    return {"median": statistics.median(values), "low": low, "high": high}
