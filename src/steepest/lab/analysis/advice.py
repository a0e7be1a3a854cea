"""Advice in words and as plain JSON: what to make of :mod:`steepest.lab.analysis.recommend`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steepest.lab.analysis.interval import Interval
from steepest.lab.analysis.listing import listed
from steepest.lab.analysis.outcomes import Known
from steepest.lab.analysis.recommend import BETTER, GRADES, WORSE, Advice, Target
from steepest.lab.analysis.verdict import REFUSED


def told(advice: Sequence[Advice], known: Known, target: Target, limit: float | None = None) -> dict[str, Any]:
    """The advice as plain JSON, its sentences included."""
    return {
        "target": {"weights": target.weights, "tokens": target.tokens, "ratio": target.ratio, "limit": limit},
        "baseline": known.baseline,
        "text": sentences(advice, known, target),
        "optimizers": [
            {
                "optimizer": one.optimizer,
                "label": one.label,
                "rank": one.rank,
                "word": one.word,
                "gap": _plain(one.gap),
                "speedup": _plain(one.speedup),
                "hyperparameters": dict(one.values),
                "from": {
                    key: getattr(one.nearest, key) for key in ("source", "size", "weights", "tokens", "ratio")
                },
                "scaled": {name: _plain(value) for name, value in one.scaled.items()},
                "state_bytes": one.nearest.state_bytes,
                "memory": one.memory,
                "fits": one.fits,
                "grade": one.grade,
                "strength": GRADES[one.grade],
                "reasons": list(one.reasons),
                "places": one.places,
                "apart": one.apart,
            }
            for one in advice
        ],
    }


def _plain(interval: Interval) -> dict[str, Any]:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "reason": "; ".join(interval.flags),
    }


def sentences(advice: Sequence[Advice], known: Known, target: Target) -> list[str]:
    """What to make of it: the leaders, the ties, how far the evidence is away, what it cannot say."""
    ranked = [one for one in advice if one.rank is not None]
    if not ranked:
        return ["Nothing that was compared fits into this memory: give more, or race smaller states."]
    base = next(one for one in advice if one.optimizer == known.baseline)
    first = [one for one in ranked if one.rank == 1]
    lead, *tied = (one.label for one in first)
    said = []
    if tied:
        said.append(f"No winner: the evidence does not tell {lead} from {listed(tied, 6)} at this scale.")
    elif first[0] is base:
        said.append(f"{lead} is expected to end lowest; nothing that was tried is expected to beat it.")
    else:
        said.append(f"{lead} is expected to end lowest.")
    for word, than in ((BETTER, "lower"), (WORSE, "higher")):
        named = [
            f"{one.label} {signed(one.gap.value)} nats/token [{signed(one.gap.low)}, {signed(one.gap.high)}]"
            for one in ranked
            if one.word == word
        ]
        if named:
            said.append(f"Expected to end {than} than {base.label}: {listed(named, 6)}.")
    other = first[0] if first[0] is not base or len(ranked) == 1 else ranked[1]
    said.append(f"Evidence {other.grade}, {GRADES[other.grade]}: {'; '.join(other.reasons)}.")
    if other.apart is not None and max(other.apart) > 1:
        decades = max(other.apart)
        said.append(
            f"This carries small trainings over {decades:.1f} decades, a factor of {10**decades:,.0f}: "
            "a race nearer to the target tells more than any of these intervals."
        )
    out = [one.label for one in advice if one.fits is False]
    if out:
        said.append(f"Out of memory: {listed(out, 6)}.")
    never = [one.label for one in advice if one.word == REFUSED]
    if never:
        said.append(f"Never compared with {base.label} at one place, so not ranked: {listed(never, 6)}.")
    return said


def signed(value: float | None) -> str:
    return "no end" if value is None else f"{value:+.{3 if abs(value) >= 0.01 else 4}f}"
