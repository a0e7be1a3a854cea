"""What the released losses do and do not support, in sentences whose every number is computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.analysis.joint import JointLaw, fit_joint
from steepest.lab.analysis.runs import grouped
from steepest.lab.analysis.significance import sign_flip
from steepest.lab.analysis.trend import trends
from steepest.lab.replay.released import BASELINE, Optimized
from steepest.lab.replay.sections import LARGEST, SUMMARY_RATIO
from steepest.lab.replay.words import ACCEPTED, Evidence, Told, end, listed

SEVEN = 7e9
"""Weights to which the paper carries its joint laws."""


def doubted(of: Evidence) -> list[str]:
    """What the losses do not support, the weightiest first."""
    tells: tuple[Callable[[Evidence], Iterator[str]], ...] = (
        _seeds,
        _intervals,
        _headline,
        _ties,
        _crossover,
        _seven,
    )
    return [sentence for tell in tells for sentence in tell(of)]


def supported(of: Evidence) -> list[str]:
    """What the data do support."""
    return [sentence for tell in (_families, _grows, _weak_baseline) for sentence in tell(of)]


def _families(of: Evidence) -> Iterator[str]:
    told = of.study["matrix_beats_scalar"]
    gaps = [place["gap"] for place in told["places"]]
    if not gaps:
        return
    p = sign_flip(gaps)
    small = [place for place in told["places"] if of.noise is not None and abs(place["gap"]) <= of.apart]
    text = (
        f"In {told['held']} of {told['cells']} places the worst matrix-based optimizer "
        f"({listed([of.named(name) for name in told['matrix']])}) ends below the best scalar one: as a pattern of "
        f"signs (p = {p:.2g}, taking the places as independent) firmer than any single speedup, with gaps from "
        f"{min(gaps):.4f} to {max(gaps):.4f}"
    )
    if small:
        where = listed([f"{place['size']} {place['ratio']:g}x" for place in small])
        text += f"; {len(small)} of them lie within what noise alone exceeds in one of ten cases ({where})"
    yield f"{text}."


def _grows(of: Evidence) -> Iterator[str]:
    """Trends whose interval excludes 0."""
    falling = [
        trend for trend in of.study.get("trends", [])
        if len(trend["sizes"]) > 3 and trend["high"] is not None and trend["high"] < 0
    ]  # fmt: skip
    noisier = {
        (trend.optimizer, trend.ratio)
        for trend in trends(of.noisier)
        if trend.per_decade.high is not None and trend.per_decade.high < 0
    }
    for name, own in grouped(falling, lambda trend: str(trend["optimizer"])).items():
        if len(own) < 2:
            continue
        ratios = listed([f"{trend['ratio']:g}x" for trend in own])
        drops = ", ".join(f"{100 * math.expm1(trend['per_decade']):.0f} %" for trend in own)
        still = [f"{trend['ratio']:g}x" for trend in own if (name, trend["ratio"]) in noisier]
        yield (
            f"The speedup of {of.named(name)} falls with size under this protocol: at {ratios} its 90 % interval "
            f"excludes that nothing changes ({drops} for ten times the weights); were a run as noisy as "
            f"{ACCEPTED:g}, at {listed(still) if still else 'none of them'}."
        )


def _weak_baseline(of: Evidence) -> Iterator[str]:
    within = [
        one for one in of.study.get("speedups", [])
        if one["ratio"] == SUMMARY_RATIO and one["speedup"] is not None and one["high"] is not None
        and one["optimizer"] in of.study["matrix_beats_scalar"]["scalar"]
    ]  # fmt: skip
    if within:
        low, high = (choose(within, key=lambda one: one["speedup"]) for choose in (min, max))
        yield (
            f"Against a tuned AdamW no scalar optimizer is worth more than {high['speedup']:.2f} times its tokens "
            f"at {SUMMARY_RATIO:g}x ({of.named(high['optimizer'])} at {high['size']}, to {high['high']:.2f} with "
            f"its interval), nor less than {low['speedup']:.2f}."
        )


def _seeds(of: Evidence) -> Iterator[str]:
    if of.noise is None:
        yield "Every setting has one seed and no two runs tell how noisy a loss is: no interval is possible."
        return
    yield (
        f"Seed noise was never measured: every setting has one seed. {of.noise.pairs} pairs of runs that differ "
        f"in nothing but an eps that should not matter end up to {of.noise.largest:.4f} apart, a standard "
        f"deviation of {of.noise.floor.sd:.4f} nats/token, on which all intervals here stand; seed, initial "
        "weights and order of the data were the same in each pair, so that the intervals are too narrow."
    )


def _intervals(of: Evidence) -> Iterator[str]:
    stated = [one for one in of.study.get("speedups", []) if one["speedup"] is not None and one["low"] is not None]
    if not stated:
        return
    open_here = sum(_holds_one(one["low"], one["high"]) for one in stated)
    text = f"{open_here} of {len(stated)} speedups are not told apart from 1 by their 90 % intervals"
    wide = of.noisier.speedups
    open_wide = sum(_holds_one(one.tokens.low, one.tokens.high) for one in wide if one.tokens.value is not None)
    text += f"; {open_wide}, if a run were as noisy as the {ACCEPTED:g} that the authors took for a difference."
    at = [one for one in wide if (one.final.cell.size, one.final.ratio) == (LARGEST, SUMMARY_RATIO)]
    found = [one for one in stated if (one["size"], one["ratio"]) == (LARGEST, SUMMARY_RATIO)]
    if at and found:
        text += f" At {LARGEST}, {SUMMARY_RATIO:g}x, that is "
        widened = {one.final.cell.optimizer: one.tokens for one in at}
        text += "; ".join(
            f"{of.named(one['optimizer'])} {one['speedup']:.2f} [{end(one['low'])}, {end(one['high'])}], "
            f"then [{end(widened[one['optimizer']].low)}, {end(widened[one['optimizer']].high)}]"
            for one in found
        )
        text += "."
    yield text
    worth = [
        (law["size"], law["exponent"] * law["alpha"] * SUMMARY_RATIO ** -law["exponent"])
        for law in of.study.get("laws", [])
        if law["alpha"] is not None
    ]
    if worth:
        of_each = ", ".join(f"{100 * (math.exp(ACCEPTED / slope) - 1):.1f} % ({size})" for size, slope in worth)
        yield f"At {SUMMARY_RATIO:g}x, {ACCEPTED:g} nats/token are worth {of_each} of the tokens."


def _holds_one(low: float | None, high: float | None) -> bool:
    return (low is None or low <= 1) and (high is None or high >= 1)


def _headline(of: Evidence) -> Iterator[str]:
    rows = [row for row in of.study["summary_8x"] if row["speedup"] and row["all_points"]]
    moved = [row for row in rows if abs(row["speedup"] - row["all_points"]) > 5e-3]
    if moved:
        most = max(moved, key=lambda row: (row["published"] is not None, row["speedup"]))
        text = (
            f"The headline of {most['speedup']:.2f} times ({of.named(most['optimizer'])} at {most['size']}, "
            f"{SUMMARY_RATIO:g}x) hangs on which points AdamW's law goes through: the same losses with one more "
            f"point, at 16x, in a law of three numbers give {most['all_points']:.2f}."
        )
        if len(moved) > 1:
            text += (
                f" So it is with all {len(moved)} speedups at the sizes where AdamW was run at 16x; they fall by "
                f"{100 * min(map(_fall, moved)):.0f} to {100 * max(map(_fall, moved)):.0f} %."
            )
        yield text


def _fall(row: Told) -> float:
    return float(1 - row["all_points"] / row["speedup"])


def _ties(of: Evidence) -> Iterator[str]:
    found = [
        cell for cell in of.released.cells
        if (cell.at.size, cell.at.ratio) == (LARGEST, SUMMARY_RATIO) and cell.at.optimizer != BASELINE
    ]  # fmt: skip
    if len(found) > 1 and of.noise is not None:
        gap = max(cell.loss for cell in found) - min(cell.loss for cell in found)
        names = listed([of.named(cell.at.optimizer) for cell in found])
        yield (
            f"At {LARGEST}, {SUMMARY_RATIO:g}x, {names} end within {gap:.1g} nats/token of each other: which of "
            f"them leads there is not known (two runs differ by {of.apart:.4f} in one of ten cases by noise "
            "alone)."
        )


def _crossover(of: Evidence) -> Iterator[str]:
    places = [(cell.at.size, cell.at.ratio) for cell in of.released.cells if cell.at.ratio >= SUMMARY_RATIO]
    gaps = {}
    for size, ratio in dict.fromkeys(places):
        muon, soap = of.loss("muon", size, ratio), of.loss("soap", size, ratio)
        if muon is not None and soap is not None:
            gaps[size, ratio] = muon - soap
    if gaps and of.noise is not None:
        largest, apart = max(map(abs, gaps.values())), of.apart
        inside = sum(abs(gap) <= apart for gap in gaps.values())
        yield (
            f"That SOAP overtakes Muon with more data is not established: from {SUMMARY_RATIO:g}x on they lie at "
            f"most {largest:.4f} apart, in {inside} of {len(gaps)} places within {apart:.4f}, what noise alone "
            f"exceeds in one of ten cases; Muon is lower in {sum(gap < 0 for gap in gaps.values())} of them."
        )


def _seven(of: Evidence) -> Iterator[str]:
    said = []
    for top in (SUMMARY_RATIO, math.inf):
        laws = [_joint(of.released.cells, name, top) for name in (BASELINE, "muon")]
        if any(law is None for law in laws):
            return
        base, muon = (law for law in laws if law is not None)
        tokens = 20 * SEVEN
        said.append((float(muon.loss(SEVEN, tokens) - base.loss(SEVEN, tokens)), base, muon))
    (gap, base, muon), (other, *_) = said
    yield (
        f"That Muon falls behind AdamW at 7B weights (1x) rests on a difference of {gap:+.4f} nats/token between "
        f"two joint laws that miss their own points by {base.rms:.4f} and {muon.rms:.4f}; with the points at 16x "
        f"in the laws it is {other:+.4f}."
    )


def _joint(cells: Sequence[Optimized], optimizer: str, top: float) -> JointLaw | None:
    own = [cell for cell in cells if cell.at.optimizer == optimizer and cell.at.ratio <= top]
    if not own:
        return None
    try:
        return fit_joint(*np.array([(c.weights, c.tokens, c.loss) for c in own], dtype=float).T)
    except BadInput:
        return None
