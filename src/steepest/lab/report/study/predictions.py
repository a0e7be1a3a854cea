"""The figures of hyperparameters over scale: which must be tuned again, and how well laws predict them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from steepest.lab.report.figure import WIDE, Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.svg import SHAPES, Board, Scale, clipped, color
from steepest.lab.report.words import listed, lr

Study = dict[str, Any]

CIRCLE, DIAMOND = SHAPES[0], SHAPES[2]
LEFT, RIGHT = "M-1.1 0L.7 -.95V.95Z", "M1.1 0L-.7 -.95V.95Z"
FORMS = {
    "offset": (DIAMOND, "open", "α N^A D^B + β, as published"),
    "power": (CIRCLE, "", "the same without β, in logarithms"),
}
"""Shape, style and words of a form that is drawn."""

STILL = "constant"
"""The form that nothing moves, against which the others are counted."""

REACH = 4.2
"""Factor to which the axis of misses reaches; what lies beyond becomes an arrow at its end."""


def sensitivity(study: Study) -> Figure | None:
    """Hyperparameters by thresholds, optimizer by optimizer: where the rule calls them scaling-sensitive."""
    found = study.get("sensitive") or []
    blocks = [(name, rows) for name in study["optimizers"] if (rows := _named(found, name))]
    if not blocks:
        return None
    heads = list(dict.fromkeys((told.get("source", ""), told["threshold"]) for told in found))
    paper = any(told.get("published") for told in found)
    columns = [_head(source, threshold) for source, threshold in heads] + (["paper"] if paper else [])

    def draw(width: int) -> Board:
        count = 2 if width == WIDE else 1
        board = Board(width, 0, "Scaling-sensitive hyperparameters at several thresholds")
        board.text(2, 12, "losses within … of the best, nats/token", "title")
        gap, bottom = 40, 0.0
        side = (width - gap * (count - 1)) / count
        for place, part in enumerate(_split(blocks, count)):
            left, y = place * (side + gap), 34.0
            name_room = side - 46 * len(columns)
            x = [left + name_room + 46 * (number + 0.5) for number in range(len(columns))]
            for at, words in zip(x, columns, strict=True):
                board.text(at, y, words, "tick", "middle")
            for optimizer, rows in part:
                y += 28
                who = clipped(say.label(study, optimizer), side)
                board.text(left + 2, y, who, f"name c{color(slots(study)[optimizer])}")
                board.line(left, y + 6, left + side, y + 6, "grid")
                for name, marks in rows:
                    y += 19
                    board.text(left + 10, y, clipped(name, name_room - 12))
                    for at, mark, words in zip(x, marks, columns, strict=False):
                        _dot(board, study, optimizer, name, mark, words, at, y - 4)
            bottom = max(bottom, y)
        board.resize(bottom + 14)
        return board

    caption = (
        "A filled mark: no one value of the hyperparameter is near-best in every regime that was searched, so "
        "that it must be tuned again at every scale; an open one: some value is. The rule depends on what counts "
        "as near-best, and on what was run. A hyperparameter that is not listed is sensitive nowhere."
    )
    caption += " The last column is the paper’s own table; a question mark: not known." if paper else ""
    table = [
        {"optimizer": told["optimizer"], "source": told.get("source", ""), "threshold": told["threshold"]}
        | {"sensitive": " ".join(told["sensitive"]), "published": " ".join(told.get("published") or [])}
        for told in found
    ]
    return Figure("sensitivity", "What must be tuned again at every scale", caption, *both(draw), table)


def _named(found: Sequence[Study], optimizer: str) -> list[tuple[str, list[bool | None]]]:
    """Hyperparameters that are sensitive anywhere, and in which column; None: not known."""
    own = [told for told in found if told["optimizer"] == optimizer]
    paper = next((told["published"] for told in own if told.get("published")), None)
    names = {name for told in own for name in told["sensitive"]} | {*(paper or [])}
    known = any("published" in told for told in own)
    marks: list[tuple[str, list[bool | None]]] = []
    for name in sorted(names):
        of_name: list[bool | None] = [name in told["sensitive"] for told in own]
        marks.append((name, of_name + ([None if paper is None else name in paper] if known else [])))
    return marks


def _head(source: str, threshold: float | None) -> str:
    return f"{threshold:g}" if threshold is not None else "list" if source else "given"


def _split(blocks: Sequence[Any], count: int) -> list[list[Any]]:
    """Blocks in ``count`` columns of about one height, order kept."""
    heights = [28 + 19 * len(rows) for _, rows in blocks]
    parts: list[list[Any]] = [[] for _ in range(count)]
    filled, column = 0.0, 0
    for block, height in zip(blocks, heights, strict=True):
        if column < count - 1 and filled + height / 2 > sum(heights) * (column + 1) / count:
            column += 1
        parts[column].append(block)
        filled += height
    return parts


def _dot(
    board: Board, study: Study, optimizer: str, name: str, mark: bool | None, column: str, x: float, y: float
) -> None:
    if mark is None:
        board.text(x, y + 4, "?", "quiet", "middle")
        return
    said = "scaling-sensitive" if mark else "some value is near-best everywhere"
    tip = f"{say.label(study, optimizer)}, {name}\n{column}: {said}"
    board.mark(x, y, slots(study)[optimizer], tip, 5 if mark else 3.5, "" if mark else "open", CIRCLE)


def predictions(study: Study) -> Figure | None:
    """A row per optimizer and hyperparameter: a form's predictions over what was found where it did not look."""
    found = study.get("predictions") or []
    used = [name for name in FORMS if any(form["form"] == name for entry in found for form in entry["forms"])]
    entries = [entry for entry in found if {form["form"] for form in entry["forms"]} >= {*used}]
    if not entries:
        return None
    entries.sort(key=lambda entry: (study["optimizers"].index(entry["optimizer"]), entry["hyperparameter"]))
    targets = any(entry["used"] for entry in entries)

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, row = (216, 24) if wide else (104, 30)
        board = Board(width, 0, "Predicted over found hyperparameters")
        top = _keys(board, used, width) + 8
        panels = [("left out in turn, over what was found", _misses)]
        panels += [("put to the largest size, over what was used", _targets)] if targets else []
        depth = row * len(entries)
        room = (width - left - 28 * (len(panels) - 1) - 8) / len(panels) if wide else width - left - 8
        for number, (title, marks) in enumerate(panels):
            start = left + number * (room + 28) if wide else left
            over = top + 18 + (0 if wide else number * (depth + 84))
            x = Scale(1 / REACH, REACH, start + 12, start + room - 12, True)
            board.text(start if wide else 4, over - 6, title, "title")
            board.columns(x, over, over + depth, "", _times, [0.25, 0.5, 1, 2, 4])
            board.line(x(1), over, x(1), over + depth, "one")
            for place, entry in enumerate(entries):
                middle = over + row * (place + 0.5)
                if number == 0 or not wide:
                    _who(board, study, entry, left, middle, wide)
                marks(board, study, entry, used, x, middle)
        board.resize(top + 18 + (depth + 84) * (1 if wide else len(panels)) - 30)
        return board

    caption = (
        "Each mark is one prediction: on the left every optimum left out of its law in turn, the largest scale, "
        "held out, with a ring; on the right the largest size, which no law has seen. On the line a prediction "
        "meets what was found or used; where grids step by 2, half a step is 1.4. Arrows lie beyond the axis."
    )
    points = sum(len(f["leave_one_out"]) for entry in entries for f in entry["forms"] if f["form"] == used[0])
    met = [f"{_hits(entries, name)} by “{FORMS[name][2]}”" for name in used]
    met.append(f"{_hits(entries, STILL)} by supposing that nothing moves")
    caption += f" Rounded to the grid, of {points} left-out optima are met {listed(met)}."
    if len(entries) < len(found):
        caption += f" The data hold {len(found) - len(entries)} more, which only one form was fitted to."
    return Figure("predictions", "Predicted against found", caption, *both(draw), _rows(found))


def _hits(entries: Sequence[Study], name: str) -> int:
    return sum(form["hits"] for entry in entries for form in entry["forms"] if form["form"] == name)


def _times(factor: float) -> str:
    return f"×{factor:g}" if factor >= 1 else f"÷{1 / factor:g}"


def _who(board: Board, study: Study, entry: Study, left: float, middle: float, wide: bool) -> None:
    who, css = say.label(study, entry["optimizer"]), f"name c{color(slots(study)[entry['optimizer']])}"
    if wide:
        board.text(left - 112, middle + 4, clipped(who, 104), css, "end")
        board.text(left - 102, middle + 4, clipped(entry["hyperparameter"], 100))
    else:
        board.text(left - 8, middle - 2, clipped(who, left - 8), css, "end")
        board.text(left - 8, middle + 11, clipped(entry["hyperparameter"], left - 8), "note", "end")


def _misses(board: Board, study: Study, entry: Study, used: list[str], x: Scale, middle: float) -> None:
    for form in _drawn(entry):
        last = form["hold_out"]
        for miss in form["leave_one_out"]:
            ends = miss["found"], miss["predicted"]
            _mark(board, study, entry, form["form"], used, miss, ends, x, middle, "found")
        if last is not None and last["predicted"]:
            place = x(min(max(last["predicted"] / last["found"], x.low), x.high))
            css = f"ring c{color(slots(study)[entry['optimizer']])}"
            board.add("circle", css, cx=place, cy=middle + _shift(form["form"], used), r=6.5)


def _targets(board: Board, study: Study, entry: Study, used: list[str], x: Scale, middle: float) -> None:
    at = {(one["size"], one["ratio"]): one["value"] for one in entry["used"]}
    for form in _drawn(entry):
        for told in form["predicted"]:
            value = at.get((told["size"], told["ratio"]))
            if value:
                _mark(board, study, entry, form["form"], used, told, (value, told["value"]), x, middle, "used")


def _drawn(entry: Study) -> list[Study]:
    return [form for form in entry["forms"] if form["form"] in FORMS]


def _mark(
    board: Board,
    study: Study,
    entry: Study,
    form: str,
    used: list[str],
    at: Study,
    ends: tuple[float, float | None],
    x: Scale,
    middle: float,
    what: str,
) -> None:
    """One prediction; ``ends``: what was found or used, and what is predicted."""
    found, predicted = ends
    shape, css, words = FORMS[form]
    slot, height = slots(study)[entry["optimizer"]], middle + _shift(form, used)
    tip = f"{say.label(study, entry['optimizer'])}, {entry['hyperparameter']}, "
    tip += f"{at['size']} {say.times_data(at['ratio'])}\n{what} {lr(found)}, predicted {_told(predicted)}"
    tip += f", on the grid {lr(at['rounded'])}" if at["rounded"] is not None else ""
    factor = predicted / found if predicted and predicted > 0 else 0.0
    if x.inside(factor):
        board.mark(x(factor), height, slot, f"{tip}\n{words}", 3.4, css, shape)
    else:
        place, arrow = (x.start - 7, LEFT) if factor < 1 else (x.stop + 7, RIGHT)
        board.mark(place, height, slot, f"{tip}\n{words}", 4, css, arrow)


def _told(value: float | None) -> str:
    return "nothing" if value is None else lr(value) if value > 0 else f"{value:.3g}"


def _shift(form: str, used: list[str]) -> float:
    """Forms of one row stand one under another."""
    return 7.0 * (used.index(form) - (len(used) - 1) / 2)


def _keys(board: Board, used: list[str], right: float) -> float:
    x, y = 4.0, 14.0
    for name in used:
        shape, css, words = FORMS[name]
        width = 6.6 * len(words) + 34
        if x > 4 and x + width > right:
            x, y = 4.0, y + 20
        board.mark(x + 6, y - 4, 0, "", 4.5, css, shape)
        board.text(x + 16, y, words)
        x += width
    return y + 10


def _rows(entries: Sequence[Study]) -> list[Study]:
    rows = []
    for entry in entries:
        who = {"optimizer": entry["optimizer"], "hyperparameter": entry["hyperparameter"]}
        at = {(one["size"], one["ratio"]): one["value"] for one in entry["used"]}
        for form in entry["forms"]:
            misses = [("left out", miss) for miss in form["leave_one_out"]]
            misses += [("hold-out", form["hold_out"])] if form["hold_out"] else []
            for kind, miss in misses:
                rows.append({**who, "form": form["form"], "kind": kind, **miss})
            for told in form["predicted"]:
                found = at.get((told["size"], told["ratio"]))
                row = {"size": told["size"], "ratio": told["ratio"], "found": found, "predicted": told["value"]}
                row |= {"rounded": told["rounded"], "factor": _factor(told["value"], found)}
                rows.append({**who, "form": form["form"], "kind": "predicted", **row})
    return rows


def _factor(one: float | None, other: float | None) -> float | None:
    if not one or not other or one <= 0:
        return None
    return math.exp(abs(math.log(one / other)))


DRAWN = (sensitivity, predictions)
