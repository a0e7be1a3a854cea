"""Protocols on a small synthetic study: what they ask for, in which order, and what they say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from driven import answered

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell, Place
from steepest.lab.study.asking import Failed
from steepest.lab.study.protocols import PROTOCOLS, demanded, space_sizes
from steepest.lab.study.protocols.one_at_a_time import OneAtATime
from steepest.lab.study.protocols.three_phases import ThreePhases, phases
from steepest.lab.study.search import key, sweep
from steepest.lab.study.trial import Space, Trial, Values
from steepest.lab.study.tuners.coordinate import Coordinate, descend
from steepest.lab.study.tuners.coordinate import expected as descent_runs

LRS = (0.002, 0.004, 0.008, 0.016, 0.032)
SPACE: Space = {"lr": LRS, "beta1": (0.9, 0.95, 0.98), "weight_decay": (0.0, 0.1, 0.2)}
START: Values = {"lr": 0.004, "beta1": 0.9, "weight_decay": 0.0}


def bowl(lr: float, tokens: int = 1, wd: float = 0.1, high: float = math.inf) -> Callable[[Values], float | None]:
    """A loss whose best lr, weight decay and beta1 are known; above ``high`` it diverges."""

    def loss(values: Values) -> float | None:
        at: Any = values
        if at["lr"] > high:
            return None
        bent = math.log(at["lr"] / lr) ** 2 + 4 * (at["weight_decay"] - wd) ** 2
        return 3 + 1 / math.sqrt(tokens) + 0.05 * bent + 2 * (at.get("beta1", 0.95) - 0.95) ** 2

    return loss


@dataclass
class Small:
    """A study of bowls."""

    optimizers: tuple[str, ...] = ("adamw", "muon")
    places: tuple[Place, ...] = (Place("20k", 400),)
    seeds: tuple[int, ...] = (1, 2, 3)
    baseline: str = "adamw"
    tuning_seed: int = 0
    step: int = 1
    sizes: Mapping[str, int] = field(default_factory=lambda: {"20k": 20, "50k": 50, "110k": 110})
    best: Mapping[str, float] = field(default_factory=lambda: {"adamw": 0.004, "muon": 0.016})
    grid: Space = field(default_factory=lambda: SPACE)

    def place(self, size: str, ratio: float) -> Place:
        return Place(size, round(ratio * 20 * self.sizes[size]))

    def space(self, optimizer: str) -> Space:
        return self.grid

    def start(self, optimizer: str, place: Place) -> Values:
        return {name: START.get(name, grid[0]) for name, grid in self.grid.items()}

    def trial(
        self, optimizer: str, place: Place, values: Values, seed: int | None = None, purpose: str = ""
    ) -> Trial:
        return Trial(optimizer, place, key(values), self.tuning_seed if seed is None else seed, purpose)

    def loss(self, trial: Trial) -> float | None:
        return bowl(self.best[trial.optimizer], trial.place.tokens)(dict(trial.values))


def test_a_sweep_grows_while_its_best_is_at_an_end_and_no_further_than_its_reach() -> None:
    def rates(best: float, reach: int) -> list[float]:
        losses, _ = answered(sweep(key, START, "lr", LRS, reach), lambda k: bowl(best)(dict(k)))
        return sorted(dict(k)["lr"] for k in losses)

    assert rates(0.008, 4) == list(LRS)
    assert rates(0.128, 4) == [*LRS, 0.064, 0.128, 0.256]
    assert rates(5.0, 2) == [*LRS, 0.064, 0.128]
    assert rates(0.001, 1) == [0.001, *LRS]


def test_where_every_rate_diverges_a_sweep_goes_down() -> None:
    losses, _ = answered(sweep(key, START, "lr", LRS, 3), lambda k: bowl(0.001, high=0.0011)(dict(k)))
    assert min(dict(k)["lr"] for k in losses) == 0.0005
    assert sum(map(math.isfinite, losses.values())) == 2


def test_a_configuration_that_cannot_run_ends_no_sweep() -> None:
    losses, _ = answered(
        sweep(key, START, "lr", LRS), lambda k: bowl(0.008)(dict(k)), fails=lambda k: dict(k)["lr"] == 0.016
    )
    assert sorted(dict(k)["lr"] for k in losses) == [0.002, 0.004, 0.008, 0.032]


def test_a_pass_of_coordinate_descent_is_the_centre_with_every_other_value_of_every_grid() -> None:
    found, asked = answered(descend(SPACE, START, key), lambda k: bowl(0.004, wd=0.0)(dict(k)) + 0.0)
    ones = [{**START, name: v} for name, grid in SPACE.items() for v in grid if v != START[name]]
    assert asked[: 1 + len(ones)] == [key(START), *map(key, ones)]
    assert found.passes[0] == (START, len(ones))


def test_the_centre_moves_to_the_best_of_all_runs_and_ends_with_every_neighbour_run() -> None:
    found, asked = answered(descend(SPACE, START, key), lambda k: bowl(0.016)(dict(k)))
    assert found.values == {"lr": 0.016, "beta1": 0.95, "weight_decay": 0.1}
    for name, grid in SPACE.items():
        assert all(key({**found.centre, name: v}) in found.losses for v in grid)
    assert found.losses[key(found.centre)] <= min(found.losses.values()) + 3e-3
    assert len(asked) == len(set(asked)) == len(found.losses)


def test_a_neighbour_within_the_threshold_does_not_move_the_centre() -> None:
    loss = {0.002: 3.1, 0.004: 3.002, 0.008: 3.0, 0.016: 3.1, 0.032: 3.2}
    space = {"lr": LRS, "beta1": (0.9, 0.95)}
    answer = lambda k: loss[dict(k)["lr"]] + 0.1 * (dict(k)["beta1"] == 0.95)  # noqa: E731
    start = {"lr": 0.004, "beta1": 0.9}
    still, runs = answered(descend(space, start, key), answer)
    moved, more = answered(descend(space, start, key, Coordinate(accept=1e-3)), answer)
    assert still.centre == start
    assert still.values == moved.centre == {"lr": 0.008, "beta1": 0.9}
    assert len(runs) < len(more)


def test_a_descent_goes_on_from_a_near_best_configuration_that_saves_runs() -> None:
    space = {"a": tuple(range(8)), "b": tuple(range(8))}
    start = {"a": 0, "b": 0}

    def loss(k: Any) -> float:
        at = dict(k)
        return {(0, 0): 3.0, (3, 0): 2.5, (0, 4): 2.501}.get((at["a"], at["b"]), 3.0 + 0.01 * at["b"])

    # Both moves leave one line of seven to run: nothing is saved, the lower one is taken.
    plain, _ = answered(descend(space, start, key, Coordinate(saving=1)), loss)
    assert plain.passes[1][0] == {"a": 3, "b": 0}
    known = {key({"a": a, "b": 4}): loss(key({"a": a, "b": 4})) for a in range(1, 7)}
    near, _ = answered(descend(space, start, key, Coordinate(saving=5), known), loss)
    assert near.centre == {"a": 0, "b": 4}
    assert near.values == {"a": 3, "b": 0}
    assert near.passes[1] == ({"a": 0, "b": 4}, 1)
    far, _ = answered(descend(space, start, key, Coordinate(saving=50), known), loss)
    assert far.passes[1][0] == {"a": 3, "b": 0}


def test_a_bound_on_runs_cuts_the_pass_and_leaves_no_certificate() -> None:
    found, asked = answered(descend(SPACE, START, key, Coordinate(most=5)), lambda k: bowl(0.016)(dict(k)))
    assert len(asked) == 5
    assert found.centre is None
    assert found.values is not None


def test_the_expected_runs_of_a_descent_hold_on_bowls() -> None:
    _, asked = answered(descend(SPACE, START, key), lambda k: bowl(0.016)(dict(k)))
    expected, most = descent_runs(SPACE)
    assert len(asked) <= most
    assert 0.5 < len(asked) / expected < 1.5


def test_one_at_a_time_sweeps_lr_first_and_all_else_at_the_best_lr() -> None:
    study = Small()
    chosen, asked = answered(PROTOCOLS["one_at_a_time"].run(study, OneAtATime()), study.loss)
    muon = [t for t in asked if t.optimizer == "muon"]
    assert [t.purpose for t in muon] == ["tune"] * 5 + ["sweep"] * 4 + ["final"] * 3
    assert {dict(t.values)["lr"] for t in muon[5:9]} == {0.016}
    cell = chosen[Cell("muon", "20k", 400)]
    assert cell.values["lr"] == 0.016
    assert cell.edges["lr"] in ("bracketed", "alone")
    assert [t.seed for t in cell.trials["final"]] == [1, 2, 3]
    assert cell.runs == len(muon)


def test_the_winner_of_one_at_a_time_is_the_lowest_loss_of_all_sweeps() -> None:
    study = Small(optimizers=("adamw",))
    chosen, asked = answered(PROTOCOLS["one_at_a_time"].run(study, OneAtATime()), study.loss)
    cell = chosen[Cell("adamw", "20k", 400)]
    tuning = [t for t in asked if t.seed == 0]
    assert cell.values == dict(min(tuning, key=study.loss).values)
    assert cell.loss == min(map(study.loss, tuning))


def test_one_at_a_time_can_be_the_learning_rate_alone() -> None:
    study = Small(optimizers=("adamw",))
    _, asked = answered(PROTOCOLS["one_at_a_time"].run(study, OneAtATime(hyperparameters=())), study.loss)
    assert {t.purpose for t in asked} == {"tune", "final"}


def test_variants_of_the_architecture_get_their_own_lr_sweep_and_nothing_else_unless_named() -> None:
    variants = tuple(Place("20k", 400, v) for v in ("", "no qk-norm", "no z-loss", "neither"))
    study = Small(optimizers=("adamw",), places=variants)
    _, asked = answered(PROTOCOLS["one_at_a_time"].run(study, OneAtATime()), study.loss)
    for place in variants[1:]:
        assert [t.purpose for t in asked if t.place == place] == ["tune"] * 5 + ["final"] * 3
    _, more = answered(PROTOCOLS["one_at_a_time"].run(study, OneAtATime(variants=("beta1",))), study.loss)
    assert sum(t.place == variants[1] for t in more) == 5 + 2 + 3


def test_the_baseline_is_tuned_at_the_further_budgets_of_its_law() -> None:
    study = Small()
    options = OneAtATime(law_ratios=(0.5, 1.0, 2.0))
    chosen, asked = answered(PROTOCOLS["one_at_a_time"].run(study, options), study.loss)
    law = [cell for cell in chosen if cell.tokens in (200, 800)]
    assert [cell.optimizer for cell in law] == ["adamw", "adamw"]
    assert len(chosen) == 4
    for cell in law:
        assert [t.purpose for t in asked if t.place == cell.place] == ["tune"] * 5 + ["sweep"] * 4 + ["law"] * 3


def test_a_cell_where_all_diverges_says_so_and_asks_for_no_seeds() -> None:
    study = Small(optimizers=("adamw",))
    chosen, asked = answered(PROTOCOLS["one_at_a_time"].run(study, OneAtATime()), lambda t: None)
    (cell,) = chosen.values()
    assert cell.values is None
    assert cell.notes["reason"] == "every learning rate diverged"
    assert {t.seed for t in asked} == {0}


def test_a_cell_that_fails_leaves_the_others_alone() -> None:
    study = Small()
    chosen, _ = answered(
        PROTOCOLS["one_at_a_time"].run(study, OneAtATime()), study.loss, fails=lambda t: t.optimizer == "muon"
    )
    assert isinstance(chosen[Cell("muon", "20k", 400)], Failed)
    assert chosen[Cell("adamw", "20k", 400)].values is not None


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_what_a_protocol_expects_to_run_holds_on_bowls(name: str) -> None:
    study = Small()
    protocol = PROTOCOLS[name]
    options = protocol.options()
    chosen, asked = answered(protocol.run(study, options), study.loss)
    expected = protocol.expected(study, options)
    assert set(expected) == set(chosen)
    for cell, runs in expected.items():
        made = sum(Cell(t.optimizer, *t.place) == cell for t in asked)
        assert made <= runs.most
        assert 0.5 <= made / runs.expected <= 1.5


def test_an_optimizer_without_what_a_protocol_sweeps_is_told_before_anything_runs() -> None:
    study = Small(grid={"lr": LRS})
    demanded(study, PROTOCOLS["one_at_a_time"], OneAtATime())
    with pytest.raises(BadInput, match="one_at_a_time searches beta2, adamw searches lr alone"):
        demanded(study, PROTOCOLS["one_at_a_time"], OneAtATime(hyperparameters=("beta2",)))


def test_search_spaces_are_counted_side_by_side() -> None:
    assert space_sizes(Small())["muon"] == {"hyperparameters": 3, "values": 11, "neighbours": 8, "points": 45}


@pytest.mark.parametrize("bad", [{"reach": -1}, {"law_ratios": (0.0,)}, {"hyperparameters": ("lr",)}])
def test_impossible_options_are_told(bad: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        OneAtATime(**bad)


def drift(trial: Trial) -> float | None:
    """The best lr falls with the square root of the weights; the other two do not move, beta1 hardly counts."""
    at: Any = dict(trial.values)
    weights = {"20k": 20, "50k": 50, "110k": 110}[trial.place.size]
    best = 0.016 * (weights / 20) ** -0.5
    bent = 0.05 * math.log(at["lr"] / best) ** 2 + 4 * (at["weight_decay"] - 0.1) ** 2
    return 3 + bent + 1e-3 * abs(at.get("beta1", 0.95) - 0.95)


PLACES = tuple(
    Place(size, tokens) for size, one in (("20k", 400), ("50k", 1000), ("110k", 2200)) for tokens in (one, 2 * one)
)


def test_three_phases_search_everything_where_it_is_cheap_and_only_what_is_sensitive_further_up() -> None:
    study = Small(places=PLACES)
    protocol = PROTOCOLS["three_phases"]
    found, asked = answered(protocol.run(study, ThreePhases()), drift)
    assert set(found) == {Cell(name, *place) for name in study.optimizers for place in PLACES}
    small = found[Cell("muon", "20k", 400)]
    assert small.values["weight_decay"] == 0.1 and small.notes["phase"] == "I"
    of_second = [t for t in asked if t.place.size == "50k" and t.purpose == "tune"]
    assert {dict(t.values)["weight_decay"] for t in of_second} == {0.1}  # settled in Phase I
    assert found[Cell("muon", "50k", 1000)].values["lr"] == 0.008  # the grid's nearest to .0101
    assert not [t for t in asked if t.place.size == "110k" and t.purpose == "tune"]


def test_the_last_phase_takes_the_law_rounds_it_to_the_grid_and_tells_both() -> None:
    found, _ = answered(PROTOCOLS["three_phases"].run(Small(places=PLACES), ThreePhases()), drift)
    told = found[Cell("adamw", "110k", 2200)]
    predicted = told.notes["predicted"]["lr"]
    assert told.values["lr"] == predicted["rounded"] in LRS
    assert 0.004 < predicted["value"] < 0.0085  # .0068 if the optima were not on a grid
    assert set(told.finals) == {1, 2, 3}


def test_a_prediction_can_be_checked_against_its_neighbours() -> None:
    found, asked = answered(PROTOCOLS["three_phases"].run(Small(places=PLACES), ThreePhases(check=("lr",))), drift)
    checked = [t for t in asked if t.place.size == "110k" and t.purpose == "tune" and t.optimizer == "muon"]
    assert 2 <= len(checked) / 2 <= 3
    assert found[Cell("muon", "110k", 2200)].edges["lr"] in ("bracketed", "low", "high")


def test_the_baselines_further_budgets_are_run_as_predicted_for_its_law() -> None:
    study = Small(places=PLACES)
    found, asked = answered(PROTOCOLS["three_phases"].run(study, ThreePhases(law_ratios=(0.5,))), drift)
    law = {t.place for t in asked if t.purpose == "law"}
    assert law == {Place("20k", 200), Place("50k", 500), Place("110k", 1100)}
    assert {t.optimizer for t in asked if t.purpose == "law"} == {"adamw"}
    assert all(found[Cell("adamw", *place)].finals for place in law)


def test_a_check_is_made_at_the_baselines_further_budgets_too() -> None:
    study = Small(places=PLACES, optimizers=("adamw",))
    options = ThreePhases(law_ratios=(0.5,), check=("lr",))
    _, asked = answered(PROTOCOLS["three_phases"].run(study, options), drift)
    assert [t.purpose for t in asked if t.place == Place("20k", 200)] == ["tune"] * 3 + ["law"] * 3


def test_phases_are_told_by_size_and_an_unknown_size_is_named() -> None:
    study = Small(places=PLACES)
    assert set(phases(study, ThreePhases()).values()) == {"I", "II", "III"}
    with pytest.raises(BadInput, match="130m"):
        phases(study, ThreePhases(first=("130m",)))
    with pytest.raises(BadInput, match="20k in first and in predicted"):
        phases(study, ThreePhases(predicted=("20k",)))


def test_an_optimizer_that_cannot_run_leaves_the_others_phases_whole() -> None:
    study = Small(places=PLACES)
    found, _ = answered(
        PROTOCOLS["three_phases"].run(study, ThreePhases()), drift, fails=lambda t: t.optimizer == "muon"
    )
    assert all(isinstance(value, Failed) for cell, value in found.items() if cell.optimizer == "muon")
    assert all(value.finals for cell, value in found.items() if cell.optimizer == "adamw")


@pytest.mark.parametrize("tuner", ["bowl", "descent"])
def test_tuned_gives_every_cell_its_runs_and_certifies_the_winner(tuner: str) -> None:
    protocol = PROTOCOLS["tuned"]
    study = Small(best={"adamw": 0.004, "muon": 0.008})
    options = protocol.options(tuner=tuner, runs=10, certify=12)
    found, _ = answered(protocol.run(study, options), study.loss)
    for name, lr in study.best.items():
        chosen = found[Cell(name, "20k", 400)]
        assert chosen.values["lr"] == pytest.approx(lr, rel=0.5)
        assert chosen.notes["certified"] and set(chosen.finals) == set(study.seeds)
        assert len(chosen.trials["tune"]) <= 22


def test_a_study_that_names_no_protocol_is_tuned_by_the_first() -> None:
    assert next(iter(PROTOCOLS)) == "tuned"
    with pytest.raises(BadInput, match="bowl or descent"):
        PROTOCOLS["tuned"].options(tuner="bowls")
