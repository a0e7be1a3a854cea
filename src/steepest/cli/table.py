"""A plain table for the verbs that need no more than torch and numpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steepest.core.columns import aligned


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned by two spaces under a ruled head; the last column is not padded."""
    lines = aligned((head, *rows))
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
