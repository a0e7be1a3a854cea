"""The figures of final losses: the gap to the baseline in every cell, and the curves that lead there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from steepest.lab.report.figure import WIDE, Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.svg import Board, Scale, clipped, color
from steepest.lab.report.words import interval, loss, tokens

Study = dict[str, Any]
UP = "M0 -1.1L.95 .7H-.95Z"


def legend(board: Board, study: Study, names: Iterable[str], left: float, top: float, right: float) -> float:
    """Marks and names of optimizers in lines from ``top`` on; the height below them."""
    slot, x, y = slots(study), left, top
    for name in names:
        words = clipped(say.label(study, name), 150)
        width = 8.3 * len(words) + 36
        if x > left and x + width > right:
            x, y = left, y + 20
        board.mark(x + 6, y - 4, slot[name], "", 4.5)
        board.text(x + 16, y, words, f"name c{color(slot[name])}")
        x += width
    return y + 12


def gaps(study: Study) -> Figure | None:
    """A panel per size: final loss less the baseline's at each data-to-model ratio, with intervals."""
    found, base = say.cells(study), study["baseline"]
    rows = []
    for (_, size, budget), cell in found.items():
        rival = found.get((base, size, budget))
        known = cell["loss"] is not None and rival is not None and rival["loss"] is not None
        row = {key: cell[key] for key in ("optimizer", "size", "ratio", "tokens", "loss", "low", "high", "seeds")}
        rows.append(row | {"gap": cell["loss"] - rival["loss"] if known and rival else None})
    shown = [row for row in rows if row["gap"] is not None and row["optimizer"] != base]
    if not shown:
        return None
    names = [n for n in say.contenders(study) if any(row["optimizer"] == n for row in shown)]
    panels = [size for size in say.sizes(study) if any(row["size"] == size for row in shown)]
    floor, ceiling = _range([row["gap"] for row in shown])

    def draw(width: int) -> Board:
        wide = width == WIDE
        columns = min(len(panels), 4 if wide else 1)
        lines = -(-len(panels) // columns)
        gap, left, height = 22, 56, 250 if wide else 210
        board = Board(width, 0, "Final loss less the baseline's, one panel per model size")
        top = legend(board, study, names, 4, 14, width)
        row = height + 62
        board.resize(top + 24 + lines * row)
        board.text(2, top + 10, f"loss − {clipped(say.label(study, base), 130)}’s, nats/token", "title")
        panel = (width - left - gap * (columns - 1) - 8) / columns
        for place, size in enumerate(panels):
            across, down = place % columns, place // columns
            start, over = left + across * (panel + gap), top + 42 + down * row
            y = Scale(floor, ceiling, over + height - 18, over + 16)
            _gap_panel(board, study, size, shown, names, (start, start + panel), y, over, across == 0)
        return board

    lowest = min(row["gap"] for row in shown)
    caption = (
        f"Where a mark lies below the line, the optimizer ended lower than {say.label(study, base)} "
        "after the same tokens. "
    )
    if any(row["low"] is not None for row in shown):
        caption += f"Bars are {say.level(study)} intervals of the optimizer’s own final loss. "
    else:
        caption += "There are no intervals: each loss is one number. "
    caption += f"1× is 20 tokens per weight. The largest gap is {-lowest:.3f} nats/token."
    if any(row["gap"] > ceiling for row in shown):
        caption += " An arrow at the top is a loss beyond the scale."
    return Figure("final-losses", "Final losses against the baseline’s", caption, *both(draw), rows)


def _range(values: list[float]) -> tuple[float, float]:
    """What the axis holds: far-off failures would press everything else flat, they go to the top."""
    ordered = sorted([*values, 0.0])
    usual = ordered[int(0.8 * (len(ordered) - 1))]
    high = min(ordered[-1], max(1.5 * usual, -ordered[0] / 2, 0.01))
    pad = 0.08 * (high - ordered[0] or 0.01)
    return ordered[0] - pad, high + pad


def _gap_panel(
    board: Board,
    study: Study,
    size: str,
    shown: list[Study],
    names: list[str],
    sides: tuple[float, float],
    y: Scale,
    top: float,
    labelled: bool,
) -> None:
    slot, here = slots(study), [row for row in shown if row["size"] == size]
    at = {row["tokens"]: say.times_data(row["ratio"]) for row in sorted(here, key=lambda row: row["tokens"])}
    room = (sides[1] - sides[0]) / len(at)
    x = {budget: sides[0] + room * (place + 0.5) for place, budget in enumerate(at)}
    board.text(sides[0], top, clipped(size, sides[1] - sides[0]), "name")
    digits = max(0, min(4, 1 - math.floor(math.log10(y.high - y.low))))
    for value in y.ticks(5):
        board.line(sides[0], y(value), sides[1], y(value), "one" if abs(value) < 1e-12 else "grid")
        if labelled:
            board.text(sides[0] - 8, y(value) + 4, f"{value:+.{digits}f}" if value else "0", "tick", "end")
    bottom = y.start + 14
    for budget, named in at.items():
        board.text(x[budget], bottom + 10, named, "tick", "middle")
    step = min(9.0, 0.8 * room / max(1, len(names)))
    for place, name in enumerate(names):
        dodge = (place - (len(names) - 1) / 2) * step
        css = f"c{color(slot[name])}"
        mine = sorted((row for row in here if row["optimizer"] == name), key=lambda row: row["tokens"])
        seen = [(x[row["tokens"]] + dodge, y(row["gap"])) for row in mine if y.inside(row["gap"])]
        if len(seen) > 1:
            board.path(seen, f"join {css}")
        for row in mine:
            _gap_mark(board, study, row, x[row["tokens"]] + dodge, y, slot[name], min(4.5, 0.6 * step + 1.2))


def _gap_mark(board: Board, study: Study, row: Study, x: float, y: Scale, slot: int, radius: float) -> None:
    who = f"{say.label(study, row['optimizer'])}, {row['size']} {say.times_data(row['ratio'])}"
    around = interval(row["low"], row["high"], 4)
    tip = f"{who}\nloss {row['loss']:.4f}{f' ({around})' if around else ''}\n{row['gap']:+.4f} nats/token"
    if not y.inside(row["gap"]):
        board.mark(x, y.stop - 4, slot, f"{tip}, beyond the scale", 4, "", UP)
        return
    if row["low"] is not None and row["high"] is not None:
        shift = row["gap"] - row["loss"]
        ends = (min(max(row[end] + shift, y.low), y.high) for end in ("low", "high"))
        low, high = (y(end) for end in ends)
        board.line(x, low, x, high, f"whisker c{color(slot)}")
    board.mark(x, y(row["gap"]), slot, tip, radius)


def curves(study: Study) -> Figure | None:
    """A panel per size: validation loss along the final runs of the longest schedule."""
    drawn = [curve for curve in study.get("curves") or [] if len(curve["points"]) > 1]
    if not drawn:
        return None
    panels = [size for size in say.sizes(study) if any(curve["size"] == size for curve in drawn)]
    names = [n for n in study["optimizers"] if any(curve["optimizer"] == n for curve in drawn)]

    def draw(width: int) -> Board:
        wide = width == WIDE
        columns = min(len(panels), (3 if len(panels) != 4 else 2) if wide else 1)
        lines, gap, left = -(-len(panels) // columns), 52, 44
        height = 270 if wide else 220
        board = Board(width, 0, "Validation loss along the final runs, one panel per model size")
        top = legend(board, study, names, 4, 14, width)
        row = height + 76
        board.resize(top + 24 + lines * row)
        board.text(2, top + 10, "validation loss, nats/token", "title")
        panel = (width - left - gap * (columns - 1) - 12) / columns
        for place, size in enumerate(panels):
            start, over = left + place % columns * (panel + gap), top + 42 + place // columns * row
            mine = [curve for curve in drawn if curve["size"] == size]
            _curve_panel(board, study, size, mine, (start, start + panel), over, height)
        return board

    caption = (
        "Validation loss along the runs behind the final losses, at the longest schedule of each size, its last "
        "three quarters. Only the right ends are compared: before them schedules are unfinished, and a lead there "
        "is no lead."
    )
    rows = [
        {key: curve[key] for key in ("optimizer", "size", "seed")} | {"tokens": at, "loss": value}
        for curve in drawn
        for at, value in curve["points"]
    ]
    return Figure("training-curves", "Training curves", caption, *both(draw), rows)


def _curve_panel(
    board: Board,
    study: Study,
    size: str,
    drawn: list[Study],
    sides: tuple[float, float],
    top: float,
    height: float,
) -> None:
    slot, last = slots(study), max(curve["points"][-1][0] for curve in drawn)
    late = [(curve, [(t, v) for t, v in curve["points"] if t >= last / 4 and v is not None]) for curve in drawn]
    late = [(curve, points) for curve, points in late if points]
    x = Scale(last / 4, last, *sides)
    y = Scale.around([value for _, points in late for _, value in points], top + height - 18, top + 22, pad=0.05)
    board.text(sides[0], top, clipped(f"{size}, {tokens(last)} tokens", sides[1] - sides[0]), "name")
    board.axes(x, y, "training tokens", "", tokens, "{:.2f}".format, x.ticks(4))
    for curve, points in late:
        board.path([(x(t), y(v)) for t, v in points], f"curve c{color(slot[curve['optimizer']])}")
    for curve, points in late:
        at, value = points[-1]
        seed = "" if curve["seed"] is None else f", seed {curve['seed']}"
        tip = f"{say.label(study, curve['optimizer'])}, {size}{seed}\n{tokens(at)} tokens: {loss(value)}"
        board.mark(x(at), y(value), slot[curve["optimizer"]], tip, 3.5)


DRAWN = (gaps, curves)
