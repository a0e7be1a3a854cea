"""Where the order of the optimizers changes along their schedules: from the curves of the runs behind the finals.

Losses before the end of a schedule are no evidence on optimizers (the learning rate has not come down); how often
they mislead is what this counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.lab.analysis.finals import behind
from steepest.lab.analysis.interval import LEVEL, Noise
from steepest.lab.analysis.law import Array
from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.runs import Final, Place, Run
from steepest.lab.analysis.verdict import Flip, rank_flips

THRESHOLD = 3e-3
"""Lead that counts where seeds tell no noise, nats/token: the difference on which Wen et al. (arXiv 2509.02046)
move in their descent, about three times the noise seen in their runs."""
SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Order:
    """How the order at a share of the tokens stands to the order at the end: pairs that are apart at both, and how
    many of them stand the other way round."""

    share: float
    pairs: int
    reversed: int


@dataclass(frozen=True, slots=True)
class RankFlips:
    """One place. tokens[points]; curves: mean losses of each optimizer's ``seeds`` runs there; ``threshold``: the
    lead that counts, nats/token, and where it comes from."""

    place: Place
    weights: int
    tokens: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]
    seeds: Mapping[str, int]
    threshold: float
    origin: str
    flips: tuple[Flip, ...]
    orders: tuple[Order, ...]


def flips(runs: Sequence[Run], finals: Sequence[Final], noise: Noise | None = None) -> list[RankFlips]:
    """Rank flips of every place where the curves of two optimizers or more are known.

    Curves are taken at the evaluations of the run that has the fewest, in the range that all share; one without an
    evaluation there is read between two, straight over the logarithm of the tokens.
    """
    places: dict[Place, dict[str, list[Run]]] = {}
    for run in behind(runs, finals):
        if len(run.curve) > 1:
            places.setdefault(run.cell.place, {}).setdefault(run.optimizer, []).append(run)
    return [_of_place(place, of, noise) for place, of in places.items() if len(of) > 1]


def _of_place(place: Place, of: Mapping[str, list[Run]], noise: Noise | None) -> RankFlips:
    every = [np.array(run.curve, dtype=float).T for members in of.values() for run in members]
    first, last = max(curve[0, 0] for curve in every), min(curve[0, -1] for curve in every)
    grid = min(every, key=lambda curve: curve.shape[1])[0]
    grid = grid[(grid >= first) & (grid <= last)]
    means = {name: np.mean([_read(run, grid) for run in members], axis=0) for name, members in of.items()}
    seeds = {name: len(members) for name, members in of.items()}
    threshold, origin = _threshold(noise, min(seeds.values()))
    curves = {name: tuple(curve.tolist()) for name, curve in means.items()}
    weights = next(iter(of.values()))[0].weights
    found = tuple(rank_flips(grid, curves, threshold))
    orders = _orders(grid, np.array(list(means.values())), threshold) if len(grid) else ()
    return RankFlips(place, weights, tuple(grid.tolist()), curves, seeds, threshold, origin, found, orders)


def _read(run: Run, grid: Array) -> Array:
    tokens, losses = np.array(run.curve, dtype=float).T
    return np.interp(np.log(grid), np.log(tokens), losses)


def _threshold(noise: Noise | None, seeds: int) -> tuple[float, str]:
    if noise is None:
        return THRESHOLD, "no seed noise is known"
    spread = student_t((1 + LEVEL) / 2, noise.own_freedom) * noise.own_sd * math.sqrt(2 / seeds)
    return spread, f"the noise of the ends over {seeds} seed{'s' * (seeds > 1)}"


def _orders(grid: Array, losses: Array, threshold: float) -> tuple[Order, ...]:
    """losses[optimizers, points]."""

    def leads(values: Array) -> np.ndarray:
        gap = values[:, None] - values[None]
        return np.triu(np.where(np.abs(gap) > threshold, np.sign(gap), 0), 1)

    end, told = leads(losses[:, -1]), []
    for share in SHARES:
        wanted = np.log(share * grid[-1])
        if wanted < np.log(grid[0]):
            continue
        there = leads(np.array([np.interp(wanted, np.log(grid), curve) for curve in losses]))
        told.append(Order(share, int(np.sum((end != 0) & (there != 0))), int(np.sum(end * there < 0))))
    return tuple(told)
