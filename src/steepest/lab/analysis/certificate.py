"""Certificates: whether the winner of a cell is a local optimum of its search space, and what is missing if not.

A neighbour is the winner with one hyperparameter at another value of its grid (the one-step neighbour of Wen et
al., arXiv 2509.02046). A hyperparameter is bracketed where a worse value was tried on both sides of the winner's;
one at the end of its grid is at an edge. The winner is certified where every neighbour was tried, none is better
beyond the noise, and no hyperparameter is at an edge. Each neighbour is judged alone, without correction for their
number: that withholds a certificate rather than granting one. Pairs of hyperparameters moved together are not
looked at: a certified winner may lie beside a better one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.finals import finals_of
from steepest.lab.analysis.interval import LEVEL, Interval, Noise, difference, unpaired_difference
from steepest.lab.analysis.runs import DIVERGED, UNFINISHED, Cell, Run, Scalar, by_setting

BETTER, WORSE, TIED = "better", "worse", "within noise"
BRACKETED, FLAT, UNTRIED, LOW, HIGH = "bracketed", "flat", "untried", "low edge", "high edge"

SHARES = ("cooldown",)
"""Hyperparameters that end at 1."""

FACE = "no noise is known: gaps are taken at face value"

LISTED = 32
"""Values of a grid that the document lists; of a longer one it holds the number."""

Grid = Mapping[str, Sequence[Scalar]]


@dataclass(frozen=True)
class Neighbour:
    """The winner with one hyperparameter at ``value``. gap: its loss less the winner's, None where it diverged.

    standing: better, worse or within noise.
    """

    value: Scalar
    standing: str
    gap: float | None
    runs: int


@dataclass(frozen=True)
class Coordinate:
    """One hyperparameter of the search, at the winner's ``value``.

    standing: "better" (a neighbour is), "low edge" or "high edge" of the grid, "untried" (nothing on one side),
    "flat" (nothing better, and nothing worse beyond the noise on one side), else "bracketed". Values without an
    order (names, switches) have one side. bound: the winner's value is one that the hyperparameter cannot pass
    (a decay of 0, no clipping), which is no edge. grid: in its order.
    """

    name: str
    value: Scalar
    standing: str
    bound: bool
    grid: tuple[Scalar, ...]
    tried: tuple[Neighbour, ...]
    untried: tuple[Scalar, ...]


@dataclass(frozen=True)
class Certificate:
    """What stands behind the winner of a cell.

    certified: None where there is nothing to certify. reasons: what is missing, in words. loss, seeds: of the
    winner. inferred: no search space was given; it is taken as the values tried, and an edge is one of all that
    was tried. settings: that were tried; space: that the grids span. tokens, flops, seconds: spent on all runs of
    the cell, tokens as if each had come to its end, the others of the runs that recorded them.
    """

    cell: Cell
    ratio: float
    winner: Mapping[str, Scalar]
    loss: float | None
    seeds: int
    certified: bool | None
    reasons: tuple[str, ...]
    coordinates: tuple[Coordinate, ...]
    inferred: bool
    noise: str
    runs: int
    diverged: int
    unfinished: int
    settings: int
    tokens: int
    flops: float | None
    seconds: float | None

    @property
    def space(self) -> int:
        """Settings that the grids span."""
        return math.prod(len(coordinate.grid) for coordinate in self.coordinates)

    @property
    def neighbours(self) -> int:
        """One-step neighbours, tried or not."""
        return sum(len(coordinate.grid) - 1 for coordinate in self.coordinates)

    @property
    def tried(self) -> int:
        """One-step neighbours tried."""
        return sum(len(coordinate.tried) for coordinate in self.coordinates)

    @property
    def text(self) -> str:
        """The verdict in one line, such as ``not certified: lr at the low edge; 3 of 12 neighbours not tried``."""
        if self.certified is None:
            return f"uncertified: {'; '.join(self.reasons)}"
        if not self.certified:
            return f"not certified: {'; '.join(self.reasons)}"
        closed = [c for c in self.coordinates if c.standing == BRACKETED]
        count = len(self.coordinates)
        if len(closed) == count:
            said = f"bracketed in {'its one coordinate' if count == 1 else f'all {count} coordinates'}"
        else:
            said = f"bracketed in {len(closed)} of {count} coordinates, flat in "
            said += ", ".join(c.name for c in self.coordinates if c.standing == FLAT)
        return f"certified: locally optimal, {said}" + (f" ({FACE})" if self.noise == FACE else "")

    def told(self) -> dict[str, Any]:
        """As a flat piece of the evidence document."""
        standings = [near.standing for coordinate in self.coordinates for near in coordinate.tried]
        return {
            **self.cell._asdict(),
            "ratio": self.ratio,
            "certified": self.certified,
            "text": self.text,
            "reasons": list(self.reasons),
            "winner": dict(self.winner),
            "loss": self.loss,
            "seeds": self.seeds,
            "inferred": self.inferred,
            "noise": self.noise,
            "neighbours": {
                "all": self.neighbours,
                "tried": self.tried,
                "better": standings.count(BETTER),
                "worse": standings.count(WORSE),
                "within_noise": standings.count(TIED),
            },
            "space": {"coordinates": len(self.coordinates), "settings": self.space},
            "coordinates": [_told(coordinate) for coordinate in self.coordinates],
            "runs": self.runs,
            "diverged": self.diverged,
            "unfinished": self.unfinished,
            "settings": self.settings,
            "spent_tokens": self.tokens,
            "spent_flops": self.flops,
            "spent_seconds": self.seconds,
        }


def certificate(
    runs_of_cell: Sequence[Run],
    space: Grid | None = None,
    noise: Noise | float | None = None,
    *,
    winner: Mapping[str, Scalar] | None = None,
    level: float = LEVEL,
) -> Certificate:
    """The certificate of one cell. ``runs_of_cell``: one or more, all of one cell.

    space: the grid of each hyperparameter that was searched; if None, all values tried, of those that vary. noise:
    decides between better, worse and neither at ``level``; a number is taken as the gap (nats/token) below which
    losses are not told apart; without, gaps are taken at face value. winner: the setting to certify; if None, the
    one that the cell's final loss rests on (:func:`~steepest.lab.analysis.finals.finals_of`).
    """
    first, settings = runs_of_cell[0], by_setting(runs_of_cell)
    if winner is None:
        found = finals_of(runs_of_cell)
        winner = found[0].values if found else {}
    strange = [name for name in space or () if winner and name not in winner]
    if strange:
        raise BadInput(
            f"the search space holds {strange[0]}, which no winner of {first.optimizer} has: "
            f"name hyperparameters of its runs ({', '.join(winner)})"
        )
    own, near = _around(runs_of_cell, winner)
    grids = _grids(runs_of_cell, winner) if space is None else space if winner else {}
    judge = _Judge(own, noise, level)
    coordinates = []
    for name, grid in grids.items():
        tried = near.get(name, {})
        every = _ordered(name, {*grid, *tried, winner[name]})
        if len(every) > 1:
            coordinates.append(_coordinate(name, winner[name], every, tried, judge))
    ended = [run.loss for run in own if run.loss is not None]
    certified, reasons = _verdict(coordinates, bool(ended))
    flops = [run.flops for run in runs_of_cell if run.flops is not None]
    seconds = [run.seconds for run in runs_of_cell if run.seconds is not None]
    return Certificate(
        cell=first.cell,
        ratio=first.ratio,
        winner=winner,
        loss=fmean(ended) if ended else None,
        seeds=len({run.seed for run in own if run.loss is not None}),
        certified=certified,
        reasons=reasons,
        coordinates=tuple(coordinates),
        inferred=space is None,
        noise=judge.text,
        runs=len(runs_of_cell),
        diverged=sum(run.status == DIVERGED for run in runs_of_cell),
        unfinished=sum(run.status == UNFINISHED for run in runs_of_cell),
        settings=len(settings),
        tokens=sum(run.tokens for run in runs_of_cell),
        flops=sum(flops) if flops else None,
        seconds=sum(seconds) if seconds else None,
    )


_ABSENT = object()


def _around(
    runs: Sequence[Run], winner: Mapping[str, Scalar]
) -> tuple[list[Run], dict[str, dict[Scalar, list[Run]]]]:
    """The winner's runs, and those one step away by hyperparameter and value; what did not end was not tried."""
    own: list[Run] = []
    near: dict[str, dict[Scalar, list[Run]]] = {}
    for run in runs:
        if run.status == UNFINISHED:
            continue
        values = run.hyperparameters
        apart = [name for name, value in winner.items() if values.get(name, _ABSENT) != value]
        if len(apart) > 1 or len(values) > len(winner) or (len(apart) == 1 and apart[0] not in values):
            continue
        if apart:
            near.setdefault(apart[0], {}).setdefault(values[apart[0]], []).append(run)
        else:
            own.append(run)
    return own, near


def _grids(runs: Sequence[Run], winner: Mapping[str, Scalar]) -> dict[str, tuple[Scalar, ...]]:
    """All values that the runs of a cell tried, of each hyperparameter of the winner."""
    seen: dict[str, set[Scalar]] = {name: set() for name in winner}
    for run in runs:
        for name, value in run.hyperparameters.items():
            if name in seen:
                seen[name].add(value)
    return {name: tuple(values) for name, values in seen.items()}


def _ordered(name: str, values: set[Scalar]) -> tuple[Scalar, ...]:
    if _has_order(values):
        return tuple(sorted(values, key=lambda value: _place(name, value)))
    return tuple(sorted(values, key=lambda value: (str(type(value)), str(value))))


def _has_order(values: Sequence[Scalar] | set[Scalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _place(name: str, value: Any) -> float:
    """Where a number stands on its axis: a norm clipped to 0 means no clipping, and lies above every other."""
    return math.inf if name == "clip" and value == 0 else float(value)


class _Judge:
    """Tells a neighbour's runs from the winner's."""

    def __init__(self, own: Sequence[Run], noise: Noise | float | None, level: float) -> None:
        self.noise, self.level = noise, level
        self.losses = [run.loss for run in own if run.loss is not None]
        self.by_seed = _by_seed(own)
        if isinstance(noise, Noise):
            self.text = f"a gap counts beyond the {100 * level:g} % interval of the noise (sd {noise.own_sd:.2g})"
        elif noise is not None:
            self.text = f"a gap counts beyond {noise:g} nats/token"
        else:
            self.text = FACE

    def __call__(self, value: Scalar, runs: Sequence[Run]) -> Neighbour:
        losses = [run.loss for run in runs if run.loss is not None]
        if not losses or not self.losses:
            return Neighbour(value, WORSE if self.losses else TIED, None, len(runs))
        theirs = _by_seed(runs)
        common = [*(self.by_seed.keys() & theirs.keys())]
        pair = (
            ([theirs[s] for s in common], [self.by_seed[s] for s in common]) if common else (losses, self.losses)
        )
        if isinstance(self.noise, Noise):
            gap = (difference if common else unpaired_difference)(*pair, self.noise, self.level)
        else:
            middle, margin = fmean(pair[0]) - fmean(pair[1]), self.noise or 0.0
            gap = Interval(middle, middle - margin, middle + margin, self.level)
        standing = TIED if not gap.excludes(0) else BETTER if (gap.value or 0.0) < 0 else WORSE
        return Neighbour(value, standing, gap.value, len(runs))


def _by_seed(runs: Sequence[Run]) -> dict[int, float]:
    return {run.seed: run.loss for run in runs if run.seed is not None and run.loss is not None}


def _coordinate(
    name: str, value: Scalar, grid: tuple[Scalar, ...], tried: Mapping[Scalar, Sequence[Run]], judge: _Judge
) -> Coordinate:
    near = {other: judge(other, tried[other]) for other in grid if other in tried}
    place, ordered = grid.index(value), _has_order(grid)
    sides = [grid[:place], grid[place + 1 :]] if ordered else [grid[:place] + grid[place + 1 :]]
    bound = ordered and (
        (place == 0 and value == 0)
        or (place == len(grid) - 1 and (math.isinf(_place(name, value)) or (name in SHARES and value == 1)))
    )
    seen = [{near[other].standing for other in side if other in near} for side in sides]
    if any(BETTER in standings for standings in seen):
        standing = BETTER
    elif ordered and not bound and not sides[0]:
        standing = LOW
    elif ordered and not bound and not sides[1]:
        standing = HIGH
    elif any(side and not standings for side, standings in zip(sides, seen, strict=True)):
        standing = UNTRIED
    elif all(WORSE in standings for side, standings in zip(sides, seen, strict=True) if side):
        standing = BRACKETED
    else:
        standing = FLAT
    untried = tuple(other for other in grid if other != value and other not in near)
    return Coordinate(name, value, standing, bound, grid, tuple(near.values()), untried)


def _verdict(coordinates: Sequence[Coordinate], ended: bool) -> tuple[bool | None, tuple[str, ...]]:
    if not ended:
        return None, ("no run of the winner's setting came to its end",)
    if not coordinates:
        return None, ("nothing was varied around it",)
    reasons = []
    for coordinate in coordinates:
        ahead = [near for near in coordinate.tried if near.standing == BETTER]
        if ahead:
            best = min(ahead, key=lambda near: near.gap or 0.0)
            reasons.append(f"{coordinate.name} {_word(best.value)} is better by {-(best.gap or 0.0):.4f}")
        elif coordinate.standing in (LOW, HIGH):
            reasons.append(f"{coordinate.name} at the {coordinate.standing}")
    missing = sum(len(coordinate.untried) for coordinate in coordinates)
    if missing:
        every = sum(len(coordinate.grid) - 1 for coordinate in coordinates)
        reasons.append(f"{missing} of {every} neighbours not tried")
    return not reasons, tuple(reasons)


def _word(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told(coordinate: Coordinate) -> dict[str, Any]:
    tried = [{"value": n.value, "standing": n.standing, "gap": n.gap, "runs": n.runs} for n in coordinate.tried]
    return {
        "name": coordinate.name,
        "value": coordinate.value,
        "standing": coordinate.standing,
        "bound": coordinate.bound,
        "values": len(coordinate.grid),
        "grid": list(coordinate.grid) if len(coordinate.grid) <= LISTED else None,
        "tried": tried,
        "untried": len(coordinate.untried),
    }
