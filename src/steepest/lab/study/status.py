"""How a study stands, from what is finished and which folders are held."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.lab.analysis.runs import Cell
from steepest.lab.files import is_locked
from steepest.lab.record import ROWS

if TYPE_CHECKING:
    from steepest.lab.study.hold import Standing


def status(standing: Standing) -> dict[str, Any]:
    """Done, running and waiting runs by cell, the best so far, failures, and the work left in what was asked for.

    seconds_left: of one worker, from the seconds per token of the finished runs of the same optimizer and size.
    """
    study = standing.study
    cells: dict[Cell, dict[str, Any]] = {}
    pace: dict[tuple[str, str], tuple[float, int]] = {}
    for run, trials in standing.trials_of.items():
        trial, result = trials[0], standing.results.get(run)
        cell = Cell(trial.optimizer, *trial.place)
        told = cells.setdefault(cell, {**cell._asdict(), **dict.fromkeys(COUNTS, 0), "best": None})
        if result is None:
            if run not in standing.missing:
                continue
            told["running" if is_locked(standing.runs / run) else "waiting"] += 1
            continue
        told["done"] += 1
        told["diverged"] += result.loss is None
        seconds, tokens = pace.get((cell.optimizer, cell.size), (0.0, 0))
        pace[cell.optimizer, cell.size] = (seconds + result.seconds, tokens + result.trained)
        if result.loss is not None and (told["best"] is None or result.loss < told["best"]["loss"]):
            start = study.start(trial.optimizer, trial.place)
            differs = {k: v for k, v in trial.values if k == "lr" or start.get(k) != v}
            words = " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in differs.items())
            told["best"] = {"run": run, "loss": result.loss, "seed": trial.seed, "values": words}
    left = 0.0
    for run in standing.missing:
        trial = standing.trials_of[run][0]
        seconds, tokens = pace.get((trial.optimizer, trial.place.size), (0.0, 0))
        rest = trial.place.tokens - _trained(standing.runs / run)
        left += rest * seconds / tokens if tokens else float("nan")
    return {
        "name": study.name,
        "ended": standing.course.ended,
        **{key: sum(cell[key] for cell in cells.values()) for key in COUNTS},
        "tokens": sum(result.trained for result in standing.results.values()),
        "seconds": sum(result.seconds for result in standing.results.values()),
        "seconds_left": left if left == left else None,
        "cells": list(cells.values()),
        "failures": list(dict.fromkeys(standing.course.failures.values())),
    }


COUNTS = ("done", "running", "waiting", "diverged")


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
