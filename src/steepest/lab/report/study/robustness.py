"""The figures of robustness: loss against every swept hyperparameter, widths of the good region, regrets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from steepest.lab.report.curves import ARROW, CROSS
from steepest.lab.report.figure import WIDE, Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.study.overview import legend
from steepest.lab.report.study.panels import (
    Box,
    boxes,
    fullest,
    named,
    place_text,
    value_text,
    where,
    worth_showing,
)
from steepest.lab.report.svg import Board, Scale, clipped, color
from steepest.lab.report.words import listed

Study = dict[str, Any]
MOST = 12
"""Panels of one figure; the rest is in its data."""
MULTIPLES = (0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0, 30.0, 100.0)
DECADES = tuple(10.0**k for k in range(-30, 31, 5))
"""Marks of an axis of multiples: of a few decades, and of many."""


def sweeps(study: Study) -> Figure | None:
    """A panel per hyperparameter: the losses of every optimizer's sweep, at the place that has the most."""
    return _at_one_place(study, False)


def aligned_sweeps(study: Study) -> Figure | None:
    """The same as multiples of each optimizer's own best value, the losses above its own lowest."""
    return _at_one_place(study, True)


def _at_one_place(study: Study, aligned: bool) -> Figure | None:
    drawable = _drawable(study)
    at = fullest(drawable, lambda entry: len(entry["points"]))
    shown = [entry for entry in drawable if where(entry) == at]
    if not shown:
        return None
    names = list(dict.fromkeys(entry["hyperparameter"] for entry in shown))
    count = {name: sum(entry["hyperparameter"] == name for entry in shown) for name in names}
    names.sort(key=lambda name: (name != "lr", -count[name]))
    drawn = {name: [entry for entry in shown if entry["hyperparameter"] == name] for name in names[:MOST]}
    place = place_text(shown[0])
    title = "Loss against each hyperparameter" + (", as multiples of its own best" if aligned else "")
    found = _panels(study, drawn, aligned, f"{title}, one panel each")
    caption = f"One hyperparameter varied at a time, all others held, at {place}. "
    if aligned:
        caption += (
            "Every curve is shifted to its own lowest point: only shapes can be compared here, and an optimizer "
            "that nobody can tune looks as good as its neighbour. "
        )
    else:
        caption += "Where a curve lies low over a wide range, a guess does little harm. "
    caption += _rail()
    if len(names) > MOST:
        caption += f" Not drawn: {listed(names[MOST:], 6)}."
    return Figure("sweeps-aligned" if aligned else "sweeps", title, caption, *found, _rows(drawable))


def learning_rates(study: Study) -> Figure | None:
    """A panel per place: loss against learning rate of every optimizer."""
    drawable = [entry for entry in _drawable(study) if entry["hyperparameter"] == "lr"]
    order = {entry["size"]: place for place, entry in enumerate(study["sizes"])}
    drawable.sort(key=lambda entry: (entry.get("variant") or "", order[entry["size"]], entry["tokens"]))
    drawn: dict[str, list[Study]] = {}
    for entry in drawable:
        drawn.setdefault(place_text(entry), []).append(entry)
    if len(drawn) < 2:
        return None
    first = dict(list(drawn.items())[:MOST])
    found = _panels(study, first, True, "Loss above the best against learning rate, one panel per place", False)
    caption = (
        "Final loss above each optimizer’s own lowest, against its learning rate: how the best one moves with "
        f"size and data, and how steep its sides are. {_rail()}"
    )
    if len(drawn) > MOST:
        caption += f" Not drawn: {listed(list(drawn)[MOST:], 6)}."
    return Figure("learning-rates", "Learning rates at every size", caption, *found, _rows(drawable))


def _rail() -> str:
    return "On the top rail: a cross for a value that diverged, an arrow for a loss beyond the scale."


def _drawable(study: Study) -> list[Study]:
    return [entry for entry in study.get("sweeps") or [] if entry["axis"] != "names" and entry["best"] is not None]


def _panels(
    study: Study, drawn: dict[str, list[Study]], cost: bool, label: str, multiples: bool = True
) -> tuple[Board, Board]:
    """``drawn``: entries by the panel's name. cost: losses above each entry's own lowest."""
    entries = [entry for of_panel in drawn.values() for entry in of_panel]
    key = "cost" if cost else "loss"
    low, high = worth_showing([p[key] for entry in entries for p in entry["points"] if p[key] is not None])

    def draw(width: int) -> Board:
        board = Board(width, 0, label)
        top = legend(board, study, named(study, entries), 4, 14, width)
        board.text(2, top + 10, f"loss{' above its best' if cost else ''}, nats/token", "title")
        for box, (name, of_panel) in zip(boxes(board, len(drawn), top + 22), drawn.items(), strict=True):
            y = Scale.around([low, high], box.bottom, box.top + 22, pad=0.08)
            board.text(box.left, box.top - 8, clipped(name, box.right - box.left), "name")
            _panel(board, study, box, of_panel, y, key, cost and multiples)
        return board

    return both(draw)


def _panel(
    board: Board, study: Study, box: Box, entries: Sequence[Study], y: Scale, key: str, multiples: bool
) -> None:
    slot = slots(study)
    x, ticks = _across(box, entries, multiples)
    digits = 2 if y.high - y.low > 0.03 else 3
    named_ticks = {place: words for place, words in ticks}
    board.axes(
        x, y, "", "", lambda place: named_ticks[place], f"{{:.{digits}f}}".format if box.first else None,
        list(named_ticks), 6,
    )  # fmt: skip
    for entry in entries:
        css, points = f"c{color(slot[entry['optimizer']])}", []
        for point in entry["points"]:
            place = _place(entry, point, entries, multiples)
            if place is not None:
                points.append((x(place), point))
        board.path(
            [(at, y(p[key])) for at, p in points if p[key] is not None and y.inside(p[key])]
            or [(box.left, box.top)],
            f"join {css}",
        )
        for at, point in points:
            _point(board, study, entry, point, at, y, key)


def _point(board: Board, study: Study, entry: Study, point: Study, at: float, y: Scale, key: str) -> None:
    slot = slots(study)[entry["optimizer"]]
    tip = f"{say.label(study, entry['optimizer'])}, {place_text(entry)}\n{entry['hyperparameter']} "
    tip += value_text(point["value"])
    if point["loss"] is None:
        board.mark(at, y.stop - 12, slot, f"{tip}\ndiverged", 3.5, "lost", CROSS)
        return
    tip += f"\nloss {point['loss']:.4f}" + (f", {point['cost']:+.4f}" if point["cost"] else ", its best")
    if not y.inside(point[key]):
        board.mark(at, y.stop - 12, slot, f"{tip}, beyond the scale", 3.5, "", ARROW)
    else:
        board.mark(at, y(point[key]), slot, tip, 4.5 if point["value"] == entry["best"] else 3)


def _across(box: Box, entries: Sequence[Study], multiples: bool) -> tuple[Scale, list[tuple[float, str]]]:
    """The horizontal scale in places, and its ticks with their words."""
    at = {
        place: point["value"]
        for entry in entries
        for point in entry["points"]
        if (place := _place(entry, point, entries, multiples)) is not None
    }
    x = Scale.around([*at], box.left + 4, box.right - 4, pad=0.08)
    if multiples and entries[0]["axis"] == "steps":
        steps = range(math.ceil(x.low), math.floor(x.high) + 1)
        return x, [(float(step), f"{step:+d}" if step else "best") for step in steps]
    if multiples:
        marks = MULTIPLES if x.high - x.low < 5 else DECADES
        places = [(math.log10(m), f"{m:g}×") for m in marks if x.inside(math.log10(m))]
        return x, sorted(places, key=lambda tick: abs(tick[0]))
    values = sorted(at)
    middle = values[len(values) // 2]
    # The board drops words that would touch; those nearest the middle and the ends are offered first.
    order = sorted(values, key=lambda place: (place not in (values[0], values[-1]), abs(place - middle)))
    return x, [(place, value_text(at[place])) for place in order]


def _place(entry: Study, point: Study, entries: Sequence[Study], multiples: bool) -> float | None:
    if point["place"] is None:
        return None
    steps = entries[0]["axis"] == "steps"
    if multiples:
        shift = point["aligned"]
        return float(shift) if steps else math.log10(shift) if shift and entry["axis"] != "steps" else None
    # Optimizers' grids differ: a step of one is no step of another, so these stand by their values.
    return float(point["value"]) if any(e["axis"] == "steps" for e in entries) else float(point["place"])


def _rows(entries: Sequence[Study]) -> list[Study]:
    keys = ("optimizer", "size", "ratio", "tokens", "variant", "hyperparameter", "axis")
    return [
        {key: entry[key] for key in keys}
        | {key: point[key] for key in ("value", "aligned", "loss", "cost", "runs")}
        | {"best": point["value"] == entry["best"]}
        for entry in entries
        for point in entry["points"]
    ]


def widths(study: Study) -> Figure | None:
    """A panel per margin, a line per optimizer: how wide the good region of the learning rate is."""
    entries = [e for e in study.get("robustness") or [] if e["hyperparameter"] == "lr" and e["widths"]]
    at = fullest(entries, lambda entry: 1 + 10 * entry["bracketed"])
    if at is None:
        return None
    here = {entry["optimizer"]: entry for entry in entries if where(entry) == at}
    names, margins = named(study, entries), [width["margin"] for width in entries[0]["widths"]]
    place = place_text(next(iter(here.values())))
    ends = [width[end] or 0 for e in entries for width in e["widths"] for end in ("value", "high")]
    most = min(max(ends), 1.6 * max(width["value"] for e in entries for width in e["widths"]))

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, row, gap = (130, 26, 34) if wide else (104, 24, 0)
        depth = row * len(names)
        board = Board(width, 0, "Width of the good region of the learning rate, one panel per margin")
        board.resize(depth + 84 if wide else len(margins) * (depth + 88))
        panel = (width - left - 30 - gap * (len(margins) - 1)) / len(margins) if wide else width - left - 30
        for k, margin in enumerate(margins):
            start, over = (left + k * (panel + gap), 14) if wide else (left, 14 + k * (depth + 88))
            x = Scale(0, most * 1.02 or 1, start, start + panel)
            board.text(start, over, f"within {margin:g} nats/token", "name")
            top, bottom = over + 12, over + 12 + depth
            board.columns(x, top, bottom, "decades of learning rate", "{:.2g}".format, x.ticks(4 if wide else 5))
            for line, name in enumerate(names):
                middle = top + row * (line + 0.5)
                if k == 0 or not wide:
                    words = clipped(say.label(study, name), left - 18)
                    board.text(left - 14, middle + 4, words, f"name c{color(slots(study)[name])}", "end")
                for entry in (e for e in entries if e["optimizer"] == name and e is not here.get(name)):
                    _width(board, study, entry, k, x, middle, False)
                if name in here:
                    _width(board, study, here[name], k, x, middle, True)
        return board

    caption = (
        f"Large marks: {place}; small pale marks: every other place. The region around the best learning rate in "
        "which the loss stays within the margin of the lowest, on the curve through what was tried. An arrowhead: "
        "the region reaches the last value tried, and may be wider."
    )
    if any(width["low"] is not None for entry in here.values() for width in entry["widths"]):
        caption += " Lines are 90\N{NO-BREAK SPACE}% intervals of the seeds’ noise."
    rows = [
        {key: entry[key] for key in ("optimizer", "size", "ratio", "tokens", "variant", "hyperparameter", "unit")}
        | {key: value for key, value in width.items() if key != "flags"}
        | {"flags": "; ".join([*width["flags"], *entry["flags"]])}
        for entry in study["robustness"]
        for width in entry["widths"]
    ]
    return Figure("widths", "How far off a learning rate may be", caption, *both(draw), rows)


def _width(board: Board, study: Study, entry: Study, k: int, x: Scale, height: float, main: bool) -> None:
    width, slot = entry["widths"][k], slots(study)[entry["optimizer"]]
    css, place = f"c{color(slot)}", x(min(width["value"], x.high))
    tip = f"{say.label(study, entry['optimizer'])}, {place_text(entry)}\n{width['value']:.2f} decades"
    tip += "".join(f"\n{flag}" for flag in width["flags"])
    if not main:
        board.mark(place, height, slot, tip, 2.5, "pale")
        return
    if "edge" in (width["low_end"], width["high_end"]):
        tail = min(place + 22, x.stop + 12)
        board.line(place, height, tail, height, f"interval {css}")
        board.path([(tail + 6, height), (tail - 1, height - 4), (tail - 1, height + 4)], f"arrow {css}", True)
    elif width["high"] is not None:
        board.line(place, height, x(min(width["high"], x.high)), height, f"interval {css}")
    if width["low"] is not None:
        board.line(x(width["low"]), height, place, height, f"interval {css}")
    board.mark(place, height, slot, tip, 5)


def regrets(study: Study) -> Figure | None:
    """A panel per factor: the mean loss that a learning rate known to that factor costs."""
    entries = [e for e in study.get("robustness") or [] if e["hyperparameter"] == "lr" and e["regrets"]]
    known = [e for e in entries if any(r["factor"] and r["value"] is not None for r in e["regrets"])]
    at = fullest(known)
    here = {entry["optimizer"]: entry for entry in known if where(entry) == at}
    if not here:
        return None
    names = named(study, here.values())
    place = place_text(next(iter(here.values())))
    factors = [r["factor"] for r in next(iter(here.values()))["regrets"] if r["factor"]]
    by_factor = {
        f: {n: next(r for r in e["regrets"] if r["factor"] == f) for n, e in here.items()} for f in factors
    }
    factors = [f for f in factors if any(r["value"] is not None for r in by_factor[f].values())]

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, row, gap = (130, 26, 40) if wide else (104, 24, 0)
        depth = row * len(names)
        board = Board(width, 0, "Expected regret of a learning rate known to a factor, one panel per factor")
        board.resize(depth + 84 if wide else len(factors) * (depth + 88))
        panel = (width - left - 46 - gap * (len(factors) - 1)) / len(factors) if wide else width - left - 46
        for k, factor in enumerate(factors):
            start, over = (left + k * (panel + gap), 14) if wide else (left, 14 + k * (depth + 88))
            stated = by_factor[factor]
            x = Scale(
                0, _usual([r["value"] for r in stated.values() if r["value"] is not None]), start, start + panel
            )
            board.text(start, over, f"known to a factor of {factor:g}", "name")
            top, bottom = over + 12, over + 12 + depth
            board.columns(x, top, bottom, "mean loss above the best", "{:.3g}".format, x.ticks(3))
            for line, name in enumerate(names):
                middle = top + row * (line + 0.5)
                if k == 0 or not wide:
                    words = clipped(say.label(study, name), left - 18)
                    board.text(left - 14, middle + 4, words, f"name c{color(slots(study)[name])}", "end")
                _regret(board, study, here[name], stated[name], x, middle)
        return board

    caption = (
        f"At {place}: what a learning rate costs on average that is drawn evenly, in logarithms, within the "
        "factor of the best one: the price of knowing it no better. After the learning-rate sensitivity of "
        "arXiv 2309.14322; a diverged run counts as the loss at the start. A dash: less than nine tenths of the "
        "range was tried."
    )
    rows = [
        {key: entry[key] for key in ("optimizer", "size", "ratio", "tokens", "variant", "hyperparameter")}
        | {key: value for key, value in regret.items() if key != "flags"}
        | {"flags": "; ".join(regret["flags"])}
        for entry in study["robustness"]
        for regret in entry["regrets"]
    ]
    return Figure("regrets", "What a guessed learning rate costs", caption, *both(draw), rows)


def _usual(values: Sequence[float]) -> float:
    ordered = sorted(values)
    usual = ordered[int(0.7 * (len(ordered) - 1))] if ordered else 1.0
    return min(ordered[-1] if ordered else 1.0, max(3 * usual, 1e-4)) * 1.05 or 1.0


def _regret(board: Board, study: Study, entry: Study, regret: Study, x: Scale, height: float) -> None:
    value, slot = regret["value"], slots(study)[entry["optimizer"]]
    if value is None:
        board.text(x.start + 4, height + 4, "–", "value quiet")
        return
    tip = f"{say.label(study, entry['optimizer'])}, {place_text(entry)}\n{value:.4f} nats/token on average"
    end = x(min(value, x.high))
    css = f"mark bar c{color(slot)}"
    board.add("rect", css, x=x.start, y=height - 7, width=max(1.0, end - x.start), height=14, data_tip=tip)
    board.text(end + 6, height + 4, f"{value:.2g}", "value")


DRAWN = (sweeps, aligned_sweeps, learning_rates, widths, regrets)
