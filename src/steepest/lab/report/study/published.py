"""The figures of a replayed study: two families against each other, and its headline beside what was published."""

from __future__ import annotations

from typing import Any

from steepest.lab.report.figure import WIDE, Figure, both, slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.study.overview import legend
from steepest.lab.report.study.speedups import boxes
from steepest.lab.report.svg import Board, Scale, clipped, color
from steepest.lab.report.words import listed

Study = dict[str, Any]


def families(study: Study) -> Figure | None:
    """A row per place: every optimizer's loss less that of the best scalar one, the gap between the families."""
    told = study.get("matrix_beats_scalar") or {}
    places = told.get("places") or []
    if not places:
        return None
    order = {entry["size"]: number for number, entry in enumerate(study["sizes"])}
    places = sorted(places, key=lambda place: (order[place["size"]], place["ratio"]))
    names = [name for name in study["optimizers"] if name in told["matrix"] + told["scalar"]]
    losses = {
        (cell["optimizer"], cell["size"], say.times_data(cell["ratio"])): cell["loss"]
        for cell in study["cells"]
        if not cell["variant"] and cell["loss"] is not None
    }
    rows = [
        {"size": place["size"], "ratio": place["ratio"], "optimizer": name, "family": _family(told, name)}
        | {"loss": loss, "gap": loss - place["scalar_loss"]}
        for place in places
        for name in names
        if (loss := losses.get((name, place["size"], say.times_data(place["ratio"])))) is not None
    ]

    def draw(width: int) -> Board:
        left, row = 92, 30
        board = Board(width, 0, "Losses of matrix-based and scalar optimizers, place by place")
        top = legend(board, study, names, 4, 14, width) + 12
        x = Scale.around([row["gap"] for row in rows], left + 6, width - 12, pad=0.03)
        bottom = top + row * len(places)
        board.columns(
            x, top, bottom, "loss − the best scalar optimizer’s, nats/token", "{:+.2f}".format, x.ticks(6)
        )
        board.line(x(0), top, x(0), bottom, "one")
        for number, place in enumerate(places):
            middle = top + row * (number + 0.5)
            where = f"{place['size']} {say.times_data(place['ratio'])}"
            board.text(left - 8, middle + 4, where, "name", "end")
            board.line(left, middle + row / 2, width - 12, middle + row / 2, "grid")
            board.line(x(-place["gap"]), middle, x(0), middle, "spread c0")
            for entry in rows:
                if (entry["size"], entry["ratio"]) == (place["size"], place["ratio"]):
                    who = say.label(study, entry["optimizer"])
                    tip = f"{who}, {where}\nloss {entry['loss']:.4f}, {entry['gap']:+.4f} nats/token"
                    height = middle + (-5 if entry["family"] == "matrix" else 5)
                    board.mark(x(entry["gap"]), height, slots(study)[entry["optimizer"]], tip, 4)
        board.resize(bottom + 46)
        return board

    gaps = [place["gap"] for place in places]
    caption = (
        f"In {told['held']} of {told['cells']} places the worst of {_names(study, told['matrix'])} (above) ends "
        f"below the best of {_names(study, told['scalar'])} (below); the bar is the gap between them, "
        f"{min(gaps):.4f} to {max(gaps):.4f} nats/token. "
    )
    noise = (study.get("noise") or {}).get("sd")
    caption += f"One run’s noise is about {noise:.4f}." if noise else ""
    return Figure("families", "Matrix-based against scalar optimizers", caption, *both(draw), rows)


def _family(told: Study, name: str) -> str:
    return "matrix" if name in told["matrix"] else "scalar"


def _names(study: Study, names: list[str]) -> str:
    return listed([say.label(study, name) for name in names], 8)


def headline(study: Study) -> Figure | None:
    """A panel per optimizer: the summary as first published, and what one more point in the law makes of it."""
    told = [row for row in study.get("summary_8x") or [] if row["speedup"] is not None]
    names = [n for n in say.contenders(study) if any(r["optimizer"] == n and r.get("published") for r in told)]
    if not names:
        return None
    sizes = [size for size in say.sizes(study) if any(row["size"] == size for row in told)]
    shown = [row for row in told if row["optimizer"] in names]
    values = [row[key] for row in shown for key in ("speedup", "all_points", "final") if row.get(key)]

    def draw(width: int) -> Board:
        board = Board(width, 0, "The published summary, and what moves it")
        top = _legend(board, width)
        board.text(2, top + 14, "speedup at 8×", "title")
        frames, height = boxes(
            width, len(names), 3 if width == WIDE else 1, 230 if width == WIDE else 200, top + 48
        )
        for name, box in zip(names, frames, strict=True):
            own = {row["size"]: row for row in shown if row["optimizer"] == name}
            y = Scale.around([1.0, *values], box.bottom, box.top + 8, pad=0.05)
            room = (box.right - box.left) / len(sizes)
            at = {size: box.left + room * (place + 0.5) for place, size in enumerate(sizes)}
            board.text(
                box.left, box.top - 8, clipped(say.label(study, name), 200), f"name c{color(slots(study)[name])}"
            )
            for value in y.ticks(4):
                board.line(box.left, y(value), box.right, y(value), "one" if abs(value - 1) < 1e-9 else "grid")
                board.text(box.left - 8, y(value) + 4, f"{value:.2f}", "tick", "end")
            for size in sizes:
                board.text(at[size], box.bottom + 17, clipped(size, room), "tick", "middle")
            _curves(board, study, name, own, at, y)
        board.resize(height)
        return board

    moved = max(shown, key=lambda row: row["speedup"])
    apart = max(abs(row["speedup"] - row["published"]) for row in shown if row.get("published"))
    caption = (
        f"The paper’s headline, made again from the losses of its day: within {apart:.1g} of what was published. "
        f"With AdamW’s run at 16× in the law, and nothing else changed, {say.label(study, moved['optimizer'])} at "
        f"{moved['size']} goes from {moved['speedup']:.2f} to {moved['all_points']:.2f}. The last values, with "
        f"their {say.level(study)} intervals, are those of the losses and laws released in the end."
    )
    keys = ("optimizer", "size", "speedup", "published", "all_points", "final", "final_published")
    rows = [{key: row.get(key) for key in keys} for row in told]
    return Figure("headline", "The headline beside what was published", caption, *both(draw), rows)


KINDS = {
    "speedup": (-9.0, "", "as first published (tick: theirs)"),
    "all_points": (0.0, "open", "the same losses, 16× in the law"),
    "final": (9.0, "", "as released in the end, with intervals"),
}
"""Shift in pixels, style and words of each value."""


def _legend(board: Board, right: float) -> float:
    x, y = 4.0, 14.0
    for _, css, words in KINDS.values():
        width = 6.4 * len(words) + 34
        if x > 4 and x + width > right:
            x, y = 4.0, y + 20
        board.mark(x + 6, y - 4, 0, "", 4.5, css)
        board.text(x + 16, y, clipped(words, right - x - 20))
        x += width
    return y + 10


def _curves(board: Board, study: Study, name: str, own: dict[str, Study], at: dict[str, float], y: Scale) -> None:
    slot = slots(study)[name]
    stated = {e["size"]: e for e in study.get("speedups") or [] if e["optimizer"] == name and e["ratio"] == 8}
    for key, (shift, css, words) in KINDS.items():
        seen = [(at[size] + shift, y(row[key])) for size, row in own.items() if row.get(key)]
        if len(seen) > 1 and key == "speedup":
            board.path(seen, f"join c{color(slot)}")
        for size, row in own.items():
            if not row.get(key):
                continue
            entry = stated.get(size) or {}
            place = at[size] + shift
            if key == "final" and entry.get("low") is not None:
                low, high = y(max(entry["low"], y.low)), y(min(entry["high"] or y.high, y.high))
                board.line(place, low, place, high, f"whisker c{color(slot)}")
            if key == "speedup" and row.get("published"):
                height = y(row["published"])
                board.line(place - 9, height, place + 9, height, "one")
            tip = f"{say.label(study, name)}, {size} 8×\n{words}: {row[key]:.4f}"
            tip += f"\npublished: {row['published']:.4f}" if key == "speedup" and row.get("published") else ""
            board.mark(place, y(row[key]), slot, tip, 3.5 if key == "final" else 4.5, css)


DRAWN = (families, headline)
