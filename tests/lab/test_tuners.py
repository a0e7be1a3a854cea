"""Tuners on surfaces whose optimum is known; the bench judges them by 100 seeds, ``benchmarks/tuners.py``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from steepest.core.errors import BadInput
from steepest.lab.study.ruler import Ruler
from steepest.lab.study.search import key
from steepest.lab.study.surfaces import SURFACES, bowl, solved
from steepest.lab.study.tuners.coordinate import descend
from steepest.lab.study.tuners.found import Found, adjacent, certified
from steepest.lab.study.tuners.surrogate import Surrogate, fit_bowl

SPACE = {"lr": (1e-3, 2e-3, 4e-3, 8e-3), "weight_decay": (0.0, 0.1, 0.2), "batch": (8, 16, 32)}
START = {"lr": 2e-3, "weight_decay": 0.1, "batch": 16}


def tried(space: Any, start: Any, rule: Surrogate, loss: Any) -> tuple[Found, list[dict[str, Any]]]:
    """Runs a search on a function of a configuration; returns its value and the configurations in order."""
    asking = fit_bowl(space, start, key, rule)
    asked: list[Any] = []
    wanted = next(asking)
    while True:
        asked += wanted
        try:
            wanted = asking.send({k: type("R", (), {"loss": loss(dict(k))}) for k in wanted})
        except StopIteration as end:
            return end.value, [dict(k) for k in asked]


def test_a_third_of_coordinate_descents_runs_regrets_less() -> None:
    better = {}
    for name, surface in SURFACES.items():
        bowls, descents = [], []
        for seed in range(200, 206):
            drawn = surface(seed)
            descent, runs = solved(drawn, descend(drawn.space, drawn.start, key))
            found, spent = solved(drawn, fit_bowl(drawn.space, drawn.start, key, Surrogate(runs=runs // 3)))
            assert spent <= runs // 3
            bowls.append(drawn.regret(found.values))
            descents.append(drawn.regret(descent.values))
        better[name] = np.median(bowls) < np.median(descents)
    assert sum(better.values()) >= 4, better


def test_a_bowl_is_found_between_the_values_of_its_grid() -> None:
    def loss(at: dict[str, Any]) -> float:
        return 3 + 0.04 * math.log2(at["lr"] / 5.66e-3) ** 2 + 2 * (at["weight_decay"] - 0.05) ** 2

    found, asked = tried(SPACE, START, Surrogate(runs=14), loss)
    assert found.values["lr"] == pytest.approx(5.657e-3, rel=1e-3)
    assert found.values["weight_decay"] == 0.05
    assert {at["batch"] for at in asked} <= {8, 16, 32}  # there is nothing between whole numbers


def test_the_first_question_is_the_start_and_a_step_along_each_hyperparameter() -> None:
    asking = fit_bowl(SPACE, START, key, Surrogate(runs=10))
    assert [dict(k) for k in next(asking)] == [
        START, START | {"lr": 1e-3}, START | {"weight_decay": 0.2}, START | {"batch": 32},
    ]  # fmt: skip


def test_questions_hold_what_workers_can_do_at_once_and_no_run_twice() -> None:
    _, asked = tried(SPACE, START, Surrogate(runs=13, batch=3), lambda at: 3 + at["lr"])
    assert len(asked) == 13 == len({key(at) for at in asked})


def test_where_everything_diverges_the_learning_rate_goes_down() -> None:
    def loss(at: dict[str, Any]) -> float | None:
        return None if at["lr"] > 6e-4 else 3 + at["lr"]

    found, asked = tried({"lr": SPACE["lr"]}, {"lr": 8e-3}, Surrogate(runs=8), loss)
    assert [at["lr"] for at in asked[:6]] == [8e-3, 4e-3, 2e-3, 1e-3, 5e-4, 2.5e-4]
    assert found.values["lr"] <= 5e-4


def test_a_search_that_ends_with_nothing_but_divergence_chooses_nothing() -> None:
    found, asked = tried(SPACE, START, Surrogate(runs=9), lambda at: None)
    assert found.values is None
    assert len(asked) == 9


def test_a_start_off_the_grid_is_run_as_given() -> None:
    start = START | {"lr": 0.00316228}
    _, asked = tried(SPACE, start, Surrogate(runs=4), lambda at: 3.0)
    assert asked[0] == start
    assert {at["lr"] for at in asked[2:]} == {0.00316228}


def test_a_search_asked_again_asks_the_same() -> None:
    surface = SURFACES["six"](1)
    first, second = (
        solved(surface, fit_bowl(surface.space, surface.start, key, Surrogate(runs=16)))[0] for _ in range(2)
    )
    assert list(first.losses) == list(second.losses)


@pytest.mark.parametrize("bad", [{"runs": 1}, {"batch": 1}, {"noise": 0.0}, {"bend": math.nan}, {"reach": -1}])
def test_impossible_rules_are_told(bad: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(bad))):
        Surrogate(**bad)


def test_a_certificate_runs_the_neighbours_that_are_missing_and_moves_to_a_better_one() -> None:
    surface = SURFACES["between"](3)
    start = Found(surface.start, {key(surface.start): surface.run(key(surface.start))})
    found, _ = solved(surface, certified(surface.space, start, key, most=60))
    assert found.notes["certified"]
    assert surface.regret(found.values) < surface.regret(surface.start)
    assert all(key(near) in found.losses for near in adjacent(found.values, surface.space))
    cut, few = solved(surface, certified(surface.space, start, key, most=2))
    assert few == 2 and not cut.notes["certified"]


def test_a_ruler_counts_steps_of_a_grid_and_finds_what_lies_between() -> None:
    lrs = Ruler((1e-3, 2e-3, 4e-3), reach=1)
    assert [lrs.position(v) for v in (1e-3, 4e-3, 8e-3)] == [0, 2, pytest.approx(3)]
    assert [lrs.value(p) for p in (-1.0, 0.5, 3.0)] == [5e-4, 1.414e-3, 8e-3]
    assert lrs.ends == (-1, 3)
    decays = Ruler((0.0, 0.1, 0.2))
    assert decays.value(0.5) == 0.05 and decays.position(0.15) == pytest.approx(math.log(1.5, 2) + 1)
    assert Ruler((8, 16, 32)).value(0.6) == 16
    assert Ruler(("a", "b")).value(1.0) == "b" and not Ruler((True, False)).ordered


def test_surfaces_have_the_optimum_that_they_tell() -> None:
    for surface in (make(5) for make in SURFACES.values()):
        at = {n: Ruler(grid).value(p) for (n, grid), p in zip(surface.space.items(), surface.best, strict=True)}
        # A batch between two values does not exist.
        assert 0 <= surface.regret(at) < (0.03 if "batch" in at else 1e-6)
        assert surface.run(key(at)) == surface.run(key(at))
    assert bowl(0.4, 1.0) > bowl(0.0, 1.0) == 0.5 > bowl(0.4, -1.0)
