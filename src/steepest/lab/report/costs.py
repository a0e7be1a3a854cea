"""The figures of what a race cost: tuning, time per step, optimizer state."""

from __future__ import annotations

from typing import Any

from steepest.lab.report import summary as say
from steepest.lab.report.figures import WIDE, Figure, both, slots
from steepest.lab.report.svg import Board, Scale, clipped, color


def tuning_spent(race: dict[str, Any]) -> Figure:
    """Bars: the tokens that went into finding each learning rate; runs and seconds beside them."""
    slot, names = slots(race), say.ranking(race)

    def draw(width: int) -> Board:
        left, right, row = (170, width - 190, 34) if width == WIDE else (92, width - 92, 38)
        board = Board(width, 58 + row * len(names), "Tuning spent per optimizer")
        most = max((race["results"][name]["tuning"]["tokens"] for name in names), default=1) or 1
        x = Scale(0, most, left, right)
        y = Scale(0.1, 0.2, board.height - 48, 4)
        ticks = x.ticks(5 if width == WIDE else 2)
        board.axes(x, y, "tokens spent on tuning", "", say.tokens, None, ticks, 0)
        for value in ticks:
            board.line(x(value), y.start, x(value), y.stop, "grid")
        for place, name in enumerate(names):
            result, tuning = race["results"][name], race["results"][name]["tuning"]
            top = y.stop + row * place + row / 2
            board.text(left - 14, top + 4, clipped(result["label"], left - 16), f"name c{color(slot[name])}", "end")
            words = f"{tuning['runs']:g} runs, {say.duration(tuning['seconds'])}"
            tip = f"{result['label']}\n{words}, {say.tokens(tuning['tokens'])} tokens"
            _bar(board, left, x(tuning["tokens"]), top, slot[name], tip)
            if width == WIDE:
                board.text(right + 12, top + 4, words, "value")
            else:
                board.text(right + 10, top - 2, f"{tuning['runs']:g} runs", "value")
                board.text(right + 10, top + 12, say.duration(tuning["seconds"]), "value quiet")
        return board

    spent = {race["results"][name]["tuning"]["runs"] for name in names}
    caption = (
        "What was spent on each learning rate, the baseline included, under one rule: a first grid, extended while "
        "the best stands at an edge. "
    )
    caption += (
        "All spent the same number of runs." if len(spent) == 1 else "Unequal bars are unequal tuning, and count so."
    )
    rows = [
        {"optimizer": name, **{key: race["results"][name]["tuning"][key] for key in ("runs", "tokens", "seconds")}}
        for name in names
    ]
    return Figure("tuning-spent", "Tuning spent", caption, *both(draw), rows)


def step_costs(race: dict[str, Any]) -> Figure:
    """Two panels: seconds per step, split into optimizer and the rest; bytes of optimizer state per weight."""
    slot, names = slots(race), say.ranking(race)
    steps = {name: race["results"][name]["step"] or {} for name in names}
    held = {name: race["results"][name]["state_bytes_per_weight"] for name in names}

    def draw(width: int) -> Board:
        wide = width == WIDE
        row = 34 if wide else 38
        depth = row * len(names)
        board = Board(width, depth + 88 if wide else 2 * depth + 180, "Time per step and optimizer state")
        margin = 170 if wide else 92
        panels = ((margin, 520, 30), (620, width - 90, 30)) if wide else (
            (margin, width - 92, 30), (margin, width - 92, depth + 122))  # fmt: skip
        slowest = max((s.get("seconds") or 0 for s in steps.values()), default=0) or 1
        heaviest = max((h or 0 for h in held.values()), default=0) or 1
        for (left, right, top), most, title, unit, form in (
            (panels[0], slowest, "time per step", "milliseconds", lambda v: f"{1000 * v:.3g}"),
            (panels[1], heaviest, "optimizer state", "bytes per weight", lambda v: f"{v:.3g}"),
        ):
            x, y = Scale(0, most, left, right), Scale(0.1, 0.2, top + depth, top)
            board.text(left, top - 14, title, "name")
            ticks = x.ticks(4 if wide else 3)
            board.axes(x, y, unit, "", form, None, ticks, 0)
            for value in ticks:
                board.line(x(value), y.start, x(value), y.stop, "grid")
            for place, name in enumerate(names):
                middle, who = top + row * place + row / 2, race["results"][name]["label"]
                if title == "time per step" or not wide:
                    words = clipped(who, left - 16)
                    board.text(left - 14, middle + 4, words, f"name c{color(slot[name])}", "end")
                if title == "time per step":
                    _step(board, x, middle, steps[name], slot[name], who, right)
                elif held[name] is None:
                    board.text(right + 10, middle + 4, "not measured", "value quiet")
                else:
                    tip = f"{who}\n{held[name]:.3g} bytes of state per weight"
                    _bar(board, left, x(held[name]), middle, slot[name], tip)
                    board.text(right + 10, middle + 4, f"{held[name]:.3g} B", "value")
        return board

    caption = (
        "Left or above, one training step from the interleaved calibration of all contenders: the pale part is the "
        "model's forward and backward pass, the full part the optimizer, its share written out. Right or below, the "
        "bytes of state that the optimizer keeps per weight, the weight itself not counted."
    )
    rows = [
        {"optimizer": name, "step_seconds": steps[name].get("seconds"), "relative": steps[name].get("relative"),
         "optimizer_share": steps[name].get("optimizer_share"), "state_bytes_per_weight": held[name]}
        for name in names
    ]  # fmt: skip
    return Figure("step-costs", "Time per step and memory", caption, *both(draw), rows)


def _step(
    board: Board, x: Scale, middle: float, step: dict[str, Any], slot: int, who: str, right: float
) -> None:
    seconds, share = step.get("seconds"), step.get("optimizer_share")
    if not seconds:
        board.text(right + 10, middle + 4, "not measured", "value quiet")
        return
    model_end = x(seconds * (1 - (share or 0)))
    tip = f"{who}\n{1000 * seconds:.3g} ms per step"
    tip += f", {100 * share:.3g} % of it the optimizer" if share is not None else ""
    _bar(board, x.start, model_end, middle, slot, tip, "pale")
    _bar(board, model_end, x(seconds), middle, slot, tip)
    board.text(right + 10, middle + 4, "–" if share is None else f"{100 * share:.2g} %", "value")  # noqa: RUF001


def _bar(board: Board, start: float, end: float, middle: float, slot: int, tip: str, css: str = "") -> None:
    board.add("rect", f"mark bar c{color(slot)} {css}".rstrip(), x=start, y=middle - 8, width=max(end - start, 1.0),
              height=16, data_tip=tip)  # fmt: skip
