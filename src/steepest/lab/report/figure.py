"""What every figure is, and what all of them share.

Drawn by hand as SVG and not by a charting library: docs/decisions/report-figures.md says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steepest.lab.report import summary as say
from steepest.lab.report.svg import Board

WIDE, NARROW = 960, 358  # pixels of the page's column on a desktop and on a phone of 390
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


def stated_ends(ratio: Race) -> list[float]:
    """Value and interval ends of a speedup, as far as they are stated."""
    return [ratio[end] for end in ("value", "low", "high") if ratio.get("value") and ratio.get(end)]


def ratio_text(ratio: Race) -> str:
    """``1.42× (1.30 to 1.55)``."""
    span = say.interval(ratio.get("low"), ratio.get("high"), 2)
    return say.ratio(ratio) + (f" ({span})" if span else "")


def flat(point: Race) -> Race:
    """Only what fits into one cell of a table."""
    return {key: value for key, value in point.items() if not isinstance(value, dict | list)}
