"""From runs to the evidence document of a study (study.json), which the report page draws.

Format 1. Every section but the first seven may be absent; lists may be empty.

==================  ===============================================================================================
title, command      what the study is called, and the command that makes its numbers again
created, source     when the document was made (ISO 8601, UTC), and where its runs come from
baseline            the optimizer that the others are measured against
optimizers, labels  names, the baseline first; the name that people read, by name
sizes               size, weights (non-embedding), ascending
cells               one per optimizer, size, tokens and variant: final loss with its interval, the number of runs
                    and what they cost, the hyperparameters behind it (``best``) and ``how`` the loss came about
curves              validation loss along the final runs of the longest schedule of each size, thinned
runs, runs_count    the lowest runs of every cell, and how many runs there are in all (runs.csv has each)
laws, shared_laws   the baseline's law at each size with its band; one exponent for all sizes, for all optimizers
speedups, trends    in every cell with interval, verdict and flags; with model size, at each ratio
joint               L(N, D) of each optimizer, what it leaves over, and what it predicts
noise, power        of the seeds: sd, intervals, which differences are ties; what so many seeds could have seen
certificates        one per cell: which neighbours of its setting were tried, better or not; brackets and edges
accounting          one per optimizer: runs, tokens, operations, seconds, and the size of its search space
robustness, sweeps  of every swept hyperparameter: the width of its good region, what a guess costs, its points
tuning_cost, flips  the best loss after so many trials; how the order changes along the schedule
drift, pareto       how optima move with size and data; who is beaten in quality, time and memory at once
not_supported       what the evidence does not allow, sentence by sentence
warnings            what went wrong on the way
provenance          versions, hardware, identities: whatever the caller knows
==================  ===============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from steepest.core.errors import UnknownName
from steepest.lab.analysis.certainty import certificates_section, noise_section
from steepest.lab.analysis.certificate import Grid
from steepest.lab.analysis.costs import Costs, costs_of
from steepest.lab.analysis.finals import FRESH, behind, lost
from steepest.lab.analysis.interval import LEVEL, Interval, Noise, final_loss
from steepest.lab.analysis.limits import limits
from steepest.lab.analysis.noise import Irrelevant, repeats, seed_noise
from steepest.lab.analysis.robustness_section import robustness_section
from steepest.lab.analysis.runs import DIVERGED, TOKENS_PER_WEIGHT, Cell, Final, Place, Run, by_cell, grouped
from steepest.lab.analysis.scaling import laws_section

FORMAT = 1
SHOWN_RUNS = 240
"""Runs in the document: the lowest of every cell, as many of each; at least one."""

CURVE_POINTS = 48
"""Points of a curve in the document; of longer ones every so many."""


def evidence(
    runs: Sequence[Run],
    finals: Sequence[Final],
    *,
    baseline: str,
    title: str,
    command: str,
    source: str,
    labels: Mapping[str, str] | None = None,
    spaces: Mapping[Cell | str, Grid] | None = None,
    noise: Noise | None = None,
    irrelevant: Sequence[Irrelevant] = (),
    start: Mapping[Place, float] | None = None,
    order: Mapping[str, float] | None = None,
    costs: Mapping[Cell, Costs] | None = None,
    predict: Sequence[tuple[float, float]] | None = None,
    level: float = LEVEL,
    warnings: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    sections: Mapping[str, Any] | None = None,
    created: str | None = None,
) -> dict[str, Any]:
    """The document of ``runs`` and their ``finals`` (see :func:`~steepest.lab.analysis.finals.finals_of`).

    spaces: the grids that were searched, by optimizer or by cell. noise: of the seeds, where it is known from
    elsewhere; otherwise repeated seeds tell it, or else the first of ``irrelevant``. start: loss of a run that
    learned nothing, by place; order: when each run was made, by its name. costs: per token, over the baseline's;
    from the runs behind the finals if None, which have no comparable seconds. predict: (weights, ratio) at which
    the joint laws are compared. sections: what only this study has, put in as it is. Raises UnknownName for a
    ``baseline`` without a run.
    """
    optimizers = list(dict.fromkeys(run.optimizer for run in runs))
    if baseline not in optimizers:
        raise UnknownName.among("baseline", baseline, optimizers)
    optimizers = [baseline, *(name for name in optimizers if name != baseline)]
    weights = {run.size: run.weights for run in runs}
    missing, measured = lost(runs), behind(runs, finals)
    known = noise or (irrelevant[0].noise if irrelevant and not any(repeats(runs)) else None)
    pooled = known or seed_noise(repeats(finals)) or seed_noise(repeats(runs))
    study: dict[str, Any] = {
        "format": FORMAT,
        "kind": "study",
        "title": title,
        "command": command,
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
        "source": source,
        "baseline": baseline,
        "optimizers": optimizers,
        "labels": {name: (labels or {}).get(name, name) for name in optimizers},
        "level": level,
        "sizes": [{"size": size, "weights": weights[size]} for size in sorted(weights, key=lambda s: weights[s])],
        "cells": list(_cells(runs, finals, missing, pooled, level)),
        "curves": list(_curves(measured)),
        "runs": [told(run) for run in _lowest(runs)],
        "runs_count": len(runs),
        "warnings": list(warnings),
        "provenance": dict(provenance or {}),
    }
    if any(final.cell.optimizer == baseline for final in finals):
        costs = costs_of(measured, baseline) if costs is None else costs
        study |= laws_section(finals, baseline, noise=known, costs=costs, predict=predict, level=level)
        study |= noise_section(runs, finals, baseline, noise=noise, irrelevant=irrelevant, level=level)
    study |= certificates_section(runs, finals, spaces, pooled, level)
    study |= robustness_section(runs, finals, pooled, start=start, order=order)
    study |= sections or {}
    return study | {"not_supported": limits(study)}


def told(run: Run) -> dict[str, Any]:
    """A run as one flat row, for tables and CSV; hyperparameters as ``hp.NAME``."""
    row = {
        "run": run.run,
        "optimizer": run.optimizer,
        "size": run.size,
        "variant": run.variant,
        "tokens": run.tokens,
        "ratio": round(run.ratio, 4),
        "seed": run.seed,
        "purpose": run.purpose,
        "status": run.status,
        "loss": run.loss,
        "seconds": run.seconds,
        "flops": run.flops,
        "reason": run.reason,
    }
    return row | {f"hp.{name}": value for name, value in run.hyperparameters.items()}


def _cells(
    runs: Sequence[Run],
    finals: Sequence[Final],
    missing: Mapping[Cell, str],
    noise: Noise | None,
    level: float,
) -> Iterator[dict[str, Any]]:
    ended = {final.cell: final for final in finals}
    for cell, of_cell in by_cell(runs).items():
        final = ended.get(cell)
        spread = Interval(None, None, None)
        if final is not None and noise is not None and len(final.losses) > 1:
            spread = final_loss(final.losses, noise, level)
        yield {
            "optimizer": cell.optimizer,
            "size": cell.size,
            "tokens": cell.tokens,
            "ratio": round(cell.tokens / (TOKENS_PER_WEIGHT * of_cell[0].weights), 4),
            "variant": cell.variant,
            "loss": None if final is None else final.loss,
            "low": spread.low,
            "high": spread.high,
            "seeds": 0 if final is None else len(final.losses),
            "losses": [] if final is None else list(final.losses),
            "how": missing.get(cell, "no final run") if final is None else final.how,
            "fresh": any(run.purpose in FRESH for run in of_cell),
            "runs": len(of_cell),
            "diverged": sum(run.status == DIVERGED for run in of_cell),
            "spent_tokens": sum(run.tokens for run in of_cell),
            "spent_flops": _sum(run.flops for run in of_cell),
            "spent_seconds": _sum(run.seconds for run in of_cell),
            "best": None if final is None else dict(final.values),
        }


def _sum(values: Iterable[float | None]) -> float | None:
    """None where any is not known: a sum of some would pass for the sum of all."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _lowest(runs: Sequence[Run]) -> Iterator[Run]:
    """The runs that the document holds, cell by cell."""
    cells = by_cell(runs)
    for of_cell in cells.values():
        ordered = sorted(of_cell, key=lambda run: run.ranked)
        yield from ordered[: max(1, SHOWN_RUNS // len(cells))]


def _curves(measured: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Along the final runs of the longest schedule of every size, the base architecture."""
    base = [run for run in measured if not run.variant]
    longest = {size: max(run.tokens for run in runs) for size, runs in grouped(base, lambda run: run.size).items()}
    for run in base:
        if run.tokens == longest[run.size] and len(run.curve) > 1:
            every = -(-len(run.curve) // CURVE_POINTS)
            thinned = [*run.curve[:-1:every], run.curve[-1]]
            yield {
                "optimizer": run.optimizer,
                "size": run.size,
                "tokens": run.tokens,
                "seed": run.seed,
                "points": [[tokens, loss] for tokens, loss in thinned],
            }
