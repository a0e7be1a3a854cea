"""The figures of certainty: certificates cell by cell, where winners stand in their grids, search spent, power."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from steepest.lab.analysis.power import gap_of
from steepest.lab.report.figure import WIDE, Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.svg import SHAPES, Board, Scale, clipped, color
from steepest.lab.report.words import duration, tokens

Study = dict[str, Any]

CIRCLE, DIAMOND = SHAPES[0], SHAPES[2]
CROSS, DASH, BLOCKED = "M-1 -1L1 1M-1 1L1 -1", "M-1 0H1", "M-.9 -.9H.9V.9H-.9Z"
MARKS = {
    "certified": (CIRCLE, "", "certified"),
    "edge": (BLOCKED, "open", "at an edge of its grid"),
    "untried": (CIRCLE, "open", "neighbours not tried"),
    "better": (CROSS, "lost", "a neighbour is better"),
    "nothing": (DASH, "lost", "nothing moved around it"),
}
"""What became of a winner: shape, style, words."""

PARTS = {
    "bracketed": ("c3", "bracketed"),
    "flat": ("c3 pale", "flat: worse on neither side, or on one"),
    "low edge": ("c5", "at the low edge"),
    "high edge": ("c2", "at the high edge"),
    "untried": ("c0 pale", "not tried on one side"),
    "better": ("c4", "a value is better"),
}
"""Where a winner stands in one grid: style, words."""


def outcome(entry: Study) -> str:
    """The one word of a certificate, the gravest first; a key of MARKS."""
    if entry["certified"] is None:
        return "nothing"
    if entry["certified"]:
        return "certified"
    if entry["neighbours"]["better"]:
        return "better"
    return "edge" if any(c["standing"].endswith("edge") for c in entry["coordinates"]) else "untried"


def certificates(study: Study) -> Figure | None:
    """Optimizers by cells: whether each winner is a certified local optimum, and what is missing."""
    found = [entry for entry in study.get("certificates") or [] if not entry["variant"]]
    if not found:
        return None
    names = [name for name in study["optimizers"] if any(entry["optimizer"] == name for entry in found)]
    at = {(entry["optimizer"], entry["size"], entry["tokens"]): entry for entry in found}
    order = {entry["size"]: place for place, entry in enumerate(study["sizes"])}
    columns = sorted({(e["size"], e["tokens"]) for e in found}, key=lambda place: (order[place[0]], place[1]))
    ratios = {(entry["size"], entry["tokens"]): say.times_data(entry["ratio"]) for entry in found}
    used = [key for key in MARKS if any(outcome(entry) == key for entry in found)]

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, row = (150 if wide else 84), (34 if wide else 30)
        board = Board(width, 0, "Certificates of the winners, optimizers by cells")
        top = _legend(board, [(MARKS[key][0], MARKS[key][1], MARKS[key][2]) for key in used], width)
        room = (width - left - 6) / len(columns)
        x = {place: left + room * (number + 0.5) for number, place in enumerate(columns)}
        _heads(board, columns, x, ratios, room, top)
        for number, name in enumerate(names):
            middle = top + 48 + row * (number + 0.5)
            board.line(left, middle + row / 2, width - 6, middle + row / 2, "grid")
            who = clipped(say.label(study, name), left - 12)
            board.text(left - 10, middle + 4, who, f"name c{color(slots(study)[name])}", "end")
            for place in columns:
                if (name, *place) in at:
                    _certificate(board, study, at[name, *place], x[place], middle, room, ratios[place])
        board.resize(top + 56 + row * len(names))
        return board

    good = sum(bool(entry["certified"]) for entry in found)
    caption = (
        f"{good} of {len(found)} winners are certified: every setting one step away in one hyperparameter was "
        "tried, none is better beyond the noise, and no hyperparameter is at an edge of its grid. The small "
        "numbers: how many of the hyperparameters moved are bracketed by worse values on both sides. "
    )
    if any(entry["inferred"] for entry in found):
        caption += "Where no search space was given, it is the values that were tried in the cell. "
    caption += f"{found[0]['noise'][:1].upper()}{found[0]['noise'][1:]}."
    rows = [
        {
            **{
                key: entry[key]
                for key in ("optimizer", "size", "ratio", "tokens", "certified", "text", "loss", "seeds")
            },
            **{f"neighbours_{key}": count for key, count in entry["neighbours"].items()},
            **{c["name"]: f"{c['value']} ({c['standing']})" for c in entry["coordinates"]},
        }
        for entry in found
    ]
    return Figure("certificates", "Which winners are local optima", caption, *both(draw), rows)


def _certificate(board: Board, study: Study, entry: Study, x: float, y: float, room: float, ratio: str) -> None:
    shape, css, _ = MARKS[outcome(entry)]
    lines = entry["text"].replace("; ", "\n")
    tip = f"{say.label(study, entry['optimizer'])}, {entry['size']} {ratio}\n{lines}"
    roomy = room > 44 and entry["coordinates"]
    board.mark(
        x - (12 if roomy else 0), y, slots(study)[entry["optimizer"]], tip, min(5.0, 0.3 * room), css, shape
    )
    if roomy:
        closed = sum(c["standing"] == "bracketed" for c in entry["coordinates"])
        board.text(x - 2, y + 4, f"{closed}/{len(entry['coordinates'])}", "note")


def _heads(
    board: Board,
    columns: Sequence[tuple[str, int]],
    x: dict[tuple[str, int], float],
    ratios: dict[tuple[str, int], str],
    room: float,
    top: float,
) -> None:
    """Sizes over their data-to-model ratios."""
    for size in dict.fromkeys(size for size, _ in columns):
        mine = [x[place] for place in columns if place[0] == size]
        board.text((mine[0] + mine[-1]) / 2, top + 18, clipped(size, room * len(mine)), "name", "middle")
        board.line(mine[0] - room / 2 + 2, top + 24, mine[-1] + room / 2 - 2, top + 24, "axis")
    for place in columns:
        board.text(x[place], top + 40, ratios[place] if room > 24 else ratios[place].rstrip("×"), "tick", "middle")


def _legend(board: Board, entries: Sequence[tuple[str, str, str]], right: float) -> float:
    """Marks with their words, in lines; the height below them."""
    x, y = 4.0, 14.0
    for shape, css, words in entries:
        width = 6.6 * len(words) + 34
        if x > 4 and x + width > right:
            x, y = 4.0, y + 20
        board.mark(x + 6, y - 4, 0, "", 5, css, shape)
        board.text(x + 16, y, words)
        x += width
    return y + 10


def standings(study: Study) -> Figure | None:
    """A bar per hyperparameter: in how many cells its value is bracketed, flat, at an edge, or not known to be."""
    found = [entry for entry in study.get("certificates") or [] if entry["certified"] is not None]
    counts: dict[str, dict[str, int]] = {}
    for entry in found:
        for coordinate in entry["coordinates"]:
            of_name = counts.setdefault(coordinate["name"], dict.fromkeys(PARTS, 0))
            of_name[coordinate["standing"]] += 1
    if not counts:
        return None
    names = sorted(counts, key=lambda name: -sum(counts[name].values()))
    used = [part for part in PARTS if any(counts[name][part] for name in names)]

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, right, row = (190, width - 60, 26) if wide else (118, width - 40, 28)
        board = Board(width, 0, "Where winners stand in the grids of their hyperparameters")
        top = _keys(board, [PARTS[part] for part in used], width)
        x = Scale(0, max(sum(counts[name].values()) for name in names), left, right)
        bottom = top + 8 + row * len(names)
        board.columns(x, top + 8, bottom, "cells in which it was moved", "{:.0f}".format, x.ticks(5))
        for number, name in enumerate(names):
            middle, start = top + 8 + row * (number + 0.5), 0
            board.text(left - 10, middle + 4, clipped(name, left - 12), "name", "end")
            for part in used:
                count = counts[name][part]
                if count:
                    css, words = PARTS[part]
                    ends = x(start), x(start + count)
                    tip = f"{name}: {words} in {count} of {sum(counts[name].values())} cells"
                    _bar(board, *ends, middle, css, tip)
                    start += count
            board.text(x(start) + 6, middle + 4, f"{counts[name]['bracketed']}/{start}", "note")
        board.resize(bottom + 46)
        return board

    caption = (
        "In how many cells a worse value of a hyperparameter was tried on both sides of the winner’s (bracketed; "
        "the numbers count them), none was found worse on a side (flat), or the winner’s value is the smallest or "
        "largest of its grid, and a better one may lie beyond. A value that cannot be passed, such as no weight "
        "decay, is no edge."
    )
    rows = [{"hyperparameter": name, **counts[name]} for name in names]
    return Figure("standings", "Where winners stand in their grids", caption, *both(draw), rows)


def _keys(board: Board, entries: Sequence[tuple[str, str]], right: float) -> float:
    """Colours with their words, in lines; the height below them."""
    x, y = 4.0, 14.0
    for css, words in entries:
        width = 6.6 * len(words) + 34
        if x > 4 and x + width > right:
            x, y = 4.0, y + 20
        board.add("rect", f"mark bar {css}", x=x, y=y - 10, width=12, height=12)
        board.text(x + 18, y, words)
        x += width
    return y + 10


def _bar(board: Board, start: float, end: float, middle: float, css: str, tip: str) -> None:
    width = max(end - start - 1, 1.0)
    board.add("rect", f"mark bar {css}", x=start, y=middle - 8, width=width, height=16, data_tip=tip)


Panel = tuple[str, Callable[[Study], float], Callable[[float], str]]


def search_spent(study: Study) -> Figure | None:
    """Bars per optimizer, side by side: runs, operations or tokens spent, neighbours to try."""
    found = {entry["optimizer"]: entry for entry in study.get("accounting") or []}
    names = [name for name in study["optimizers"] if name in found]
    if not names:
        return None
    panels: list[Panel] = [("runs a cell", lambda e: e["runs"] / e["cells"], "{:.3g}".format)]
    if all(found[name]["spent_flops"] for name in names):
        panels.append(("operations a cell", lambda e: e["spent_flops"] / e["cells"], "{:.2g}".format))
    else:
        panels.append(("tokens a cell", lambda e: e["spent_tokens"] / e["cells"], tokens))
    panels.append(("neighbours of the winner", lambda e: e["neighbours"][1], "{:.0f}".format))

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, row = (150, 28) if wide else (84, 28)
        depth = row * len(names)
        board = Board(width, depth + 70 if wide else len(panels) * (depth + 70), "Search spent, side by side")
        room = (width - left) / len(panels) if wide else width - left
        for number, (title, amount, label) in enumerate(panels):
            start, top = (left + number * room, 22) if wide else (left, 22 + number * (depth + 70))
            x = Scale(0, max(amount(found[name]) for name in names) or 1, start, start + room - 58)
            board.columns(x, top, top + depth, title, label, x.ticks(3))
            for line, name in enumerate(names):
                middle, slot = top + row * (line + 0.5), color(slots(study)[name])
                if number == 0 or not wide:
                    who = clipped(say.label(study, name), left - 12)
                    board.text(left - 10, middle + 4, who, f"name c{slot}", "end")
                value = amount(found[name])
                _bar(board, start, x(value), middle, f"c{slot}", _spent(study, found[name]))
                board.text(x(value) + 5, middle + 4, label(value), "note")
        return board

    caption = (
        "What went into each optimizer’s winners, averaged over its own cells: runs with all their seeds and what "
        "they cost; and the one-step neighbours of a winner in its search space, the largest of its cells. "
        "Unequal bars are unequal search, and the one with more has the better chance of a low loss."
    )
    rows = [{key: _plain(value) for key, value in found[name].items()} for name in names]
    return Figure("search-spent", "Who searched how much", caption, *both(draw), rows)


def _spent(study: Study, entry: Study) -> str:
    tip = f"{say.label(study, entry['optimizer'])}, {entry['cells']} cells\n{entry['runs']} runs of "
    tip += f"{entry['settings']} settings, {tokens(entry['spent_tokens'])} tokens"
    tip += f", {duration(entry['spent_seconds'])}" if entry["spent_seconds"] else ""
    low, high = entry["space"]
    tip += f"\n{entry['coordinates'][1]} hyperparameters, {tokens(high)} settings in the grids"
    return tip + (f" ({tokens(low)} in its smallest cell)" if low != high else "")


def _plain(value: Any) -> Any:
    """A smallest and largest in one cell of a table."""
    return f"{value[0]} to {value[1]}" if isinstance(value, list) else value


def power(study: Study) -> Figure | None:
    """The smallest difference that is told against seeds, with this study's place on it."""
    found = study.get("power") or {}
    if not found.get("curve"):
        return None
    return power_figure(found)


def power_figure(found: Study) -> Figure:
    """The figure of a power section alone, as ``steepest power --figure`` draws it."""
    curve, seen = found["curve"], found["seen"]
    ends = [(row["low"], row["high"]) for row in curve]
    banded = all(low is not None and high is not None for low, high in ends)
    slopes = sorted(at["slope"] for at in found["at"])

    def draw(width: int) -> Board:
        wide = width == WIDE
        board = Board(width, 380 if wide else 330, "Smallest difference told against seeds")
        right = width - (150 if wide else 78)
        x = Scale.around([row["seeds"] for row in curve], 52, right, True, 0.02)
        heights = [row["gap"] for row in curve] + [end for pair in ends for end in pair if end is not None]
        y = Scale.around(heights, board.height - 50, 30, True, 0.04)
        board.axes(
            x, y, "seeds of each optimizer", "difference told, nats/token", "{:.0f}".format, "{:.2g}".format
        )
        for share in SHARES if slopes else ():
            level = gap_of(share, slopes[len(slopes) // 2])
            if y.inside(level):
                board.line(x.start, y(level), x.stop, y(level), "guide")
                board.text(
                    x.stop + 6,
                    y(level) + 4,
                    f"{100 * share:g} % of tokens" if wide else f"{100 * share:g} %",
                    "note",
                )
        if banded:
            edge = [(x(r["seeds"]), y(r["high"])) for r in curve]
            board.path(edge + [(x(r["seeds"]), y(r["low"])) for r in reversed(curve)], "band c0", closed=True)
        board.path([(x(row["seeds"]), y(row["gap"])) for row in curve], "law c0")
        for row in curve:
            tip = f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}: {row['gap']:.2g} nats/token"
            tip += f" ({row['low']:.2g} to {row['high']:.2g})" if banded else ""
            board.mark(x(row["seeds"]), y(row["gap"]), 0, tip, 2.5)
        if seen is not None:
            place, height = x(seen["seeds"]), y(seen["gap"])
            board.mark(place, height, 2, f"this study: {seen['gap']:.2g} nats/token", 6)
            late = place > (x.start + x.stop) / 2
            words, side = f"this study, {seen['gap']:.2g}", "end" if late else "start"
            board.text(place + (-12 if late else 12), height + (16 if late else -8), words, "name c2", side)
        return board

    caption = " ".join(f"{text[:1].upper()}{text[1:]}." for text in found["text"])
    if banded:
        caption += " The band is what the degrees of freedom of the noise leave open."
    if slopes:
        which = "" if len(slopes) == 1 else " at the median of the study’s places"
        caption += f" Dashed: what a share of the tokens is worth by the baseline’s law{which}."
    return Figure(
        "power", "What so many seeds could have seen", caption, *both(draw), [dict(row) for row in curve]
    )


SHARES = (0.01, 0.03, 0.1, 0.3)
"""Shares of tokens marked in the power curve."""


DRAWN = (certificates, standings, search_spent, power)
