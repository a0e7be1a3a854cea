"""From the runs of a race to its numbers and verdicts: the evidence in ``race.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import (
    LEVEL,
    Draws,
    Interval,
    Noise,
    bootstrap,
    difference,
    final_loss,
    pooled_noise,
    speedup,
    step_ratio,
)
from steepest.lab.analysis.law import Law, fit
from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.spikes import SCORED
from steepest.lab.analysis.verdict import BASELINE, REFUSED, Verdict, rank_flips, verdict
from steepest.lab.race.certified import certified, seen
from steepest.lab.race.plan import ENDING, FINAL, LAW, TUNE, Race, Trial
from steepest.lab.race.protocol import Course, Result, tuned_so_far
from steepest.lab.race.tune import Tuned

BAND = 41
"""Token counts at which the law's band is given."""


@dataclass(frozen=True)
class Fitted:
    """The law of the baseline with its points and, where seeds tell the noise, its bootstrap; or why not."""

    law: Law | None
    points: list[dict[str, Any]]
    draws: Draws | None
    reason: str | None


def evidence(course: Course, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """results, law, law_reason, curves, rank_flips, runs, noise, power, calibration of ``race.json``."""
    race = course.race
    finals = {e.name: _finals(course, e.name) for e in race.entrants}
    complete = {name: losses for name, losses in finals.items() if losses is not None}
    noise = _noise(complete, len(race.seeds))
    contenders = [name for name in complete if name != race.baseline.name]
    means = {name: float(np.mean(losses)) for name, losses in complete.items()}
    fitted = _fitted(course, complete.get(race.baseline.name), [means[n] for n in contenders], noise)
    results = {}
    for entrant in race.entrants:
        name = entrant.name
        place = contenders.index(name) if name in contenders else None
        in_tokens, in_seconds = _speedups(race, name, means.get(name), fitted, place, calibration)
        step = _step(calibration, name, race.baseline.name)
        told = _verdict(course, name, complete, noise, in_tokens, in_seconds)
        results[name] = {
            "label": entrant.contender.label,
            "tuning": _spent(course.trials(name, TUNE)),
            "lr": _lr(course.tuned.get(name) or tuned_so_far(course, name), course.trials(name, TUNE)),
            "certificate": certified(course, name, noise),
            "final": _final(course.trials(name, FINAL), noise),
            "spikes": _spikes(course, name),
            "speedup_tokens": _ratio(in_tokens),
            "speedup_seconds": _ratio(in_seconds),
            "speedup_flops": _ratio(_in_flops(in_tokens, step)),
            "step": step,
            "verdict": told.word,
            "verdict_text": told.text,
        }
    flips, threshold = _flips(course, complete, noise)
    return {
        "results": results,
        "law": None if fitted.law is None else _law(fitted, fitted.law, course),
        "law_reason": fitted.reason,
        "curves": [_curve(t, r) for t, r in course.results.items() if t.purpose in (TUNE, FINAL) and r.tokens],
        "rank_flips": flips,
        "rank_flip_threshold": threshold,
        "runs": [_run(trial, result) for trial, result in course.results.items()],
        "noise": _noise_told(noise, len(complete), len(race.seeds)),
        "power": seen(course, noise, len(complete), fitted.law),
        "calibration": dict(calibration),
    }


def _finals(course: Course, name: str) -> list[float] | None:
    """Final losses in order of seed; None unless every seed came to its end."""
    found = course.trials(name, FINAL)
    losses = [r.loss for t, r in sorted(found.items(), key=lambda item: item[0].seed) if r.loss is not None]
    return losses if losses and len(losses) == len(course.race.seeds) else None


def _noise(complete: Mapping[str, list[float]], seeds: int) -> Noise | None:
    return pooled_noise(list(complete.values())) if complete and seeds > 1 else None


def _fitted(course: Course, at: list[float] | None, contenders: list[float], noise: Noise | None) -> Fitted:
    race, name = course.race, course.race.baseline.name
    if at is None:
        why = course.failures.get(name) or f"{name} has no loss at the end of every seed"
        return Fitted(None, [], None, why)
    points: list[dict[str, Any]] = []
    for budget in race.budgets:
        law = [(t, r) for t, r in course.trials(name, LAW).items() if t.tokens == budget]
        ended = at if budget == race.tokens else [r.loss for _, r in law if r.loss is not None]
        if not ended:
            continue
        interval = final_loss(ended, noise) if noise is not None else Interval(float(np.mean(ended)), None, None)
        tuned = course.tuned[name] if budget == race.tokens else course.at.get(budget)
        lr = course.tuned[name].best if budget == race.tokens else law[0][0].lr
        points.append(
            {
                "tokens": budget,
                "loss": interval.value,
                "low": interval.low,
                "high": interval.high,
                "lr": lr,
                "bracketed": tuned is not None and tuned.bracketed,
                "runs": len(ended),
            }
        )
    tokens, losses, runs = ([p[key] for p in points] for key in ("tokens", "loss", "runs"))
    try:
        if noise is None:
            fitted = fit(tokens, losses, weights=runs)
        else:
            fitted = fit(tokens, losses, weights=runs, sd=noise.sd, freedom=noise.freedom)
    except BadInput as error:
        return Fitted(None, points, None, course.law_failures.get(name) or str(error))
    if fitted.alpha <= 0:
        return Fitted(None, points, None, "; ".join(fitted.flags))
    if noise is None:
        return Fitted(fitted, points, None, None)
    place = tokens.index(race.tokens)
    return Fitted(fitted, points, bootstrap(fitted, tokens, runs, contenders, noise, at=place), None)


def _speedups(
    race: Race, name: str, mean: float | None, fitted: Fitted, place: int | None, calibration: Mapping[str, Any]
) -> tuple[Interval, Interval]:
    """In tokens and in seconds."""
    if name == race.baseline.name:
        one = Interval(1.0, 1.0, 1.0)
        return one, one
    if mean is None or place is None:
        why = f"{name} has no loss at the end of every seed"
    elif fitted.law is None:
        why = f"no law of {race.baseline.name}: {fitted.reason}"
    elif fitted.draws is None:
        why = "one seed tells nothing about seed noise: give --seeds 2 or more"
    else:
        in_tokens = speedup(fitted.law, mean, race.tokens, fitted.draws, place)
        times = calibration.get("seconds", {})
        if name not in times or race.baseline.name not in times:
            return in_tokens, _refused("no step times: the calibration did not end")
        steps = step_ratio(times[race.baseline.name], times[name])
        return in_tokens, speedup(fitted.law, mean, race.tokens, fitted.draws, place, steps=steps)
    return _refused(why), _refused(why)


def _refused(why: str) -> Interval:
    return Interval(None, None, None, LEVEL, (why,))


def _verdict(
    course: Course,
    name: str,
    complete: Mapping[str, list[float]],
    noise: Noise | None,
    in_tokens: Interval,
    in_seconds: Interval,
) -> Verdict:
    baseline = course.race.baseline.name
    label, base = (course.race.entrant(n).contender.label for n in (name, baseline))
    if name in course.failures:
        return Verdict(REFUSED, f"{label}: no verdict: {course.failures[name]}")
    if name == baseline:
        return Verdict(BASELINE, f"{label} is what the others are measured against.")
    tuned = course.tuned.get(name)
    if tuned is not None and tuned.best is None:
        rates = ", ".join(f"{lr:g}" for lr in sorted(tuned.losses))
        return Verdict(REFUSED, f"{label}: no verdict: it diverged at every learning rate tried ({rates})")
    gap = in_tokens
    if noise is not None and name in complete and baseline in complete:
        gap = difference(complete[name], complete[baseline], noise)
    elif in_tokens.value is not None:
        gap = _refused("no interval of the difference")
    return verdict(label, base, gap, in_tokens, in_seconds)


def _spent(trials: Mapping[Trial, Result]) -> dict[str, Any]:
    return {
        "runs": len(trials),
        "tokens": sum(trial.tokens for trial in trials),
        "seconds": sum(result.seconds for result in trials.values()),
        "grid": sorted({trial.lr for trial in trials}),
    }


def _lr(tuned: Tuned, trials: Mapping[Trial, Result]) -> dict[str, Any]:
    points = [
        {"lr": trial.lr, "loss": result.loss, "status": result.status, "run": result.run}
        for trial, result in trials.items()
    ]
    return {"best": tuned.best, "bracketed": tuned.bracketed, "edge": tuned.edge, "points": points}


def _final(trials: Mapping[Trial, Result], noise: Noise | None) -> dict[str, Any] | None:
    if not trials:
        return None
    losses = [{"seed": trial.seed, "loss": result.loss, "run": result.run} for trial, result in trials.items()]
    ended = [result for result in trials.values() if result.loss is not None]
    if len(ended) < len(trials):
        return {"losses": losses, "mean": None, "low": None, "high": None, "bits_per_byte": None}
    values = [result.loss for result in ended if result.loss is not None]
    interval = final_loss(values, noise) if noise is not None else Interval(float(np.mean(values)), None, None)
    bits = [result.bits for result in ended if result.bits is not None]
    return {
        "losses": losses,
        "mean": interval.value,
        "low": interval.low,
        "high": interval.high,
        "bits_per_byte": float(np.mean(bits)) if bits else None,
    }


def _spikes(course: Course, name: str) -> dict[str, Any]:
    """Each score as the mean over the final runs that have one; how many of all its runs diverged."""
    finals = [result.spikes for result in course.trials(name, FINAL).values() if result.spikes]
    told: dict[str, Any] = {"runs": len(finals)}
    for series, scores in SCORED.items():
        found = {key: [run[series][key] for run in finals if run[series][key] is not None] for key in scores}
        told[series] = {key: float(np.mean(values)) if values else None for key, values in found.items()}
    ended = [result.status for trial, result in course.results.items() if trial.optimizer == name]
    return told | {"diverged": ended.count("diverged"), "of": len(ended)}


def _ratio(interval: Interval) -> dict[str, Any]:
    told = {"value": interval.value, "low": interval.low, "high": interval.high, "level": interval.level}
    if interval.value is None:
        return told | {"flags": [], "reason": "; ".join(interval.flags)}
    return told | {"flags": list(interval.flags)}


def _step(calibration: Mapping[str, Any], name: str, baseline: str) -> dict[str, Any] | None:
    times, optimizer = calibration.get("seconds", {}), calibration.get("optimizer_seconds", {})
    if name not in times or baseline not in times:
        return None
    seconds = float(np.median(times[name]))
    estimates = np.asarray(calibration.get("estimate_seconds", {}).get(name, np.zeros(len(times[name]))))
    told = {
        "seconds": seconds,
        "optimizer_share": float(np.median((np.asarray(optimizer[name]) + estimates) / times[name])),
        "estimate_share": float(np.median(estimates / times[name])),
        "relative": seconds / float(np.median(times[baseline])),
    }
    flops = calibration.get("flops", {})
    if name in flops and baseline in flops:
        own, base = (sum(flops[n].values()) for n in (name, baseline))
        told |= {"flops": own, "relative_flops": own / base}
    return told


def _in_flops(in_tokens: Interval, step: Mapping[str, Any] | None) -> Interval:
    """A speedup in tokens as one in floating-point operations, which have no spread."""
    if in_tokens.value is None:
        return in_tokens
    if step is None or "relative_flops" not in step:
        return _refused("no operations were counted: the calibration did not end")
    low, high = (None if end is None else end / step["relative_flops"] for end in (in_tokens.low, in_tokens.high))
    return replace(in_tokens, value=in_tokens.value / step["relative_flops"], low=low, high=high)


def _law(fitted: Fitted, law: Law, course: Course) -> dict[str, Any]:
    name = course.race.baseline.name
    tokens = np.geomspace(law.low, law.high, BAND)
    low = high = [None] * BAND
    if fitted.draws is not None:
        drawn = fitted.draws.law.loss(tokens)
        low, high = (np.quantile(drawn, (1 + sign * LEVEL) / 2, axis=0).tolist() for sign in (-1, 1))
    return {
        "alpha": float(law.alpha),
        "exponent": float(law.exponent),
        "floor": float(law.floor),
        "rms": law.rms,
        "points": fitted.points,
        "band": [
            {"tokens": float(t), "loss": float(law.loss(t)), "low": a, "high": b}
            for t, a, b in zip(tokens, low, high, strict=True)
        ],
        "flags": list(law.flags) + _ends_flags(course),
        "tuning": _spent(course.trials(name, ENDING)),
        "runs": _spent(course.trials(name, LAW)),
        "ends": {
            str(budget): _lr(tuned, {t: r for t, r in course.trials(name, ENDING).items() if t.tokens == budget})
            for budget, tuned in course.at.items()
        },
    }


def _ends_flags(course: Course) -> list[str]:
    return [
        f"the baseline's lr at {budget:,} tokens lies at the {tuned.edge} edge of its grid"
        for budget, tuned in sorted(course.at.items())
        if tuned.edge is not None
    ]


def _curve(trial: Trial, result: Result) -> dict[str, Any]:
    return {
        "optimizer": trial.optimizer,
        "seed": trial.seed,
        "lr": trial.lr,
        "run": result.run,
        "tokens": list(result.tokens),
        "loss": list(result.losses),
        "final": trial.purpose == FINAL,
    }


def _flips(
    course: Course, complete: Mapping[str, list[float]], noise: Noise | None
) -> tuple[list[dict[str, Any]], float | None]:
    """Rank flips of the seeds' mean curves, and how far apart curves must be to count: the noise of the ends."""
    if noise is None or not complete:
        return [], None
    means, tokens = {}, None
    for name in complete:
        found = list(course.trials(name, FINAL).values())
        means[name] = np.mean([result.losses for result in found], axis=0).tolist()
        tokens = found[0].tokens
    level = student_t((1 + LEVEL) / 2, noise.own_freedom)
    threshold = level * noise.own_sd * math.sqrt(2 / len(course.race.seeds))
    flips = rank_flips(tokens or (), means, threshold)
    return [{"a": f.before, "b": f.after, "tokens": f.tokens, "text": f.text} for f in flips], threshold


def _run(trial: Trial, result: Result) -> dict[str, Any]:
    return {
        "run": result.run,
        "optimizer": trial.optimizer,
        "lr": trial.lr,
        "seed": trial.seed,
        "tokens": trial.tokens,
        "loss": result.loss,
        "status": result.status,
        "seconds": result.seconds,
        "purpose": trial.purpose,
        "reason": result.reason,
        **{f"{series}_spike_score": result.spikes.get(series, {}).get("spike_score") for series in SCORED},
    }


def _noise_told(noise: Noise | None, optimizers: int, seeds: int) -> dict[str, Any] | None:
    if noise is None:
        return None
    return {
        "sd": noise.sd,
        "freedom": noise.freedom,
        "own_sd": noise.own_sd,
        "own_freedom": noise.own_freedom,
        "from": f"{optimizers * seeds} final runs of {optimizers} optimizers over the same {seeds} seeds, "
        "around each optimizer's mean; what a seed shares between optimizers cancels in their difference",
    }
