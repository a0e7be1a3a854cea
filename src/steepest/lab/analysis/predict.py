"""How the best value of a hyperparameter moves with scale, h(N, D), fitted to small models and put to larger ones.

N: non-embedding weights. D: data-to-model ratio, tokens over 20 N. Three forms stand side by side:

offset    alpha * N^A * D^B + beta, by plain least squares as in the code of arXiv 2509.02046 (four numbers; the
          start is beta alone). With A near 0 it turns into a straight line in log N and log D, through zero.
power     log h = a + b log N + c log D, by least squares in which a miss of more than one step of the grid counts
          linearly (Huber), held within one step of the values that were tried. h stays positive.
constant  the median optimum: that nothing moves. A form that does not beat it has learnt nothing.

Each is judged where it was not fitted: at the largest scale (hold-out), and at each in turn (leave-one-out).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from steepest.core.errors import BadInput, MissingExtra

OFFSET, POWER, CONSTANT = "offset", "power", "constant"
LEAST = 5
"""Optima below which no form is fitted: the offset form has four numbers, and one is held out."""

REFIT = 20_000
"""Evaluations that a refit for a miss may take; most take some thousands."""

_REWEIGHTS = 30


@dataclass(frozen=True)
class Optimum:
    """The best ``value`` of one hyperparameter found at one scale."""

    size: str
    weights: int
    ratio: float
    value: float


@dataclass(frozen=True)
class Scale:
    """A scale to predict for."""

    size: str
    weights: int
    ratio: float


class Form(Protocol):
    """A fitted form."""

    def value(self, weights: float, ratio: float) -> float:
        """The prediction; the offset form's may be 0 or negative."""
        ...

    def told(self) -> dict[str, float]:
        """Its numbers, as JSON."""
        ...


@dataclass(frozen=True)
class OffsetForm:
    """alpha * N^weights_power * D^ratio_power + offset."""

    alpha: float
    weights_power: float
    ratio_power: float
    offset: float

    def value(self, weights: float, ratio: float) -> float:
        with np.errstate(all="ignore"):
            moved = self.alpha * np.float64(weights) ** self.weights_power * np.float64(ratio) ** self.ratio_power
            return float(moved + self.offset)

    def told(self) -> dict[str, float]:
        return vars(self).copy()


@dataclass(frozen=True)
class PowerForm:
    """exp(level) * (N / middle)^weights_power * D^ratio_power, held between ``low`` and ``high``."""

    level: float
    middle: float
    weights_power: float
    ratio_power: float
    low: float
    high: float

    def value(self, weights: float, ratio: float) -> float:
        log = (
            self.level + self.weights_power * math.log(weights / self.middle) + self.ratio_power * math.log(ratio)
        )
        return min(max(math.exp(log), self.low), self.high)

    def told(self) -> dict[str, float]:
        return vars(self).copy()


def fit_offset(optima: Sequence[Optimum], evaluations: int = 200_000) -> OffsetForm:
    """The offset form as the paper's code fits it: scipy's curve_fit from (0, -1/2, -1/2, mean).

    Raises BadInput for fewer than LEAST - 1 optima, and for a fit that has not converged after ``evaluations``.
    """
    if len(optima) < LEAST - 1:
        raise BadInput(f"{len(optima)} optima do not fix the four numbers of the offset form: tune at more scales")
    try:
        from scipy.optimize import curve_fit
    except ImportError:
        raise MissingExtra.of("the offset form", "scipy") from None
    x = np.array([(one.weights, one.ratio) for one in optima], dtype=float).T
    y = np.array([one.value for one in optima], dtype=float)

    def form(x: np.ndarray, alpha: float, power: float, other: float, offset: float) -> np.ndarray:
        return alpha * x[0] ** power * x[1] ** other + offset

    start = [0.0, -0.5, -0.5, float(y.mean())]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the covariance cannot be had: it is not used
        try:
            found, _ = curve_fit(form, x, y, p0=start, maxfev=evaluations)
        except (RuntimeError, ValueError, FloatingPointError) as error:
            raise BadInput(f"the offset form finds no fit to {len(y)} optima ({error})") from None
    return OffsetForm(*map(float, found))


def fit_power(optima: Sequence[Optimum], grid: Sequence[float]) -> PowerForm:
    """The power form; what all optima share (one size, one ratio) gets no power. Values must be above 0."""
    y = _logs(optima)
    middle = math.exp(float(np.mean([math.log(one.weights) for one in optima])))
    columns = [np.ones_like(y)]
    logs = [[math.log(one.weights / middle) for one in optima], [math.log(one.ratio) for one in optima]]
    moving = [np.ptp(log) > 0 for log in logs]
    columns += [np.array(log) for log, moves in zip(logs, moving, strict=True) if moves]
    basis = np.stack(columns, axis=1)
    step = math.log(_step(grid))
    weights = np.ones_like(y)
    for _ in range(_REWEIGHTS):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        weights = step / np.maximum(np.abs(y - basis @ found), step)
    powers = iter(found[1:])
    of_weights, of_ratio = (float(next(powers)) if moves else 0.0 for moves in moving)
    wide = widened(grid)
    return PowerForm(float(found[0]), middle, of_weights, of_ratio, wide[0], wide[-1])


def fit_constant(optima: Sequence[Optimum], grid: Sequence[float]) -> PowerForm:
    """That nothing moves: the middle one of the optima, of an even number the upper middle."""
    wide = widened(grid)
    return PowerForm(float(np.sort(_logs(optima))[len(optima) // 2]), 1.0, 0.0, 0.0, wide[0], wide[-1])


def widened(grid: Sequence[float]) -> tuple[float, ...]:
    """The values above 0 of ``grid``, ascending, and one more step at each end, by its last ratio.

    None is added above 1 where all values lie below: a momentum or a share ends there.
    """
    values = sorted({float(value) for value in grid if value > 0})
    if len(values) < 2:
        return tuple(values)
    above = values[-1] ** 2 / values[-2]
    return (values[0] ** 2 / values[1], *values, *((above,) if above <= 1 or values[-1] > 1 else ()))


def rounded(value: float, grid: Sequence[float]) -> float | None:
    """The value of the widened ``grid`` nearest to ``value`` in ratio; None for one that is not above 0."""
    wide = widened(grid)
    if not (math.isfinite(value) and value > 0 and wide):
        return None
    return min(wide, key=lambda known: abs(math.log(known / value)))


def _step(grid: Sequence[float]) -> float:
    """The median ratio of neighbours in the grid; 2 where it has none."""
    values = sorted({float(value) for value in grid if value > 0})
    return float(np.median(np.array(values[1:]) / values[:-1])) if len(values) > 1 else 2.0


def _logs(optima: Sequence[Optimum]) -> np.ndarray:
    if not optima or any(one.value <= 0 for one in optima):
        raise BadInput("a law in logarithms needs values above 0: leave out the scales where 0 is best")
    return np.log([one.value for one in optima])


@dataclass(frozen=True)
class Miss:
    """A prediction at a scale that its fit had not seen. factor: larger over smaller, None where undefined."""

    size: str
    ratio: float
    found: float
    predicted: float | None
    rounded: float | None
    factor: float | None

    def told(self) -> dict[str, Any]:
        return vars(self).copy()


@dataclass(frozen=True)
class Judged:
    """One form of one hyperparameter: its numbers, its misses, its predictions (value, the same on the grid).

    numbers is empty where it could not be fitted.
    """

    form: str
    numbers: Mapping[str, float]
    hold_out: Miss | None
    leave_one_out: tuple[Miss, ...]
    predicted: tuple[tuple[Scale, float | None, float | None], ...]

    @property
    def mean_factor(self) -> float | None:
        """The geometric mean of the leave-one-out factors; None if any is undefined."""
        factors = [math.inf if miss.factor is None else miss.factor for miss in self.leave_one_out]
        mean = math.exp(sum(map(math.log, factors)) / len(factors)) if factors else math.inf
        return mean if math.isfinite(mean) else None

    @property
    def worst_factor(self) -> float | None:
        """The largest of them; None if any is undefined."""
        worst = max((math.inf if miss.factor is None else miss.factor for miss in self.leave_one_out), default=1.0)
        return worst if math.isfinite(worst) else None

    @property
    def hits(self) -> int:
        """How many left-out optima the prediction, rounded to the grid, meets."""
        return sum(miss.rounded == miss.found for miss in self.leave_one_out)

    def told(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "numbers": dict(self.numbers),
            "hold_out": None if self.hold_out is None else self.hold_out.told(),
            "leave_one_out": [miss.told() for miss in self.leave_one_out],
            "mean_factor": self.mean_factor,
            "worst_factor": self.worst_factor,
            "hits": self.hits,
            "predicted": [
                {"size": scale.size, "ratio": scale.ratio, "value": value, "rounded": near}
                for scale, value, near in self.predicted
            ],
        }


def judge(
    optima: Sequence[Optimum],
    grid: Sequence[float],
    scales: Sequence[Scale] = (),
    *,
    forms: Sequence[str] = (OFFSET, POWER, CONSTANT),
    as_published: bool = False,
    left_out: bool = True,
) -> list[Judged]:
    """Every form fitted to ``optima``, judged, and put to ``scales``. Optima at 0 are left out.

    as_published: the offset form's predictions come from a fit without the first and the last optimum, by size and
    then ratio, as in the paper's code; every other prediction from all optima. left_out: whether every optimum is
    left out in turn, which takes a fit for each. Raises BadInput below LEAST optima.
    """
    known = sorted((one for one in optima if one.value > 0), key=lambda one: (one.weights, one.ratio))
    if len(known) < LEAST:
        raise BadInput(
            f"{len(known)} optima above 0 are too few to judge a law by: tune at {LEAST} scales or more"
        )
    fits: dict[str, Callable[[Sequence[Optimum]], Form]] = {
        OFFSET: lambda own: fit_offset(own, REFIT),
        POWER: lambda own: fit_power(own, grid),
        CONSTANT: lambda own: fit_constant(own, grid),
    }
    found = []
    for name in forms:
        fit = fits[name]
        published = as_published and name == OFFSET
        law = _tried(fit_offset if name == OFFSET else fit, known[1:-1] if published else known)
        misses = tuple(
            _miss(fit, known[:place] + known[place + 1 :], one, grid) for place, one in enumerate(known)
        )
        hold_out = _miss(fit, known[1:-1] if published else known[:-1], known[-1], grid)
        predicted = tuple((scale, *_put(law, scale.weights, scale.ratio, grid)) for scale in scales)
        found.append(Judged(name, {} if law is None else law.told(), hold_out, misses, predicted))
    return found


def _tried(fit: Callable[[Sequence[Optimum]], Form], optima: Sequence[Optimum]) -> Form | None:
    try:
        return fit(optima)
    except BadInput:
        return None


def _put(
    law: Form | None, weights: float, ratio: float, grid: Sequence[float]
) -> tuple[float | None, float | None]:
    value = math.nan if law is None else law.value(weights, ratio)
    return (value, rounded(value, grid)) if math.isfinite(value) else (None, None)


def _miss(
    fit: Callable[[Sequence[Optimum]], Form], optima: Sequence[Optimum], at: Optimum, grid: Sequence[float]
) -> Miss:
    value, near = _put(_tried(fit, optima), at.weights, at.ratio, grid)
    factor = None if value is None or value <= 0 else max(value / at.value, at.value / value)
    return Miss(at.size, at.ratio, at.value, value, near, factor)
