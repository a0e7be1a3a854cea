"""The figures of a race: each one function, from the race to two drawings (page and phone), words and data.

Drawn by hand as SVG and not by a charting library: docs/decisions/report-figures.md says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steepest.lab.report import summary as say
from steepest.lab.report.svg import Board, Scale, clipped, color, spread

WIDE, NARROW = 960, 358  # pixels of the page's column on a desktop and on a phone of 390
Race = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """``wide`` and ``narrow`` show the same marks; ``rows`` are the numbers behind them, one flat dict per mark."""

    key: str
    title: str
    caption: str
    wide: Board
    narrow: Board
    rows: list[dict[str, Any]]


def figures(race: Race) -> list[Figure]:
    """All figures in the page's order; ``race`` has gone through :func:`steepest.lab.report.schema.checked`."""
    from steepest.lab.report import costs

    return [
        loss_vs_tokens(race),
        speedups(race),
        loss_vs_lr(race),
        training_curves(race),
        costs.tuning_spent(race),
        costs.step_costs(race),
    ]


def slots(race: Race) -> dict[str, int]:
    """Each optimizer's colour and shape, the same in every figure; the baseline has slot 0."""
    others = [name for name in race["optimizers"] if name != race["baseline"]]
    return {race["baseline"]: 0} | {name: place for place, name in enumerate(others, 1)}


def both(draw: Callable[[int], Board]) -> tuple[Board, Board]:
    return draw(WIDE), draw(NARROW)


def loss_vs_tokens(race: Race) -> Figure:
    """The baseline's law with its band, everyone's final loss, and the level line from each to the law."""
    baseline, budget, law = race["baseline"], race["setup"]["tokens"], race["law"]
    base, slot = say.label(race, baseline), slots(race)
    entries = []
    for name in say.ranking(race):
        ended, speedup = say.final(race["results"][name]), race["results"][name]["speedup_tokens"] or {}
        if ended["mean"] is not None and (name != baseline or law is None):
            entries.append((name, ended, speedup))
    points = law["points"] if law else []
    band = sorted(law["band"], key=lambda point: point["tokens"]) if law else []

    def draw(width: int) -> Board:
        wide = width == WIDE
        board = Board(width, 470 if wide else 400, f"Final loss against training tokens; law of {base}")
        right = width - (168 if wide else 92)
        reach = [budget * s["value"] for _, _, s in entries if s.get("value")]
        reach += [budget * s[end] for _, _, s in entries for end in ("low", "high") if s.get("value") and s.get(end)]
        xs = [budget, *reach, *(point["tokens"] for point in [*points, *band])]
        x = Scale.around(xs if len(set(xs)) > 1 else [budget / 2, budget * 2], 52, right, log=True, pad=0.04)
        marks = [p for _, ended, _ in entries for p in (ended["mean"], ended["low"], ended["high"])]
        marks += [p[key] for p in [*points, *band] for key in ("loss", "low", "high")]
        y = Scale.around([value for value in marks if value is not None], board.height - 50, 34)
        board.axes(x, y, "training tokens", "validation loss, nats/token", say.tokens, lambda v: f"{v:.2f}",
                   x.ticks(7 if wide else 4))
        board.line(x(budget), y.start, x(budget), y.stop, "guide")
        board.text(x(budget) + 5, y.stop + 4, "compared here", "note")
        if band:
            edge = [(x(p["tokens"]), y(p["high"])) for p in band if p["high"] is not None]
            edge += [(x(p["tokens"]), y(p["low"])) for p in reversed(band) if p["low"] is not None]
            board.path(edge, "band c0", closed=True)
            board.path([(x(p["tokens"]), y(p["loss"])) for p in band], "law c0")
        for point in points:
            _whisker(board, x(point["tokens"]), y, point["low"], point["high"], 0)
            tip = f"{base}, {say.tokens(point['tokens'])} tokens\nloss {_with(point)}"
            tip += f"\nlr {say.lr(point['lr'])}" if point.get("lr") else ""
            tip += "" if point.get("bracketed", True) else ", not bracketed"
            board.mark(x(point["tokens"]), y(point["loss"]), 0, tip)
        ends = [(race["results"][name]["label"], slot[name], y(e["mean"]), s) for name, e, s in entries]
        if band:
            ends.append((base, 0, y(band[-1]["loss"]), {}))
        heights = spread([height for _, _, height, _ in ends], 30, y.stop + 6, y.start - 16)
        for (name, ended, speedup), place in zip(entries, heights, strict=False):
            who, height = race["results"][name]["label"], y(ended["mean"])
            value, css = speedup.get("value"), f"c{color(slot[name])}"
            if value:
                there = x(budget * value)
                flagged = " flagged" if speedup.get("flags") else ""
                if speedup.get("low") and speedup.get("high"):
                    low, high = x(budget * speedup["low"]), x(budget * speedup["high"])
                    board.line(low, height, high, height, f"spread {css}")
                board.line(x(budget), height, there, height, f"level {css}{flagged}")
                board.line(there, height - 6, there, height + 6, f"stop {css}")
            _whisker(board, x(budget), y, ended["low"], ended["high"], slot[name])
            tip = f"{who}, {say.tokens(budget)} tokens\nloss {_with(ended | {'loss': ended['mean']})}"
            if value:
                tip += f"\n{base} needs {say.tokens(budget * value)} tokens for it: {_ratio(speedup)}"
            board.mark(x(budget), height, slot[name], tip, 5.5)
            _end_label(board, right, height, place, who, _speed_note(speedup, law is not None), slot[name], width)
        if band:
            _end_label(board, right, ends[-1][2], heights[-1], base, "its law" if wide else "law", 0, width)
        if law is None:
            board.text(60, y.start - 12, "no law was fitted: no speedup is read off", "note")
        return board

    caption = (
        f"How to read it: the grey curve is what tuned {base} reaches with more or fewer tokens, each of its points "
        f"the end of a complete schedule, the band its {say.level(race)} interval. Every other optimizer was trained "
        f"to {say.tokens(budget)} tokens. Follow its level line: where it meets the curve, {base} has the same loss, "
        "and the token ratio between the two ends is the speedup; the pale bar is its interval."
    )
    if law is None:
        caption = (
            f"Final losses at {say.tokens(budget)} tokens. No law of {base} stands behind them "
            f"({race.get('law_reason') or 'no reason recorded'}), so no token ratio can be read off."
        )
    missing = [say.label(race, n) for n in race["optimizers"] if say.final(race["results"][n])["mean"] is None]
    if missing:
        caption += f" Without a final loss, hence not drawn: {say.listed(missing, 12)}."
    rows = [{"kind": "baseline", "optimizer": baseline, **_flat(point)} for point in points]
    rows += [{"kind": "law", "optimizer": baseline, **_flat(point)} for point in band]
    rows += [
        {"kind": "final", "optimizer": name, "tokens": budget, "loss": e["mean"], "low": e["low"], "high": e["high"],
         "equal_loss_tokens": budget * s["value"] if s.get("value") else None}
        for name, e, s in entries
    ]  # fmt: skip
    return Figure("loss-vs-tokens", "Loss against tokens, and the level line", caption, *both(draw), rows)


def speedups(race: Race) -> Figure:
    """Forest plot: one line per optimizer, tokens above seconds, 1x as the line to beat."""
    base, slot, names = say.label(race, race["baseline"]), slots(race), say.ranking(race)[1:]
    kinds = (("tokens", "speedup_tokens", ""), ("seconds", "speedup_seconds", "open"))

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, right, row = (170, width - 190, 52) if wide else (92, width - 76, 52)
        board = Board(width, 76 + row * max(1, len(names)), f"Speedup over {base} in tokens and in seconds")
        stated = [race["results"][name][key] or {} for name in names for _, key, _ in kinds]
        ends = [s[part] for s in stated for part in ("value", "low", "high") if s.get("value") and s.get(part)]
        x = Scale.around([0.8, 1.25, *ends], left, right, log=True, pad=0.08)
        y = Scale(0, 1, board.height - 48, 24)
        ticks = [v for v in x.ticks(6 if wide else 3) if abs(x(v) - x(1)) > 24]
        board.axes(x, Scale(0.1, 0.2, y.start, y.stop), f"times as fast as {clipped(base, 120)}", "",
                   lambda v: f"{v:.3g}×", None, [*ticks, 1.0], 0)  # fmt: skip  # noqa: RUF001
        for value in ticks:
            board.line(x(value), y.start, x(value), y.stop, "grid")
        board.line(x(1), y.start, x(1), y.stop, "one")
        board.text(x(1) - 7, y.stop - 9, "slower", "note", "end")
        board.text(x(1) + 7, y.stop - 9, "faster", "note")
        for place, name in enumerate(names):
            result, top = race["results"][name], y.stop + row * place + row / 2
            board.text(left - 14, top + 4, clipped(result["label"], left - 16), f"name c{color(slot[name])}", "end")
            for offset, (kind, key, css) in zip((-10, 10), kinds, strict=True):
                speedup, height = result[key] or {}, top + offset
                if speedup.get("value"):
                    if speedup.get("low") and speedup.get("high"):
                        board.line(x(speedup["low"]), height, x(speedup["high"]), height,
                                   f"interval {css} c{color(slot[name])}")  # fmt: skip
                    tip = f"{result['label']} in {kind}: {_ratio(speedup)}\n{say.told(speedup)}"
                    tip += "".join(f"\n{flag}" for flag in speedup.get("flags") or [])
                    board.mark(x(speedup["value"]), height, slot[name], tip, 5, css)
                    words = f"{say.ratio(speedup)} {kind}" + ("*" if speedup.get("flags") else "")
                    board.text(right + 10, height + 4, words, "value" if kind == "tokens" else "value quiet")
                    if wide and speedup.get("low") and speedup.get("high"):
                        board.text(width, height + 4, f"{speedup['low']:.2f}–{speedup['high']:.2f}",  # noqa: RUF001
                                   "value quiet", "end")  # fmt: skip
                else:
                    board.text(right + 10, height + 4, f"no {kind}", "value quiet")
        if not names:
            board.text((left + right) / 2, y.stop + 30, f"{base} ran alone", "note", "middle")
        return board

    caption = (
        f"Filled marks count tokens, open marks count seconds on this machine; lines are {say.level(race)} intervals "
        "that hold seed noise and the fit. A line that crosses 1× tells nothing apart."  # noqa: RUF001
    )
    refused = [f"{say.label(race, n)}: {say.reason(race['results'][n]['speedup_tokens'])}" for n in names
               if say.told(race["results"][n]["speedup_tokens"]) == "refused"]  # fmt: skip
    flagged = any((race["results"][n][key] or {}).get("flags") for n in names for _, key, _ in kinds)
    caption += " An asterisk marks a flagged value; the flag is said above." if flagged else ""
    caption += f" Not stated: {'; '.join(refused)}." if refused else ""
    rows = [
        {"optimizer": name, "in": kind, **{k: (race["results"][name][key] or {}).get(k) for k in
         ("value", "low", "high", "level")}, "verdict": say.told(race["results"][name][key]),
         "flags": "; ".join((race["results"][name][key] or {}).get("flags") or []),
         "reason": (race["results"][name][key] or {}).get("reason")}
        for name in names for kind, key, _ in kinds
    ]  # fmt: skip
    return Figure("speedups", "Speedup, with its interval", caption, *both(draw), rows)


def loss_vs_lr(race: Race) -> Figure:
    """One panel per optimizer: every learning rate tried, the best ringed, what diverged or left the scale on top."""
    slot, names = slots(race), [race["baseline"], *(n for n in race["optimizers"] if n != race["baseline"])]
    found = sorted(p["loss"] for n in names for p in race["results"][n]["lr"]["points"] if p["loss"] is not None)
    # Far-off losses would flatten every bowl: the scale ends above the better part, the rest sits on the top rail.
    floor = found[0] if found else 0.0
    ceiling = min(found[-1], floor + max(0.03, 1.6 * (found[int(0.7 * (len(found) - 1))] - floor))) if found else 1.0

    def draw(width: int) -> Board:
        columns = min(len(names), 4) if width == WIDE else 1 if len(names) == 1 else 2
        gap, left, row = (26, 52, 226) if width == WIDE else (14, 40, 206)
        lines = -(-len(names) // columns)
        board = Board(width, row * lines + 26, "Loss against learning rate, one panel per optimizer")
        panel = (width - left - gap * (columns - 1) - 8) / columns
        board.text(2, 12, "validation loss, nats/token" if width == WIDE else "loss, nats/token", "title")
        for place, name in enumerate(names):
            x0, y0 = left + (place % columns) * (panel + gap), 26 + (place // columns) * row
            _lr_panel(board, race["results"][name], slot[name], x0, y0, panel, row - 62,
                      (floor, ceiling), place % columns == 0)  # fmt: skip
        board.text(width / 2, board.height - 2, "learning rate", "title", "middle")
        return board

    edges = [f"{say.label(race, n)} ({say.bracket(race['results'][n])})" for n in names
             if not race["results"][n]["lr"]["bracketed"]]  # fmt: skip
    caption = (
        f"Every learning rate tried, at {say.tokens(race['setup']['tokens'])} tokens. The ring is the best one; "
        "it is bracketed when a worse one was tried on either side. On the top rail: a cross for a run that "
        "diverged, an arrow for a loss beyond the scale. "
    )
    caption += f"Not bracketed: {say.listed(edges, 12)}." if edges else "All are bracketed."
    rows = [
        {"optimizer": n, **_flat(point), "best": point["lr"] == race["results"][n]["lr"]["best"],
         "bracketed": race["results"][n]["lr"]["bracketed"], "edge": race["results"][n]["lr"]["edge"]}
        for n in names for point in sorted(race["results"][n]["lr"]["points"], key=lambda p: p["lr"])
    ]  # fmt: skip
    return Figure("loss-vs-lr", "Loss against learning rate", caption, *both(draw), rows)


def _lr_panel(
    board: Board, result: Race, slot: int, left: float, top: float, width: float, height: float,
    span: tuple[float, float], with_labels: bool,
) -> None:  # fmt: skip
    points = sorted(result["lr"]["points"], key=lambda point: point["lr"])
    rates = [point["lr"] for point in points] or [1e-4, 1e-2]
    x = Scale.around(rates if len(set(rates)) > 1 else [rates[0] / 2, rates[0] * 2], left, left + width, True, 0.1)
    y = Scale.around(span, top + height, top + 46, pad=0.08)
    rail, best = top + 32, result["lr"]["best"]
    board.text(left, top + 12, clipped(result["label"], width), f"name c{color(slot)}")
    few = 3 if width > 150 else 2
    board.axes(x, y, "", "", say.lr, (lambda v: f"{v:.2f}") if with_labels else None, x.ticks(few), 3)
    drawn = [(x(p["lr"]), y(p["loss"])) for p in points if p["loss"] is not None and y.inside(p["loss"])]
    if len(drawn) > 1:
        board.path(drawn, f"join c{color(slot)}")
    for point in points:
        place, lost = x(point["lr"]), point["loss"] is None
        tip = f"{result['label']}, lr {say.lr(point['lr'])}\n"
        if lost:
            tip += point["status"] if point["status"] != "finished" else "no loss recorded"
            board.mark(place, rail, slot, tip, 4, "lost", "M-1 -1L1 1M-1 1L1 -1")
        elif not y.inside(point["loss"]):
            tip += f"loss {say.loss(point['loss'])}, beyond the scale"
            board.mark(place, rail, slot, tip, 4, "", "M0 -1.1L.95 .7H-.95Z")
        else:
            is_best = point["lr"] == best
            tip += f"loss {say.loss(point['loss'])}" + (f"\nbest, {say.bracket(result)}" if is_best else "")
            board.mark(place, y(point["loss"]), slot, tip, 5 if is_best else 4)
            if is_best:
                board.add("circle", f"ring c{color(slot)}", cx=place, cy=y(point["loss"]), r=9)
    words = f"best {say.lr(best)}" if best is not None else "no best"
    if best is not None and not result["lr"]["bracketed"]:
        words += f", {result['lr']['edge']} edge" if result["lr"]["edge"] else ", not bracketed"
    board.text(left + width, top + 12, words, "note", "end")


def training_curves(race: Race) -> Figure:
    """Validation loss along the final runs, whole and near the end; rank flips numbered where they happened."""
    slot = slots(race)
    curves = [c for c in race["curves"] if c["final"] and c["optimizer"] in slot and len(c["tokens"]) > 1]
    last = max((c["tokens"][-1] for c in curves), default=race["setup"]["tokens"])
    flips = sorted(race["rank_flips"], key=lambda flip: flip["tokens"])

    def values(start: float) -> list[float]:
        return [v for c in curves for t, v in zip(c["tokens"], c["loss"], strict=True) if v is not None and t >= start]

    def draw(width: int) -> Board:
        wide = width == WIDE
        right = width - (110 if wide else 64)
        board = Board(width, 430 if wide else 600, "Training curves of the final runs, all and near the end")
        if not curves:
            board.text(52, 60, "no final run recorded its curve", "note")
            return board
        whole = (52, (right - 52) * 0.44 + 52) if wide else (40, width - 8)
        close = (whole[1] + 62, right) if wide else (40, right)
        tops = (46, 46) if wide else (46, 340)
        deep = 332 if wide else 196
        for (x0, x1), top, start, title in (
            (whole, tops[0], last * 0.08, "the whole run"),
            (close, tops[1], last * 0.6, "the last 40 %"),
        ):
            x = Scale(0 if title == "the whole run" else start, last, x0, x1)
            y = Scale.around(values(start) or values(0), top + deep, top, pad=0.05)
            board.text(x0, top - 26, title, "name")
            board.axes(x, y, "training tokens" if wide or start > last / 2 else "", "", say.tokens,
                       lambda v: f"{v:.2f}", x.ticks(4))  # fmt: skip
            for curve in curves:
                _curve(board, curve, x, y, slot[curve["optimizer"]], say.label(race, curve["optimizer"]))
            stack: dict[int, int] = {}
            for number, flip in enumerate(flips, 1):
                if x.inside(flip["tokens"]):
                    place = x(flip["tokens"])
                    column = round(place / 14)
                    stack[column] = stack.get(column, -1) + 1
                    height = top - 6 + 13 * stack[column]
                    board.line(place, top, place, top + deep, "flip")
                    board.mark(place, height, 0, f"{number}. {flip['text']}", 7, "badge")
                    board.text(place, height + 4, str(number), "number", "middle")
        ends = {c["optimizer"]: c["loss"][-1] for c in curves if c["loss"][-1] is not None}
        for (name, _), height in zip(ends.items(), spread([y(v) for v in ends.values()], 16, tops[1], tops[1] + deep),
                                     strict=True):  # fmt: skip
            words = clipped(say.label(race, name), width - right - 8)
            board.text(right + 8, height + 4, words, f"name c{color(slot[name])}")
        return board

    caption = (
        "Validation loss along every final run, one thin line per seed. Only the right ends are compared: "
        "before them schedules are unfinished, and a lead there is no lead."
    )
    if flips:
        numbered = "; ".join(f"({number}) {flip['text'].rstrip('.')}" for number, flip in enumerate(flips, 1))
        caption += f" Ranks changed along the way: {numbered}."
    else:
        caption += " No change of rank along the way was recorded."
    rows = [
        {"optimizer": c["optimizer"], "seed": c["seed"], "lr": c.get("lr"), "run": c.get("run"), "tokens": t, "loss": v}
        for c in curves for t, v in zip(c["tokens"], c["loss"], strict=True)
    ]  # fmt: skip
    return Figure("training-curves", "Training curves", caption, *both(draw), rows)


def _curve(board: Board, curve: Race, x: Scale, y: Scale, slot: int, who: str) -> None:
    """The part of one curve that lies on the scales, its points silent but readable by the pointer."""
    seen = [(t, v) for t, v in zip(curve["tokens"], curve["loss"], strict=True)
            if v is not None and x.inside(t) and y.inside(v)]  # fmt: skip
    if len(seen) > 1:
        board.path([(x(t), y(v)) for t, v in seen], f"curve c{color(slot)}")
    for t, v in seen:
        tip = f"{who}, seed {curve['seed']}\n{say.tokens(t)} tokens: {say.loss(v)}"
        end = t == curve["tokens"][-1]
        board.mark(x(t), y(v), slot, tip, 3.5 if end else 2, "" if end else "silent")


def _whisker(board: Board, x: float, y: Scale, low: float | None, high: float | None, slot: int) -> None:
    if low is not None and high is not None:
        board.line(x, y(low), x, y(high), f"whisker c{color(slot)}")


def _end_label(
    board: Board, right: float, height: float, place: float, who: str, note: str, slot: int, width: float
) -> None:
    """A name in the right margin, tied by a thin line to the height that it belongs to."""
    board.path([(right, height), (right + 8, place), (right + 12, place)], "leader")
    board.text(right + 16, place + 1, clipped(who, width - right - 18), f"name c{color(slot)}")
    board.text(right + 16, place + 14, clipped(note, width - right - 16, 11), "note")


def _speed_note(speedup: Race, law: bool) -> str:
    if speedup.get("value"):
        return f"{say.ratio(speedup)} in tokens" + ("*" if speedup.get("flags") else "")
    return "speedup refused" if law else ""


def _ratio(speedup: Race) -> str:
    span = say.interval(speedup.get("low"), speedup.get("high"), 2)
    return say.ratio(speedup) + (f" ({span})" if span else "")


def _with(point: Race) -> str:
    span = say.interval(point.get("low"), point.get("high"))
    return say.loss(point["loss"]) + (f" ({span})" if span else "")


def _flat(point: Race) -> Race:
    return {key: value for key, value in point.items() if not isinstance(value, dict | list)}
