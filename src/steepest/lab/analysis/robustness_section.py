"""The part of the evidence document that says how robust, how dear to tune and how it scales: plain dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steepest.lab.analysis.drift import Drift, drifts
from steepest.lab.analysis.flips import RankFlips, flips
from steepest.lab.analysis.interval import Interval, Noise
from steepest.lab.analysis.pareto import Front, fronts
from steepest.lab.analysis.robustness import Robustness, robustness, starts
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT, Cell, Final, Place, Run
from steepest.lab.analysis.sweeps import LOG, MEMORY, STEPS, UNITS, Point, Sweep, sweeps
from steepest.lab.analysis.tuning_cost import TuningCost, tuning_costs

Told = dict[str, Any]


def robustness_section(
    runs: Sequence[Run],
    finals: Sequence[Final],
    noise: Noise | None = None,
    *,
    start: Mapping[Place, float] | None = None,
    order: Mapping[str, float] | None = None,
) -> dict[str, list[Told]]:
    """``robustness``, ``sweeps``, ``tuning_cost``, ``flips``, ``drift`` and ``pareto`` of study.json.

    start: loss of a run that learned nothing, by place (what the runs show of it); order: when each run was made,
    by its name (not known). Numbers that are not finite are None.
    """
    found = sweeps(runs)
    measured = robustness(found, noise=noise, start=starts(runs) if start is None else start)
    return {
        "robustness": [_robustness(one) for one in measured],
        "sweeps": [_sweep(one) for one in measured],
        "tuning_cost": [_tuning_cost(one) for one in tuning_costs(runs, order)],
        "flips": [_flips(one) for one in flips(runs, finals, noise)],
        "drift": [_drift(one) for one in drifts(runs, noise)],
        "pareto": [_front(one) for one in fronts(runs, finals, noise)],
    }


def _where(cell: Cell | Place, weights: int) -> Told:
    told: Told = {"optimizer": cell.optimizer} if isinstance(cell, Cell) else {}
    ratio = cell.tokens / (TOKENS_PER_WEIGHT * weights)
    return told | {
        "size": cell.size,
        "weights": weights,
        "tokens": cell.tokens,
        "ratio": ratio,
        "variant": cell.variant,
    }


def _ends(interval: Interval) -> Told:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _robustness(one: Robustness) -> Told:
    sweep, best = one.sweep, one.sweep.best
    return _where(sweep.cell, sweep.weights) | {
        "hyperparameter": sweep.name,
        "axis": sweep.axis,
        "unit": UNITS[sweep.axis],
        "tried": len(sweep.points),
        "best": None if best is None else best.value,
        "best_loss": None if best is None else best.loss,
        "bracketed": sweep.bracketed,
        "edge": sweep.edge,
        "above": sweep.above,
        "sd": one.sd,
        "widths": [
            {
                "margin": width.margin,
                **_ends(width.width),
                "most": width.most,
                "from": width.low,
                "to": width.high,
                "low_end": width.low_end,
                "high_end": width.high_end,
                "flags": list(width.width.flags),
            }
            for width in one.widths
        ],
        "regrets": [
            {
                "factor": regret.factor,
                **_ends(regret.regret),
                "covered": regret.covered,
                "flags": list(regret.regret.flags),
            }
            for regret in one.regrets
        ],
        "flags": list(one.flags),
    }


def _sweep(one: Robustness) -> Told:
    sweep, best = one.sweep, one.sweep.best
    lowest = None if best is None else best.loss
    return _where(sweep.cell, sweep.weights) | {
        "hyperparameter": sweep.name,
        "axis": sweep.axis,
        "best": None if best is None else best.value,
        "bracketed": sweep.bracketed,
        "sd": one.sd,
        "seeds": len(sweep.seeds),
        "others": dict(sweep.others),
        "points": [
            {
                "value": point.value,
                "place": point.place,
                "aligned": aligned(sweep, point),
                "loss": point.loss,
                "cost": None if lowest is None or point.loss is None else point.loss - lowest,
                "runs": len(point.runs),
            }
            for point in sweep.points
        ],
    }


def aligned(sweep: Sweep, point: Point) -> float | None:
    """The point as a multiple of the sweep's own best value: of 1/(1 - value) for averages, in steps on a grid."""
    best = sweep.best
    if best is None or best.place is None or point.place is None:
        return None
    gap = point.place - best.place
    return 10.0**gap if sweep.axis in (LOG, MEMORY) else gap if sweep.axis == STEPS else None


def _tuning_cost(one: TuningCost) -> Told:
    columns = zip(one.trials, one.tokens, one.best, one.low, one.high, strict=True)
    return _where(one.cell, one.weights) | {
        "made": one.made,
        "diverged": one.diverged,
        "ordered": one.ordered,
        "points": [
            {"trials": k, "tokens": spent, "loss": _finite(best), "low": _finite(low), "high": _finite(high)}
            for k, spent, best, low, high in columns
        ],
        "within": [{"margin": margin, "trials": trials} for margin, trials in one.within.items()],
    }


def _flips(one: RankFlips) -> Told:
    return _where(one.place, one.weights) | {
        "threshold": one.threshold,
        "threshold_from": one.origin,
        "at": list(one.tokens),
        "curves": [
            {"optimizer": name, "seeds": one.seeds[name], "loss": list(c)} for name, c in one.curves.items()
        ],
        "flips": [
            {
                "before": flip.before,
                "after": flip.after,
                "tokens": flip.tokens,
                "share": flip.tokens / one.tokens[-1],
                "text": flip.text,
            }
            for flip in one.flips
        ],
        "orders": [{"share": o.share, "pairs": o.pairs, "reversed": o.reversed} for o in one.orders],
    }


def _drift(one: Drift) -> Told:
    return {
        "optimizer": one.optimizer,
        "variant": one.variant,
        "hyperparameter": one.name,
        "axis": one.axis,
        "threshold": one.threshold,
        "cells": [
            {
                "size": o.cell.size,
                "weights": o.weights,
                "tokens": o.cell.tokens,
                "ratio": o.ratio,
                "best": o.best,
                "near": list(o.near),
                "low": o.low,
                "high": o.high,
                "edge": o.edge,
                "tried": o.tried,
            }
            for o in one.optima
        ],
        "by_size": _ends(one.by_size) | {"reason": "; ".join(one.by_size.flags)},
        "by_ratio": _ends(one.by_ratio) | {"reason": "; ".join(one.by_ratio.flags)},
        "flags": list(one.flags),
    }


def _front(one: Front) -> Told:
    return _where(one.place, one.weights) | {
        "alike": one.alike,
        "optimizers": [
            {
                "optimizer": standing.optimizer,
                "loss": standing.loss,
                "seconds": standing.seconds,
                "step_seconds": standing.step_seconds,
                "state_bytes": standing.state_bytes,
                "front": standing.front,
                "dominated_by": list(standing.dominated_by),
            }
            for standing in one.standings
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
