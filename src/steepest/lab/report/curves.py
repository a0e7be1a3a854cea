"""The figures of single runs: loss against learning rate, and training curves."""

from __future__ import annotations

from steepest.lab.report import summary as say
from steepest.lab.report.figure import WIDE, Figure, Race, both, flat, slots
from steepest.lab.report.svg import Board, Scale, clipped, color, spread

CROSS, ARROW = "M-1 -1L1 1M-1 1L1 -1", "M0 -1.1L.95 .7H-.95Z"


def loss_vs_lr(race: Race) -> Figure:
    """One panel per optimizer: every lr tried, the best ringed, what diverged or left the scale on top."""
    slot = slots(race)
    results = {name: race["results"][name] for name in slot}
    tried = [(name, point) for name in slot for point in sorted(results[name]["lr"]["points"], key=_rate)]
    span = _bowl([point["loss"] for _, point in tried if point["loss"] is not None])

    def draw(width: int) -> Board:
        wide = width == WIDE
        columns = min(len(slot), 4 if wide else 2)
        gap, left, row = (26, 52, 244) if wide else (16, 40, 222)
        lines = -(-len(slot) // columns)
        board = Board(width, row * lines + 40, "Loss against learning rate, one panel per optimizer")
        panel = (width - left - gap * (columns - 1) - 8) / columns
        board.text(2, 12, "validation loss, nats/token", "title")
        for place, name in enumerate(slot):
            across, down = place % columns, place // columns
            box = Box(left + across * (panel + gap), 28 + down * row, panel, row - 48, across == 0)
            _lr_panel(board, box, results[name], slot[name], span)
        board.text((left + width) / 2, board.height - 6, "learning rate", "title", "middle")
        return board

    loose = [results[name] for name in slot if not results[name]["lr"]["bracketed"]]
    edges = [f"{say.shortened(result['label'])} ({say.bracket(result)})" for result in loose]
    caption = (
        f"Every learning rate tried, at {say.tokens(race['setup']['tokens'])} tokens. The ring is the best one; "
        "it is bracketed when a worse one was tried on either side. On the top rail: a cross for a run that "
        "diverged, an arrow for a loss beyond the scale. "
    )
    caption += f"Not bracketed: {say.listed(edges, 12)}." if edges else "All are bracketed."
    rows = []
    for name, point in tried:
        found = results[name]["lr"]
        row = {"optimizer": name, **flat(point), "best": point["lr"] == found["best"]}
        rows.append(row | {"bracketed": found["bracketed"], "edge": found["edge"]})
    return Figure("loss-vs-lr", "Loss against learning rate", caption, *both(draw), rows)


def _rate(point: Race) -> float:
    return float(point["lr"])


def _bowl(losses: list[float]) -> tuple[float, float]:
    """The range of losses worth showing: far-off ones would flatten every bowl, they go to the top rail."""
    if not losses:
        return 0.0, 1.0
    ordered = sorted(losses)
    usual = ordered[int(0.7 * (len(ordered) - 1))]
    return ordered[0], min(ordered[-1], ordered[0] + max(0.03, 1.6 * (usual - ordered[0])))


class Box:
    """Where a panel lies: its frame in pixels, and whether it carries the vertical axis's values."""

    def __init__(self, left: float, top: float, width: float, height: float, labelled: bool) -> None:
        self.left, self.top, self.right, self.bottom = left, top, left + width, top + height
        self.labelled = labelled


def _lr_panel(board: Board, box: Box, result: Race, slot: int, span: tuple[float, float]) -> None:
    points, best, css = sorted(result["lr"]["points"], key=_rate), result["lr"]["best"], f"c{color(slot)}"
    rates = [point["lr"] for point in points] or [1e-3]
    x = Scale.around(
        rates if len(set(rates)) > 1 else [rates[0] / 2, rates[0] * 2], box.left, box.right, True, 0.1
    )
    y = Scale.around(span, box.bottom, box.top + 58, pad=0.08)
    rail = box.top + 44
    stand = say.bracket(result)
    said = "no best lr" if best is None else f"best {say.lr(best)}{' ' if stand.startswith('at') else ', '}{stand}"
    board.text(box.left, box.top + 12, clipped(result["label"], box.right - box.left), f"name {css}")
    board.text(box.left, box.top + 26, said, "note")
    board.axes(x, y, "", "", say.lr, "{:.2f}".format if box.labelled else None, x.ticks(2), 4)
    seen = [(x(p["lr"]), y(p["loss"])) for p in points if p["loss"] is not None and y.inside(p["loss"])]
    if len(seen) > 1:
        board.path(seen, f"join {css}")
    for point in points:
        place, tip = x(point["lr"]), f"{say.shortened(result['label'])}, lr {say.lr(point['lr'])}\n"
        if point["loss"] is None:
            tip += point["status"] if point["status"] != "finished" else "no loss recorded"
            board.mark(place, rail, slot, tip, 4, "lost", CROSS)
        elif not y.inside(point["loss"]):
            board.mark(place, rail, slot, f"{tip}loss {say.loss(point['loss'])}, beyond the scale", 4, "", ARROW)
        else:
            ringed = point["lr"] == best
            tip += f"loss {say.loss(point['loss'])}" + (f"\nbest, {say.bracket(result)}" if ringed else "")
            board.mark(place, y(point["loss"]), slot, tip, 5 if ringed else 4)
            if ringed:
                board.add("circle", f"ring {css}", cx=place, cy=y(point["loss"]), r=9)


def training_curves(race: Race) -> Figure:
    """Validation loss along the final runs, whole and near the end; rank flips numbered in place."""
    slot = slots(race)
    curves = [c for c in race["curves"] if c["final"] and c["optimizer"] in slot and len(c["tokens"]) > 1]
    # Before a 32nd of the run every curve falls from log(vocabulary), and would press the rest flat.
    last = max((curve["tokens"][-1] for curve in curves), default=race["setup"]["tokens"])
    first = max(last / 32, min((curve["tokens"][0] for curve in curves), default=0))
    flips = sorted(race["rank_flips"], key=lambda flip: flip["tokens"])

    def draw(width: int) -> Board:
        wide = width == WIDE
        right = width - (110 if wide else 68)
        board = Board(width, 430 if wide else 620, "Training curves of the final runs, all and near the end")
        if not curves:
            board.text(52, 60, "no final run recorded its curve", "note")
            return board
        whole = Box(52, 46, 360, 332, True) if wide else Box(40, 46, width - 48, 200, True)
        close = Box(474, 46, right - 474, 332, True) if wide else Box(40, 354, right - 40, 200, True)
        for box, start, title in ((whole, first, "the whole run"), (close, 0.6 * last, "the last 40 %")):
            x = Scale(start, last, box.left, box.right, log=box is whole)
            heights = [loss for curve in curves for _, loss in _since(curve, start)]
            y = Scale.around(heights, box.bottom, box.top, pad=0.05)
            board.text(box.left, box.top - 26, title, "name")
            board.axes(x, y, "training tokens", "", say.tokens, "{:.2f}".format, x.ticks(4))
            for curve in curves:
                _curve(board, curve, start, x, y, slot[curve["optimizer"]], say.label(race, curve["optimizer"]))
            _flips(board, flips, x, box)
        ends = {c["optimizer"]: y(c["loss"][-1]) for c in curves if c["loss"][-1] is not None}
        places = spread(list(ends.values()), 16, close.top, close.bottom)
        for name, height in zip(ends, places, strict=True):
            words = clipped(say.label(race, name), width - right - 10)
            board.text(right + 10, height + 4, words, f"name c{color(slot[name])}")
        return board

    caption = (
        "Validation loss along every final run, one thin line per seed. Only the right ends are compared: "
        "before them schedules are unfinished, and a lead there is no lead."
    )
    if flips:
        told = "; ".join(f"({number}) {flip['text'].rstrip('.')}" for number, flip in enumerate(flips, 1))
        caption += f" Ranks changed along the way: {told}."
    else:
        caption += " No change of rank along the way was recorded."
    if race.get("rank_flip_threshold"):
        caption += f" A lead counts from {race['rank_flip_threshold']:.2g} nats/token on, the noise of the ends."
    rows = []
    for curve in race["curves"]:
        origin = {key: curve.get(key) for key in ("optimizer", "seed", "lr", "run", "final")}
        steps = zip(curve["tokens"], curve["loss"], strict=True)
        rows += [origin | {"tokens": tokens, "loss": loss} for tokens, loss in steps]
    return Figure("training-curves", "Training curves", caption, *both(draw), rows)


def _since(curve: Race, start: float) -> list[tuple[float, float]]:
    """Tokens and loss from ``start`` on; a start between two evaluations lies on the line between them."""
    steps = [(t, v) for t, v in zip(curve["tokens"], curve["loss"], strict=True) if v is not None]
    late = [step for step in steps if step[0] >= start]
    early = [step for step in steps if step[0] < start]
    if early and late:
        (before, high), (after, low) = early[-1], late[0]
        return [(start, high + (low - high) * (start - before) / (after - before)), *late]
    return late


def _curve(board: Board, curve: Race, start: float, x: Scale, y: Scale, slot: int, who: str) -> None:
    """The part of one curve from ``start`` on; its evaluations are unseen but readable by the pointer."""
    seen = _since(curve, start)
    if len(seen) > 1:
        board.path([(x(t), y(v)) for t, v in seen], f"curve c{color(slot)}")
    for t, v in seen:
        if t in curve["tokens"]:
            tip = f"{who}, seed {curve['seed']}\n{say.tokens(t)} tokens: {say.loss(v)}"
            end = t == curve["tokens"][-1]
            board.mark(x(t), y(v), slot, tip, 3.5 if end else 2, "" if end else "silent")


def _flips(board: Board, flips: list[Race], x: Scale, box: Box) -> None:
    """A numbered badge at the top of each flip's line; badges that would touch step down."""
    used: list[tuple[float, float]] = []
    for number, flip in enumerate(flips, 1):
        if not x.inside(flip["tokens"]):
            continue
        place, height = x(flip["tokens"]), box.top - 6
        while any(abs(place - other) < 15 and abs(height - level) < 15 for other, level in used):
            height += 15
        used.append((place, height))
        board.line(place, box.top, place, box.bottom, "flip")
        board.mark(place, height, 0, f"{number}. {flip['text']}", 7, "badge")
        board.text(place, height + 4, str(number), "number", "middle")
