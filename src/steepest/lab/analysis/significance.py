"""Which differences of final losses the seeds tell apart: paired t, exact sign flips, corrected for their number.

The verdict is that of the t test with the pooled noise, Holm's correction over all comparisons made together. The
sign-flip value needs no normal losses and no common noise, only that a gap were as likely of either sign; with n
seeds it cannot fall below 2^(1-n), 0.25 for three, and so is told beside the verdict and does not make it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from steepest.lab.analysis.interval import LEVEL, Interval, Noise, difference, unpaired_difference
from steepest.lab.analysis.quantile import student_t, two_sided
from steepest.lab.analysis.runs import Final, Place

LOWER, HIGHER, TIE, UNKNOWN = "lower", "higher", "tie", "no noise known"
EXACT, RANDOM = 20, 20_000
"""Gaps up to which every sign is tried, and how many random signs are past them."""


@dataclass(frozen=True)
class Comparison:
    """Final loss of ``optimizer`` less that of ``baseline`` at ``place``, nats/token.

    gap: with its interval, not corrected. seeds: pairs of the same seed, or 0 where the runs are not paired. t, p:
    of the t test. p_holm: p corrected for all comparisons made together. p_signs: exact, by flipping the signs of
    the pairs; least: the smallest that so many pairs allow. word: "lower", "higher", or "tie" inside the noise.
    """

    optimizer: str
    baseline: str
    place: Place
    gap: Interval
    seeds: int
    freedom: float | None
    t: float | None
    p: float | None
    p_holm: float | None
    p_signs: float | None
    least: float | None
    word: str


def sign_flip(gaps: Sequence[float], random_state: int = 0) -> float:
    """Share of all signs of ``gaps`` whose sum lies as far from zero as theirs, two-sided; 1 for no gaps.

    Exact up to 20 gaps; past them from 20,000 random signs.
    """
    sizes = np.abs(np.asarray(gaps, dtype=float))
    seen = abs(float(np.sum(np.asarray(gaps, dtype=float)))) - 1e-12 * float(sizes.sum())
    if sizes.size > EXACT:
        random, sums = np.random.default_rng(random_state), np.zeros(RANDOM)
        for part in np.array_split(sizes, math.ceil(sizes.size / 100)):
            sums += np.where(random.random((RANDOM, part.size)) < 0.5, part, -part).sum(axis=1)
        return float((1 + np.count_nonzero(np.abs(sums) >= seen)) / (1 + RANDOM))
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return float(np.mean(np.abs(sums) >= seen))


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down rule (1979), in the order given."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected, most = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = most
    return corrected


def compare(final: Final, baseline: Final, noise: Noise | None, level: float = LEVEL) -> Comparison:
    """One comparison at one place, as if it were the only one.

    Over the seeds that both have, with the noise that runs do not share under a seed; without common seeds, means
    against means with the whole noise. Without a noise the pairs themselves must tell it, from two on.
    """
    ours, theirs = _by_seed(final), _by_seed(baseline)
    common = sorted(ours.keys() & theirs.keys())
    paired = [ours[seed] for seed in common], [theirs[seed] for seed in common]
    gaps = np.subtract(*paired)
    if noise is None and gaps.size > 1:
        own = float(gaps.std(ddof=1)) / math.sqrt(2)
        noise = Noise(own, gaps.size - 1, own, gaps.size - 1, (2, gaps.size))
    if noise is None:
        value = float(gaps.mean()) if common else final.loss - baseline.loss
        gap, freedom = Interval(value, None, None, level, ("no noise known",)), None
    elif common:
        gap, freedom = difference(*paired, noise, level), float(noise.own_freedom)
    else:
        gap, freedom = unpaired_difference(final.losses, baseline.losses, noise, level), noise.freedom
    t = None if freedom is None else _t(gap, freedom)
    p = None if t is None or freedom is None else two_sided(t, freedom)
    told = Comparison(
        final.cell.optimizer,
        baseline.cell.optimizer,
        final.cell.place,
        gap,
        len(common),
        freedom,
        t if t is not None and math.isfinite(t) else None,
        p,
        None,
        sign_flip(gaps.tolist()) if common else None,
        2.0 ** (1 - len(common)) if common else None,
        UNKNOWN,
    )
    return told if p is None else _judged(told, p)


def _t(gap: Interval, freedom: float) -> float:
    """The t statistic behind an interval; infinite where there is a gap and no noise."""
    value, high = gap.value or 0.0, gap.high or 0.0
    if high > value:
        return value * student_t((1 + gap.level) / 2, freedom) / (high - value)
    return math.copysign(math.inf, value) if value else 0.0


def comparisons(
    finals: Sequence[Final], baseline: str, noise: Noise | None, level: float = LEVEL
) -> list[Comparison]:
    """Every final against the baseline's at its place; p-values corrected for all of them together (Holm)."""
    of = {final.cell.place: final for final in finals if final.cell.optimizer == baseline}
    found = [
        compare(final, of[final.cell.place], noise, level)
        for final in finals
        if final.cell.optimizer != baseline and final.cell.place in of
    ]
    tested = [place for place, told in enumerate(found) if told.p is not None]
    corrected = holm([found[place].p or 0.0 for place in tested])
    for place, p in zip(tested, corrected, strict=True):
        found[place] = _judged(found[place], p)
    return found


def _by_seed(final: Final) -> dict[int, float]:
    return {seed: loss for seed, loss in zip(final.seeds, final.losses, strict=True) if seed is not None}


def _judged(told: Comparison, p: float) -> Comparison:
    """With the corrected p and the word that it allows."""
    word = TIE if p > 1 - told.gap.level else LOWER if (told.gap.value or 0.0) < 0 else HIGHER
    return replace(told, p_holm=p, word=word)
