"""The two figures that carry the verdict: the level line against the baseline's law, and the speedups."""

from __future__ import annotations

from steepest.lab.report import summary as say
from steepest.lab.report.figure import (
    NARROW,
    WIDE,
    Figure,
    Race,
    both,
    draw_interval,
    flat,
    ratio_text,
    shown_ends,
    slots,
    speedup,
)
from steepest.lab.report.svg import Board, Scale, clipped, color, spread


def loss_vs_tokens(race: Race) -> Figure:
    """The baseline's law with its band, everyone's final loss, and the level line from each to the law."""
    base, budget, law = say.label(race, race["baseline"]), race["setup"]["tokens"], race["law"]
    ended = {name: say.final(race["results"][name]) for name in say.ranking(race)}
    drawn = [name for name in ended if ended[name]["mean"] is not None and (name != race["baseline"] or not law)]
    points = law["points"] if law else []
    band = sorted(law["band"], key=lambda point: point["tokens"]) if law else []

    def draw(width: int) -> Board:
        wide = width == WIDE
        board = Board(width, 470 if wide else 400, f"Final loss against training tokens; law of {base}")
        right = width - (168 if wide else 92)
        reach = [budget * end for name in drawn for end in shown_ends(speedup(race, name, "tokens"))]
        reach += [budget, *(point["tokens"] for point in [*points, *band])]
        x = Scale.around(reach if len(set(reach)) > 1 else [budget / 2, budget * 2], 52, right, True, 0.04)
        heights = [ended[name][key] for name in drawn for key in ("mean", "low", "high")]
        heights += [point[key] for point in [*points, *band] for key in ("loss", "low", "high")]
        y = Scale.around([value for value in heights if value is not None], board.height - 50, 34)
        board.axes(x, y, "training tokens", "validation loss, nats/token", say.tokens, "{:.2f}".format)
        board.line(x(budget), y.start, x(budget), y.stop, "guide")
        board.text(x(budget) + 5, y.stop + 4, "compared here", "note")
        if band:
            edge = [(x(p["tokens"]), y(p["high"])) for p in band if p["high"] is not None]
            edge += [(x(p["tokens"]), y(p["low"])) for p in reversed(band) if p["low"] is not None]
            if edge:
                board.path(edge, "band c0", closed=True)
            board.path([(x(p["tokens"]), y(p["loss"])) for p in band], "law c0")
        for point in points:
            _baseline_point(board, x, y, point, base)
        _names_at_the_right(board, race, drawn, x, y, right)
        for name in drawn:
            _final_point(board, race, name, x, y)
        if wide:
            _in_words(board, race, drawn, x, y)
        if not law:
            board.text(60, y.start - 12, "no law was fitted: no speedup is read off", "note")
        return board

    if law:
        caption = (
            f"The curve is what tuned {base} reaches with more or fewer tokens: each of its points is the "
            f"end of a complete schedule, the band the {say.level(race)} interval of the law through them. "
            f"Every other optimizer was trained to {say.tokens(budget)} tokens. Follow its level line: where "
            f"it meets the curve, {base} has the same loss, and the token ratio between the line's two ends is "
            "the speedup. The pale bar is its interval."
        )
    else:
        caption = (
            f"Final losses at {say.tokens(budget)} tokens. No law of {base} stands behind them "
            f"({race.get('law_reason') or 'no reason recorded'}), so no token ratio can be read off."
        )
    missing = [say.label(race, name) for name in ended if ended[name]["mean"] is None]
    caption += f" Without a final loss, hence not drawn: {say.listed(missing, 12)}." if missing else ""
    rows = [{"kind": "baseline", "optimizer": race["baseline"], **flat(point)} for point in points]
    rows += [{"kind": "law", "optimizer": race["baseline"], **flat(point)} for point in band]
    for name in drawn:
        value, row = speedup(race, name, "tokens").get("value"), {"kind": "final", "optimizer": name}
        row |= {"tokens": budget, "loss": ended[name]["mean"], "low": ended[name]["low"]}
        rows.append(row | {"high": ended[name]["high"], "equal_loss_tokens": budget * value if value else None})
    return Figure("loss-vs-tokens", "Loss against tokens, and the level line", caption, *both(draw), rows)


def _baseline_point(board: Board, x: Scale, y: Scale, point: Race, base: str) -> None:
    _whisker(board, x(point["tokens"]), y, point, 0)
    tip = f"{base}, {say.tokens(point['tokens'])} tokens\nloss {_loss_text(point['loss'], point)}"
    tip += f"\nlr {say.lr(point['lr'])}" if point.get("lr") else ""
    tip += "" if point.get("bracketed", True) else ", not bracketed"
    board.mark(x(point["tokens"]), y(point["loss"]), 0, tip)


def _final_point(board: Board, race: Race, name: str, x: Scale, y: Scale) -> None:
    """One optimizer's final loss with the level line to the law, where its speedup is stated."""
    budget, slot, ratio = race["setup"]["tokens"], slots(race)[name], speedup(race, name, "tokens")
    ended, css = say.final(race["results"][name]), f"c{color(slot)}"
    height = y(ended["mean"])
    tip = f"{say.label(race, name)}, {say.tokens(budget)} tokens\nloss {_loss_text(ended['mean'], ended)}"
    if ratio.get("value"):
        there = x(budget * ratio["value"])
        draw_interval(board, x, height, ratio, f"spread {css}", budget)
        board.line(x(budget), height, there, height, f"level {css}{' flagged' if ratio.get('flags') else ''}")
        board.line(there, height - 6, there, height + 6, f"stop {css}")
        needs = say.tokens(budget * ratio["value"])
        tip += f"\n{say.label(race, race['baseline'])} needs {needs} tokens for it: {ratio_text(ratio)}"
    _whisker(board, x(budget), y, ended, slot)
    board.mark(x(budget), height, slot, tip, 5.5)


def _names_at_the_right(board: Board, race: Race, drawn: list[str], x: Scale, y: Scale, right: float) -> None:
    """Each optimizer's name and speedup in the margin, tied to where its level line ends."""
    wide, law, budget = board.width != NARROW, race["law"], race["setup"]["tokens"]
    labels = []
    for name in drawn:
        ratio = speedup(race, name, "tokens")
        note = say.ratio(ratio) + (" in tokens" if wide else "") + ("*" if ratio.get("flags") else "")
        if not ratio.get("value"):
            note = "no speedup" if law and name != race["baseline"] else ""
        start = x(budget * max(1.0, *(shown_ends(ratio) or [1.0])))
        height = y(say.final(race["results"][name])["mean"])
        labels.append((say.label(race, name), note, slots(race)[name], start + 6, height))
    if law and law["band"]:
        end = max(law["band"], key=lambda point: point["tokens"])
        labels.append((say.label(race, race["baseline"]), "its law", 0, x(end["tokens"]) + 6, y(end["loss"])))
    places = spread([height for *_, height in labels], 30, y.stop + 6, y.start - 16)
    for (who, note, slot, start, height), place in zip(labels, places, strict=True):
        board.path([(min(start, right), height), (right, height), (right + 12, place)], "leader")
        board.text(right + 16, place + 2, clipped(who, board.width - right - 18), f"name c{color(slot)}")
        board.text(right + 16, place + 15, note, "note")


def _in_words(board: Board, race: Race, drawn: list[str], x: Scale, y: Scale) -> None:
    """The longest level line of a faster optimizer said in words, left of it where the law cannot run."""
    faster = [name for name in drawn if race["results"][name]["verdict"] == "faster"]
    values = {name: speedup(race, name, "tokens").get("value") or 0 for name in faster}
    best = max(values, key=lambda name: values[name], default="")
    if values.get(best, 0) > 1:
        budget, height = race["setup"]["tokens"], y(say.final(race["results"][best])["mean"])
        who, base = clipped(say.label(race, best), 120), clipped(say.label(race, race["baseline"]), 120)
        needs = f"{base} needs {say.tokens(budget * values[best])} tokens for {who}'s loss"
        board.text(x(budget) - 14, height + 4, needs, "note", "end")


def speedups(race: Race) -> Figure:
    """Forest plot: one line per optimizer, tokens above seconds, 1x as the line to beat."""
    base, slot, names = say.label(race, race["baseline"]), slots(race), say.ranking(race)[1:]
    kinds = ("tokens", "seconds")

    def draw(width: int) -> Board:
        wide = width == WIDE
        left, right, row = (170, width - 190, 52) if wide else (82, width - 96, 52)
        board = Board(width, 76 + row * max(1, len(names)), f"Speedup over {base} in tokens and in seconds")
        ends = [end for name in names for kind in kinds for end in shown_ends(speedup(race, name, kind))]
        x = Scale.around([0.8, 1.25, *ends], left, right, True, 0.08)
        ticks = [1.0, *(tick for tick in x.ticks(6 if wide else 3) if abs(x(tick) - x(1)) > 24)]
        top, bottom = 24, board.height - 48
        board.columns(x, top, bottom, f"times as fast as {clipped(base, 120)}", "{:.3g}×".format, ticks)
        board.line(x(1), bottom, x(1), top, "one")
        board.text(x(1) - 7, top - 9, "slower", "note", "end")
        board.text(x(1) + 7, top - 9, "faster", "note")
        for place, name in enumerate(names):
            middle = top + row * (place + 0.5)
            who = clipped(say.label(race, name), left - 16)
            board.text(left - 14, middle + 4, who, f"name c{color(slot[name])}", "end")
            for kind, height in zip(kinds, (middle - 10, middle + 10), strict=True):
                _speedup_line(board, race, name, kind, x, height)
        if not names:
            board.text((left + right) / 2, top + 30, f"{base} ran alone", "note", "middle")
        return board

    caption = (
        f"Filled marks count tokens, open marks count seconds on this machine; lines are {say.level(race)} "
        "intervals that hold seed noise and the fit. A line that crosses 1× tells nothing apart."
    )
    stated = [speedup(race, name, kind) for name in names for kind in kinds]
    if any(ratio.get("flags") for ratio in stated):
        caption += " An asterisk marks a flagged value; the flag is said above."
    refused = [
        f"{say.label(race, name)}: {say.reason(speedup(race, name, 'tokens'))}"
        for name in names
        if say.told(speedup(race, name, "tokens")) == "refused"
    ]
    caption += f" Not stated: {'; '.join(refused)}." if refused else ""
    rows = []
    for name in names:
        for kind in kinds:
            ratio = speedup(race, name, kind)
            row: Race = {"optimizer": name, "in": kind, "verdict": say.told(ratio)}
            row |= {key: ratio.get(key) for key in ("value", "low", "high", "level", "reason")}
            rows.append(row | {"flags": "; ".join(ratio.get("flags") or [])})
    return Figure("speedups", "Speedup, with its interval", caption, *both(draw), rows)


def _speedup_line(board: Board, race: Race, name: str, kind: str, x: Scale, height: float) -> None:
    """Mark and interval of one speedup, its numbers in the right margin."""
    ratio, slot, right = speedup(race, name, kind), slots(race)[name], x.stop + 10
    if not ratio.get("value"):
        board.text(right, height + 4, f"no {kind}", "value quiet")
        return
    css = "" if kind == "tokens" else "open"
    tip = f"{say.label(race, name)} in {kind}: {ratio_text(ratio)}"
    tip += "".join(f"\n{flag}" for flag in ratio.get("flags") or [])
    draw_interval(board, x, height, ratio, f"interval {css} c{color(slot)}")
    board.mark(x(ratio["value"]), height, slot, tip, 5, css)
    words = f"{say.ratio(ratio)} {kind}" + ("*" if ratio.get("flags") else "")
    board.text(right, height + 4, words, "value" if kind == "tokens" else "value quiet")
    if board.width == WIDE:
        span = say.interval(ratio.get("low"), ratio.get("high"), 2)
        board.text(board.width, height + 4, span, "value quiet", "end")


def _whisker(board: Board, x: float, y: Scale, ends: Race, slot: int) -> None:
    if ends["low"] is not None and ends["high"] is not None:
        board.line(x, y(ends["low"]), x, y(ends["high"]), f"whisker c{color(slot)}")


def _loss_text(loss: float, ends: Race) -> str:
    span = say.interval(ends.get("low"), ends.get("high"))
    return say.loss(loss) + (f" ({span})" if span else "")
