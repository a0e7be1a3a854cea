"""Small multiples: frames in rows, a range of losses worth showing, and where the figures of sweeps look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.lab.report.figure import WIDE
from steepest.lab.report.study import summary as say
from steepest.lab.report.svg import Board
from steepest.lab.report.words import lr

Study = dict[str, Any]
Where = tuple[str, int, str]
"""Size, tokens, variant."""


@dataclass(frozen=True)
class Box:
    """A panel's frame in pixels; ``first`` of its row carries the vertical axis's values."""

    left: float
    right: float
    top: float
    bottom: float
    first: bool


def boxes(board: Board, count: int, top: float, *, alike: bool = True) -> list[Box]:
    """Frames for ``count`` panels from ``top`` on, each with a line for its name; the board grows to hold them.

    alike: all share one vertical axis; else each has its own, and a title below.
    """
    wide, narrow, height, below = (4, 2, 190, 56) if alike else (3, 1, 240, 74)
    columns = min(count, wide if board.width == WIDE else narrow)
    left, gap = (52, 24) if board.width == WIDE else (46, 14)
    gap = gap if alike else left + 10
    panel = (board.width - left - gap * (columns - 1) - 10) / columns
    row = height + below
    board.resize(top + row * -(-count // columns))
    found = []
    for place in range(count):
        across, down = place % columns, place // columns
        start = left + across * (panel + gap)
        over = top + down * row
        found.append(Box(start, start + panel, over + 26, over + height, across == 0))
    return found


def where(entry: Study) -> Where:
    """The place of an entry."""
    return entry["size"], entry["tokens"], entry.get("variant") or ""


def place_text(entry: Study) -> str:
    """``110k 8×``, with the variant of the architecture."""
    variant = f" {entry['variant']}" if entry.get("variant") else ""
    return f"{entry['size']} {say.times_data(entry['ratio'])}{variant}"


def value_text(value: Any) -> str:
    """A hyperparameter's value: ``0.004``, ``1e-15``, ``4,000``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return lr(value) if 0 < value < 1 else f"{value:,g}" if abs(value) < 1e6 else f"{value:g}"


def fullest(entries: Iterable[Study], weigh: Callable[[Study], int] = lambda entry: 1) -> Where | None:
    """The place of the base architecture with the most in it; of equals the largest model, longest schedule."""
    counts: Counter[Where] = Counter()
    weights: dict[Where, int] = {}
    for entry in entries:
        counts[where(entry)] += weigh(entry)
        weights[where(entry)] = entry["weights"]
    return max(counts, key=lambda at: (not at[2], counts[at], weights[at], at[1]), default=None)


def named(study: Study, entries: Iterable[Study]) -> list[str]:
    """The optimizers of the entries in the study's order."""
    there = {entry["optimizer"] for entry in entries}
    return [name for name in study["optimizers"] if name in there]


def worth_showing(losses: Sequence[float], least: float = 0.03) -> tuple[float, float]:
    """The range of losses worth showing: far-off ones would flatten every bowl, they go to the top rail."""
    ordered = sorted(losses)
    if not ordered:
        return 0.0, 1.0
    usual = ordered[int(0.75 * (len(ordered) - 1))]
    return ordered[0], min(ordered[-1], ordered[0] + max(least, 1.5 * (usual - ordered[0]))) + 1e-9
