"""What every figure is, and what all of them share.

Drawn by hand as SVG and not by a charting library: docs/decisions/0004-report-figures.md says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steepest.lab.report import summary as say
from steepest.lab.report.svg import Board, Scale

WIDE, NARROW = 960, 358  # pixels of the page's column on a desktop and on a phone of 390
FAR = 2.5  # an interval's end farther than this factor from its value would press an axis flat
Race = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """``wide`` and ``narrow`` show the same marks; ``rows`` are the numbers behind them, flat dicts."""

    key: str
    title: str
    caption: str
    wide: Board
    narrow: Board
    rows: list[dict[str, Any]]


def both(draw: Callable[[int], Board]) -> tuple[Board, Board]:
    """The drawing for a desktop and for a phone."""
    return draw(WIDE), draw(NARROW)


def slots(race: Race) -> dict[str, int]:
    """Each optimizer's colour and shape, the same in every figure; the baseline has slot 0."""
    others = [name for name in race["optimizers"] if name != race["baseline"]]
    return {race["baseline"]: 0} | {name: place for place, name in enumerate(others, 1)}


def speedup(race: Race, name: str, kind: str) -> Race:
    """The stated speedup in ``kind`` (tokens, seconds); empty where none is recorded."""
    return race["results"][name][f"speedup_{kind}"] or {}


def shown_ends(ratio: Race) -> list[float]:
    """What an axis must hold of a speedup: its value, and interval ends that do not lie far off."""
    value = ratio.get("value")
    if not value:
        return []
    ends = [ratio[end] for end in ("low", "high") if ratio.get(end)]
    return [value, *(end for end in ends if value / FAR <= end <= value * FAR)]


def draw_interval(board: Board, x: Scale, height: float, ratio: Race, css: str, unit: float = 1) -> None:
    """A speedup's interval times ``unit``; an end that is open or off the scale gets an arrowhead."""
    low, high = ratio.get("low"), ratio.get("high")
    if low is None and high is None:
        return
    left = x(unit * low) if low else x.start
    right = x(unit * high) if high else x.stop
    board.line(max(left, x.start), height, min(right, x.stop), height, css)
    if left <= x.start:
        board.path([(x.start - 7, height), (x.start, height - 4), (x.start, height + 4)], f"arrow {css}", True)
    if right >= x.stop:
        board.path([(x.stop + 7, height), (x.stop, height - 4), (x.stop, height + 4)], f"arrow {css}", True)


def ratio_text(ratio: Race) -> str:
    """``1.42× (1.30 to 1.55)``."""
    span = say.interval(ratio.get("low"), ratio.get("high"), 2)
    return say.ratio(ratio) + (f" ({span})" if span else "")


def flat(point: Race) -> Race:
    """Only what fits into one cell of a table."""
    return {key: value for key, value in point.items() if not isinstance(value, dict | list)}
