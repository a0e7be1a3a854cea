"""Joint search: configurations that differ in everything at once, of points of the unit cube or by Optuna.

    quasi   a permuted Halton sequence; every dimension of the cube belongs to one name, so that searches over
            unlike spaces see the same points in what they share
    tpe     Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011)
    gp      Optuna's Gaussian process

The start comes first; a configuration that was there already is replaced by the next point. Samplers begin with
the points of ``quasi``, propose in batches, and are told that a run which diverged had the worst finite loss.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from steepest.core.errors import BadInput, MissingExtra, UnknownName
from steepest.lab.analysis.runs import Scalar
from steepest.lab.study.asking import TrialFailed
from steepest.lab.study.search import Ask, Key, Losses, checked, key, ordered, rounded, tried
from steepest.lab.study.trial import Space, Values
from steepest.lab.study.tuners.halton import halton

SAMPLERS = ("quasi", "tpe", "gp")
FIRST = 10
"""Points of the cube before a sampler's first proposal: Optuna's default for both."""

BLOCK = 256
"""Points that are made at once."""


@dataclass(frozen=True)
class Joint:
    """runs: of a search, those that diverged among them. sampler: "quasi", "tpe" or "gp". batch: proposals of a
    sampler at once. continuous: between the ends of a grid of fractions above 0 every value of three digits,
    uniform in its logarithm (where the whole grid is between 1/2 and 1, in that of the distance to 1)."""

    runs: int = 40
    sampler: str = "quasi"
    batch: int = 5
    continuous: bool = False

    def __post_init__(self) -> None:
        for name in ("runs", "batch"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}={getattr(self, name)}: give at least 1 run")
        if self.sampler not in SAMPLERS:
            raise UnknownName.among("sampler", self.sampler, SAMPLERS)
        if self.sampler != "quasi" and importlib.util.find_spec("optuna") is None:
            raise MissingExtra.of(f"sampler={self.sampler!r}", "optuna", "samplers")


@dataclass(frozen=True)
class Axis:
    """A grid as an interval of the unit cube. low, high: of the transformed values where it is continuous."""

    grid: tuple[Scalar, ...]
    low: float | None = None
    high: float | None = None
    mirrored: bool = False

    @classmethod
    def of(cls, grid: Sequence[Scalar], continuous: bool) -> Axis:
        """Whole numbers stay on their grid: a batch between two others ends in no whole number of steps."""
        grid = tuple(grid)
        if not continuous or len(grid) < 2 or not all(isinstance(v, float) and v > 0 for v in grid):
            return cls(grid)
        ends: list[float] = sorted((grid[0], grid[-1]))  # type: ignore[arg-type]
        mirrored = ends[0] > 0.5 and ends[1] < 1
        low, high = (math.log(1 - v if mirrored else v) for v in ends)
        return cls(grid, low, high, mirrored)

    def at(self, place: float) -> Scalar:
        """The value at a place in [0, 1)."""
        if self.low is None or self.high is None:
            return self.grid[int(place * len(self.grid))]
        value = rounded(math.exp(self.low + place * (self.high - self.low)))
        return round(1 - value, 9) if self.mirrored else value

    def place(self, value: Scalar) -> float | None:
        """Where a value lies in [0, 1), a grid's in the middle of its cell; None if outside."""
        if self.low is None or self.high is None:
            return (self.grid.index(value) + 0.5) / len(self.grid) if value in self.grid else None
        inner = 1 - value if self.mirrored else value  # type: ignore[operator]
        place = (math.log(inner) - self.low) / (self.high - self.low) if inner > 0 else -1.0  # type: ignore[arg-type, operator]
        return min(max(place, 0.0), math.nextafter(1, 0)) if -1e-2 < place < 1.01 else None


def points(
    space: Space, start: Values, rule: Joint, names: Sequence[str], seed: int, begin: int = 0
) -> Iterator[Values]:
    """The start, then the configurations of the sequence, each once; ends where a grid holds no other.

    names: of the cube's dimensions, all of the space among them. A value of the start that no grid holds stays at
    the start. begin: of the sequence.
    """
    axes = {name: Axis.of(grid, rule.continuous) for name, grid in space.items()}
    columns = {name: list(names).index(name) for name in axes}
    yield dict(start)
    seen, whole = {key(start)}, configurations(space, start, rule)
    while len(seen) < whole:
        for point in halton(begin, BLOCK, len(names), seed):
            values = {**start, **{name: axis.at(float(point[columns[name]])) for name, axis in axes.items()}}
            if key(values) not in seen:
                seen.add(key(values))
                yield values
        begin += BLOCK


def configurations(space: Space, start: Values, rule: Joint) -> float:
    """How many there are, the start among them; infinite where an axis is continuous."""
    if any(Axis.of(grid, rule.continuous).low is not None for grid in space.values()):
        return math.inf
    outside = any(start[name] not in grid for name, grid in space.items())
    return math.prod(len(grid) for grid in space.values()) + outside


def search(
    space: Space, start: Values, ask: Ask, rule: Joint | None = None, names: Sequence[str] = (), seed: int = 0
) -> Generator[Any, Any, Losses]:
    """Joint search; returns the losses of ``rule.runs`` runs, in their order.

    names: of the cube's dimensions; () is the space's own. What cannot be run is replaced like what was there
    already, ``rule.runs`` times at most.

    Raises: BadInput for more runs than configurations; TrialFailed where none could be run.
    """
    rule = rule or Joint()
    checked(space, start)
    if (whole := configurations(space, start, rule)) < rule.runs:
        raise BadInput(
            f"runs={rule.runs}: a space of {', '.join(space)} has {whole:.0f} configurations: "
            "take fewer runs, longer grids, or continuous = true"
        )
    losses: Losses = {}
    done: set[Key] = set()
    further = points(space, start, rule, names or tuple(space), seed)
    while len(losses) < rule.runs and len(done) < 2 * rule.runs:
        wanted = _wanted(space, rule, losses, done, further, seed)
        if not wanted:
            break
        done |= {key(values) for values in wanted}
        try:
            losses |= yield from tried(ask, wanted)
        except TrialFailed:
            if not losses and len(done) >= rule.runs:
                raise
    return losses


def _wanted(
    space: Space, rule: Joint, losses: Losses, done: set[Key], further: Iterator[Values], seed: int
) -> list[Values]:
    """What to run next, nothing of it run before."""
    left = rule.runs - len(losses)
    own: dict[Key, Values] = {}
    if rule.sampler == "quasi":
        count = left
    elif len(losses) < FIRST:
        count = min(left, FIRST - len(losses))
    else:
        count = min(left, rule.batch)
        found = proposed(space, rule, losses, count, seed + len(done))
        own = {key(values): values for values in found if key(values) not in done}
    new = (values for values in further if key(values) not in done and key(values) not in own)
    return [*own.values(), *islice(new, count - len(own))]


def proposed(
    space: Space, rule: Joint, losses: Mapping[Key, float], count: int, seed: int
) -> list[dict[str, Scalar]]:
    """What Optuna's sampler would run after these losses; a pure function of its arguments."""
    optuna: Any = importlib.import_module("optuna")  # seconds, and an extra
    axes = {name: Axis.of(grid, rule.continuous) for name, grid in space.items()}
    kinds = {name: _distribution(axis, optuna.distributions) for name, axis in axes.items()}
    finite = [loss for loss in losses.values() if math.isfinite(loss)]
    worst = max(finite, default=0.0)
    samplers, quiet = optuna.samplers, optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler: Any = (
                samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True)
                if rule.sampler == "tpe"
                else samplers.GPSampler(seed=seed, n_startup_trials=1)
            )
            study = optuna.create_study(sampler=sampler)
            for setting, loss in losses.items():
                told = {name: _param(axis, dict(setting)[name]) for name, axis in axes.items()}
                if None not in told.values():
                    value = loss if math.isfinite(loss) else worst
                    study.add_trial(optuna.trial.create_trial(params=told, distributions=kinds, value=value))
            asked = [study.ask(kinds) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(quiet)
    rest = dict(next(iter(losses)))
    return [{**rest, **{name: _value(axes[name], trial.params[name]) for name in axes}} for trial in asked]


def _distribution(axis: Axis, distributions: Any) -> Any:
    if axis.low is not None:
        return distributions.FloatDistribution(0.0, 1.0)
    if ordered(axis.grid):
        return distributions.IntDistribution(0, len(axis.grid) - 1)
    return distributions.CategoricalDistribution(list(range(len(axis.grid))))


def _param(axis: Axis, value: Scalar) -> float | int | None:
    if axis.low is not None:
        return axis.place(value)
    return axis.grid.index(value) if value in axis.grid else None


def _value(axis: Axis, param: float | int) -> Scalar:
    return axis.at(min(param, math.nextafter(1, 0))) if axis.low is not None else axis.grid[int(param)]
