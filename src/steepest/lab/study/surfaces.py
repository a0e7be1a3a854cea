"""Synthetic loss surfaces with known optima, for judging tuners by what real ones are hard for.

    loss = 3 + sum_i bend_i · bowl(lean_i · y_i),   y = mix · (x - best),   x in grid steps (``ruler.py``)

A bowl is quadratic near its bottom, and where it leans (k > 0) exponential above and linear below, as a loss is in
the learning rate. ``mix`` couples hyperparameters; a cliff is a bound on y_0 (lr and what stands beside it) above
which runs diverge. Where the optimum lies, where a tuner starts and how steep all is, is drawn from a seed.

Noise has sd 1e-3, that of published runs (arXiv 2509.02046, pairs that differ in an epsilon); a factor of 2 in lr
costs about 0.02 nats/token there. Regret is without noise, over the lowest loss that any configuration has.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from steepest.lab.study.asking import Asking, Course
from steepest.lab.study.ruler import Ruler
from steepest.lab.study.search import Key
from steepest.lab.study.trial import Space, Values

NOISE = 1e-3
FLOOR = 3.0
LRS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
DECAYS = (0.025, 0.05, 0.1, 0.2, 0.4)
BETA1 = (0.8, 0.9, 0.95, 0.98, 0.99)
BETA2 = (0.9, 0.95, 0.98, 0.99, 0.995)
WARMUPS = (0.02, 0.05, 0.1, 0.2, 0.4)
BATCHES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Surface:
    """A surface. best: the optimum in grid steps. cliff: the greatest y_0 that does not diverge."""

    name: str
    space: Space
    start: Values
    best: tuple[float, ...]
    bend: tuple[float, ...]
    lean: tuple[float, ...]
    mix: tuple[tuple[float, ...], ...]
    cliff: float = math.inf
    noise: float = NOISE
    seed: int = 0

    def loss(self, values: Values) -> float | None:
        """Without noise, nats/token; None where a run diverges."""
        x = np.array([Ruler(grid).position(values[name]) for name, grid in self.space.items()])
        y = np.array(self.mix) @ (x - self.best)
        if y[0] > self.cliff:
            return None
        return FLOOR + sum(b * bowl(k, u) for b, k, u in zip(self.bend, self.lean, y.tolist(), strict=True))

    def run(self, configuration: Key) -> float | None:
        """One run's final loss; one configuration always has the same."""
        loss = self.loss(dict(configuration))
        drawn = np.random.default_rng([self.seed, zlib.crc32(repr(configuration).encode())])
        return None if loss is None else loss + self.noise * float(drawn.standard_normal())

    def regret(self, values: Values | None) -> float:
        """Loss over the lowest, both without noise; infinite where nothing was chosen or it diverges."""
        loss = None if values is None else self.loss(values)
        return math.inf if loss is None else loss - FLOOR


def bowl(lean: float, y: float) -> float:
    """1/2 y² near 0; exponential above and linear below where ``lean`` is above 0."""
    return 0.5 * y * y if lean == 0 else (math.exp(min(lean * y, 50.0)) - lean * y - 1) / lean**2


@dataclass(frozen=True)
class Result:
    """What a run on a surface comes to."""

    loss: float | None


def solved(surface: Surface, asking: Asking) -> tuple[Any, int]:
    """Runs a tuner on a surface, its ``ask`` being ``search.key``. Returns its value and the number of runs."""
    course: Course[Key] = Course(asking)
    todo = course.begin()
    while todo:
        configuration = todo.pop()
        todo += course.tell(configuration, Result(surface.run(configuration)))
    return course.value, len(course.asked)


def _drawn(
    name: str,
    seed: int,
    space: Space,
    bend: tuple[float, ...],
    lean: tuple[float, ...],
    mix: Callable[[np.random.Generator], np.ndarray],
    off: float | None = None,
    cliff: tuple[float, float] | None = None,
    noise: float = NOISE,
) -> Surface:
    """The optimum is inside every grid (``off``: how near to half a step off it), the start within two steps."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    last = np.array([len(grid) - 1 for grid in space.values()])
    best = rng.uniform(0.5, last - 0.5)
    if off is not None:
        best = np.clip(np.floor(best), 0, last - 1) + rng.uniform(0.5 - off, 0.5 + off, len(last))
    begin = np.clip(np.round(best + rng.uniform(-2, 2, len(last)) * np.minimum(1, last / 4)), 0, last).astype(int)
    steep = tuple(float(b) for b in np.array(bend) * np.exp(rng.uniform(-0.5, 0.5, len(bend))))
    return Surface(
        name=name,
        space=space,
        start={key: grid[i] for (key, grid), i in zip(space.items(), begin.tolist(), strict=True)},
        best=tuple(best.tolist()),
        bend=steep,
        lean=lean,
        mix=tuple(tuple(row) for row in mix(rng).tolist()),
        cliff=math.inf if cliff is None else float(rng.uniform(*cliff)),
        noise=noise,
        seed=seed,
    )


def _plain(size: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: np.eye(size)


def _coupled(rng: np.random.Generator) -> np.ndarray:
    """Every pair hangs together somewhat, lr with all the rest the most."""
    mix = np.eye(6) + np.triu(rng.uniform(-0.3, 0.3, (6, 6)), 1)
    mix[0, 1:] += rng.choice((-0.3, 0.3), 5)
    return mix


def ridge(seed: int) -> Surface:
    """lr and weight decay: their product matters, how it is shared little."""
    mix = np.array([[1.0, 1.0], [0.7, -0.7]])
    return _drawn(
        "ridge",
        seed,
        {"lr": LRS, "weight_decay": (0.0125, *DECAYS, 0.8)},
        (0.03, 0.006),
        (0.4, 0.0),
        lambda r: mix,
    )


def noise(seed: int) -> Surface:
    """A bowl in lr, beta1, weight decay so flat that a step costs what the noise is."""
    space = {"lr": LRS, "beta1": BETA1, "weight_decay": DECAYS}
    return _drawn("noise", seed, space, (0.008, 0.003, 0.003), (0.3, 0.0, 0.0), _plain(3))


def between(seed: int) -> Surface:
    """Steep in lr, beta1, weight decay, its optimum half a step off the grid in each."""
    space = {"lr": LRS, "beta1": BETA1, "weight_decay": DECAYS}
    return _drawn("between", seed, space, (0.04, 0.03, 0.03), (0.4, 0.2, -0.2), _plain(3), off=0.15)


def cliff(seed: int) -> Surface:
    """lr, warm-up, beta2: a long slope below, divergence half a step to two above it, later with warm-up."""
    mix = np.array([[1.0, -0.4, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    space = {"lr": LRS, "warmup": WARMUPS, "beta2": BETA2}
    return _drawn("cliff", seed, space, (0.03, 0.008, 0.005), (0.8, 0.0, 0.0), lambda r: mix, cliff=(0.5, 2.0))


def six(seed: int) -> Surface:
    """Six hyperparameters, unequal, all coupled."""
    space = {
        "lr": LRS,
        "weight_decay": DECAYS,
        "beta1": BETA1,
        "beta2": BETA2,
        "warmup": WARMUPS,
        "batch": BATCHES,
    }
    bend, lean = (0.03, 0.015, 0.01, 0.006, 0.006, 0.015), (0.4, 0.2, 0.2, 0.0, -0.2, 0.3)
    return _drawn("six", seed, space, bend, lean, _coupled, cliff=(1.5, 3.0))


SURFACES: dict[str, Callable[[int], Surface]] = {s.__name__: s for s in (ridge, noise, between, cliff, six)}
"""Every surface by name, drawn from a seed."""
