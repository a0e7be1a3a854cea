"""The noise floor: how far final losses of one setting lie apart when nothing that matters was changed.

Three sources, best first. Runs of several optimizers over the same seeds tell what a seed shares with all of them
and what not (:func:`seed_noise`, the model of ``interval.py``). Repeated seeds of any setting tell each
optimizer's own spread (:func:`floors`), and whether one number may stand for all (:func:`same_spread`). Where
every run has one seed, runs that are equal but for a hyperparameter that cannot matter, such as an eps far below
every gradient, tell at least what rounding does to the end of a run (:func:`irrelevant`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import LEVEL, Noise, pooled_noise
from steepest.lab.analysis.quantile import chi_square
from steepest.lab.analysis.runs import Cell, Final, Run, Scalar, by_cell, by_setting, grouped
from steepest.lab.analysis.significance import sign_flip

SAMPLES = 10_000
"""Normal samples that the p-value of :func:`same_spread` is counted in."""


@dataclass(frozen=True)
class Floor:
    """Spread of runs around the mean of their setting, nats/token.

    optimizer: "" where it is pooled over several. low, high: ends of the interval of ``sd`` at ``level``, for
    normal losses. freedom: runs less settings.
    """

    optimizer: str
    sd: float
    low: float
    high: float
    freedom: float
    settings: int
    runs: int
    level: float = LEVEL


class Repeats(NamedTuple):
    """One setting of a cell that ended two times or more: final losses, nats/token, in the order of the seeds.

    seeds: None where they are not known, and so shared with nothing.
    """

    cell: Cell
    losses: tuple[float, ...]
    seeds: tuple[int, ...] | None


def repeats(evidence: Iterable[Run] | Iterable[Final]) -> list[Repeats]:
    """All that was repeated among runs, or among finals, whose settings are those that matter.

    A run of unknown seed repeats nothing: two such runs may be one run told twice.
    """
    found: list[Repeats] = []
    runs: list[Run] = []
    for item in evidence:
        if isinstance(item, Run):
            runs.append(item)
        elif len(item.losses) > 1:
            seeds = tuple(seed for seed in item.seeds if seed is not None)
            known = len(seeds) == len(item.losses)
            order = sorted(range(len(seeds)), key=seeds.__getitem__) if known else range(len(item.losses))
            losses = tuple(item.losses[place] for place in order)
            found.append(Repeats(item.cell, losses, tuple(sorted(seeds)) if known else None))
    for cell, of_cell in by_cell(runs).items():
        for same in by_setting(of_cell).values():
            ended = {run.seed: run.loss for run in same if run.seed is not None and run.loss is not None}
            if len(ended) > 1:
                seeds = tuple(sorted(ended))
                found.append(Repeats(cell, tuple(ended[seed] for seed in seeds), seeds))
    return found


def floors(repeated: Iterable[Repeats], level: float = LEVEL) -> list[Floor]:
    """The floor of every optimizer that repeated a setting, in whatever cells."""
    parts: dict[str, list[tuple[float, int]]] = {}
    for cell, losses, _ in repeated:
        mean = math.fsum(losses) / len(losses)
        square = math.fsum((loss - mean) ** 2 for loss in losses)
        parts.setdefault(cell.optimizer, []).append((square, len(losses)))
    found = []
    for optimizer, settings in parts.items():
        square, count = (math.fsum(column) for column in zip(*settings, strict=True))
        found.append(_floor(optimizer, square, int(count) - len(settings), len(settings), int(count), level))
    return found


def pooled_floor(found: Sequence[Floor], level: float = LEVEL) -> Floor | None:
    """One floor for all optimizers, weighted by their degrees of freedom; None for none."""
    if not found:
        return None
    freedom = sum(floor.freedom for floor in found)
    square = sum(floor.sd**2 * floor.freedom for floor in found)
    return _floor("", square, freedom, sum(f.settings for f in found), sum(f.runs for f in found), level)


def sd_interval(sd: float, freedom: float, level: float = LEVEL) -> tuple[float, float]:
    """Where a standard deviation may lie that ``freedom`` degrees of freedom estimate as ``sd``, losses normal."""
    if not (math.isfinite(sd) and sd >= 0 and freedom > 0):
        raise BadInput(f"sd {sd} with {freedom} degrees of freedom: give a finite sd and freedom above 0")
    low, high = (chi_square((1 + sign * level) / 2, freedom) for sign in (1, -1))
    return sd * math.sqrt(freedom / low), sd * math.sqrt(freedom / high)


def _floor(optimizer: str, square: float, freedom: float, settings: int, runs: int, level: float) -> Floor:
    sd = math.sqrt(square / freedom)
    return Floor(optimizer, sd, *sd_interval(sd, freedom, level), freedom, settings, runs, level)


@dataclass(frozen=True)
class Spread:
    """Whether optimizers differ in noise: Bartlett's ``statistic``, its ``p``, and both in words."""

    statistic: float
    p: float
    text: str


def same_spread(found: Sequence[Floor], level: float = LEVEL, random_state: int = 0) -> Spread | None:
    """Bartlett's test (1937) that all optimizers have one sd; None for fewer than two floors.

    Its p-value is counted in simulated normal losses of the same degrees of freedom: with the two or three that
    seeds leave, the chi-square table misleads, and so does Levene's test, whose medians of three lie on a point.
    What seeds share makes the floors alike, so that p errs on the high side; losses with heavier tails than normal
    make it too low.
    """
    if len(found) < 2:
        return None
    freedom = np.array([floor.freedom for floor in found])
    random = np.random.default_rng(random_state)
    drawn = random.chisquare(freedom, (SAMPLES, freedom.size)) / freedom
    statistic = float(_bartlett(np.array([[floor.sd**2 for floor in found]]), freedom)[0])
    p = float((1 + np.count_nonzero(_bartlett(drawn, freedom) >= statistic)) / (1 + SAMPLES))
    low, high = min(found, key=lambda f: f.sd), max(found, key=lambda f: f.sd)
    if p < 1 - level:
        text = f"the optimizers do not share one noise: from {low.sd:.2g} ({low.optimizer}) to {high.sd:.2g} "
        text += f"nats/token ({high.optimizer}); a pooled interval is too wide for some and too narrow for others"
    else:
        text = f"one noise for all optimizers is not contradicted (from {low.sd:.2g} to {high.sd:.2g} nats/token)"
    text += f": Bartlett's statistic {statistic:.3g}, p = {p:.2g} from {SAMPLES:,} normal samples"
    return Spread(statistic, p, text)


def _bartlett(variances: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Bartlett's statistic of ``variances[samples, groups]``."""
    total, tiny = freedom.sum(), np.finfo(float).tiny
    mean = (variances * freedom).sum(axis=1) / total
    spread = total * np.log(np.maximum(mean, tiny)) - (freedom * np.log(np.maximum(variances, tiny))).sum(axis=1)
    return spread / (1 + (np.sum(1 / freedom) - 1 / total) / (3 * (freedom.size - 1)))


def seed_noise(repeated: Iterable[Repeats]) -> Noise | None:
    """The noise of all that was repeated (:func:`pooled_noise`); None where nothing was.

    Settings of one place over the same seeds are one table, so that what a seed shares with all of them is told
    apart from what it does not.
    """
    tables = [[row.losses for row in rows] for rows in tabled(repeated).values()]
    return pooled_noise(*tables) if tables else None


def tabled(repeated: Iterable[Repeats]) -> dict[tuple[object, ...], list[Repeats]]:
    """What was repeated at one place over the same seeds, together; what has no known seeds, alone."""
    tables: dict[tuple[object, ...], list[Repeats]] = {}
    for number, row in enumerate(repeated):
        key = (number,) if row.seeds is None else (row.cell.place, row.seeds)
        tables.setdefault(key, []).append(row)
    return tables


@dataclass(frozen=True)
class Irrelevant:
    """Noise from runs that are equal but for a hyperparameter declared irrelevant, nats/token.

    floor: spread of the losses that differ; pairs of the same bits are one computation and are left out of it.
    pairs, identical: how many pairs there are, and how many end on the same bits. largest: gap of a pair. groups:
    of runs equal but for it. shift: mean loss at a group's largest value less that at its smallest; shift_p: exact
    sign-flip value against no shift. None where values have no order or no group differs.
    """

    name: str
    values: tuple[Scalar, ...]
    floor: Floor
    groups: int
    pairs: int
    identical: int
    largest: float
    shift: float | None
    shift_p: float | None

    @property
    def noise(self) -> Noise:
        """As seed noise. It is a lower bound: seed, initial weights and order of the data were the same."""
        return Noise.given(self.floor.sd, self.floor.freedom)


def irrelevant(
    runs: Iterable[Run],
    name: str,
    *,
    values: Collection[Scalar] | None = None,
    optimizers: Collection[str] | None = None,
    level: float = LEVEL,
) -> Irrelevant:
    """Noise read off ``name``, at ``values`` of it and in ``optimizers`` where it is declared not to matter (all).

    That it does not matter is the caller's claim; ``shift_p`` is what the data say to it. BadInput where no two
    runs are equal but for it, or all that are end on the same bits.
    """
    gaps, shifts, seen = [], [], set()
    square, freedom, groups, identical, count = 0.0, 0, 0, 0, 0
    chosen = [
        run
        for run in runs
        if run.loss is not None
        and name in run.hyperparameters
        and (values is None or run.hyperparameters[name] in values)
        and (optimizers is None or run.optimizer in optimizers)
    ]
    for same in grouped(chosen, lambda run: (run.cell, run.seed, _others(run, name))).values():
        losses = {run.hyperparameters[name]: run.loss for run in same if run.loss is not None}
        if len(losses) < 2:
            continue
        ended = np.array([*losses.values()])
        apart = np.abs(ended[:, None] - ended)[np.triu_indices(ended.size, 1)]
        gaps += apart.tolist()
        identical += int(np.count_nonzero(apart == 0))
        distinct = np.unique(ended)
        square += float(np.sum((distinct - distinct.mean()) ** 2))
        freedom += distinct.size - 1
        groups, count = groups + 1, count + ended.size
        seen |= set(losses)
        if all(isinstance(value, int | float) for value in losses):
            shifts.append(losses[max(losses)] - losses[min(losses)])  # type: ignore[type-var]
    if not gaps:
        raise BadInput(f"no two finished runs are equal but for {name}: name a hyperparameter that was swept")
    if freedom == 0:
        raise BadInput(f"all {len(gaps)} pairs that differ in {name} alone end on the same bits: no noise to read")
    moved = [shift for shift in shifts if shift != 0]
    return Irrelevant(
        name,
        tuple(sorted(seen, key=lambda value: (str(type(value)), value))),
        _floor("", square, freedom, groups, count, level),
        groups,
        len(gaps),
        identical,
        max(gaps),
        float(np.mean(shifts)) if shifts else None,
        sign_flip(moved) if moved else None,
    )


def _others(run: Run, name: str) -> tuple[tuple[str, Scalar], ...]:
    return tuple(sorted(item for item in run.hyperparameters.items() if item[0] != name))
