"""The figures of what a race cost: tuning, time per step, optimizer state."""

from __future__ import annotations

from typing import Any

from steepest.lab.report import summary as say
from steepest.lab.report.figure import WIDE, Figure, Race, both, slots
from steepest.lab.report.svg import Board, Scale, clipped, color


def tuning_spent(race: Race) -> Figure:
    """Bars: the tokens that went into finding each learning rate; runs and seconds beside them."""
    spent = {name: race["results"][name]["tuning"] for name in say.ranking(race)}

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, right, row = (170, width - 190, 34) if wide else (92, width - 92, 38)
        board = Board(width, 58 + row * len(spent), "Tuning spent per optimizer")
        x = Scale(0, max(tuning["tokens"] for tuning in spent.values()) or 1, left, right)
        ticks = x.ticks(5 if wide else 2)
        board.columns(x, 4, board.height - 48, "tokens spent on tuning", say.tokens, ticks)
        for place, (name, tuning) in enumerate(spent.items()):
            middle = 4 + row * (place + 0.5)
            runs, took = f"{tuning['runs']:g} runs", say.duration(tuning["seconds"])
            tip = f"{say.label(race, name)}\n{runs}, {took}, {say.tokens(tuning['tokens'])} tokens"
            _who(board, race, name, left, middle)
            _bar(board, left, x(tuning["tokens"]), middle, slots(race)[name], tip)
            if wide:
                board.text(right + 12, middle + 4, f"{runs}, {took}", "value")
            else:
                board.text(right + 10, middle - 2, runs, "value")
                board.text(right + 10, middle + 12, took, "value quiet")
        return board

    caption = (
        "What was spent on each learning rate, the baseline included, under one rule: a first grid, extended "
        "while the best stands at an edge. "
    )
    equal = len({tuning["runs"] for tuning in spent.values()}) == 1
    caption += "All spent the same number of runs." if equal else "Unequal bars are unequal tuning, and count so."
    caption += _law_cost(race)
    rows = [
        {"optimizer": name, "runs": tuning["runs"], "tokens": tuning["tokens"], "seconds": tuning["seconds"]}
        for name, tuning in spent.items()
    ]
    return Figure("tuning-spent", "Tuning spent", caption, *both(draw), rows)


def _law_cost(race: Race) -> str:
    """What the baseline's law took beside the tuning that all share: runs that no contender had to make."""
    law, base = race["law"] or {}, say.label(race, race["baseline"])
    if not law.get("runs"):
        return ""
    ends = law.get("tuning") or {"runs": 0, "tokens": 0}
    told = f" Not in the bars: the law of {base} took {law['runs']['runs']:g} runs more"
    told += f" ({say.tokens(law['runs']['tokens'])} tokens)"
    if ends["runs"]:
        told += f", and {ends['runs']:g} ({say.tokens(ends['tokens'])} tokens) to tune it again at the end budgets"
    return told + "."


def step_costs(race: Race) -> Figure:
    """Two panels: time per step, split into optimizer and the rest; bytes of optimizer state per weight."""
    names = say.ranking(race)
    steps = {name: race["results"][name]["step"] or {} for name in names}
    held = {name: race["results"][name]["state_bytes_per_weight"] for name in names}

    def draw(width: int) -> Board:
        wide = width == WIDE
        row = 34 if wide else 38
        depth = row * len(names)
        board = Board(width, depth + 88 if wide else 2 * depth + 180, "Time per step and optimizer state")
        left, right = (170, 520) if wide else (92, width - 92)
        slowest = max((1000 * (step.get("seconds") or 0) for step in steps.values()), default=0) or 1
        time = Scale(0, slowest, left, right)
        board.text(left, 16, "time per step", "name")
        board.columns(time, 30, 30 + depth, "milliseconds", "{:.3g}".format, time.ticks(4 if wide else 3))
        for place, name in enumerate(names):
            middle = 30 + row * (place + 0.5)
            _who(board, race, name, left, middle)
            _step(board, time, middle, steps[name], slots(race)[name], say.label(race, name))
        left, right, top = (620, width - 90, 30) if wide else (left, right, depth + 122)
        state = Scale(0, max((size or 0 for size in held.values()), default=0) or 1, left, right)
        board.text(left, top - 14, "optimizer state", "name")
        board.columns(state, top, top + depth, "bytes per weight", "{:.3g}".format, state.ticks(4))
        for place, name in enumerate(names):
            middle = top + row * (place + 0.5)
            if not wide:
                _who(board, race, name, left, middle)
            size = held[name]
            if size is not None:
                tip = f"{say.label(race, name)}\n{size:.3g} bytes of state per weight"
                _bar(board, left, state(size), middle, slots(race)[name], tip)
            words = "not measured" if size is None else f"{size:.3g} B"
            board.text(right + 10, middle + 4, words, "value")
        return board

    caption = (
        "Time: one training step from the interleaved calibration of all contenders, the pale part the "
        "model's forward and backward pass, the full part the optimizer, with its share in percent"
        f"{_estimates(race, steps)}. State: the bytes that the optimizer keeps per weight, the weight itself not "
        "counted."
    )
    keys = ("seconds", "relative", "optimizer_share", "estimate_share", "flops", "relative_flops")
    rows: list[dict[str, Any]] = [
        {
            "optimizer": name,
            **{key: steps[name].get(key) for key in keys},
            "state_bytes_per_weight": held[name],
        }
        for name in names
    ]
    return Figure("step-costs", "Time per step and memory", caption, *both(draw), rows)


def _estimates(race: Race, steps: dict[str, Any]) -> str:
    """How much of the shares is what optimizers ask for beside the gradient."""
    shares = {name: step.get("estimate_share") or 0 for name, step in steps.items()}
    told = [f"{100 * share:.2g} % for {say.label(race, name)}" for name, share in shares.items() if share]
    return f" (estimates beside the gradient included: {say.listed(told, 5)})" if told else ""


def _who(board: Board, race: Race, name: str, left: float, middle: float) -> None:
    words = clipped(say.label(race, name), left - 16)
    board.text(left - 14, middle + 4, words, f"name c{color(slots(race)[name])}", "end")


def _step(board: Board, x: Scale, middle: float, step: Race, slot: int, who: str) -> None:
    seconds, share = step.get("seconds"), step.get("optimizer_share")
    if not seconds:
        board.text(x.stop + 10, middle + 4, "not measured", "value quiet")
        return
    tip = f"{who}\n{1000 * seconds:.3g} ms per step"
    tip += "" if share is None else f", {100 * share:.2g} % of it the optimizer"
    model_end = x(1000 * seconds * (1 - (share or 0)))
    _bar(board, x.start, model_end, middle, slot, tip, "pale")
    _bar(board, model_end, x(1000 * seconds), middle, slot, tip)
    board.text(x.stop + 10, middle + 4, say.NOTHING if share is None else f"{100 * share:.2g} %", "value")


def _bar(board: Board, start: float, end: float, middle: float, slot: int, tip: str, css: str = "") -> None:
    css, width = f"mark bar c{color(slot)} {css}".rstrip(), max(end - start, 1.0)
    board.add("rect", css, x=start, y=middle - 8, width=width, height=16, data_tip=tip)
