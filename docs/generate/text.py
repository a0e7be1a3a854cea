"""Markdown from plain values: tables, and prose in which no sign is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def prose(text: str) -> str:
    """Plain text as Markdown that reads the same: a product's star or an index's underline starts no emphasis.

    What stands between backticks, Sphinx's doubled ones among them, is code.
    """
    pieces = re.split(r"(?::\w+:)?(``[^`]+``|`[^`]+`)", text)
    return "".join(code(p.strip("`")) if p.startswith("`") else _escaped(p) for p in pieces)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]<|])", r"\\\1", text).replace(r"\<", "&lt;")


def code(value: Any) -> str:
    """A value as inline code, also inside a table."""
    return f"`{value}`".replace("|", "\\|")


def value(given: Any) -> str:
    """A hyperparameter as one writes it: 1e-10, (0.9, 0.98), True, 'hf'."""
    if isinstance(given, bool) or given is None or isinstance(given, str):
        return repr(given)
    if isinstance(given, float):
        return f"{given:g}"
    if isinstance(given, Mapping):
        return "{" + ", ".join(f"{key!r}: {value(inner)}" for key, inner in given.items()) + "}"
    if isinstance(given, Sequence):
        return "(" + ", ".join(map(value, given)) + ")"
    return str(given)


def pairs(given: Mapping[str, Any]) -> str:
    """``a=1``, ``companion.eps=1e-8`` as inline code, as a command line takes them; a dash for nothing."""
    return ", ".join(code(f"{name}={value(inner)}") for name, inner in _flat(given)) or "–"


def _flat(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, inner in given.items():
        if isinstance(inner, Mapping):
            yield from ((f"{name}.{below}", v) for below, v in _flat(inner))
        else:
            yield name, inner


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int = 99) -> list[str]:
    """A table; columns from ``numbers_from`` on are flush right."""
    rule = ["---:" if column >= numbers_from else "---" for column in range(len(head))]
    return [_row(head), _row(rule), *map(_row, rows), ""]


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def block(text: str, language: str = "text") -> list[str]:
    """Preformatted lines."""
    return [f"```{language}", text.rstrip("\n"), "```", ""]
