"""Certificates: what is a local optimum, what is an edge, what was not tried, and who searched more."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from steepest.core.errors import BadInput
from steepest.lab.analysis.accounting import accounting, unequal
from steepest.lab.analysis.certificate import (
    BETTER,
    BRACKETED,
    FLAT,
    HIGH,
    LOW,
    UNTRIED,
    Certificate,
    Coordinate,
    certificate,
)
from steepest.lab.analysis.interval import Noise
from steepest.lab.analysis.runs import Run

BASE: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
SPACE = {"lr": (0.005, 0.01, 0.02), "weight_decay": (0, 0.1, 0.2)}
BOWL = [(0.005, 3.6), (0.02, 3.7)]


def run(loss: float | None, seed: int | None = 0, optimizer: str = "muon", **values: Any) -> Run:
    status = "diverged" if loss is None else "finished"
    return Run("run", optimizer, "50k", 50_000, 1000, BASE | values, status, loss, seed, flops=10.0, seconds=2.0)


def star(**more: Any) -> list[Run]:
    """A winner at 3.5 and all of its four neighbours, which are worse."""
    runs = [run(3.5, **more), *(run(loss, lr=lr, **more) for lr, loss in BOWL)]
    return [*runs, run(3.8, weight_decay=0, **more), run(3.9, weight_decay=0.2, **more)]


def of(told: Certificate, name: str) -> Coordinate:
    return next(coordinate for coordinate in told.coordinates if coordinate.name == name)


def test_a_winner_between_worse_neighbours_is_certified() -> None:
    told = certificate(star(), SPACE, 0.01)
    assert told.certified
    assert told.text == "certified: locally optimal, bracketed in all 2 coordinates"
    assert certificate(star(), SPACE).text.endswith("(no noise is known: gaps are taken at face value)")
    assert (told.neighbours, told.tried, told.space, told.seeds, told.runs) == (4, 4, 9, 1, 5)
    assert (told.tokens, told.flops, told.seconds, told.settings) == (5000, 50.0, 10.0, 5)


def test_the_winner_is_the_lowest_run_unless_one_is_given() -> None:
    assert certificate(star(), SPACE).winner == BASE
    other = certificate(star(), SPACE, winner=BASE | {"lr": 0.005})
    assert not other.certified
    assert of(other, "lr").standing == BETTER
    assert "lr 0.01 is better by 0.1000" in other.text


def test_an_edge_is_said_and_so_is_what_was_not_tried() -> None:
    told = certificate(star(), {"lr": (0.01, 0.02, 0.04), "weight_decay": (0, 0.1, 0.2, 0.3)}, winner=BASE)
    # 0.005 was tried outside the grid, and brackets all the same.
    assert of(told, "lr").standing == BRACKETED
    assert told.text == "not certified: 2 of 6 neighbours not tried"
    without = [r for r in star() if r.hyperparameters["lr"] >= 0.01]
    assert of(certificate(without, SPACE), "lr").standing == UNTRIED
    told = certificate(without)
    assert told.inferred
    assert told.text == "not certified: lr at the low edge"
    upwards = certificate([r for r in star() if r.hyperparameters["lr"] <= 0.01])
    assert of(upwards, "lr").standing == HIGH


def test_a_diverged_neighbour_brackets_and_an_unfinished_one_was_not_tried() -> None:
    runs = [r for r in star() if r.hyperparameters["lr"] != 0.02]
    assert certificate([*runs, run(None, lr=0.02)], SPACE).certified
    unfinished = Run("run", "muon", "50k", 50_000, 1000, BASE | {"lr": 0.02}, "unfinished", None, 0)
    told = certificate([*runs, unfinished], SPACE)
    assert told.text == "not certified: 1 of 4 neighbours not tried"
    assert told.unfinished == 1


def test_a_value_that_cannot_be_passed_is_no_edge() -> None:
    runs = [run(3.5, weight_decay=0), run(3.6, weight_decay=0.1), run(3.7, weight_decay=0.2)]
    told = certificate(runs)
    assert told.certified
    assert of(told, "weight_decay").bound
    assert not certificate([run(3.5, momentum=0.8), run(3.6, momentum=0.9)]).certified
    whole = [run(3.5, cooldown=1), run(3.6, cooldown=0.8)]
    assert certificate(whole).certified


def test_no_clipping_lies_above_every_norm() -> None:
    runs = [run(3.5, clip=1), run(3.6, clip=2), run(3.7, clip=0)]
    assert of(certificate(runs), "clip").grid == (1, 2, 0)
    assert of(certificate(runs), "clip").standing == LOW
    assert certificate([run(3.5, clip=0), run(3.6, clip=1)]).certified


def test_names_and_switches_have_neither_order_nor_edge() -> None:
    runs = [
        run(3.5, normalize=True, kind="a"),
        run(3.6, normalize=False, kind="a"),
        run(3.7, normalize=True, kind="b"),
    ]
    assert certificate(runs).certified


NOISE = Noise(0.01, 40.0, 0.01, 40, (3, 3))


def test_gaps_within_the_noise_are_neither_better_nor_worse() -> None:
    runs = [run(3.500), run(3.499, lr=0.005), run(3.6, lr=0.02)]
    told = certificate(runs, None, NOISE, winner=BASE)
    assert told.certified
    assert of(told, "lr").standing == FLAT
    assert told.text == "certified: locally optimal, bracketed in 0 of 1 coordinates, flat in lr"
    assert not certificate(runs, winner=BASE).certified
    assert certificate(runs, None, 0.003, winner=BASE).certified
    assert "face value" in certificate(runs).noise


def test_seeds_that_both_have_are_compared_and_others_with_the_whole_noise() -> None:
    noise = Noise(0.1, 40.0, 0.001, 40, (3, 3))
    # Fresh seeds of the winner came out higher than the tuning seed: only the tuning seed is common.
    runs = [run(3.50, 0), run(3.56, 1), run(3.58, 2), run(3.51, 0, lr=0.005), run(3.52, 0, lr=0.02)]
    assert of(certificate(runs, None, noise, winner=BASE), "lr").standing == BRACKETED
    unpaired = [run(3.50, 5), run(3.51, 6, lr=0.005), run(3.52, 7, lr=0.02)]
    assert of(certificate(unpaired, None, noise, winner=BASE), "lr").standing == FLAT


def test_two_hyperparameters_away_is_no_neighbour() -> None:
    told = certificate([run(3.5), run(3.6, lr=0.02, weight_decay=0.2), run(3.7, lr=0.005, momentum=0.9)], SPACE)
    assert told.tried == 0
    assert told.text == "not certified: 4 of 4 neighbours not tried"


def test_nothing_varied_or_nothing_ended_is_uncertified() -> None:
    assert certificate([run(3.5)]).text == "uncertified: nothing was varied around it"
    told = certificate([run(None), run(None, lr=0.02)])
    assert told.certified is None
    assert told.text == "uncertified: no run of the winner's setting came to its end"


def test_a_search_space_with_a_hyperparameter_that_no_run_has_is_refused() -> None:
    with pytest.raises(BadInput, match="holds learning_rate"):
        certificate(star(), {"learning_rate": (0.1, 0.2)})


def test_the_winner_is_what_the_final_loss_rests_on() -> None:
    fresh = [replace(run(3.5, seed, lr=0.02), purpose="final") for seed in (1, 2)]
    told = certificate([run(3.3), *fresh])
    assert told.winner["lr"] == 0.02
    assert (told.loss, told.seeds) == (3.5, 2)


def test_the_told_form_holds_its_counts_and_is_json() -> None:
    told = json.loads(json.dumps(certificate(star(), SPACE, NOISE).told()))
    assert told["neighbours"] == {"all": 4, "tried": 4, "better": 0, "worse": 4, "within_noise": 0}
    assert told["space"] == {"coordinates": 2, "settings": 9}
    assert told["optimizer"] == "muon"
    assert [point["value"] for point in told["coordinates"][0]["tried"]] == [0.005, 0.02]


def test_unequal_search_is_said_and_equal_search_is_not() -> None:
    muon, adamw = certificate(star(), SPACE), certificate(star(optimizer="adamw"), SPACE)
    searches = accounting([muon, adamw, muon])
    assert [(s.optimizer, s.cells, s.runs, s.certified, s.neighbours) for s in searches] == [
        ("muon", 2, 10, 2, (4, 4)),
        ("adamw", 1, 5, 1, (4, 4)),
    ]
    assert unequal([search.told() for search in searches]) == []
    lion = certificate([run(3.5, optimizer="lion"), run(3.6, optimizer="lion", lr=0.02)])
    said = unequal([search.told() for search in accounting([muon, lion])], {"muon": "Muon"})
    assert said[0] == "the search spaces were not equal: from 1 (lion) to 4 (Muon) one-step neighbours to try"
    assert len(said) == 2
