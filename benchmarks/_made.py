"""A made study: runs as records would give them, from laws, noise and bowls that are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from steepest.lab.analysis.runs import DIVERGED, FINISHED, TOKENS_PER_WEIGHT, Run, Scalar
from steepest.lab.study.trial import Space

SPEEDUPS = {"adamw": 1.0, "nadamw": 1.06, "lion": 0.93, "muon": 1.42, "soap": 1.38, "kron": 1.3}
"""Tokens of the first for the same loss, at the smallest size; its excess over 1 falls by a tenth per doubling."""

SIZES = {"20k": 20_000, "50k": 50_000, "110k": 110_000}
RATIOS = (1, 2, 4, 8)
SPACE: Space = {
    "lr": tuple(1e-3 * 2.0**k for k in range(7)),
    "weight_decay": (0.0, 0.1, 0.2, 0.4),
    "beta2": (0.9, 0.95, 0.98, 0.99),
    "warmup": (0.0, 0.05, 0.1, 0.2),
}
WIDTH = {"lr": 0.03, "weight_decay": 0.004, "beta2": 0.003, "warmup": 0.002}
SD, SHARED = 2e-3, 1.5e-3
SECONDS = {"adamw": 1.0, "nadamw": 1.0, "lion": 0.97, "muon": 1.12, "soap": 1.35, "kron": 1.3}


def made(
    optimizers: Sequence[str] = tuple(SPEEDUPS),
    sizes: Mapping[str, int] = SIZES,
    ratios: Sequence[int] = RATIOS,
    seeds: int = 3,
    tried: int = 16,
    curves: int = 24,
    random_state: int = 0,
) -> list[Run]:
    """Per cell ``tried`` settings of one seed around the best, and the best with ``seeds`` fresh seeds.

    curves: evaluations along each final run. A learning rate of eight times the best diverges.
    """
    random = np.random.default_rng(random_state)
    shared = random.standard_normal((seeds + 1,)) * SHARED
    found: list[Run] = []
    for size, weights in sizes.items():
        for ratio in ratios:
            for name in optimizers:
                middle = centre(name, size, ratio, sizes)
                floor = loss(name, weights, ratio, sizes)
                settings = list(around(middle, tried))
                noise = random.standard_normal(tried + seeds) * SD
                for place, values in enumerate(settings):
                    found.append(run(name, size, weights, ratio, values, middle, floor, 0,
                                     shared[0] + noise[place], "tune"))  # fmt: skip
                ended = [r for r in found[-tried:] if r.loss is not None]
                best = dict(min(ended, key=lambda r: r.ranked).hyperparameters)
                for seed in range(1, seeds + 1):
                    bump = shared[seed] + noise[tried + seed - 1]
                    found.append(run(name, size, weights, ratio, best, middle, floor, seed, bump, "final", curves))
    return found


def centre(name: str, size: str, ratio: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """The best place of each grid."""
    step = list(sizes).index(size)
    lr = 4 - (step > 1) if name in ("muon", "soap") else 3 - (step > 1)
    return {"lr": lr, "weight_decay": 3 if name == "lion" else 1, "beta2": 2, "warmup": 1 + (ratio > 2)}


def loss(name: str, weights: int, ratio: int, sizes: Mapping[str, int]) -> float:
    """The loss that this optimizer's best setting ends at."""
    doublings = math.log2(weights / min(sizes.values()))
    times = 1 + (SPEEDUPS[name] - 1) * 0.9**doublings
    tokens = TOKENS_PER_WEIGHT * weights * ratio * times
    return 1.6 + 9.0 * weights**-0.3 + 60.0 * tokens**-0.34


def around(middle: Mapping[str, int], tried: int) -> Iterator[dict[str, Scalar]]:
    """The best setting, its one-step neighbours, then pairs of steps: ``tried`` of them."""
    steps = [(key, place) for key, grid in SPACE.items() for place in range(len(grid)) if place != middle[key]]
    steps.sort(key=lambda step: abs(step[1] - middle[step[0]]))
    best = {key: SPACE[key][place] for key, place in middle.items()}
    yield best
    for count in range(tried - 1):
        key, place = steps[count % len(steps)]
        other, turn = steps[(count // len(steps)) * 7 % len(steps)]
        moved = {key: SPACE[key][place]}
        yield best | ({other: SPACE[other][turn]} if count >= len(steps) else {}) | moved


def run(
    name: str,
    size: str,
    weights: int,
    ratio: int,
    values: Mapping[str, Scalar],
    middle: Mapping[str, int],
    floor: float,
    seed: int,
    bump: float,
    purpose: str,
    curves: int = 0,
) -> Run:
    """One run of the made study."""
    places = {key: SPACE[key].index(value) for key, value in values.items()}
    tokens = TOKENS_PER_WEIGHT * weights * ratio
    steps = tokens // 512
    told = "-".join(str(place) for place in places.values())
    seconds = 6e-8 * tokens * weights**0.5 * SECONDS[name]
    lost = places["lr"] >= middle["lr"] + 3
    ended = floor + bump + sum(WIDTH[key] * (places[key] - middle[key]) ** 2 for key in places)
    along: tuple[tuple[int, float], ...] = ()
    if curves and not lost:
        shares = np.linspace(1 / curves, 1, curves)
        heights = ended + 2.4 * np.exp(-9 * shares) + 0.35 * (1 - shares) ** 1.5
        along = tuple((int(share * tokens), float(v)) for share, v in zip(shares, heights, strict=True))
    return Run(
        run=f"{name}-{size}-{ratio}x-{told}-{purpose}{seed}",
        optimizer=name,
        size=size,
        weights=weights,
        tokens=tokens,
        hyperparameters=values,
        status=DIVERGED if lost else FINISHED,
        loss=None if lost else float(ended),
        seed=seed,
        steps=steps,
        flops=6.0 * weights * tokens,
        seconds=seconds,
        state_bytes=4.0 if name in ("lion", "muon") else 8.0,
        purpose=purpose,
        reason="loss is not a number" if lost else None,
        curve=along,
    )
