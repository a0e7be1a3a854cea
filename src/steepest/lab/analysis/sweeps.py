"""Runs that differ in one hyperparameter alone, found among all that were made.

A *setting* is one choice of every hyperparameter; its runs differ in seed alone. A *sweep* is a line through the
settings of a cell: one hyperparameter varies, all others stand still. For each hyperparameter one line is taken:
the one through the cell's best setting if at least three values were tried on it, otherwise the one with the most
values (the lowest loss among equals), so that a sweep made before the last coordinate moved is found as well;
``above`` says how far it lies from the cell's best.

Losses of one comparison are means over the same seeds: those that all its settings share. Where they share none,
each setting has the mean of its own, and ``seeds`` is empty.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from steepest.lab.analysis.runs import UNFINISHED, Cell, Run, Scalar, by_cell, by_setting

LOG, MEMORY, STEPS, NAMES = "log", "memory", "steps", "names"
UNITS = {LOG: "decades", MEMORY: "decades of 1/(1 - value)", STEPS: "steps of the grid", NAMES: ""}
"""What a length on each axis is measured in. ``memory`` is for averages that keep a share: 1/(1 - beta) is how
many steps they look back. ``steps`` counts tried values, for those that are zero or negative somewhere."""
ENOUGH = 3
"""Values on a line that can bracket a best one."""

Items = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One choice of every hyperparameter and how its runs ended.

    ends: final loss of each seed (mean where a seed has several runs), infinite where a run diverged.
    """

    values: Items
    ends: Mapping[int | None, float]
    runs: tuple[Run, ...]

    def loss(self, seeds: Collection[int | None] = ()) -> float:
        """Mean over ``seeds``, over all of its own where it lacks one of them or none are named."""
        wanted = seeds if seeds and all(seed in self.ends for seed in seeds) else self.ends
        return sum(self.ends[seed] for seed in wanted) / len(wanted)


def settings(runs: Iterable[Run]) -> list[Setting]:
    """The settings of one cell's runs that ended, in order of first appearance."""
    found = []
    for values, members in by_setting(run for run in runs if run.status != UNFINISHED).items():
        if len(members) == 1:
            ends = {members[0].seed: members[0].ranked}
        else:
            by_seed: dict[int | None, list[float]] = {}
            for run in members:
                by_seed.setdefault(run.seed, []).append(run.ranked)
            ends = {seed: sum(losses) / len(losses) for seed, losses in by_seed.items()}
        found.append(Setting(values, ends, tuple(members)))
    return found


def most_held(found: Iterable[Setting]) -> tuple[int | None, ...]:
    """The seeds that the most settings have: the tuning's, where only the winners were repeated."""
    counts = Counter(seed for setting in found for seed in setting.ends)
    most = max(counts.values(), default=0)
    return tuple(seed for seed, count in counts.items() if count == most)


def shared(found: Sequence[Setting]) -> tuple[int | None, ...]:
    """The seeds that all settings have, ascending."""
    common = set(found[0].ends).intersection(*(setting.ends for setting in found)) if found else set()
    return tuple(sorted(common, key=lambda seed: -1 if seed is None else seed))


@dataclass(frozen=True, slots=True)
class Point:
    """One tried value. losses: nats/token in the order of the sweep's seeds, or of its own where none are shared;
    empty if a run of it diverged. place: where it lies on the axis, None for a value without one.
    """

    value: Scalar
    place: float | None
    losses: tuple[float, ...]
    runs: tuple[str, ...]

    @property
    def loss(self) -> float | None:
        """Their mean; None: diverged."""
        return sum(self.losses) / len(self.losses) if self.losses else None


@dataclass(frozen=True, slots=True)
class Sweep:
    """One hyperparameter varied in one cell, ``others`` held.

    points: in order of place, those without a place last. best: the one of the lowest loss, None if all diverged;
    edge: ``low`` or ``high`` where it is the outermost one tried. seeds: shared by all points. above: the lowest
    loss here minus the cell's lowest, nats/token, 0 where the line runs through the cell's best; None if all
    diverged.
    """

    cell: Cell
    weights: int
    name: str
    axis: str
    points: tuple[Point, ...]
    best: Point | None
    edge: str | None
    others: Mapping[str, Scalar]
    seeds: tuple[int | None, ...]
    above: float | None

    @property
    def bracketed(self) -> bool:
        """Whether a worse value was tried on either side of the best; always for an axis of names."""
        return self.best is not None and (
            self.axis == NAMES or (self.best.place is not None and self.edge is None)
        )


def axis_of(name: str, values: Iterable[Scalar]) -> str:
    """The axis on which the tried values of a hyperparameter are compared."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < 2:
        return NAMES
    if ("momentum" in name or name.startswith("beta") or name.endswith("beta")) and all(
        0 <= value < 1 for value in numbers
    ):
        return MEMORY
    return LOG if all(value > 0 for value in numbers) else STEPS


def is_number(value: Scalar) -> TypeGuard[float]:
    """A finite number; True and False are names."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def place_of(axis: str, value: Scalar) -> float | None:
    """Where a value lies on an axis of continuous places; None on the others."""
    if axis == LOG and is_number(value):
        return math.log10(value)
    if axis == MEMORY and is_number(value):
        return -math.log10(1 - value)
    return None


def value_at(axis: str, place: float) -> float | None:
    """The value at a place; None for steps, whose places lie between tried values."""
    if axis == LOG:
        return 10.0**place
    return 1 - 10.0**-place if axis == MEMORY else None


def sweeps(runs: Iterable[Run], least: int = 2) -> list[Sweep]:
    """One sweep for every cell and hyperparameter of which ``least`` or more values were tried on one line."""
    return [sweep for cell, members in by_cell(runs).items() for sweep in _of_cell(cell, members, least)]


def _of_cell(cell: Cell, runs: Sequence[Run], least: int) -> list[Sweep]:
    found = settings(runs)
    seeds = most_held(found)
    ranked = [setting.loss(seeds) for setting in found]
    best = min(range(len(found)), key=ranked.__getitem__, default=None)
    if best is None:
        return []
    chosen = []
    for name, lines in _lines(found).items():
        tried = [line for line in lines if len(line) >= least]
        if tried:
            line = max(tried, key=lambda line: _preference(line, best, ranked))
            lowest = min(ranked[k] for k in line)
            above = lowest - ranked[best] if math.isfinite(lowest) else None
            chosen.append(_sweep(cell, name, [found[k] for k in line], above))
    return sorted(chosen, key=lambda sweep: (sweep.name != "lr", sweep.name))


def _preference(line: Sequence[int], best: int, ranked: Sequence[float]) -> tuple[bool, int, float]:
    lowest = min(ranked[k] for k in line)
    return best in line and len(line) >= ENOUGH, len(line), -lowest


def _lines(found: Sequence[Setting]) -> dict[str, list[list[int]]]:
    """For each hyperparameter that varies, the settings that differ in it alone, as lists of their numbers."""
    codes: dict[str, dict[Scalar, int]] = {}
    for setting in found:
        for name, value in setting.values:
            codes.setdefault(name, {}).setdefault(value, len(codes[name]) + 1)
    stated = Counter(name for setting in found for name, _ in setting.values)
    names = [name for name, tried in codes.items() if len(tried) > 1 or stated[name] < len(found)]
    varying = {name: place for place, name in enumerate(names)}
    lines: dict[str, dict[tuple[int, ...], list[int]]] = {name: {} for name in varying}
    # What a run does not state has code 0: it differs from every value, and has no place on a line of its own.
    for number, setting in enumerate(found):
        row = [0] * len(varying)
        for name, value in setting.values:
            if name in varying:
                row[varying[name]] = codes[name][value]
        for name, place in varying.items():
            if row[place]:
                lines[name].setdefault((*row[:place], *row[place + 1 :]), []).append(number)
    return {name: list(of.values()) for name, of in lines.items()}


def _sweep(cell: Cell, name: str, line: Sequence[Setting], above: float | None) -> Sweep:
    seeds = shared(line)
    values = [dict(setting.values)[name] for setting in line]
    axis = axis_of(name, values)
    steps = {value: float(k) for k, value in enumerate(sorted(v for v in values if is_number(v)))}
    points = []
    for value, setting in zip(values, line, strict=True):
        losses = tuple(setting.ends[seed] for seed in seeds or setting.ends)
        place = place_of(axis, value)
        if axis == STEPS and is_number(value):
            place = steps[value]
        kept = losses if all(math.isfinite(loss) for loss in losses) else ()
        points.append(Point(value, place, kept, tuple(run.run for run in setting.runs)))
    points.sort(key=lambda point: (point.place is None, point.place or 0.0))
    ended = [(point.loss, k) for k, point in enumerate(points) if point.losses]
    _, at = min(ended, default=(None, None))
    placed = sum(point.place is not None for point in points)
    edge = "low" if at == 0 else "high" if at == placed - 1 else None
    return Sweep(
        cell=cell,
        weights=line[0].runs[0].weights,
        name=name,
        axis=axis,
        points=tuple(points),
        best=None if at is None else points[at],
        edge=edge if placed > 1 else None,
        others={key: value for key, value in line[0].values if key != name},
        seeds=seeds,
        above=above,
    )
