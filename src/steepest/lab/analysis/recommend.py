"""What the evidence at hand says about a training that nobody has made: which optimizer, and how sure that is.

What is carried over to another size and length is the difference of two optimizers at one place, never a loss, and
in the unit of what tokens are worth there: a difference divided by the baseline's -dL / d ln D is about the
logarithm of a speedup, and keeps its meaning where all losses draw together. It is taken as linear in the
logarithms of size and data-to-model ratio, with slopes that are small until the cells say otherwise: an advantage
may vanish or double over a decade (a normal prior whose standard deviation is the root mean square of the
differences, and at least 0.1). So cells of several sizes show their trend, a single race says little about a
decade beyond it, and the interval says how little. For scale: the speedup of Muon that Wen et al. (arXiv
2509.02046) print falls from 1.38 to 1.10, two thirds of its logarithm, over one decade of size. Nats per token
come back with the worth of tokens at the target, which about halves over a decade.

Grade of the evidence behind one optimizer, the worst of four:

=====  ==============================  ================  ====================  ==============================
grade  nearest common cell of it and   seeds of both     learning rate there   common places, unless one lies
       the baseline (decades of size   there                                   within 0.3 decades
       or ratio, the larger)
=====  ==============================  ================  ====================  ==============================
A      0.3, a factor of 2              3 or more         setting certified     6, two sizes and ratios in them
B      1                               2                 bracketed             3
C      2                               1                 at an edge, unknown   2
D      beyond                                                                  1
=====  ==============================  ================  ====================  ==============================

A is strong, B fair, C weak, D a hint. Two optimizers whose expected difference's interval holds 0 are tied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import LEVEL, Interval
from steepest.lab.analysis.outcomes import Known, Outcome
from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT, Scalar
from steepest.lab.analysis.verdict import BASELINE, REFUSED, TIE

BETTER, WORSE = "better", "worse"
GRADES = {"A": "strong", "B": "fair", "C": "weak", "D": "a hint"}
NEAR = 0.3
"""Decades within which a cell is taken as being at the target."""
SLOPE, OFF = 0.1, 0.05
"""Of differences in e-folds of the baseline's tokens: least slope per decade; how far a cell may lie off."""
WORTH, FALL, FALLS = 0.15, -0.7, 0.5
"""-dL / d ln D where no law and no two budgets tell it (0.12 to 0.21 nats/token from 130m to 1.2b weights at ratio
1, arXiv 2509.02046), and how its logarithm moves over a decade of size or ratio: on average, give or take."""
TINY = 1e-12
PLAIN_BYTES = 8
"""Of a weight and its gradient in float32."""


class Target(NamedTuple):
    """Non-embedding weights and training tokens."""

    weights: float
    tokens: float

    @property
    def ratio(self) -> float:
        """Tokens over 20 per weight."""
        return self.tokens / (TOKENS_PER_WEIGHT * self.weights)


@dataclass(frozen=True, slots=True)
class Advice:
    """One optimizer at the target.

    rank: 1 for the lowest expected loss and all that are tied with it, else its place; None where it does not fit
    or was never compared. gap: expected loss less the baseline's, nats/token; speedup: in tokens. word: better,
    worse or not told apart, against the baseline. nearest: its cell nearest to the target; values: the
    hyperparameters that won there; scaled: those whose drift is known, carried to the target. memory: bytes of
    weights, gradients and state. apart: decades of weights and of ratio from the nearest common cell.
    """

    optimizer: str
    label: str
    rank: int | None
    word: str
    gap: Interval
    speedup: Interval
    nearest: Outcome
    values: Mapping[str, Scalar]
    scaled: Mapping[str, Interval]
    memory: float | None
    fits: bool | None
    grade: str
    reasons: tuple[str, ...]
    places: int
    apart: tuple[float, float] | None


def recommend(
    known: Known,
    target: Target,
    *,
    limit: float | None = None,
    needs: Callable[[str], float | None] = lambda optimizer: None,
) -> list[Advice]:
    """Every optimizer of the evidence, the best expected first, those that do not fit or were never compared last.

    limit: bytes for weights, gradients and state. needs: these bytes for an optimizer, where they are known
    exactly; else 8 and the state's bytes that its runs measured, per weight. Raises BadInput for a target that is
    not positive, or evidence without a finished cell of the baseline.
    """
    if not (target.weights > 0 and target.tokens > 0 and math.isfinite(target.weights * target.tokens)):
        raise BadInput(f"{target.weights:g} weights and {target.tokens:g} tokens: give both above 0")
    of: dict[str, list[Outcome]] = {}
    for outcome in known.outcomes:
        of.setdefault(outcome.optimizer, []).append(outcome)
    if known.baseline not in of:
        raise BadInput(f"no cell of the baseline {known.baseline} is finished: nothing to measure others against")
    memory = {name: _memory(found, target, needs(name)) for name, found in of.items()}
    fits = {name: None if limit is None or held is None else held <= limit for name, held in memory.items()}
    gaps = {name: difference(found, of[known.baseline], target) for name, found in of.items()}
    able = [name for name in of if fits[name] is not False and gaps[name].value is not None]
    able.sort(key=lambda name: gaps[name].value or 0.0)
    ranks = _ranks(able, of, target)
    advice = [
        _advice(known, name, of, target, gaps[name], ranks.get(name), memory[name], fits[name]) for name in of
    ]
    order = {name: (ranks[name], place) for place, name in enumerate(able)}
    return sorted(advice, key=lambda one: order.get(one.optimizer, (len(of) + (one.fits is False), 0)))


def difference(one: Sequence[Outcome], other: Sequence[Outcome], target: Target) -> Interval:
    """Expected loss of one optimizer less the other's at the target from their common places, in e-folds of the
    baseline's tokens."""
    if one is other:
        return Interval(0.0, 0.0, 0.0)
    pairs = _common(one, other)
    if not pairs:
        return Interval(None, None, None, LEVEL, ("never compared at one place",))
    points = []
    for a, b in pairs:
        worth = a.worth or WORTH
        points.append((a, (a.loss - b.loss) / worth, math.hypot(a.error, b.error) / worth))
    spread = max(SLOPE, math.sqrt(sum(value**2 for _, value, _ in points) / len(points)))
    return _interval(*carried(points, target, spread, OFF))


def in_nats(gap: Interval, base: Sequence[Outcome], target: Target) -> Interval:
    """A difference in e-folds as nats/token, by the baseline's worth of tokens at the target."""
    if gap.value is None or gap.low is None or gap.high is None:
        return gap
    points = [(cell, math.log(cell.worth or WORTH), 0.0 if cell.worth else FALLS) for cell in base]
    value, sd = carried(points, target, FALLS, OFF, FALL)
    # Either end with the worth that takes it farther out; the sign is the difference's, whatever it is worth.
    far = {sign: math.exp(value + sign * _z() * sd) for sign in (-1, 1)}
    low, high = gap.low * far[1 if gap.low < 0 else -1], gap.high * far[1 if gap.high > 0 else -1]
    return Interval(gap.value * math.exp(value), low, high, gap.level, gap.flags)


def _z() -> float:
    return student_t((1 + LEVEL) / 2, 1e9)


def _interval(value: float, sd: float) -> Interval:
    return Interval(value, value - _z() * sd, value + _z() * sd)


def carried(
    points: Sequence[tuple[Outcome, float, float]], target: Target, slope: float, off: float, fall: float = 0.0
) -> tuple[float, float]:
    """Mean and standard deviation at the target of what was measured in cells, as (cell, value, error).

    Bayesian linear regression whose origin is the target. fall, slope: prior mean and standard deviation of the
    slopes per decade of weights and of ratio; off: how far a cell away from the target may lie off the plane.
    Where cells scatter more than they should, the variance is widened by as much.
    """
    x = np.array([[1.0, *_decades(cell, target)] for cell, *_ in points])
    y = np.array([value for _, value, _ in points]) - fall * x[:, 1:].sum(axis=1)
    # At a cell itself there is no plane to lie off.
    away = np.minimum(1.0, np.hypot(x[:, 1], x[:, 2]) / NEAR)
    weight = 1 / (np.array([error for *_, error in points]) ** 2 + off**2 * away + TINY)
    covariance = np.linalg.inv((x * weight[:, None]).T @ x + np.diag([0.0, slope**-2, slope**-2]))
    mean = covariance @ (x.T @ (weight * y))
    excess = float(np.sum(weight * (y - x @ mean) ** 2)) / max(1, len(y) - 1)
    return float(mean[0]), math.sqrt(float(covariance[0, 0]) * max(1.0, excess))


def _decades(cell: Outcome, target: Target) -> tuple[float, float]:
    """Of weights and of ratio, from the target to the cell."""
    return math.log10(cell.weights / target.weights), math.log10(cell.ratio / target.ratio)


def _far(cell: Outcome, target: Target) -> float:
    return math.hypot(*_decades(cell, target))


def _common(one: Sequence[Outcome], other: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    there = {outcome.place: outcome for outcome in other}
    return [(outcome, there[outcome.place]) for outcome in one if outcome.place in there]


def _ranks(able: Sequence[str], of: Mapping[str, Sequence[Outcome]], target: Target) -> dict[str, int]:
    """1 for the lowest and what is tied with it; the others by their place."""
    ranks = {}
    for place, name in enumerate(able, 1):
        gap = difference(of[name], of[able[0]], target)
        tied = gap.value is None or not gap.excludes(0)
        ranks[name] = 1 if tied or place == 1 else place
    return ranks


def _memory(found: Sequence[Outcome], target: Target, exact: float | None) -> float | None:
    if exact is not None:
        return exact
    held = [outcome for outcome in found if outcome.state_bytes is not None]
    if not held:
        return None
    nearest = min(held, key=lambda outcome: _far(outcome, target))
    return target.weights * (PLAIN_BYTES + (nearest.state_bytes or 0.0))


def _advice(
    known: Known,
    name: str,
    of: Mapping[str, Sequence[Outcome]],
    target: Target,
    gap: Interval,
    rank: int | None,
    memory: float | None,
    fits: bool | None,
) -> Advice:
    found = of[name]
    nearest = min(found, key=lambda outcome: _far(outcome, target))
    word = BASELINE if name == known.baseline else TIE
    if gap.value is None:
        word = REFUSED
    elif gap.excludes(0):
        word = BETTER if gap.value < 0 else WORSE
    speedup = Interval(1.0, 1.0, 1.0) if name == known.baseline else _speedup(found, target)
    pairs = _common(found, of[known.baseline])
    grade, reasons, apart = graded(pairs, target)
    return Advice(
        optimizer=name,
        label=nearest.label,
        rank=rank,
        word=word,
        gap=in_nats(gap, of[known.baseline], target),
        speedup=speedup,
        nearest=nearest,
        values=dict(nearest.best),
        scaled=_scaled(nearest, target, known.slopes.get(name, {})),
        memory=memory,
        fits=fits,
        grade=grade,
        reasons=tuple(reasons),
        places=len(pairs),
        apart=apart,
    )


def _speedup(found: Sequence[Outcome], target: Target) -> Interval:
    points = [(outcome, *outcome.speedup) for outcome in found if outcome.speedup is not None]
    if not points:
        return Interval(None, None, None, LEVEL, ("no speedup is stated in any cell",))
    spread = max(SLOPE, math.sqrt(sum(value**2 for _, value, _ in points) / len(points)))
    value, sd = carried(points, target, spread, OFF)
    return Interval(math.exp(value), math.exp(value - _z() * sd), math.exp(value + _z() * sd))


def graded(
    pairs: Sequence[tuple[Outcome, Outcome]], target: Target
) -> tuple[str, list[str], tuple[float, float] | None]:
    """Grade of the evidence from cells common with the baseline, what holds it there, and how far the nearest."""
    if not pairs:
        return "D", ["never compared with the baseline at one place"], None
    own, base = min(pairs, key=lambda pair: _far(pair[0], target))
    size, ratio = (abs(gap) for gap in _decades(own, target))
    apart, seeds = max(size, ratio), min(own.seeds, base.seeds)
    sizes, ratios = {a.weights for a, _ in pairs}, {f"{a.ratio:.2g}" for a, _ in pairs}
    broad = len(pairs) >= 6 and len(sizes) > 1 and len(ratios) > 1
    found = [
        ("A" if apart <= NEAR else "B" if apart <= 1 else "C" if apart <= 2 else "D", _distance(own, target)),
        ("A" if seeds >= 3 else "B" if seeds == 2 else "C", f"{seeds} seed{'s' * (seeds != 1)} there"),
        (_tuning(own, base), _tuned(own, base)),
        (
            "A" if apart <= NEAR or broad else "B" if len(pairs) >= 3 else "C" if len(pairs) == 2 else "D",
            f"{len(pairs)} place{'s' * (len(pairs) != 1)} with both"
            + (f", {len(sizes)} size{'s' * (len(sizes) != 1)}" if len(pairs) > 1 else ""),
        ),
    ]
    worst = max(grade for grade, _ in found)
    held = [reason for grade, reason in found if grade == worst and worst != "A"]
    return worst, held or [reason for _, reason in found], (size, ratio)


def _distance(cell: Outcome, target: Target) -> str:
    size, ratio = (abs(gap) for gap in _decades(cell, target))
    where = f"{cell.size} at {cell.ratio:.2g}x data"
    if max(size, ratio) <= NEAR:
        return f"measured close by, {where}"
    parts = [f"{gap:.1f} decades of {what}" for gap, what in ((size, "weights"), (ratio, "ratio")) if gap > 0.05]
    return f"carried over {' and '.join(parts)} from {where}"


def _tuning(own: Outcome, base: Outcome) -> str:
    if own.certified and base.certified:
        return "A"
    return "B" if own.bracketed and base.bracketed else "C"


def _tuned(own: Outcome, base: Outcome) -> str:
    if own.certified and base.certified:
        return "both settings certified there"
    if own.bracketed and base.bracketed:
        return "learning rates bracketed, settings not certified"
    loose = dict.fromkeys(one.label for one in (own, base) if not one.bracketed)
    return f"learning rate of {' and '.join(loose)} not bracketed there"


def _scaled(
    nearest: Outcome, target: Target, slopes: Mapping[str, tuple[tuple[float, float, float] | None, ...]]
) -> dict[str, Interval]:
    """Values whose drift with size is known, moved from the nearest cell to the target."""
    steps = tuple(-gap for gap in _decades(nearest, target))
    if max(map(abs, steps)) < 0.05:
        return {}
    found = {}
    for name, both in slopes.items():
        value = nearest.best.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0 or both[0] is None:
            continue
        known = [(slope, step) for slope, step in zip(both, steps, strict=True) if slope is not None]
        middle = sum(slope[1] * step for slope, step in known)
        low = sum(min(slope[0] * step, slope[2] * step) for slope, step in known)
        high = sum(max(slope[0] * step, slope[2] * step) for slope, step in known)
        found[name] = Interval(value * 10.0**middle, value * 10.0**low, value * 10.0**high)
    return found
