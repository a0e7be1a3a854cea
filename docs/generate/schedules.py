"""The page of the schedules: its tables, what they do to a noisy quadratic, and its pictures.

cd docs && python -m generate        # draws docs/schedules/*.svg again
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generate.text import code, prose, table
from generate.text import value as written
from steepest.lab.bench.figure import asset
from steepest.lab.report.svg import Board, Scale
from steepest.schedules import COMMON, SCHEDULES, Schedule, known_options, named

FIGURES = Path(__file__).resolve().parents[1] / "schedules"
T, W = 100, 10
WIDTH, HEIGHT = 600, 290


def names_table(_: Any) -> list[str]:
    """Every name: what its decay falls as, its own settings, where it is from."""
    rows = []
    for name, of in SCHEDULES.items():
        own = of.options | {key: value for key, value in of.sets.items() if isinstance(value, float)}
        own |= {"start": known_options(name)["start"]} if "rise" in of.sets else {}
        formula = (of.profile.func if isinstance(of.profile, functools.partial) else of.profile).__doc__ or ""
        settings = ", ".join(code(f"{key}={_setting(key, value)}") for key, value in own.items())
        rows.append((code(name), prose(formula.strip()), settings or "–", prose(of.source) or "–"))
    return table(("schedule", "falls as, x its progress", "its own settings", "from"), rows)


def common_table(_: Any) -> list[str]:
    """The settings that all schedules take."""
    meaning = {
        "start": "factor of the first step; the warm-up is then t / W from there. Left out: (t + 1) / W",
        "floor": "how `minimum` is met: `rescale` m + (1 - m) p, `add` m + p, `clamp` the larger of m and p",
        "tail": "share of all steps that stay at the end of the decay",
        "sampling": "read at every step; k: at every k-th, held in between; `[0.5, 0.75]`: at these shares of the "
        "steps after the warm-up",
        "over": "progress counts the `rest` after the warm-up, or `all` steps",
    }
    return table(
        ("setting", "default", "meaning"),
        [
            (code(k), "–" if v is None else code(f"{v:g}" if isinstance(v, float) else v), meaning[k])
            for k, v in COMMON.items()
        ],
    )


def _setting(key: str, value: Any) -> str:
    return "warmup" if key == "timescale" else f"{value:.3g}" if isinstance(value, float) else written(value)


# ---- the noisy quadratic

BUDGETS = (30, 300, 3000)
COMPARED = ("constant", "step", "exponential", "inverse-sqrt", "cosine", "linear", "rex", "one-cycle", "wsd-sqrt")
CURVATURES = 1.0 / np.arange(1, 65)
NOISE = 0.1
PEAKS = np.geomspace(0.02, 1.9, 80)


def expected_loss(factors: Sequence[float], peaks: np.ndarray) -> np.ndarray:
    """Expected loss of SGD at the end, for each peak rate, by e <- (1 - η h)² e + (η σ)² for each curvature.

    The loss is half the sum of h w² over ``CURVATURES``, begun at w = 1; σ is ``NOISE`` on every gradient.
    """
    squares = np.ones((len(peaks), len(CURVATURES)))
    for factor in factors:
        rates = (peaks * factor)[:, None]
        squares = (1 - rates * CURVATURES) ** 2 * squares + (rates * NOISE) ** 2
    return 0.5 * (squares * CURVATURES).sum(1)


@functools.cache
def quadratic() -> dict[str, tuple[float, ...]]:
    """Each schedule's loss at the end of each budget, at the best of the peak rates."""
    found = {}
    for name in COMPARED:
        made = [named(name, total, 0.3 * total if name == "one-cycle" else 0.05 * total) for total in BUDGETS]
        runs = [[schedule(t) for t in range(schedule.total)] for schedule in made]
        found[name] = tuple(float(expected_loss(factors, PEAKS).min()) for factors in runs)
    return found


def quadratic_table(_: Any) -> list[str]:
    """Losses over the best of each budget."""
    found = quadratic()
    best = [min(losses[place] for losses in found.values()) for place in range(len(BUDGETS))]
    rows = sorted(found.items(), key=lambda item: sum(v / b for v, b in zip(item[1], best, strict=True)))
    return table(
        ("schedule", *(f"{total:,} steps" for total in BUDGETS)),
        [(code(name), *(f"{v / b:.2f}" for v, b in zip(losses, best, strict=True))) for name, losses in rows],
        numbers_from=1,
    )


# ---- pictures


@dataclass(frozen=True)
class Picture:
    """Lines by their names over steps ``first`` to ``last``. form: line, stairs, or points for single steps."""

    title: str
    curves: dict[str, Schedule]
    first: int = 0
    last: int = T
    form: str = "line"


def _of(*names: str, **settings: Any) -> dict[str, Schedule]:
    return {name: named(name, T, **settings) for name in names}


PICTURES = {
    "profiles": Picture(
        "Profiles over a whole run of 100 steps, no warm-up",
        _of("rex-port", "rex", "linear", "cosine", "polynomial", "sqrt", "exponential"),
    ),
    "cooldowns": Picture(
        "The last steps of wsd with decay=0.2",
        _of("wsd", "wsd-square", "wsd-mirror-cosine", "wsd-cosine", "wsd-sqrt", "wsd-exponential"),
        70,
    ),
    "warmups": Picture(
        "Warm-up of 10 steps: where it begins and ends",
        {
            "(t + 1) / W": named("constant", T, W),
            "start=0": named("constant", T, W, start=0),
            "start=0.01": named("constant", T, W, start=0.01),
            "one-cycle": named("one-cycle", T, W),
        },
        0,
        12,
        "points",
    ),
    "sampling": Picture(
        "A profile read at other rates",
        {
            "linear, every step": named("linear", T),
            "linear, sampling=10": named("linear", T, sampling=10),
            "linear, [0.5, 0.75]": named("linear", T, sampling=[0.5, 0.75]),
            "step": named("step", T),
        },
        form="stairs",
    ),
    "whole": Picture(
        "Schedules that are more than a decay",
        _of("one-cycle", "one-cycle-linear", warmup=30)
        | _of("inverse-sqrt", "cosine-inf", warmup=10)
        | {"cosine, tail=0.2": named("cosine", T, 10, tail=0.2)},
    ),
    "floors": Picture(
        "Cosine with minimum=0.2, met in three ways",
        {f"floor={floor}": named("cosine", T, minimum=0.2, floor=floor) for floor in ("rescale", "add", "clamp")},
    ),
}


def drawn(picture: Picture) -> Board:
    """A picture whose lines are named beside it, the highest first."""
    steps = range(picture.first, picture.last + (picture.form != "stairs"))
    values = {name: [schedule(t) for t in steps] for name, schedule in picture.curves.items()}
    board = Board(WIDTH, HEIGHT, picture.title)
    x = Scale(picture.first, picture.last, 34, WIDTH - 166)
    y = Scale(0, max(1.0, *map(max, values.values())) * 1.03, HEIGHT - 44, 42)
    board.text(2, 12, picture.title, "name")
    board.axes(x, y, "step", "factor of the peak rate", "{:.0f}".format, "{:.1f}".format, x.ticks(5))
    order = sorted(values, key=lambda name: -sum(values[name]))
    for slot, name in enumerate(values):
        height = 56 + 22 * order.index(name)
        css = f"c{slot}"
        points = list(zip(steps, values[name], strict=True))
        if picture.form == "stairs":
            points = [(t + after, value) for t, value in points for after in (0, 1)]
        board.path([(x(t), y(value)) for t, value in points], f"curve {css}")
        board.line(WIDTH - 152, height, WIDTH - 134, height, f"level {css}")
        if picture.form == "points":
            for t, value in points:
                board.mark(x(t), y(value), slot, f"step {t}: {value:.3g}", 3.5)
            board.mark(WIDTH - 143, height, slot, name, 3.5)
        board.text(WIDTH - 128, height + 4, name, f"name {css}")
    return board


def files() -> dict[str, str]:
    """The pictures as files of their own, by name."""
    style = asset("figures.css")
    return {f"{key}.svg": drawn(picture).standalone(style) for key, picture in PICTURES.items()}


MAKERS: dict[str, Callable[[Any], list[str]]] = {
    "schedules": names_table,
    "schedule-settings": common_table,
    "quadratic": quadratic_table,
}


def draw() -> None:
    """Writes the pictures."""
    FIGURES.mkdir(exist_ok=True)
    for place, text in files().items():
        (FIGURES / place).write_text(text, encoding="utf-8")
