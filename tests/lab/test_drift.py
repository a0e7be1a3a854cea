"""How optima move, where ranks flip, and who is on the front."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from steepest.lab.analysis.drift import NEAR, Drift, drifts
from steepest.lab.analysis.finals import finals_of
from steepest.lab.analysis.flips import THRESHOLD, flips
from steepest.lab.analysis.interval import Noise
from steepest.lab.analysis.pareto import Standing, dominance, fronts
from steepest.lab.analysis.robustness_section import robustness_section
from steepest.lab.analysis.runs import Run

GRID = [2.0**k for k in range(-12, -3)]
NOISE = Noise(1e-3, 20, 1e-3, 20, (3, 3))


def bowls(
    optimum, sizes: Sequence[int] = (10**6, 10**7, 10**8), ratios: Sequence[int] = (1, 4), grid=GRID, depth=0.3
) -> list[Run]:
    """Runs of one seed whose loss is a bowl around ``optimum(weights, ratio)`` in every cell."""
    runs = []
    for weights in sizes:
        for ratio in ratios:
            for lr in grid:
                loss = 3 + depth * (math.log10(lr) - math.log10(optimum(weights, ratio))) ** 2
                tokens = 20 * weights * ratio
                values = {"lr": lr, "weight_decay": 0.1}
                runs.append(Run("", "muon", f"{weights:,}", weights, tokens, values, "finished", loss, seed=0))
    return runs


def one(runs: Sequence[Run], **given) -> Drift:
    (found,) = drifts(runs, **given)
    return found


def test_slopes_in_size_and_ratio_come_back_and_their_intervals_hold_them() -> None:
    found = one(bowls(lambda weights, ratio: 0.01 * (weights / 1e6) ** -0.4 * ratio**-0.2))
    assert found.name == "lr" and len(found.optima) == 6
    for slope, true in ((found.by_size, -0.4), (found.by_ratio, -0.2)):
        assert slope.low is not None and slope.high is not None
        assert slope.low < true < slope.high
    assert found.by_size.value == pytest.approx(-0.4, abs=0.08)


def test_near_best_values_are_those_within_the_threshold_and_the_range_goes_half_a_step_beyond() -> None:
    found = one(bowls(lambda weights, ratio: 2.0**-8))
    for optimum in found.optima:
        assert optimum.best == 2.0**-8 and optimum.near == (2.0**-8,)
        assert optimum.low == pytest.approx(2.0**-8.5) and optimum.high == pytest.approx(2.0**-7.5)
        assert optimum.edge is None and optimum.tried == 9
    assert found.threshold == NEAR
    wider = one(bowls(lambda weights, ratio: 2.0**-8), threshold=0.03)
    assert wider.optima[0].near == (2.0**-9, 2.0**-8, 2.0**-7)
    assert wider.by_size.value == pytest.approx(0) and wider.by_size.low < 0 < wider.by_size.high


def test_the_threshold_is_the_noise_of_a_difference_where_it_is_known() -> None:
    found = one(bowls(lambda weights, ratio: 2.0**-8), noise=NOISE)
    assert found.threshold == pytest.approx(1.725 * 1e-3 * math.sqrt(2), rel=1e-3)


def test_an_optimum_at_the_edge_is_told() -> None:
    found = one(bowls(lambda weights, ratio: 1.0))
    assert {optimum.edge for optimum in found.optima} == {"high"}
    assert found.flags == ("in 6 of 6 cells the best value is the outermost one tried",)


def test_one_size_or_one_ratio_tells_nothing_of_the_other() -> None:
    found = one(bowls(lambda weights, ratio: 2.0**-8, ratios=(2,)))
    assert found.by_size.value is not None and found.by_ratio.value is None
    assert found.by_ratio.flags == ("all cells have one data-to-model ratio",)


def test_size_and_ratio_that_change_together_are_not_told_apart() -> None:
    runs = bowls(lambda weights, ratio: 2.0**-8)
    runs = [run for run in runs if (run.weights, round(run.ratio)) in ((10**6, 1), (10**8, 4))]
    found = one(runs)
    assert found.by_size.flags == found.by_ratio.flags == ("size and ratio change together",)


def test_a_decay_of_zero_that_never_wins_stands_apart_from_the_logarithms() -> None:
    def cell(weights: int, best: float) -> list[Run]:
        return [
            Run("", "lion", f"{weights}", weights, 20 * weights, {"weight_decay": wd}, "finished", loss, seed=0)
            for wd, loss in ((0, 3.1), (0.1, 3 + 0.1 * (best != 0.1)), (0.2, 3 + 0.1 * (best != 0.2)))
        ]

    found = one(cell(10**6, 0.1) + cell(10**7, 0.2))
    assert found.axis == "log"
    assert found.by_size.value == pytest.approx(math.log10(2))
    assert found.optima[0].edge is None and found.optima[1].edge == "high"


def curved(name: str, loss, seeds: int = 2, every: int = 10) -> list[Run]:
    """Runs with a curve: ``loss`` of the share of the schedule done."""
    tokens = np.linspace(10**6 / every, 10**6, every)
    return [
        Run(
            f"{name}{seed}", name, "1m", 10**6, 10**6, {"lr": 0.1}, "finished", float(loss(1.0)), seed,
            curve=tuple((int(t), float(loss(t / 10**6))) for t in tokens), purpose="final",
            seconds=10.0 if name == "adamw" else 12.0, steps=100, state_bytes=8.0 if name == "adamw" else 4.0,
        )
        for seed in range(seeds)
    ]  # fmt: skip


def test_a_lead_that_the_decay_takes_back_is_a_flip_and_a_reversed_pair() -> None:
    runs = curved("adamw", lambda s: 4 - 0.5 * s) + curved("muon", lambda s: 4.3 - s) + curved("sgd", lambda s: 5)
    (found,) = flips(runs, finals_of(runs))
    (flip,) = found.flips
    assert (flip.before, flip.after) == ("adamw", "muon") and flip.tokens == pytest.approx(0.6 * 10**6)
    assert found.threshold == THRESHOLD and found.seeds == {"adamw": 2, "muon": 2, "sgd": 2}
    assert [(order.share, order.pairs, order.reversed) for order in found.orders] == [
        (0.25, 3, 1),
        (0.5, 3, 1),
        (0.75, 3, 0),
    ]


def test_curves_of_other_evaluations_are_read_at_the_fewest() -> None:
    runs = curved("adamw", lambda s: 4 - 0.5 * s, every=7) + curved("muon", lambda s: 4.3 - s, every=20)
    (found,) = flips(runs, finals_of(runs), NOISE)
    assert len(found.tokens) == 7 and len(found.flips) == 1
    assert found.threshold == pytest.approx(1.725e-3, rel=1e-3)


def test_one_curve_alone_flips_nothing() -> None:
    runs = [*curved("adamw", lambda s: 4 - s), Run("", "muon", "1m", 10**6, 10**6, {}, "finished", 3.0, 0)]
    assert flips(runs, finals_of(runs)) == []


def standing(name: str, loss: float, seconds: float | None, held: float | None) -> Standing:
    return Standing(name, loss, seconds, None, held)


def test_the_front_holds_what_nothing_beats_in_everything() -> None:
    found = dominance(
        [
            standing("best", 3.0, 20, 12),
            standing("cheap", 3.1, 10, 4),
            standing("worse", 3.2, 10, 8),
            standing("tied", 3.001, 20, 12),
            standing("heavier", 3.0005, 20, 16),
        ],
        alike=0.002,
    )
    assert {one.optimizer: one.dominated_by for one in found} == {
        "best": (),
        "cheap": (),
        "worse": ("cheap",),
        "tied": (),
        "heavier": ("best", "tied"),
    }


def test_what_is_not_known_of_both_decides_nothing() -> None:
    found = dominance(
        [standing("a", 3.0, None, 4), standing("b", 3.1, 1.0, 8), standing("c", 3.1, None, None)], 0.01
    )
    assert [one.dominated_by for one in found] == [(), ("a",), ("a",)]


def test_a_front_reads_its_times_and_bytes_from_the_runs_behind_the_finals() -> None:
    runs = curved("adamw", lambda s: 4 - s) + curved("muon", lambda s: 3.9 - s)
    (front,) = fronts(runs, finals_of(runs), NOISE)
    assert [(o.optimizer, o.seconds, o.step_seconds, o.state_bytes) for o in front.standings] == [
        ("muon", 12.0, 0.12, 4.0),
        ("adamw", 10.0, 0.1, 8.0),
    ]
    assert all(one.front for one in front.standings)


def test_the_section_is_plain_json_and_holds_every_part() -> None:
    runs = (
        bowls(lambda weights, ratio: 2.0**-8) + curved("adamw", lambda s: 4 - s) + curved("sgd", lambda s: 5 - s)
    )
    runs += [Run("", "muon", "1m", 10**6, 10**6, {"lr": lr}, "diverged", None, 0) for lr in (1.0, 2.0)]
    told = robustness_section(runs, finals_of(runs), NOISE)
    assert list(told) == ["robustness", "sweeps", "tuning_cost", "flips", "drift", "pareto"]
    assert all(told.values())
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    aligned = [point["aligned"] for point in told["sweeps"][0]["points"]]
    assert aligned == pytest.approx([2.0**k for k in range(-4, 5)])


def test_nothing_gives_empty_parts() -> None:
    assert set(map(len, robustness_section([], []).values())) == {0}
