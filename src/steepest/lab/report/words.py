"""Numbers and lists in words, as every page, figure and table of the lab writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steepest.lab.analysis.listing import listed as listed

NOTHING = "–"


def tokens(count: float) -> str:
    """``2.1M``: counts with three digits at most."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def lr(value: float | None) -> str:
    """``0.006``, ``1.5e-4``."""
    if value is None:
        return NOTHING
    if value >= 0.00099:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """``48 s``, ``8.2 min``, ``3.21 h``, ``12.5 days``."""
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.2g} s"
    if seconds < 5400:
        return f"{seconds / 60:.2g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.3g} days"


def loss(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """``1.30 to 1.55``; ``1.30 or more`` where the upper end is open; empty without any end."""
    first, last = (
        "" if end is None else f"{end:.{digits}f}" if abs(end) < 100 else f"{end:.3g}" for end in (low, high)
    )
    if not first:
        return f"up to {last}" if last else ""
    return f"{first} to {last}" if last else f"{first} or more"


def ratio(speedup: dict[str, Any] | None) -> str:
    """``1.42×``, or a dash where none is stated."""
    value = (speedup or {}).get("value")
    return NOTHING if value is None else f"{value:.2f}×"


def reason(speedup: dict[str, Any] | None) -> str:
    """Why a speedup is not stated."""
    given = speedup or {}
    return str(given.get("reason") or "; ".join(given.get("flags") or []) or "no reason recorded")


def told(speedup: dict[str, Any] | None) -> str:
    """``faster``, ``slower``, ``not told apart`` by the interval alone, or ``refused``."""
    given = speedup or {}
    low, high = given.get("low"), given.get("high")
    if given.get("value") is None:
        return "refused"
    if low is not None and low > 1:
        return "faster"
    return "slower" if high is not None and high < 1 else "not told apart"


def shortened(words: str, most: int = 40) -> str:
    """At most ``most`` letters; the cut is in the middle, for a path's end tells more than its start."""
    if len(words) <= most:
        return words
    head = (most - 1) // 3
    return f"{words[:head]}…{words[len(words) - (most - 1 - head) :]}"


def counted(counts: Mapping[str, int], unit: str = "") -> str:
    """``3 finished, 1 diverged``; with a unit ``3 tensors by adamw``."""
    return ", ".join(
        f"{count} {unit + ('s' if count != 1 else '') + ' by ' if unit else ''}{what}"
        for what, count in counts.items()
    )


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: ``{"model.depth": 4}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def plain(value: Any) -> str:
    """A setting as people write it: ``betas 0.9, 0.95 · eps 1e-8``."""
    if isinstance(value, dict):
        return (
            " · ".join(
                f"{key} ({plain(item)})" if isinstance(item, dict) else f"{key} {plain(item)}"
                for key, item in value.items()
            )
            or "nothing"
        )
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return cell(value)


def cell(value: Any) -> str:
    """One value in a table or a list of settings."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.6g}"
    return str(value)
