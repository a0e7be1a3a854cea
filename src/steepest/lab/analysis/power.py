"""How many seeds a difference takes, and how small a one a study could have seen.

The comparison is that of a race: two optimizers over the same seeds, the difference of their mean losses against
the noise that runs do not share under a seed, Student's t, two-sided. Were the difference ``gap``, the statistic
has the noncentral t distribution with noncentrality gap / (sd · sqrt(2 / seeds)) (Cohen, Statistical Power
Analysis, 1988, chapter 2), and power is its share beyond the critical values. The distribution is scipy's. What is
planned here is a difference of losses at one budget; a speedup also carries the fit of the baseline's law.

A share of tokens becomes a difference through the slope of the law, -dL / d ln D at the budget: the loss that is
worth e-fold tokens. Training on ``1 + share`` times the tokens is worth slope · ln(1 + share).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import LEVEL
from steepest.lab.analysis.law import POINTS, fit
from steepest.lab.analysis.noise import sd_interval
from steepest.lab.analysis.quantile import shifted_t, student_t
from steepest.lab.analysis.runs import Final, Place

MOST = 10_000_000
"""Seeds past which none are counted."""


@dataclass(frozen=True)
class Design:
    """How a difference is judged.

    level: of the two-sided interval, so that 1 - level is the share of false alarms. power: wanted share of true
    differences that are told. optimizers, places: over whose runs the noise is pooled: with n seeds it has
    places · (optimizers - 1)(n - 1) degrees of freedom, beside those by which it was ``known`` before.
    comparisons: made together; each is judged at 1 - (1 - level) / comparisons (Bonferroni), which Holm's rule
    never falls short of.
    """

    level: float = LEVEL
    power: float = 0.8
    optimizers: int = 2
    comparisons: int = 1
    places: int = 1
    known: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise BadInput(f"level {self.level}: give a share between 0 and 1, such as 0.9")
        if not 1 - self.level < self.power < 1:
            raise BadInput(f"power {self.power}: give a share between {1 - self.level:.3g} and 1, such as 0.8")
        if self.optimizers < 2:
            raise BadInput(f"{self.optimizers} optimizer compares with nothing: plan with 2 or more")
        if self.comparisons < 1 or self.places < 1:
            raise BadInput(f"{self.comparisons} comparisons at {self.places} places: give 1 or more of each")

    def freedom(self, seeds: int) -> float:
        """Degrees of freedom of the pooled noise."""
        return self.known + self.places * (self.optimizers - 1) * (seeds - 1)

    def critical(self, freedom: float) -> float:
        """What the t statistic must exceed."""
        return student_t(1 - (1 - self.level) / self.comparisons / 2, freedom)


def power(gap: float, sd: float, seeds: int, design: Design) -> float:
    """Share of studies of so many ``seeds`` that tell a true difference ``gap`` (nats/token) from none.

    sd: of what one run does not share with the other optimizer under its seed.
    """
    _checked(sd, seeds, design)
    return _told(abs(gap) / (sd * math.sqrt(2 / seeds)), seeds, design)


def detectable(sd: float, seeds: int, design: Design) -> float:
    """The smallest difference (nats/token) that so many ``seeds`` tell with the design's power."""
    _checked(sd, seeds, design)
    low, high = 0.0, 4.0
    while _told(high, seeds, design) < design.power:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _told(middle, seeds, design) >= design.power else (middle, high)
    return high * sd * math.sqrt(2 / seeds)


def seeds_needed(gap: float, sd: float, design: Design) -> int | None:
    """The fewest seeds that tell ``gap`` with the design's power; None past ten million."""
    least = 1 if design.freedom(1) > 0 else 2
    _checked(sd, least, design)
    if not (math.isfinite(gap) and gap != 0):
        raise BadInput(f"difference {gap}: give a finite loss difference that is not 0, such as 0.003")

    def enough(seeds: int) -> bool:
        return power(gap, sd, seeds, design) >= design.power

    low, high = least - 1, least
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _told(shift: float, seeds: int, design: Design) -> float:
    left = design.freedom(seeds)
    critical = design.critical(left)
    return 1 - shifted_t(critical, left, shift) + shifted_t(-critical, left, shift)


def _checked(sd: float, seeds: int, design: Design) -> None:
    if not (math.isfinite(sd) and sd > 0):
        raise BadInput(f"sd {sd}: give a finite standard deviation above 0, in nats/token, such as 0.004")
    if seeds < 1 or design.freedom(seeds) <= 0:
        raise BadInput(f"{seeds} seed tells nothing about seed noise: plan with 2 or more")


def gap_of(share: float, slope: float) -> float:
    """Loss difference (nats/token) that ``1 + share`` times the tokens are worth."""
    if not (math.isfinite(slope) and slope > 0):
        raise BadInput(f"slope {slope}: give the loss worth e-fold tokens, -dL / d ln D, above 0, such as 0.06")
    if not (math.isfinite(share) and share > -1 and share != 0):
        raise BadInput(f"share of tokens {share}: give a finite share that is not 0, such as 0.01 for 1 %")
    return slope * math.log1p(share)


def share_of(gap: float, slope: float) -> float:
    """The share of tokens that a loss difference is worth; infinite where no finite number of tokens buys it."""
    try:
        return math.expm1(gap / slope)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Needed:
    """Seeds that a difference takes. low, high: at the ends of the interval of the sd; None: past ten million."""

    gap: float
    share: float | None
    seeds: int | None
    low: int | None
    high: int | None


@dataclass(frozen=True)
class Seen:
    """The smallest difference that so many seeds tell, in nats/token and as a share of tokens.

    low, high: at the ends of the interval of the sd.
    """

    seeds: int
    gap: float
    low: float | None
    high: float | None
    share: float | None


def needed(
    gap: float, sd: float, design: Design, *, freedom: float | None = None, slope: float | None = None
) -> Needed:
    """:func:`seeds_needed` with what is left open by an sd that has ``freedom`` degrees of freedom."""
    low: int | None = None
    high: int | None = None
    if freedom is not None:
        low, high = (seeds_needed(gap, end, design) for end in sd_interval(sd, freedom, design.level))
    share = None if slope is None else share_of(abs(gap), slope)
    return Needed(gap, share, seeds_needed(gap, sd, design), low, high)


def seen(
    sd: float, seeds: int, design: Design, *, freedom: float | None = None, slope: float | None = None
) -> Seen:
    """:func:`detectable` with what is left open by an sd that has ``freedom`` degrees of freedom."""
    gap = detectable(sd, seeds, design)
    low, high = (
        (None, None) if freedom is None else (gap * end / sd for end in sd_interval(sd, freedom, design.level))
    )
    return Seen(seeds, gap, low, high, None if slope is None else share_of(gap, slope))


def slopes(finals: Sequence[Final], baseline: str) -> dict[Place, float]:
    """-dL / d ln D of the baseline's law at each of its places, where a size has the budgets that a law takes."""
    by_size: dict[tuple[str, str], list[Final]] = {}
    for final in finals:
        if final.cell.optimizer == baseline:
            by_size.setdefault((final.cell.size, final.cell.variant), []).append(final)
    found: dict[Place, float] = {}
    for points in by_size.values():
        tokens = [point.cell.tokens for point in points]
        if len(set(tokens)) < POINTS:
            continue
        law = fit(tokens, [point.loss for point in points], weights=[len(point.losses) for point in points])
        if law.alpha > 0:
            found |= {point.cell.place: float(law.slope(point.cell.tokens)) for point in points}
    return found
