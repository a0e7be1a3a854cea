"""The figures of scale and cost: how best values move with size and data, and who is on the front of all costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from steepest.lab.report.figure import NARROW, Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.study.overview import legend
from steepest.lab.report.study.panels import Box, boxes, named, place_text, value_text
from steepest.lab.report.svg import Board, Scale, clipped, color
from steepest.lab.report.words import duration, listed, tokens

Study = dict[str, Any]
PANELS = 6


def by_size(study: Study) -> Figure | None:
    """A panel per hyperparameter: its best value against the model's weights, at one data-to-model ratio."""
    return _drift(study, "weights", "ratio")


def by_ratio(study: Study) -> Figure | None:
    """A panel per hyperparameter: its best value against the data-to-model ratio, at one size."""
    return _drift(study, "ratio", "weights")


def _drift(study: Study, along: str, fixed: str) -> Figure | None:
    """``along``: the horizontal axis; of the values of ``fixed`` the one with the most different ones of it."""
    told = [
        drift for drift in study.get("drift") or [] if not drift["variant"] and drift["axis"] in ("log", "memory")
    ]
    at = _fullest(told, along, fixed)
    lines: dict[str, list[tuple[Study, list[Study]]]] = {}
    for drift in told:
        cells = [cell for cell in drift["cells"] if _same(cell[fixed], at) and cell["low"] is not None]
        if len({_key(cell[along]) for cell in cells}) > 1:
            lines.setdefault(drift["hyperparameter"], []).append((drift, cells))
    if not lines:
        return None
    drawn = dict(sorted(lines.items(), key=lambda item: (item[0] != "lr", -len(item[1])))[:PANELS])
    names = named(study, (drift for of_panel in drawn.values() for drift, _ in of_panel))
    size = along == "weights"
    across = "non-embedding weights" if size else "tokens per 20 weights"

    def draw(width: int) -> Board:
        board = Board(width, 0, f"Best values against {across}, one panel per hyperparameter")
        top = legend(board, study, names, 4, 14, width)
        found = boxes(board, len(drawn), top + 8, alike=False)
        for box, (name, of_panel) in zip(found, drawn.items(), strict=True):
            board.text(box.left, box.top - 8, clipped(name, box.right - box.left), "name")
            _drift_panel(board, study, box, of_panel, along, names)
            board.text((box.left + box.right) / 2, box.bottom + 38, across, "title", "middle")
        return board

    where = say.times_data(at) + " data" if size else f"{tokens(at)} weights"
    threshold = next(iter(drawn.values()))[0][0]["threshold"]
    caption = (
        f"The value of the best setting at {where}. Bars: the values of all settings within {threshold:.2g} "
        "nats/token of it, and half a step of the grid beyond, for a grid tells an optimum no better. "
    )
    caption += _slopes(study, drawn.get("lr", []), "by_size" if size else "by_ratio", size)
    if len(lines) > len(drawn):
        caption += f" Not drawn: {listed([name for name in lines if name not in drawn], 8)}."
    rows = [
        {key: drift[key] for key in ("optimizer", "variant", "hyperparameter", "axis")}
        | {key: cell[key] for key in ("size", "weights", "tokens", "ratio", "best", "low", "high", "edge")}
        | {"near": "; ".join(map(str, cell["near"]))}
        | {key: drift[key]["value"] for key in ("by_size", "by_ratio")}
        for drift in study["drift"]
        for cell in drift["cells"]
    ]
    title = f"How best values move with {'the size of the model' if size else 'the length of the training'}"
    return Figure(f"optima-{'size' if size else 'ratio'}", title, caption, *both(draw), rows)


def _key(value: float) -> str:
    """Whole steps make a ratio of 8 into 7.98 at one size and 8.01 at another."""
    return f"{value:.2g}"


def _same(value: float, other: float) -> bool:
    return _key(value) == _key(other)


def _fullest(told: Sequence[Study], along: str, fixed: str) -> float:
    seen: dict[str, set[str]] = {}
    values: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for cell in (cell for drift in told for cell in drift["cells"]):
        key = _key(cell[fixed])
        seen.setdefault(key, set()).add(_key(cell[along]))
        values[key] = cell[fixed]
        counts[key] += 1
    best = max(seen, key=lambda key: (len(seen[key]), counts[key], values[key]), default=None)
    return values[best] if best is not None else 0.0


def _slopes(study: Study, lines: Sequence[tuple[Study, list[Study]]], key: str, size: bool) -> str:
    said = []
    for drift, _ in lines:
        slope = drift[key]
        if slope["value"] is not None and slope["low"] is not None:
            ends = f"{slope['low']:+.2f} to {slope['high']:+.2f}"
            said.append(f"{say.label(study, drift['optimizer'])} {slope['value']:+.2f} ({ends})")
    if not said:
        return ""
    held = "weights at fixed ratio" if size else "ratio at fixed size"
    return f"Decades of learning rate per decade of {held}, over all cells: {listed(said, 12)}."


def _drift_panel(
    board: Board,
    study: Study,
    box: Box,
    lines: Sequence[tuple[Study, list[Study]]],
    along: str,
    names: Sequence[str],
) -> None:
    slot, memory = slots(study), lines[0][0]["axis"] == "memory"

    def up(value: float) -> float:
        return 1 / (1 - value) if memory else value

    every = [cell for _, cells in lines for cell in cells]
    x = Scale.around([cell[along] for cell in every], box.left + 8, box.right - 8, True, 0.12)
    y = Scale.around([up(cell[end]) for cell in every for end in ("low", "high")], box.bottom, box.top, True, 0.06)
    ticks = sorted({up(cell["best"]) for cell in every})
    for value in ticks[:: -(-len(ticks) // 6)]:
        board.line(box.left, y(value), box.right, y(value), "grid")
        board.text(box.left - 6, y(value) + 4, value_text(1 - 1 / value if memory else value), "tick", "end")
    steps = sorted({cell[along] for cell in every})
    words = tokens if along == "weights" else say.times_data
    board.columns(x, box.bottom, box.bottom, "", words, steps)
    step = min(7.0, 44 / max(1, len(names)))
    for drift, cells in lines:
        name = drift["optimizer"]
        dodge, css = (names.index(name) - (len(names) - 1) / 2) * step, f"c{color(slot[name])}"
        points = [
            (min(max(x(c[along]) + dodge, box.left), box.right), c) for c in sorted(cells, key=lambda c: c[along])
        ]
        board.path([(across, y(up(cell["best"]))) for across, cell in points], f"join {css}")
        for across, cell in points:
            board.line(across, y(up(cell["low"])), across, y(up(cell["high"])), f"whisker {css}")
            tip = f"{say.label(study, name)}, {place_text(cell)}\n{drift['hyperparameter']} "
            tip += f"{value_text(cell['best'])}\nnear-best: {', '.join(map(value_text, cell['near']))}"
            tip += f"\nat the {cell['edge']} edge of what was tried" if cell["edge"] else ""
            board.mark(across, y(up(cell["best"])), slot[name], tip, 3.5, "open" if cell["edge"] else "")


def pareto(study: Study) -> Figure | None:
    """A panel per size: loss against time, the area of a mark the memory of its state; the front joined."""
    fronts = [front for front in study.get("pareto") or [] if not front["variant"] and _costs(front)]
    longest: dict[str, Study] = {}
    for front in fronts:
        if front["size"] not in longest or front["tokens"] > longest[front["size"]]["tokens"]:
            longest[front["size"]] = front
    drawn = [longest[entry["size"]] for entry in study["sizes"] if entry["size"] in longest][:PANELS]
    if not drawn:
        return None
    names = [n for n in study["optimizers"] if any(n in {o["optimizer"] for o in f["optimizers"]} for f in drawn)]
    held = [o["state_bytes"] for front in drawn for o in front["optimizers"] if o["state_bytes"]]

    def draw(width: int) -> Board:
        board = Board(width, 0, "Final loss against time and memory, one panel per model size")
        top = legend(board, study, names, 4, 14, width)
        board.text(2, top + 10, "final loss, nats/token", "title")
        found = boxes(board, len(drawn), top + 22, alike=False)
        for box, front in zip(found, drawn, strict=True):
            board.text(box.left, box.top - 8, clipped(place_text(front), box.right - box.left), "name")
            _front_panel(board, study, box, front, max(held, default=0.0))
        return board

    caption = "Left and low is better. " + (
        "The larger the mark, the more state is kept per weight. " if held else ""
    )
    caption += (
        "Filled: no other optimizer is as good in every measure and better in one, losses within "
        f"{max(front['alike'] for front in drawn):.2g} nats/token counting as alike. Times are those of the runs "
        "on the machines that made them."
    )
    rows = [
        {key: front[key] for key in ("size", "ratio", "tokens", "variant", "alike")}
        | {key: value for key, value in one.items() if key != "dominated_by"}
        | {"dominated_by": "; ".join(one["dominated_by"])}
        for front in study["pareto"]
        for one in front["optimizers"]
    ]
    return Figure("front", "Quality, time and memory", caption, *both(draw), rows)


def _costs(front: Study) -> str | None:
    """What stands on the horizontal axis: seconds, or bytes of state where no times are known."""
    for key in ("seconds", "state_bytes"):
        if sum(one[key] is not None for one in front["optimizers"]) > 1:
            return key
    return None


def _front_panel(board: Board, study: Study, box: Box, front: Study, most: float) -> None:
    slot, key = slots(study), _costs(front)
    shown = [one for one in front["optimizers"] if key and one[key] is not None]
    timed = key == "seconds"
    x = Scale.around([one[key] for one in shown], box.left + 14, box.right - 14, timed, 0.1)
    y = Scale.around([one["loss"] for one in shown], box.bottom, box.top, pad=0.12)
    words = duration if timed else "{:g}".format
    board.axes(x, y, "time of a run" if timed else "bytes of state per weight", "", words, "{:.3f}".format,
               x.ticks(4 if board.width != NARROW else 3), 5)  # fmt: skip
    for one in sorted(shown, key=lambda one: -(one["state_bytes"] or 0)):
        tip = f"{say.label(study, one['optimizer'])}\nloss {one['loss']:.4f}"
        tip += f"\n{duration(one['seconds'])} a run" if one["seconds"] is not None else ""
        tip += f"\n{one['state_bytes']:.3g} bytes of state per weight" if one["state_bytes"] is not None else ""
        tip += f"\nbeaten in all by {listed(one['dominated_by'])}" if one["dominated_by"] else "\non the front"
        share = (one["state_bytes"] or 0) / most if most else 0.3
        board.mark(x(one[key]), y(one["loss"]), slot[one["optimizer"]], tip, 3.5 + 6 * share**0.5,
                   "" if one["front"] else "open")  # fmt: skip


DRAWN = (by_size, by_ratio, pareto)
