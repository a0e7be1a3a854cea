"""The figures of speedups: in every cell with its interval, and against model size with its trend."""

from __future__ import annotations

import math
from typing import Any

from steepest.lab.report.curves import Box
from steepest.lab.report.figure import WIDE, Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.study.overview import legend
from steepest.lab.report.svg import Board, Scale, clipped, color
from steepest.lab.report.words import interval, listed

Study = dict[str, Any]
FAR = 1.6
"""An interval's end farther than this factor from every value would press the axis flat: it is cut."""
UP, DOWN = "M0 -1.1L.95 .7H-.95Z", "M0 1.1L.95 -.7H-.95Z"


def boxes(width: int, count: int, columns: int, height: float, top: float) -> tuple[list[Box], float]:
    """Frames of ``count`` panels in rows from ``top`` on, each with its own axis, and the height of all."""
    columns, left, gap, foot = min(columns, count), 48, 60, 54
    panel = (width - left - gap * (columns - 1) - 14) / columns
    frames = [
        Box(
            left + place % columns * (panel + gap),
            top + place // columns * (height + foot),
            panel,
            height - 24,
            True,
        )
        for place in range(count)
    ]
    return frames, top + -(-count // columns) * (height + foot) - 24


def told(entry: Study) -> str:
    """``1.42 times (1.30 to 1.55)``."""
    span = interval(entry["low"], entry["high"], 2)
    return f"{entry['speedup']:.2f} times" + (f" ({span})" if span else "")


def _stated(study: Study) -> list[Study]:
    return [e for e in study.get("speedups") or [] if not e["variant"] and e["speedup"] is not None]


def _names(study: Study, entries: list[Study]) -> list[str]:
    return [name for name in say.contenders(study) if any(entry["optimizer"] == name for entry in entries)]


def _axis(entries: list[Study], start: float, stop: float) -> Scale:
    """Holds 1, all values and published values, and the ends of intervals that do not lie far off."""
    values = [entry["speedup"] for entry in entries]
    values += [entry["published"] for entry in entries if entry.get("published")]
    low, high = min([1.0, *values]), max([1.0, *values])
    ends = [e[key] for e in entries for key in ("low", "high") if e[key] is not None]
    return Scale.around([low, high, *(e for e in ends if low / FAR <= e <= high * FAR)], start, stop, True, 0.04)


def _upright(board: Board, x: float, y: Scale, entry: Study, css: str) -> None:
    """An interval from bottom to top; an end that is open or off the scale gets an arrowhead."""
    if entry["low"] is None and entry["high"] is None:
        return
    low = y(max(entry["low"] or y.low, y.low))
    high = y(min(entry["high"] or y.high, y.high))
    board.line(x, low, x, high, f"whisker {css}")
    if entry["high"] is None or entry["high"] > y.high:
        board.path([(x, y.stop - 6), (x - 3, y.stop), (x + 3, y.stop)], f"arrow {css}", True)
    if entry["low"] is None or entry["low"] < y.low:
        board.path([(x, y.start + 6), (x - 3, y.start), (x + 3, y.start)], f"arrow {css}", True)


def _tip(study: Study, entry: Study) -> str:
    base = say.label(study, study["baseline"])
    tip = f"{say.label(study, entry['optimizer'])}, {entry['size']} {say.times_data(entry['ratio'])}\n"
    tip += f"{base} needs {told(entry)} the tokens: {say.verdict(entry)}"
    left_out = entry.get("leave_one_out")
    if left_out:
        tip += f"\nwith one point of the law left out: {interval(left_out[0], left_out[1], 2)}"
    if (entry.get("shared") or {}).get("value"):
        tip += f"\nunder one exponent for all sizes: {entry['shared']['value']:.2f}"
    if entry.get("published") is not None:
        tip += f"\npublished: {entry['published']:.2f}"
    return tip + "".join(f"\n{flag}" for flag in entry["flags"])


def speedups(study: Study) -> Figure | None:
    """A panel per size: every speedup with its interval at each ratio, published values as ticks."""
    stated = _stated(study)
    if not stated:
        return None
    names, base = _names(study, stated), say.label(study, study["baseline"])
    panels = [size for size in say.sizes(study) if any(entry["size"] == size for entry in stated)]
    published = [entry for entry in stated if entry.get("published") is not None]

    def draw(width: int) -> Board:
        wide = width == WIDE
        board = Board(width, 0, f"Speedup over {base} in tokens, one panel per size")
        top = legend(board, study, names, 4, 14, width)
        board.text(2, top + 10, f"times as fast as {clipped(base, 130)}, in tokens", "title")
        frames, height = boxes(width, len(panels), 2 if wide else 1, 260 if wide else 230, top + 44)
        board.resize(height)
        for size, box in zip(panels, frames, strict=True):
            _size_panel(board, study, [e for e in stated if e["size"] == size], stated, size, box)
        return board

    caption = (
        f"How many times {base}'s tokens a run of each optimizer is worth, read off {base}'s law at that size. "
        f"Bars are {say.level(study)} intervals that hold seed noise and the fit, each standing alone; one across "
        "1× tells nothing apart. Open marks lie outside the fitted range."
    )
    if published:
        apart = max(abs(entry["published"] - entry["speedup"]) for entry in published)
        caption += f" Ticks are published values; the farthest is {apart:.2g} from ours."
    refused = [
        f"{say.label(study, e['optimizer'])} at {e['size']} {say.times_data(e['ratio'])} ({'; '.join(e['flags'])})"
        for e in study.get("speedups") or []
        if e["speedup"] is None and not e["variant"]
    ]
    caption += f" Not stated: {listed(refused, 4)}." if refused else ""
    return Figure("study-speedups", "Speedups, with intervals", caption, *both(draw), _rows(stated))


def _rows(stated: list[Study]) -> list[Study]:
    rows = []
    for entry in stated:
        keys = ("optimizer", "size", "ratio", "tokens", "speedup", "low", "high", "published", "word")
        row = {key: entry.get(key) for key in keys} | {"flags": "; ".join(entry["flags"])}
        row["shared"] = (entry.get("shared") or {}).get("value")
        row["left_out_low"], row["left_out_high"] = entry.get("leave_one_out") or (None, None)
        for kind in ("steps", "flops", "seconds"):
            if entry.get(kind):
                row |= {f"{kind}{end}": entry[kind][key] for end, key in ENDS}
        rows.append(row)
    return rows


ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))


def _size_panel(board: Board, study: Study, here: list[Study], stated: list[Study], size: str, box: Box) -> None:
    slot, y = slots(study), _axis(stated, box.bottom, box.top + 8)
    at = {say.times_data(e["ratio"]): e["ratio"] for e in sorted(here, key=lambda entry: entry["ratio"])}
    room = (box.right - box.left) / len(at)
    board.text(box.left, box.top - 6, clipped(size, box.right - box.left), "name")
    _lines(board, y, box)
    for place, named in enumerate(at):
        board.text(box.left + room * (place + 0.5), box.bottom + 18, named, "tick", "middle")
    names = _names(study, here)
    step = min(14.0, 0.86 * room / len(names))
    radius = min(4.5, 0.45 * step)
    for entry in here:
        place = list(at).index(say.times_data(entry["ratio"]))
        dodge = (names.index(entry["optimizer"]) - (len(names) - 1) / 2) * step
        across, css = box.left + room * (place + 0.5) + dodge, f"c{color(slot[entry['optimizer']])}"
        _upright(board, across, y, entry, css)
        if entry.get("published") is not None:
            tick = y(entry["published"])
            board.line(across - radius - 3, tick, across + radius + 3, tick, "one")
        _mark(board, across, y, entry, slot[entry["optimizer"]], _tip(study, entry), radius)


def _mark(board: Board, x: float, y: Scale, entry: Study, slot: int, tip: str, radius: float) -> None:
    outside = any("outside the fitted range" in flag for flag in entry["flags"])
    board.mark(x, y(entry["speedup"]), slot, tip, radius, "open" if outside else "")


def _lines(board: Board, y: Scale, box: Box) -> None:
    """Horizontal grid lines of a speedup axis, 1× strong."""
    for value in sorted({1.0, *(tick for tick in y.ticks(5) if abs(y(tick) - y(1)) > 12)}):
        board.line(box.left, y(value), box.right, y(value), "one" if value == 1 else "grid")
        board.text(box.left - 8, y(value) + 4, f"{value:.3g}×", "tick", "end")


def speedup_vs_size(study: Study) -> Figure | None:
    """A panel per ratio: speedups against weights, with the line of each trend and its band."""
    trends = [trend for trend in study.get("trends") or [] if not trend["variant"] and trend["line"]]
    if not trends:
        return None
    stated = _stated(study)
    names, base = _names(study, stated), say.label(study, study["baseline"])
    at = sorted(
        {say.times_data(trend["ratio"]): trend["ratio"] for trend in trends}.items(), key=lambda pair: pair[1]
    )

    def draw(width: int) -> Board:
        wide = width == WIDE
        board = Board(width, 0, f"Speedup over {base} against model size, one panel per ratio of data to model")
        top = legend(board, study, names, 4, 14, width)
        board.text(2, top + 10, f"times as fast as {clipped(base, 130)}, in tokens", "title")
        frames, height = boxes(width, len(at), 2 if wide else 1, 300 if wide else 250, top + 44)
        board.resize(height + 18)
        board.text(width / 2, height + 12, "non-embedding weights", "title", "middle")
        for (named, _), box in zip(at, frames, strict=True):
            here = [e for e in stated if say.times_data(e["ratio"]) == named]
            lines = [t for t in trends if say.times_data(t["ratio"]) == named]
            _ratio_panel(board, study, named, here, lines, stated, names, box)
        return board

    told_apart = [trend for trend in trends if _moves(trend)]
    caption = (
        "Does a speedup last? Each line is fitted to the logarithms of the speedups, sizes weighted by how well "
        f"they are known; bands ({say.level(study)}) are drawn where the slope is told from none. "
    )
    words = [
        f"{say.label(study, t['optimizer'])} {say.times_data(t['ratio'])}: {_slope(t)}"
        for t in sorted(told_apart, key=lambda trend: trend["per_decade"])
    ]
    if words:
        caption += f"Per tenfold weights, {listed(words, 8)}."
    else:
        caption += "No slope is: these data do not say whether a speedup grows or falls with size."
    rows = []
    for trend in trends:
        row = {key: trend[key] for key in ("optimizer", "ratio", "per_decade", "low", "high")}
        row["flags"] = "; ".join(trend["flags"])
        for end in trend["line"]:
            line = {"line": end["speedup"], "line_low": end["low"], "line_high": end["high"]}
            rows.append(row | {"size": end["size"], "weights": end["weights"]} | line)
    return Figure("speedup-vs-size", "Speedup against model size", caption, *both(draw), rows)


def _moves(trend: Study) -> bool:
    """Whether the interval of the slope leaves 0 out."""
    return bool(
        (trend["low"] is not None and trend["low"] > 0) or (trend["high"] is not None and trend["high"] < 0)
    )


def _slope(trend: Study) -> str:
    """``×0.82 (0.75 to 0.90)``: what ten times the weights multiply the speedup by."""
    low, high = (None if trend[end] is None else math.exp(trend[end]) for end in ("low", "high"))
    span = interval(low, high, 2)
    return f"×{math.exp(trend['per_decade']):.2f}" + (f" ({span})" if span else "")


def _ratio_panel(
    board: Board,
    study: Study,
    named: str,
    here: list[Study],
    lines: list[Study],
    stated: list[Study],
    names: list[str],
    box: Box,
) -> None:
    slot, y = slots(study), _axis(stated, box.bottom, box.top + 8)
    weights = {entry["weights"]: entry["size"] for entry in stated}
    x = Scale.around(list(weights), box.left, box.right, True, 0.1)
    board.text(box.left, box.top - 6, f"{named} data", "name")
    _lines(board, y, box)
    for count, size in weights.items():
        board.line(x(count), box.bottom, x(count), box.bottom + 5, "axis")
        near = min((abs(x(other) - x(count)) for other in weights if other != count), default=box.right - box.left)
        board.text(x(count), box.bottom + 18, clipped(size, near - 4), "tick", "middle")
    for line in lines:
        if _moves(line):
            edge = [(x(e["weights"]), y(min(e["high"] or y.high, y.high))) for e in line["line"]]
            edge += [(x(e["weights"]), y(max(e["low"] or y.low, y.low))) for e in reversed(line["line"])]
            board.path(edge, f"band c{color(slot[line['optimizer']])}", closed=True)
    for line in lines:
        points = [(x(end["weights"]), y(end["speedup"])) for end in line["line"]]
        board.path(points, f"join c{color(slot[line['optimizer']])}")
    for entry in here:
        dodge = (names.index(entry["optimizer"]) - (len(names) - 1) / 2) * 5
        across = x(entry["weights"]) + dodge
        _upright(board, across, y, entry, f"c{color(slot[entry['optimizer']])}")
        _mark(board, across, y, entry, slot[entry["optimizer"]], _tip(study, entry), 4)


def slopes(study: Study) -> Figure | None:
    """A row per optimizer and ratio: what ten times the weights multiply the speedup by."""
    trends = [t for t in study.get("trends") or [] if not t["variant"] and t["per_decade"] is not None]
    if not trends:
        return None
    slot, base = slots(study), say.label(study, study["baseline"])
    names = [name for name in say.contenders(study) if any(trend["optimizer"] == name for trend in trends)]
    grouped = [(n, sorted((t for t in trends if t["optimizer"] == n), key=lambda t: t["ratio"])) for n in names]

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, right, row, gap = (190, width - 200, 17, 10) if wide else (120, width - 16, 17, 10)
        board = Board(width, 84 + row * len(trends) + gap * len(names), "Trend of each speedup with model size")
        values = [1.0, *(math.exp(trend["per_decade"]) for trend in trends)]
        ends = [math.exp(t[end]) for t in trends for end in ("low", "high") if t[end] is not None]
        near = [end for end in ends if min(values) / FAR <= end <= max(values) * FAR]
        x = Scale.around([*values, *near], left, right, True, 0.05)
        top, bottom = 24, board.height - 48
        ticks = [1.0, *(tick for tick in x.ticks(6 if wide else 3) if abs(x(tick) - x(1)) > 30)]
        board.columns(x, top, bottom, "speedup times this per tenfold weights", "×{:.3g}".format, ticks)
        board.line(x(1), top, x(1), bottom, "one")
        height = top + 6.0
        for name, mine in grouped:
            css = f"c{color(slot[name])}"
            who = clipped(say.label(study, name), left - 66)
            board.text(left - 48, height + row / 2 + 4, who, f"name {css}", "end")
            for trend in mine:
                middle = height + row / 2
                board.text(left - 10, middle + 4, say.times_data(trend["ratio"]), "tick", "end")
                _across(board, x, middle, trend, css)
                tip = f"{say.label(study, name)}, {say.times_data(trend['ratio'])}, sizes "
                tip += f"{listed(trend['sizes'], 6)}\n{_slope(trend)} per tenfold weights" + "".join(
                    f"\n{flag}" for flag in trend["flags"]
                )
                loose = any("outside" in flag for flag in trend["flags"])
                board.mark(x(math.exp(trend["per_decade"])), middle, slot[name], tip, 4, "open" if loose else "")
                if wide:
                    board.text(right + 12, middle + 4, _slope(trend), "value quiet")
                height += row
            height += gap
        return board

    moving = sum(_moves(trend) for trend in trends)
    chance = (1 - study.get("level", 0.9)) * len(trends)
    caption = (
        f"Left of the line, the advantage over {base} shrinks as models grow. {moving} of {len(trends)} slopes "
        f"are told from none at {say.level(study)}; about {chance:.0f} would be by chance alone. Open marks rest "
        "on speedups outside the fitted range of a law."
    )
    rows = [
        {key: t[key] for key in ("optimizer", "ratio", "per_decade", "low", "high")}
        | {"sizes": " ".join(t["sizes"]), "flags": "; ".join(t["flags"])}
        for t in trends
    ]
    return Figure("speedup-trends", "Trends with model size", caption, *both(draw), rows)


def _across(board: Board, x: Scale, height: float, trend: Study, css: str) -> None:
    low, high = (None if trend[end] is None else math.exp(trend[end]) for end in ("low", "high"))
    if low is None and high is None:
        return
    board.line(x(max(low or x.low, x.low)), height, x(min(high or x.high, x.high)), height, f"interval {css}")
