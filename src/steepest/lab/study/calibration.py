"""Steps of a study's contenders timed in turn, size by size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import SteepestError
from steepest.lab.analysis.costs import Costs, costs_of
from steepest.lab.analysis.interval import step_ratio
from steepest.lab.analysis.runs import Cell, Run
from steepest.lab.race.calibrate import calibrated_steps

if TYPE_CHECKING:
    from steepest.lab.config import RunConfig
    from steepest.lab.corpus import Corpus
    from steepest.lab.study.study import Study

SHORT, LONG = 2, 8
"""Rounds where a price is asked for, and where a verdict in seconds is."""

Times = Mapping[str, Any]
"""What ``race/calibrate.py`` measures: "seconds" of each round and "flops", per step, by name."""


def timed(configs: Mapping[str, RunConfig], corpus: Corpus, folder: Path, rounds: int) -> Times:
    """One calibration of all ``configs``. Raises: SteepestError where a step cannot be timed."""
    found = calibrated_steps(configs, corpus, folder, rounds)
    if "error" in found:
        raise SteepestError(f"steps cannot be timed: {found['error']}")
    return found


def starts(study: Study, corpus: Corpus, folder: Path) -> dict[str, Times]:
    """Every optimizer at its start, by size."""
    places = {place.size: place for place in reversed(study.places) if not place.variant}
    return {
        size: timed({o: study.config(study.trial(o, place, {})) for o in study.optimizers}, corpus, folder, SHORT)
        for size, place in reversed(places.items())
    }


def seconds_per_token(study: Study, times: Mapping[str, Times], cell: Cell) -> float:
    """Of training and evaluation, at the start."""
    base = study.base
    step = base.batch * base.seq
    seconds = statistics.median(times[cell.size]["seconds"][cell.optimizer]) / step
    # A forward pass is about a third of a training step.
    evaluated = len(base.evaluation.steps(max(1, cell.tokens // step))) * base.evaluation.tokens / 3
    return seconds * (1 + evaluated / cell.tokens)


def flops(study: Study, times: Mapping[str, Times], cell: Cell, tokens: int, batch: int) -> float:
    """Of ``tokens`` in steps of ``batch`` sequences: passes go by the token, the rule by the step."""
    told, base = times[cell.size]["flops"][cell.optimizer], study.base
    passes = (told["model"] + told["estimates"]) / (base.batch * base.seq)
    return float(tokens * (passes + told["optimizer"] / (batch * base.seq)))


def costs(study: Study, behind: list[Run], corpus: Corpus, folder: Path) -> dict[Cell, Costs]:
    """What the baseline pays per token over what each contender pays; seconds from a calibration of the winners.

    behind: the runs behind the final losses. Sizes whose steps cannot be timed have no seconds.
    """
    found = costs_of(behind, study.baseline)
    configs = {run.cell: _config(study, run) for run in behind if not run.variant}
    for size in dict.fromkeys(cell.size for cell in configs):
        own = {cell: config for cell, config in configs.items() if cell.size == size}
        # Of a contender that won at several budgets with one batch, one time will do.
        names = {cell: f"{cell.optimizer} at batch {config.batch}" for cell, config in own.items()}
        times = timed({names[cell]: own[cell] for cell in reversed(own)}, corpus, folder, LONG)["seconds"]
        per_token = {
            cell: [seconds / (config.batch * config.seq) for seconds in times[names[cell]]]
            for cell, config in own.items()
        }
        for cell in own:
            if (base := cell._replace(optimizer=study.baseline)) in own and cell in found:
                ratio = step_ratio(per_token[base], per_token[cell])
                found[cell] = Costs(found[cell].steps, found[cell].flops, ratio)
    return found


def _config(study: Study, run: Run) -> RunConfig:
    return study.config(study.trial(run.optimizer, run.cell.place, run.hyperparameters))
