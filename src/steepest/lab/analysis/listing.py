"""Names in a sentence, for everything that the analysis and its pages say."""

from __future__ import annotations

from collections.abc import Iterable


def listed(words: Iterable[str], most: int = 4) -> str:
    """``a, b and c``; past ``most`` the rest is counted."""
    words = list(words)
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
