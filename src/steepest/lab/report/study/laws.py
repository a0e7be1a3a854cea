"""The figures of the laws: what the baseline reaches with more data, and what a joint law leaves over."""

from __future__ import annotations

from collections.abc import Sequence

from steepest.lab.report.curves import Box
from steepest.lab.report.figure import WIDE, Figure, both, flat, slots
from steepest.lab.report.study import speedups
from steepest.lab.report.study import summary as say
from steepest.lab.report.study.overview import legend
from steepest.lab.report.study.speedups import Study, boxes
from steepest.lab.report.svg import Board, Scale, clipped, color
from steepest.lab.report.words import interval, listed, tokens


def loss_vs_tokens(study: Study) -> Figure | None:
    """A panel per size: the baseline's law with its band, everyone's final losses, and the level lines."""
    laws = [law for law in study.get("laws") or [] if not law["variant"]]
    if not laws:
        return None
    stated = [entry for entry in study.get("speedups") or [] if not entry["variant"]]
    base = say.label(study, study["baseline"])
    names = [n for n in say.contenders(study) if any(entry["optimizer"] == n for entry in stated)]

    def draw(width: int) -> Board:
        wide = width == WIDE
        board = Board(width, 0, f"Final loss against data, one panel per size; law of {base}")
        top = legend(board, study, [study["baseline"], *names], 4, 14, width)
        board.text(2, top + 10, "validation loss, nats/token", "title")
        frames, height = boxes(width, len(laws), 2 if wide else 1, 330 if wide else 270, top + 44)
        board.resize(height)
        for law, box in zip(laws, frames, strict=True):
            _law_panel(board, study, law, [e for e in stated if e["size"] == law["size"]], box)
        return board

    caption = (
        f"The curve is what tuned {base} reaches with more or less data, fitted to the ends of complete schedules "
        f"at each size; the band is its {say.level(study)} interval. From every other optimizer's final loss a "
        f"level line runs to where {base} has the same loss: the ratio between its two ends is the speedup. "
        "Dashed: outside the data that the law was fitted to."
    )
    flagged = [f"{law['size']}: {'; '.join(law['flags'])}" for law in laws if law["flags"]]
    caption += f" {' '.join(f'{said}.' for said in flagged)}" if flagged else ""
    rows: list[Study] = []
    for law in laws:
        here = {"size": law["size"], "optimizer": law["optimizer"]}
        rows += [{"kind": "baseline", **here, **flat(point)} for point in law["points"]]
        rows += [{"kind": "law", **here, **flat(point)} for point in law["band"]]
    for entry in stated:
        row = {key: entry[key] for key in ("size", "optimizer", "tokens", "ratio", "loss")}
        equal = entry["ratio"] * entry["speedup"] if entry["speedup"] else None
        rows.append({"kind": "final", **row, "equal_loss_ratio": equal, "flags": "; ".join(entry["flags"])})
    return Figure("loss-vs-data", "Loss against data, and the level lines", caption, *both(draw), rows)


def _law_panel(board: Board, study: Study, law: Study, stated: list[Study], box: Box) -> None:
    slot, base = slots(study), say.label(study, study["baseline"])
    ends = [entry["ratio"] * entry["speedup"] for entry in stated if entry["speedup"]]
    ratios = [point["ratio"] for point in law["points"]]
    reach = [*ratios, *(entry["ratio"] for entry in stated), *(e for e in ends if e < 2.5 * max(ratios))]
    x = Scale.around(reach, box.left, box.right, True, 0.05)
    heights = [point[key] for point in law["points"] for key in ("loss", "low", "high")]
    heights += [entry["loss"] for entry in stated]
    y = Scale.around([value for value in heights if value is not None], box.bottom, box.top + 8, pad=0.05)
    board.text(box.left, box.top - 6, clipped(law["size"], box.right - box.left), "name")
    marks = sorted({float(f"{ratio:.2g}"): ratio for ratio in ratios}.values())
    board.axes(x, y, "", "", say.times_data, "{:.2f}".format, marks)
    edge = [(x(p["ratio"]), y(p["high"])) for p in law["band"] if p["high"] is not None]
    edge += [(x(p["ratio"]), y(p["low"])) for p in reversed(law["band"]) if p["low"] is not None]
    if edge:
        board.path(edge, "band c0", closed=True)
    board.path([(x(p["ratio"]), y(p["loss"])) for p in law["band"]], "law c0")
    beyond = max([e for e in ends if e <= x.high], default=0.0)
    if beyond > max(ratios):
        steps = [max(ratios) * (beyond / max(ratios)) ** (part / 12) for part in range(13)]
        drawn = [(x(r), y(law["floor"] + law["alpha"] * r ** -law["exponent"])) for r in steps]
        board.path([point for point in drawn if point[1] <= box.bottom], "law c0 flagged")
    for point in law["points"]:
        around = interval(point["low"], point["high"], 4)
        tip = f"{base}, {law['size']} {say.times_data(point['ratio'])}, {tokens(point['tokens'])} tokens\n"
        tip += f"loss {point['loss']:.4f}{f' ({around})' if around else ''}"
        board.mark(x(point["ratio"]), y(point["loss"]), 0, tip, 4)
    for entry in stated:
        here, height, css = x(entry["ratio"]), y(entry["loss"]), f"c{color(slot[entry['optimizer']])}"
        tip = f"{say.label(study, entry['optimizer'])}, {law['size']} {say.times_data(entry['ratio'])}\n"
        tip += f"loss {entry['loss']:.4f}\n"
        if entry["speedup"]:
            there = min(x(entry["ratio"] * entry["speedup"]), x.stop)
            outside = entry["ratio"] * entry["speedup"] > max(ratios) or there < x(min(ratios))
            board.path([(here, height), (there, height)], f"join {css}{' flagged' if outside else ''}")
            tip += f"{base} needs {speedups.told(entry)} the data for it"
        else:
            tip += "; ".join(entry["flags"])
        board.mark(here, height, slot[entry["optimizer"]], tip, 3)


def joint_residuals(study: Study) -> Figure | None:
    """A row per optimizer: what the joint law leaves over, and the difference that it predicts."""
    joint = study.get("joint") or []
    if not joint:
        return None
    base, slot = say.label(study, study["baseline"]), slots(study)
    predicted = [p for law in joint for p in law["predictions"] if p.get("difference") is not None]

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, right, row = (170, width - 200, 34) if wide else (92, width - 14, 34)
        board = Board(width, 96 + row * len(joint), "Residuals of the joint law of every optimizer")
        errors = [abs(p[key]) for law in joint for p in law["points"] for key in ("residual", "left_out")]
        reach = max([*errors, *(abs(p["difference"]) for p in predicted)], default=0.01)
        x = Scale(-1.05 * reach, 1.05 * reach, left, right)
        top, bottom = 40, board.height - 48
        digits = 2 if reach > 0.02 else 3 if reach > 0.004 else 4

        def label(value: float) -> str:
            return f"{value:+.{digits}f}" if abs(value) > 1e-9 else "0"

        board.columns(x, top, bottom, "loss less law, nats/token", label, x.ticks(6))
        board.line(x(0), top, x(0), bottom, "one")
        board.text(2, 14, "filled: residual; open: without the point", "note")
        for place, law in enumerate(joint):
            middle = top + row * (place + 0.5)
            css, who = f"c{color(slot[law['optimizer']])}", say.label(study, law["optimizer"])
            board.text(left - 12, middle + 4, clipped(who, left - 14), f"name {css}", "end")
            for point in law["points"]:
                tip = f"{who}, {point['size']} {say.times_data(point['ratio'])}\n"
                tip += f"residual {point['residual']:+.4f}, left out {point['left_out']:+.4f}"
                board.mark(x(point["left_out"]), middle + 5, slot[law["optimizer"]], tip, 3, "open")
                board.mark(x(point["residual"]), middle - 5, slot[law["optimizer"]], tip, 3.5)
            for forecast in law["predictions"]:
                if forecast.get("difference"):
                    board.line(x(0), middle, x(forecast["difference"]), middle, f"spread {css}")
            if wide:
                words = f"rms {law['rms']:.4f}, left out {law['left_out_rms']:.4f}"
                board.text(right + 12, middle + 4, words, "value quiet")
        return board

    caption = (
        "L(N, D) = floor + A/N^a + B/D^b fitted to all of an optimizer's cells. Filled marks are what it leaves "
        "over, open marks the error at a point that was left out of the fit. "
    )
    if predicted:
        caption += f"The pale bar is what it predicts beyond the data, less {base}'s law there. "
    caption += _forecasts(study, joint, base)
    rows = []
    for law in joint:
        for kind in ("points", "predictions"):
            rows += [{"kind": kind, "optimizer": law["optimizer"], **entry} for entry in law[kind]]
    return Figure("joint-law", "What a joint law leaves over", caption.strip(), *both(draw), rows)


def _forecasts(study: Study, joint: Sequence[Study], base: str) -> str:
    """What the laws say beyond the data, by whether their errors allow that; empty for nothing."""
    found: dict[str, dict[str, list[str]]] = {}
    for law in joint:
        for forecast in law["predictions"]:
            if forecast.get("difference") is None:
                continue
            where = f"{tokens(forecast['weights'])} weights and {say.times_data(forecast['ratio'])}"
            why = (forecast["reason"] or "more than the laws' error on what was left out").split(" (")[0]
            said = f"{say.label(study, law['optimizer'])} {forecast['difference']:+.4f}"
            found.setdefault(where, {}).setdefault(why, []).append(said)
    return " ".join(
        f"At {where}, against {base}: "
        + "; ".join(f"{listed(told, len(told))} ({why})" for why, told in by_reason.items())
        + "."
        for where, by_reason in found.items()
    )


DRAWN = (loss_vs_tokens, speedups.speedups, speedups.speedup_vs_size, speedups.slopes, joint_residuals)
