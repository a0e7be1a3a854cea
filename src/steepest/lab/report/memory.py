"""Memory as a picture: a bar for each optimizer, of weights, gradients, state and buffers one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steepest.lab.report.export import write_text
from steepest.lab.report.figure import WIDE
from steepest.lab.report.svg import Board, Scale, clipped

KINDS = (("weights", 1), ("gradients", 5), ("state", 3), ("buffers", 4))
"""What a bar is made of, with its colour."""
ROW, TOP, BELOW, LEFT, RIGHT = 24, 76, 50, 270, 90


def drawn(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    unit: str,
    size: int,
    limit: int | None = None,
    kinds: Sequence[tuple[str, int]] = KINDS,
) -> Board:
    """Bars in the order of the rows (``name``, and bytes by kind); ``size``: bytes of the unit; ``limit``: bytes
    that there are, a line."""
    shown = [(kind, slot) for kind, slot in kinds if any(row[kind] for row in rows)]
    board = Board(WIDE, TOP + ROW * len(rows) + BELOW, title)
    totals = [sum(row[kind] for kind, _ in kinds) / size for row in rows]
    x = Scale(0.0, 1.03 * max([*totals, (limit or 0) / size, 1e-9]), LEFT, WIDE - RIGHT)
    bottom = TOP + ROW * len(rows)
    board.text(2, 14, title, "name")
    at = float(LEFT)
    for kind, slot in shown:
        board.add("rect", f"mark bar c{slot}", x=at, y=28, width=12, height=12)
        board.text(at + 18, 38, kind)
        at += 34 + 7 * len(kind)
    board.columns(x, TOP, bottom, unit, lambda value: f"{value:g}", x.ticks(7))
    for place, (row, total) in enumerate(zip(rows, totals, strict=True)):
        top = TOP + ROW * place
        board.text(LEFT - 12, top + ROW / 2 + 4, clipped(row["name"], LEFT - 20), "name", "end")
        start = x(0.0)
        for kind, slot in shown:
            length = x(row[kind] / size) - x(0.0)
            tip = f"{row['name']}: {kind} {row[kind] / size:,.2f} {unit}"
            board.add("rect", f"mark bar c{slot}", x=start, y=top + 4, width=length, height=ROW - 8, data_tip=tip)
            start += length
        fits = limit is None or total * size <= limit
        board.text(x.stop + 74, top + ROW / 2 + 4, f"{total:,.2f}", "value" if fits else "value quiet", "end")
    if limit is not None:
        board.line(x(limit / size), TOP - 6, x(limit / size), bottom, "one")
        board.text(x(limit / size), TOP - 10, f"{limit / size:g} {unit}", "", "middle")
    return board


def write(path: Path, board: Board) -> Path:
    """The picture as a file of its own. Raises: BadInput where it cannot be written."""
    style = Path(__file__).with_name("figures.css").read_text(encoding="utf-8")
    return write_text(path, board.standalone(style))
