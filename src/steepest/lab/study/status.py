"""How a study stands, from what is finished and which folders are held."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.lab.analysis.runs import Cell
from steepest.lab.files import is_locked
from steepest.lab.record import ROWS

if TYPE_CHECKING:
    from steepest.lab.study.hold import Standing
    from steepest.lab.study.trial import Trial

COUNTS = ("done", "running", "waiting", "diverged", "expected")


def status(standing: Standing) -> dict[str, Any]:
    """Done, running and waiting runs by cell, the best so far, failures, and the work that is left.

    expected: runs of the whole cell, as the protocol tells them. seconds_left: of one worker for all that is
    expected, at the pace of the finished runs of the same optimizer and size, or of all; None before any.
    """
    cells: dict[Cell, dict[str, Any]] = {
        cell: {**cell._asdict(), **dict.fromkeys(COUNTS, 0), "expected": runs.expected, "best": None}
        for cell, runs in standing.study.expected().items()
    }
    for run, trials in standing.trials_of.items():
        cell = _cell(trials[0])
        told = cells.setdefault(cell, {**cell._asdict(), **dict.fromkeys(COUNTS, 0), "best": None})
        result = standing.results.get(run)
        if result is not None:
            told["done"] += 1
            told["diverged"] += result.loss is None
            if result.loss is not None and (told["best"] is None or result.loss < told["best"]["loss"]):
                words = _words(standing, trials[0])
                told["best"] = {"run": run, "loss": result.loss, "seed": trials[0].seed, "values": words}
        elif run in standing.missing:
            told["running" if is_locked(standing.runs / run) else "waiting"] += 1
    for told in cells.values():
        asked = told["done"] + told["running"] + told["waiting"]
        told["expected"] = asked if standing.course.ended else max(told["expected"], asked)
    return {
        "name": standing.study.name,
        "ended": standing.course.ended,
        **{key: sum(cell[key] for cell in cells.values()) for key in COUNTS},
        "tokens": sum(result.trained for result in standing.results.values()),
        "seconds": sum(result.seconds for result in standing.results.values()),
        "seconds_left": _left(standing, cells),
        "cells": list(cells.values()),
        "failures": list(dict.fromkeys(standing.course.failures.values())),
    }


def _cell(trial: Trial) -> Cell:
    return Cell(trial.optimizer, *trial.place)


def _words(standing: Standing, trial: Trial) -> str:
    """What of a trial is not as at the start, and its learning rate."""
    start = standing.study.start(trial.optimizer, trial.place)
    differs = {k: v for k, v in trial.values if k == "lr" or start.get(k) != v}
    return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in differs.items())


def _left(standing: Standing, cells: dict[Cell, dict[str, Any]]) -> float | None:
    seconds, tokens, work = Counter[tuple[str, str]](), Counter[tuple[str, str]](), 0.0
    for run, result in standing.results.items():
        trial = standing.trials_of[run][0]
        key = (trial.optimizer, trial.place.size)
        seconds[key] += result.seconds  # type: ignore[assignment]
        tokens[key] += result.trained
        work += result.trained * standing.study.weights(trial.place)
    if not work:
        return None
    left = {cell: (told["expected"] - told["done"]) * cell.tokens for cell, told in cells.items()}
    for run in standing.missing:
        left[_cell(standing.trials_of[run][0])] -= _trained(standing.runs / run)
    overall = sum(seconds.values()) / work
    return sum(
        rest * (seconds[key] / tokens[key] if tokens[key] else overall * standing.study.weights(cell.place))
        for cell, rest in left.items()
        for key in [(cell.optimizer, cell.size)]
    )


def _trained(folder: Path) -> int:
    """Tokens of the last whole row of an unfinished run."""
    try:
        with open(folder / ROWS, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    for line in reversed(lines[:-1]):
        try:
            return int(json.loads(line)["tokens"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
