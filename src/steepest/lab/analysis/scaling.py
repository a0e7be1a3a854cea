"""What a study says about laws, speedups and size, as the evidence document holds it (plain JSON values)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.analysis.costs import Costs
from steepest.lab.analysis.interval import LEVEL, Interval, Noise, quantiles
from steepest.lab.analysis.joint import JointLaw, compared, fit_joint
from steepest.lab.analysis.law import POINTS, Curve, Law, fit, fit_shared
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT, Cell, Final, grouped
from steepest.lab.analysis.speedup import DRAWS, Fitted, Scale, Speedup, Speedups, points_told, speedups
from steepest.lab.analysis.trend import Trend, trends

BAND = 41
"""Token counts at which the law's band is given."""

Told = dict[str, Any]


def laws_section(
    finals: Sequence[Final],
    baseline: str,
    *,
    noise: Noise | None = None,
    costs: Mapping[Cell, Costs] | None = None,
    predict: Sequence[tuple[float, float]] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    random_state: int = 0,
) -> Told:
    """laws, shared_laws, joint, speedups and trends of ``study.json``; see :func:`speedups` for the arguments.

    predict: (weights, ratio) at which the joint laws are compared; if None, ten times the largest size at ratio 1.
    In ``laws`` and ``shared_laws`` alpha is the loss above the floor at ratio 1: tokens are counted in 20 per
    weight, as both studies print it. A size without a law is not among them: the flags of its speedups say why.
    """
    study = speedups(
        finals, baseline, noise=noise, costs=costs, draws=draws, level=level, random_state=random_state
    )
    return {
        "laws": [_law(study, scale, f, f.law) for scale, f in study.scales.items() if f.law is not None],
        "shared_laws": shared_section(study, finals),
        "joint": joint_section(finals, baseline, predict),
        "speedups": [_speedup(found) for found in study.speedups],
        "trends": [_trend(trend, study.level) for trend in trends(study)],
    }


def _unit(weights: int) -> float:
    return float(TOKENS_PER_WEIGHT * weights)


def _parameters(law: Law, weights: int) -> Told:
    return {
        "alpha": float(law.alpha * _unit(weights) ** -law.exponent),
        "exponent": float(law.exponent),
        "floor": float(law.floor),
    }


def _law(study: Speedups, scale: Scale, fitted: Fitted, law: Law) -> Told:
    points = [
        {
            "tokens": final.cell.tokens,
            "ratio": final.ratio,
            "loss": found.value,
            "low": found.low,
            "high": found.high,
            "runs": len(final.losses),
        }
        for final, found in zip(fitted.points, points_told(fitted, study.level), strict=True)
    ]
    told = {
        "size": scale.size,
        "variant": scale.variant,
        "weights": fitted.weights,
        "optimizer": study.baseline,
        **_parameters(law, fitted.weights),
        "points": points,
        "rms": law.rms,
        "flags": list(law.flags),
        "band": _band(study, fitted, law),
        "leave_one_out": None,
        "noise": None if fitted.noise is None else {"sd": fitted.noise.sd, "freedom": fitted.noise.freedom},
    }
    if fitted.without is not None:
        told["leave_one_out"] = {
            name: [float(np.min(values)), float(np.max(values))]
            for name, values in (("exponent", fitted.without.exponent), ("floor", fitted.without.floor))
        }
    return told


def _band(study: Speedups, fitted: Fitted, law: Law) -> list[Told]:
    tokens = np.geomspace(law.low, law.high, BAND)
    low = high = [None] * BAND
    if fitted.own_draws is not None:
        low, high = (ends.tolist() for ends in quantiles(fitted.own_draws.loss(tokens), study.level))
    return [
        {"tokens": float(t), "ratio": float(t / _unit(fitted.weights)), "loss": float(law.loss(t))}
        | {"low": a, "high": b}
        for t, a, b in zip(tokens, low, high, strict=True)
    ]


def _ends(interval: Interval | None) -> Told | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high, "flags": list(interval.flags)}


def _speedup(found: Speedup) -> Told:
    final, ratio = found.final, found.tokens
    left_out = found.leave_one_out
    return {
        "optimizer": final.cell.optimizer,
        "size": final.cell.size,
        "variant": final.cell.variant,
        "weights": final.weights,
        "ratio": final.ratio,
        "tokens": final.cell.tokens,
        "loss": final.loss,
        "runs": len(final.losses),
        "speedup": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "level": ratio.level,
        "published": None,
        "word": found.word,
        "flags": list(ratio.flags),
        "steps": _ends(found.steps),
        "flops": _ends(found.flops),
        "seconds": _ends(found.seconds),
        "gap": _ends(found.gap),
        "shared": _ends(found.shared),
        "leave_one_out": None if left_out is None else [e if math.isfinite(e) else None for e in left_out],
    }


def _trend(trend: Trend, level: float) -> Told:
    slope = trend.per_decade
    return {
        "optimizer": trend.optimizer,
        "ratio": trend.ratio,
        "variant": trend.variant,
        "sizes": list(trend.sizes),
        "per_decade": slope.value,
        "low": slope.low,
        "high": slope.high,
        "level": level,
        "flags": list(slope.flags),
        "line": [
            {"size": size, "weights": weights, "speedup": end.value, "low": end.low, "high": end.high}
            for size, weights, end in zip(trend.sizes, trend.weights, trend.line, strict=False)
        ],
    }


def shared_section(study: Speedups, finals: Sequence[Final]) -> Told:
    """One exponent for the baseline at all sizes (``sizes``), and for all optimizers at all sizes (``all``).

    ``rms`` stands beside ``own_rms``, of the same curves with an exponent each: how much is lost by sharing.
    Either is None where there are too few points.
    """
    one: Told | None = None
    scales = {scale: fitted for scale, fitted in study.scales.items() if fitted.shared is not None}
    if scales:
        one = _shared([list(fitted.points) for fitted in scales.values()])
        drawn = next(iter(scales.values())).shared_draws
        if one and drawn is not None:
            one["low"], one["high"] = (float(end[0]) for end in quantiles(drawn.exponent, study.level))
    curves = grouped(finals, lambda final: (final.cell.optimizer, final.cell.size, final.cell.variant))
    return {"sizes": one, "all": _shared([curve for curve in curves.values() if len(curve) >= POINTS])}


def _shared(curves: Sequence[Sequence[Final]]) -> Told | None:
    columns = [
        Curve([f.cell.tokens for f in curve], [f.loss for f in curve], [len(f.losses) for f in curve])
        for curve in curves
    ]
    try:
        laws = fit_shared(columns)
    except BadInput:
        return None
    own = [
        fit(c.tokens, c.losses, weights=c.weights) if len(finals) >= POINTS else None
        for c, finals in zip(columns, curves, strict=True)
    ]
    told = [
        {
            "size": curve[0].cell.size,
            "variant": curve[0].cell.variant,
            "optimizer": curve[0].cell.optimizer,
            **_parameters(law, curve[0].weights),
            "rms": law.rms,
            "own_exponent": None if alone is None else float(alone.exponent),
            "own_rms": None if alone is None else alone.rms,
            "points": len(curve),
            "flags": list(law.flags),
        }
        for law, alone, curve in zip(laws, own, curves, strict=True)
    ]
    both = [row for row in told if row["own_rms"] is not None]
    return {
        "exponent": float(laws[0].exponent),
        "low": None,
        "high": None,
        "rms": _together(both, "rms"),
        "own_rms": _together(both, "own_rms"),
        "laws": told,
    }


def _together(rows: Sequence[Told], name: str) -> float | None:
    points = sum(row["points"] for row in rows)
    return math.sqrt(sum(row["points"] * row[name] ** 2 for row in rows) / points) if points else None


def joint_section(
    finals: Sequence[Final], baseline: str, predict: Sequence[tuple[float, float]] | None = None
) -> list[Told]:
    """The joint law of every optimizer (base architecture) with enough points, the baseline first."""
    found = grouped([f for f in finals if not f.cell.variant], lambda final: final.cell.optimizer)
    laws: dict[str, tuple[JointLaw, list[Final]]] = {}
    for name in sorted(found, key=lambda name: name != baseline):
        points = found[name]
        columns = [(f.weights, f.cell.tokens, f.loss, len(f.losses)) for f in points]
        try:
            laws[name] = fit_joint(*np.array(columns, dtype=float).T), points
        except BadInput:
            continue
    if predict is None:
        predict = [(10.0 * max((final.weights for final in finals), default=1), 1.0)]
    base = laws.get(baseline)
    return [_joint(name, law, points, base[0] if base else None, predict) for name, (law, points) in laws.items()]


def _joint(
    name: str,
    law: JointLaw,
    points: Sequence[Final],
    base: JointLaw | None,
    predict: Sequence[tuple[float, float]],
) -> Told:
    predictions = []
    flags = list(law.flags)
    for weights, ratio in predict:
        tokens = weights * TOKENS_PER_WEIGHT * ratio
        told: Told = {"weights": weights, "ratio": ratio, "loss": float(law.loss(weights, tokens))}
        if base is not None and base is not law:
            beside = compared(law, base, weights, tokens)
            told |= {"baseline": beside.other, "difference": beside.difference, "error": beside.error}
            told |= {"extrapolated": beside.extrapolated, "reason": beside.reason}
            if beside.reason:
                flags.append(
                    f"at {weights:.3g} weights and ratio {ratio:g} it predicts {beside.difference:+.4f} "
                    f"nats/token against the baseline, {beside.reason}: nothing is told"
                )
        predictions.append(told)
    return {
        "optimizer": name,
        "floor": law.floor,
        "n_factor": law.n_factor,
        "n_exponent": law.n_exponent,
        "d_factor": law.d_factor,
        "d_exponent": law.d_exponent,
        "rms": law.rms,
        "left_out_rms": law.left_out_rms,
        "largest_out_rms": law.largest_out_rms,
        "flags": flags,
        "points": [
            {"size": f.cell.size, "weights": f.weights, "tokens": f.cell.tokens, "ratio": f.ratio, "loss": f.loss}
            | {"residual": float(residual), "left_out": float(left_out)}
            for f, residual, left_out in zip(points, law.residuals, law.left_out, strict=True)
        ],
        "predictions": predictions,
    }
