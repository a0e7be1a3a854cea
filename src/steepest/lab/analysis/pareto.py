"""Quality, time and memory side by side, and which optimizers nothing else beats in all three.

Of each optimizer: the final loss, the seconds of a run that reached it (median over its runs: training and
evaluation on the machines that made them, comparable as far as those were alike) and the bytes of state per
weight. One is *dominated* by another that is worse in none of what is known of both and better in one. Losses
within the noise of a difference, and seconds within 2 %, are alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from steepest.lab.analysis.finals import behind
from steepest.lab.analysis.flips import THRESHOLD
from steepest.lab.analysis.interval import LEVEL, Noise
from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.runs import Final, Place, Run, by_cell

ALIKE = 0.02
"""Relative difference of seconds that tells nothing apart."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One optimizer at one place. seconds: of a run; step_seconds: of one of its steps; dominated_by: names."""

    optimizer: str
    loss: float
    seconds: float | None
    step_seconds: float | None
    state_bytes: float | None
    dominated_by: tuple[str, ...] = ()

    @property
    def front(self) -> bool:
        """Whether no other optimizer dominates it."""
        return not self.dominated_by


@dataclass(frozen=True, slots=True)
class Front:
    """One place; standings by loss. alike: the difference of losses that tells nothing apart, nats/token."""

    place: Place
    weights: int
    alike: float
    standings: tuple[Standing, ...]


def fronts(runs: Sequence[Run], finals: Sequence[Final], noise: Noise | None = None) -> list[Front]:
    """The front of every place that has a final of two optimizers or more."""
    made = by_cell(behind(runs, finals))
    places: dict[Place, list[Final]] = {}
    for final in finals:
        places.setdefault(final.cell.place, []).append(final)
    told = []
    for place, members in places.items():
        if len(members) < 2:
            continue
        alike = _alike(noise, min(len(final.losses) for final in members))
        found = sorted((_standing(final, made.get(final.cell, [])) for final in members), key=lambda one: one.loss)
        told.append(Front(place, members[0].weights, alike, tuple(dominance(found, alike))))
    return told


def dominance(found: Sequence[Standing], alike: float) -> list[Standing]:
    """The same standings, each with the names of those that dominate it."""
    return [
        Standing(
            one.optimizer,
            one.loss,
            one.seconds,
            one.step_seconds,
            one.state_bytes,
            tuple(other.optimizer for other in found if other is not one and dominates(other, one, alike)),
        )
        for one in found
    ]


def dominates(one: Standing, other: Standing, alike: float) -> bool:
    """Whether ``one`` is worse in nothing that is known of both, and better in something."""
    signs = [_sign(one.loss - other.loss, alike)]
    if one.seconds is not None and other.seconds is not None:
        signs.append(_sign(one.seconds - other.seconds, ALIKE * max(one.seconds, other.seconds)))
    if one.state_bytes is not None and other.state_bytes is not None:
        signs.append(_sign(one.state_bytes - other.state_bytes, 1e-6))
    return max(signs) <= 0 and min(signs) < 0


def _sign(gap: float, alike: float) -> int:
    return 0 if abs(gap) <= alike else int(math.copysign(1, gap))


def _alike(noise: Noise | None, seeds: int) -> float:
    if noise is None:
        return THRESHOLD
    return student_t((1 + LEVEL) / 2, noise.own_freedom) * noise.own_sd * math.sqrt(2 / seeds)


def _standing(final: Final, runs: Sequence[Run]) -> Standing:
    seconds = [run.seconds for run in runs if run.seconds is not None]
    steps = [run.seconds / run.steps for run in runs if run.seconds is not None and run.steps]
    held = [run.state_bytes for run in runs if run.state_bytes is not None]
    took, each, kept = (median(part) if part else None for part in (seconds, steps, held))
    return Standing(final.cell.optimizer, final.loss, took, each, kept)
