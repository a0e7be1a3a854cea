"""Words for what the numbers allow, and where the order of the optimizers changed on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import Interval

BASELINE, FASTER, SLOWER, TIE, REFUSED = "baseline", "faster", "slower", "not told apart", "refused"


@dataclass(frozen=True)
class Verdict:
    """word: baseline, faster, slower, not told apart or refused; text: the sentence with its numbers."""

    word: str
    text: str


def verdict(name: str, baseline: str, gap: Interval, tokens: Interval, seconds: Interval | None) -> Verdict:
    """The verdict on ``name`` in tokens; what the seconds say stands in the text.

    gap: final loss minus the baseline's. Faster or slower is said only where the interval of the speedup in tokens
    excludes 1 *and* the difference of final losses lies outside the noise of the seeds, in the same direction.
    """
    if gap.value is None:
        return Verdict(REFUSED, f"{name}: no verdict: {_because(gap)}")
    ends = f"{name} ends {abs(gap.value):.4f} nats/token {'below' if gap.value < 0 else 'above'} {baseline}"
    ends += f" [{_signed(gap.low)}, {_signed(gap.high)}]"
    if tokens.value is None:
        return Verdict(REFUSED, f"{ends}; no speedup is stated: {_because(tokens)}")
    word = judge(tokens, gap)
    needs = f"{baseline} needs {_ratio(tokens)} the tokens for the same loss"
    text = {
        FASTER: f"{name} is faster than {baseline} in tokens: {ends}, and {needs}",
        SLOWER: f"{name} is slower than {baseline} in tokens: {ends}, and {needs}",
        TIE: f"{name} and {baseline} are not told apart by these seeds: {ends}; {needs}",
    }[word]
    if word == TIE and gap.excludes(0):
        text = f"{name} and {baseline} are not told apart in tokens: {ends}, beyond the noise of the seeds, but "
        text += f"the law leaves open what that is worth: {needs}"
    if tokens.flags:
        text += f" ({'; '.join(tokens.flags)})"
    if seconds is not None and seconds.value is not None:
        text += f". In seconds: {_ratio(seconds)}, {judge(seconds)}"
    return Verdict(word, text + ".")


def judge(speedup: Interval, gap: Interval | None = None) -> str:
    """``faster``, ``slower`` or ``not told apart`` from whether the interval of a speedup excludes 1.

    With ``gap``, the difference of final losses, that must exclude 0 too, on the same side.
    """
    if speedup.value is None:
        return REFUSED
    if not speedup.excludes(1):
        return TIE
    word = FASTER if speedup.value > 1 else SLOWER
    agrees = gap is None or (gap.value is not None and gap.excludes(0) and (gap.value < 0) == (word == FASTER))
    return word if agrees else TIE


def _ratio(interval: Interval) -> str:
    low = "0" if interval.low is None else f"{interval.low:.2f}"
    high = "no upper end" if interval.high is None else f"{interval.high:.2f}"
    return f"{interval.value:.2f} times [{low}, {high}; {interval.level:.0%}]"


def _signed(value: float | None) -> str:
    return "no end" if value is None else f"{value:+.4f}"


def _because(interval: Interval) -> str:
    return "; ".join(interval.flags) or "no interval"


@dataclass(frozen=True)
class Flip:
    """``before`` led until about ``tokens``, from there on ``after`` did."""

    before: str
    after: str
    tokens: float
    text: str


def rank_flips(tokens: ArrayLike, curves: Mapping[str, Sequence[float]], threshold: float) -> list[Flip]:
    """Changes of order between every two of ``curves[name][points]`` at the common ``tokens[points]``.

    A lead counts where the curves are more than ``threshold`` nats/token apart, so that noise flips nothing; the
    crossing is placed where the lines through the last evaluations before the new lead cross. Losses along the way
    are shown, never compared for a verdict: the schedule has not ended there.
    """
    x = np.asarray(tokens, dtype=float)
    for name, curve in curves.items():
        if len(curve) != x.size:
            raise BadInput(f"curve of {name} has {len(curve)} points for {x.size} token counts: evaluate alike")
    names = list(curves)
    flips = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            gap = np.asarray(curves[first], dtype=float) - np.asarray(curves[second], dtype=float)
            flips += _flips(x, gap, first, second, threshold)
    return sorted(flips, key=lambda flip: flip.tokens)


def _flips(x: np.ndarray, gap: np.ndarray, first: str, second: str, threshold: float) -> list[Flip]:
    found: list[Flip] = []
    leader = 0
    for point in range(x.size):
        sign = int(math.copysign(1, gap[point])) if abs(gap[point]) > threshold else 0
        if sign == 0 or sign == leader:
            continue
        if leader:
            before, after = (first, second) if leader < 0 else (second, first)
            crossing = _crossing(x, gap, point)
            text = f"{before} led until about {crossing:,.0f} tokens, then {after}"
            found.append(Flip(before, after, crossing, text))
        leader = sign
    return found


def _crossing(x: np.ndarray, gap: np.ndarray, point: int) -> float:
    """Where the gap last changed sign on its way to ``point``."""
    for left in range(point - 1, -1, -1):
        if gap[left] * gap[point] <= 0:
            share = gap[left] / (gap[left] - gap[left + 1])
            return float(x[left] + share * (x[left + 1] - x[left]))
    return float(x[point])
