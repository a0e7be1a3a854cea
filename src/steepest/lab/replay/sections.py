"""What only this study's document holds: which hyperparameters move and where to, two families, the summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.law import Law, fit
from steepest.lab.analysis.predict import CONSTANT, OFFSET, POWER, Optimum, Scale, judge
from steepest.lab.analysis.runs import Run, Scalar, grouped
from steepest.lab.analysis.sensitive import THRESHOLD, THRESHOLDS, judged, sweep
from steepest.lab.replay.released import BASELINE, At, Optimized, Released

Told = dict[str, Any]

MATRIX = ("muon", "soap", "kron", "scion")
SCALAR = ("adamw", "nadamw", "mars", "cautious", "lion", "mini")
"""The families that the paper sets against each other, as far as all of their cells are released (not Sophia)."""

FITTED = ("adamw", "nadamw", "muon", "soap")
"""Optimizers whose hyperparameters the authors predicted for the largest size."""

PAPER = {
    "adamw": ("batch", "lr", "warmup", "weight_decay"),
    "nadamw": ("lr", "warmup"),
    "lion": ("beta2", "lr"),
    "mars": ("beta1", "lr", "warmup"),
    "muon": ("lr",),
    "scion": ("beta1", "cooldown", "lr"),
    "soap": ("block_size", "lr", "warmup"),
    "kron": ("lr",),
}
"""The paper's Table 4, scaling-sensitive hyperparameters; of the other optimizers it is not known here."""

SWITCHES = ("partition_grads_into_blocks",)
"""Of the implementation: on in some cells and off in others, but no part of any grid."""

ALWAYS = ("lr", "batch")
"""Searched again at every scale whatever the rule said."""

LARGEST = "1.2b"
SUMMARY_RATIO = 8.0


def phase_one(cells: Sequence[Optimized]) -> list[Optimized]:
    """The cells in which everything was searched."""
    return [cell for cell in cells if cell.phase == "I"]


def sensitive(released: Released) -> list[Told]:
    """The rule at every threshold, from the logged runs of phase I and from the authors' near-best settings."""
    first = {cell.at for cell in phase_one(released.cells)}
    runs = [_searched(run) for run in released.runs if place_of(run) in first]
    near = grouped([at for at in released.near if at in first], lambda at: at.optimizer)
    found = [one.told() | {"source": "logged runs"} for one in sweep(runs, THRESHOLDS)]
    found += [
        judged([released.near[at] for at in places], optimizer).told() | {"source": "near-best list"}
        for optimizer, places in near.items()
    ]
    for told in found:
        paper = PAPER.get(told["optimizer"])
        told["published"] = None if paper is None else list(paper)
    return sorted(found, key=lambda told: told["optimizer"])


def _searched(run: Run) -> Run:
    own = {name: value for name, value in run.hyperparameters.items() if name not in SWITCHES}
    return replace(run, hyperparameters=own)


def place_of(run: Run) -> At:
    """The cell of a run as best.csv names it."""
    return At(run.optimizer, run.size, round(run.ratio, 6))


def predictions(released: Released, sections: Sequence[Told]) -> list[Told]:
    """h(N, D) of what is sensitive at the paper's threshold, by the authors' near-best settings or in their table,
    and of what they always searched.

    The optima are the runs that the authors' ablations surround, as in their code, up to ratio 8 and below the
    largest size. The offset form is fitted for the optimizers that they predicted.
    """
    by_optimizer = grouped(released.cells, lambda cell: cell.at.optimizer)
    told = []
    for optimizer, cells in by_optimizer.items():
        small = [cell for cell in cells if cell.at.size != LARGEST and cell.at.ratio <= SUMMARY_RATIO]
        large = [cell for cell in cells if cell.at.size == LARGEST]
        judged_here = [s for s in sections if s["optimizer"] == optimizer and s["threshold"] in (None, THRESHOLD)]
        names = {name for section in judged_here for name in section["sensitive"]}
        tried = [run for run in released.runs if run.optimizer == optimizer and run.size != LARGEST]
        for name in sorted({*names, *PAPER.get(optimizer, ()), *ALWAYS}):
            found = _predicted(optimizer, name, small, large, tried)
            if found is not None:
                told.append(found)
    return told


def _predicted(
    optimizer: str, name: str, small: Sequence[Optimized], large: Sequence[Optimized], tried: Sequence[Run]
) -> Told | None:
    optima = _optima(small, name, lambda cell: cell.center)
    grid = sorted({value for run in tried if (value := _number(run.hyperparameters.get(name))) is not None})
    if len({one.value for one in optima}) < 2:
        return None
    weights = {cell.at.size: cell.weights for cell in large}
    scales = [Scale(cell.at.size, weights[cell.at.size], cell.at.ratio) for cell in large]
    published = optimizer in FITTED
    forms = (OFFSET, POWER, CONSTANT) if published else (POWER, CONSTANT)
    try:
        judgements = judge(optima, grid, scales, forms=forms, as_published=published)
    except BadInput:
        return None
    return {
        "optimizer": optimizer,
        "hyperparameter": name,
        "grid": grid,
        "points": [{"size": o.size, "weights": o.weights, "ratio": o.ratio, "value": o.value} for o in optima],
        "forms": [judgement.told() for judgement in judgements],
        "used": [
            {"size": cell.at.size, "weights": cell.weights, "ratio": cell.at.ratio, "value": value}
            for cell in large
            if (value := _number(cell.center.get(name))) is not None
        ],
        "of_lowest_runs": _of_lowest(small, name, grid, scales) if published else None,
    }


def _of_lowest(
    small: Sequence[Optimized], name: str, grid: Sequence[float], scales: Sequence[Scale]
) -> list[Told] | None:
    """The offset form once more, fitted to the lowest logged runs in place of the ablations' centres."""
    try:
        optima = _optima(small, name, lambda cell: cell.lowest)
        (found,) = judge(optima, grid, scales, forms=(OFFSET,), as_published=True, left_out=False)
    except BadInput:
        return None
    predicted: list[Told] = found.told()["predicted"]
    return predicted


def _optima(
    cells: Sequence[Optimized], name: str, settings: Callable[[Optimized], Mapping[str, Scalar]]
) -> list[Optimum]:
    values = [(cell, _number(settings(cell).get(name))) for cell in cells]
    return [Optimum(c.at.size, c.weights, c.at.ratio, value) for c, value in values if value is not None]


def _number(value: Scalar) -> float | None:
    return None if value is None or isinstance(value, bool | str) else float(value)


def matrix_beats_scalar(released: Released) -> Told:
    """The worst matrix-based optimizer against the best scalar one, where all of both were run."""
    losses = {cell.at: cell.loss for cell in released.cells}
    places = dict.fromkeys((cell.at.size, cell.at.ratio) for cell in released.cells)
    found: list[Told] = []
    for size, ratio in places:
        of_matrix = {name: losses.get(At(name, size, ratio)) for name in MATRIX}
        of_scalar = {name: losses.get(At(name, size, ratio)) for name in SCALAR}
        matrix = {name: loss for name, loss in of_matrix.items() if loss is not None}
        scalar = {name: loss for name, loss in of_scalar.items() if loss is not None}
        if len(matrix) < len(MATRIX) or len(scalar) < len(SCALAR):
            continue
        worst, best = max(matrix, key=matrix.__getitem__), min(scalar, key=scalar.__getitem__)
        found.append(
            {
                "size": size,
                "ratio": ratio,
                "matrix": worst,
                "matrix_loss": matrix[worst],
                "scalar": best,
                "scalar_loss": scalar[best],
                "gap": scalar[best] - matrix[worst],
            }
        )
    return {
        "held": sum(place["gap"] > 0 for place in found),
        "cells": len(found),
        "matrix": list(MATRIX),
        "scalar": list(SCALAR),
        "places": found,
    }


def summary_8x(released: Released) -> list[Told]:
    """The paper's summary at ratio 8: ``speedup`` from the losses of 7 August 2025 and AdamW's law of ratios 1-8.

    published: in the figure of that day. all_points: the same losses, but every point of AdamW in the law.
    final: the losses and the law released in the end; final_published: in their figure.
    """
    laws = {
        (size, which): _law(released.cells, size, which)
        for size in dict.fromkeys(cell.at.size for cell in released.cells)
        for which in ("then", "then, all", "final")
    }
    told = []
    for cell in released.cells:
        if cell.at.ratio != SUMMARY_RATIO or cell.at.optimizer == BASELINE or cell.loss_aug07 is None:
            continue
        size, then = cell.at.size, cell.loss_aug07
        told.append(
            {
                "optimizer": cell.at.optimizer,
                "size": size,
                "speedup": _inverted(laws[size, "then"], then),
                "published": released.summary.get(cell.at),
                "all_points": _inverted(laws[size, "then, all"], then),
                "final": _inverted(laws[size, "final"], cell.loss),
                "final_published": released.figures.get(cell.at),
            }
        )
    return told


def _law(cells: Sequence[Optimized], size: str, which: str) -> Law | None:
    own = [cell for cell in cells if cell.at.optimizer == BASELINE and cell.at.size == size]
    points = [(c.at.ratio, c.loss if which == "final" else c.loss_aug07) for c in own]
    kept = [(r, loss) for r, loss in points if loss is not None and (which != "then" or r <= SUMMARY_RATIO)]
    try:
        return fit([r for r, _ in kept], [loss for _, loss in kept])
    except BadInput:
        return None


def _inverted(law: Law | None, loss: float) -> float | None:
    if law is None or not loss > law.floor:
        return None
    return float(law.tokens(loss)) / SUMMARY_RATIO
