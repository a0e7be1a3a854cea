"""The figures of the way there: what tuning costs, and how the order changes along the schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steepest.lab.report.figure import Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.study.overview import legend
from steepest.lab.report.study.panels import Box, boxes, fullest, named, place_text, where, worth_showing
from steepest.lab.report.svg import Board, Scale, clipped, color
from steepest.lab.report.words import listed, tokens

Study = dict[str, Any]
PANELS = 8
READ = 24  # points of a curve that the pointer reads


def tuning_cost(study: Study) -> Figure | None:
    """A panel per size: the best loss after so many trials, at the place that has the most of them."""
    curves = [curve for curve in study.get("tuning_cost") or [] if curve["made"] > 1 and _known(curve)]
    drawn = _by_size(study, curves, lambda curve: curve["made"])
    if not drawn:
        return None
    entries = [curve for of_panel in drawn.values() for curve in of_panel]

    def draw(width: int) -> Board:
        board = Board(width, 0, "Best loss after so many trials, one panel per model size")
        top = legend(board, study, named(study, entries), 4, 14, width)
        board.text(2, top + 10, "best loss so far, nats/token", "title")
        found = boxes(board, len(drawn), top + 22, alike=False)
        for box, (name, of_panel) in zip(found, drawn.items(), strict=True):
            board.text(box.left, box.top - 8, clipped(name, box.right - box.left), "name")
            _cost_panel(board, study, box, of_panel)
        return board

    ordered = all(curve["ordered"] for curve in entries)
    caption = (
        "The lowest loss so far, in the order in which the runs were made. "
        if ordered
        else "The mean over all orders in which these trials could have been made, exactly; the band holds the "
        "middle half of the orders for the optimizer that ends lowest and for the baseline. A curve begins where "
        "no order has met nothing but divergence. "
    )
    caption += "The trials are those that were made: a search around a good guess looks cheaper than a blind one."
    rows = [
        {key: curve[key] for key in ("optimizer", "size", "ratio", "variant", "made", "diverged", "ordered")}
        | {"trials": p["trials"], "tokens": p["tokens"], **{key: p[key] for key in ("loss", "low", "high")}}
        for curve in study["tuning_cost"]
        for p in curve["points"]
    ]
    return Figure("tuning-cost", "Best loss after so many trials", caption, *both(draw), rows)


def _known(curve: Study) -> list[Study]:
    return [point for point in curve["points"] if point["loss"] is not None]


def _by_size(study: Study, entries: Sequence[Study], weigh: Any) -> dict[str, list[Study]]:
    """Of each size the entries at its fullest place, by what the panel is called."""
    found: dict[str, list[Study]] = {}
    for size in (entry["size"] for entry in study["sizes"]):
        of_size = [entry for entry in entries if entry["size"] == size]
        at = fullest(of_size, weigh)
        here = [entry for entry in of_size if where(entry) == at]
        if here and len(found) < PANELS:
            found[place_text(here[0])] = here
    return found


def _cost_panel(board: Board, study: Study, box: Box, curves: Sequence[Study]) -> None:
    slot, most = slots(study), max(curve["made"] for curve in curves)
    low, high = worth_showing([point["loss"] for curve in curves for point in _known(curve)], 0.01)
    x = Scale(1, most, box.left + 4, box.right - 4, log=most > 3)
    y = Scale.around([low, high], box.bottom, box.top, pad=0.06)
    board.axes(x, y, "", "", "{:g}".format, "{:.3f}".format, [t for t in x.ticks(5) if t == int(t)], 5)
    spent = curves[0]["points"][0]["tokens"]
    board.text((box.left + box.right) / 2, box.bottom + 38, f"trials of {tokens(spent)} tokens", "title", "middle")
    lowest = min(curves, key=lambda curve: curve["points"][-1]["loss"])["optimizer"]
    for curve in curves:
        css = f"c{color(slot[curve['optimizer']])}"
        points = [point for point in _known(curve) if y.inside(point["loss"])]
        if curve["optimizer"] in (lowest, study["baseline"]) and not curve["ordered"]:
            band = [point for point in points if point["high"] is not None]
            edge = [(x(p["trials"]), y(min(p["high"], y.high))) for p in band]
            back = [(x(p["trials"]), y(p["low"])) for p in reversed(band)]
            if len(band) > 1:
                board.path([*edge, *back], f"band {css}", True)
        if len(points) > 1:
            board.path([(x(p["trials"]), y(p["loss"])) for p in points], f"curve {css}")
        for point in _read(points):
            last = point is points[-1]
            tip = f"{say.label(study, curve['optimizer'])}, {place_text(curve)}\n{point['trials']} trials, "
            tip += f"{tokens(point['tokens'])} tokens: {point['loss']:.4f}"
            board.mark(x(point["trials"]), y(point["loss"]), slot[curve["optimizer"]], tip, 4 if last else 2.5,
                       "" if last else "silent")  # fmt: skip


def _read(points: Sequence[Any]) -> Sequence[Any]:
    """The points of a curve at which the pointer reads a value: a curve of hundreds needs no more to be read."""
    every = -(-len(points) // READ) or 1
    return [*points[:-1:every], *points[-1:]]


def flips(study: Study) -> Figure | None:
    """A panel per size: loss less the baseline's along the schedule, where leads change hands."""
    base = study["baseline"]
    usable = [entry for entry in study.get("flips") or [] if len(entry["at"]) > 1 and base in _named(entry)]
    drawn = {
        name: of_panel[0] for name, of_panel in _by_size(study, usable, lambda entry: entry["tokens"]).items()
    }
    if not drawn:
        return None
    names = [n for n in study["optimizers"] if any(n in _named(entry) for entry in drawn.values())]

    def draw(width: int) -> Board:
        board = Board(width, 0, "Loss less the baseline's along the schedule, one panel per model size")
        top = legend(board, study, names, 4, 14, width)
        board.text(2, top + 10, f"loss − {clipped(say.label(study, base), 130)}’s so far, nats/token", "title")
        found = boxes(board, len(drawn), top + 22, alike=False)
        for box, (name, entry) in zip(found, drawn.items(), strict=True):
            board.text(box.left, box.top - 8, clipped(name, box.right - box.left), "name")
            _flip_panel(board, study, box, entry)
        return board

    caption = (
        "Mean validation loss of the final runs less the baseline’s after the same tokens. Only the right ends "
        "are evidence: before them the learning rate has not come down. "
    )
    caption += _orders(drawn)
    rows: list[Study] = []
    for entry in study["flips"]:
        here = {key: entry[key] for key in ("size", "ratio", "tokens", "variant")}
        for name, losses in _named(entry).items():
            met = zip(entry["at"], losses, strict=True)
            rows += [{"kind": "curve", **here, "optimizer": name, "at": at, "loss": loss} for at, loss in met]
        for flip in entry["flips"]:
            row = {key: flip[key] for key in ("before", "after", "share", "text")}
            why = {key: entry[key] for key in ("threshold", "threshold_from")}
            rows.append({"kind": "flip", **here, "at": flip["tokens"], **row, **why})
    return Figure("rank-flips", "Rank flips along the schedule", caption, *both(draw), rows)


def _named(entry: Study) -> dict[str, list[float]]:
    return {curve["optimizer"]: curve["loss"] for curve in entry["curves"]}


def _orders(drawn: Mapping[str, Study]) -> str:
    """What the order half-way was worth."""
    found = {
        name: (order, entry)
        for name, entry in drawn.items()
        for order in entry["orders"]
        if order["share"] == 0.5 and order["pairs"]
    }
    if not found:
        return ""
    told = [f"{order['reversed']} of {order['pairs']} pairs at {name}" for name, (order, _) in found.items()]
    least = [f"{entry['threshold']:.2g}" for _, entry in found.values()]
    above = " to ".join(dict.fromkeys((min(least, key=float), max(least, key=float))))
    why = listed(list(dict.fromkeys(entry["threshold_from"] for _, entry in found.values())))
    return (
        f"At half the tokens the order is the reverse of the end’s in {listed(told, len(told))}; leads above "
        f"{above} nats/token count ({why})."
    )


def _flip_panel(board: Board, study: Study, box: Box, entry: Study) -> None:
    slot, curves, at = slots(study), _named(entry), entry["at"]
    under = curves[study["baseline"]]
    late = [k for k, spent in enumerate(at) if spent >= at[-1] / 8]
    gaps = {name: [curve[k] - under[k] for k in late] for name, curve in curves.items()}
    _, high = worth_showing([abs(gap) for values in gaps.values() for gap in values], 0.01)
    lowest = min(max(gap, -high) for values in gaps.values() for gap in values)
    x = Scale(at[late[0]], at[-1], box.left + 4, box.right - 4)
    y = Scale.around([lowest, max(min(max(map(max, gaps.values())), high), 0.0)], box.bottom, box.top, pad=0.06)
    digits = 2 if y.high - y.low > 0.05 else 3
    board.axes(x, y, "training tokens", "", tokens, f"{{:+.{digits}f}}".format, x.ticks(4), 5)
    board.line(box.left, y(0), box.right, y(0), "one")
    for flip in entry["flips"]:
        if x.inside(flip["tokens"]):
            board.line(x(flip["tokens"]), box.bottom - 8, x(flip["tokens"]), box.bottom, "axis")
    for name, values in gaps.items():
        points = [(x(at[k]), y(gap), k, gap) for k, gap in zip(late, values, strict=True) if y.inside(gap)]
        if len(points) > 1:
            board.path([(across, height) for across, height, *_ in points], f"curve c{color(slot[name])}")
        for across, height, k, gap in _read(points):
            last = k == late[-1]
            tip = f"{say.label(study, name)}\n{tokens(at[k])} tokens: {gap:+.4f}"
            board.mark(across, height, slot[name], tip, 4 if last else 2.5, "" if last else "silent")


DRAWN = (tuning_cost, flips)
