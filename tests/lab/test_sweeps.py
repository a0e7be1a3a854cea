"""Which runs form a sweep, and on what axis."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steepest.lab.analysis.runs import Run
from steepest.lab.analysis.sweeps import LOG, MEMORY, NAMES, STEPS, Sweep, axis_of, sweeps

BASE = {"lr": 0.004, "beta1": 0.9, "weight_decay": 0.1}


def run(loss: float | None, seed: int | None = 0, **values) -> Run:
    status = "diverged" if loss is None else "finished"
    return Run("", "adamw", "130m", 10**8, 10**9, BASE | values, status, loss, seed=seed)


def one(runs: list[Run], name: str = "lr") -> Sweep:
    (found,) = [sweep for sweep in sweeps(runs) if sweep.name == name]
    return found


def tried(sweep: Sweep) -> dict:
    return {point.value: point.loss for point in sweep.points}


def test_runs_that_differ_in_one_hyperparameter_alone_are_a_sweep_of_it_in_its_order() -> None:
    runs = [run(3.0), run(3.2, lr=0.016), run(3.1, lr=0.001), run(None, lr=0.064), run(3.05, weight_decay=0.2)]
    assert {sweep.name for sweep in sweeps(runs)} == {"lr", "weight_decay"}
    lr = one(runs)
    assert list(tried(lr).items()) == [(0.001, 3.1), (0.004, 3.0), (0.016, 3.2), (0.064, None)]
    assert lr.best is not None and lr.best.value == 0.004 and lr.bracketed and lr.above == 0
    assert lr.others == {"beta1": 0.9, "weight_decay": 0.1}
    assert one(runs, "weight_decay").edge == "low"


def test_runs_that_differ_in_two_are_in_no_sweep() -> None:
    assert sweeps([run(3.0), run(3.1, lr=0.008, beta1=0.95)]) == []


def test_cells_are_apart() -> None:
    runs = [run(3.0), run(3.1, lr=0.008)]
    longer = [replace(one, tokens=2 * one.tokens) for one in runs]
    found = sweeps(runs + longer + [replace(runs[0], variant="no_qk_norm")])
    assert [sweep.cell.tokens for sweep in found] == [10**9, 2 * 10**9]


def test_the_line_through_the_best_setting_is_taken_before_longer_ones() -> None:
    through = [run(2.9 + k / 10, beta1=0.95, lr=lr) for k, lr in enumerate((0.004, 0.002, 0.008))]
    longer = [run(3.0 + k / 10, lr=lr) for k, lr in enumerate((0.004, 0.002, 0.008, 0.016))]
    assert one(longer + through).others["beta1"] == 0.95


def test_a_sweep_made_before_the_last_coordinate_moved_is_found_and_says_so() -> None:
    """As in the first study: lr at the defaults, then the others at the best lr."""
    runs = [run(3.0), run(3.2, lr=0.016), run(3.1, lr=0.001), run(2.99, beta1=0.98), run(3.05, beta1=0.5)]
    lr = one(runs)
    assert lr.others["beta1"] == 0.9 and len(lr.points) == 3
    assert lr.above == pytest.approx(0.01)
    assert one(runs, "beta1").above == 0


def test_losses_of_a_sweep_are_means_over_the_seeds_that_all_its_points_share() -> None:
    runs = [run(3.0, 0), run(3.2, 1), run(3.3, 2), run(3.1, 0, lr=0.008), run(3.3, 1, lr=0.008)]
    lr = one(runs)
    assert lr.seeds == (0, 1)
    assert tried(lr) == {0.004: pytest.approx(3.1), 0.008: pytest.approx(3.2)}


def test_fresh_seeds_of_a_winner_do_not_move_the_centre() -> None:
    """The tuning's seed was kind to the winner; over fresh seeds it looks worse than its neighbour does on one."""
    runs = [run(3.00, 0), run(3.01, 0, lr=0.008), run(3.02, 0, lr=0.002)]
    runs += [run(3.05, seed) for seed in (1, 2, 3)] + [run(3.03, 0, beta1=0.95), run(3.04, 0, beta1=0.8)]
    lr = one(runs)
    assert lr.best is not None and lr.best.value == 0.004
    assert lr.best.loss == 3.00 and lr.above == 0


def test_points_without_a_common_seed_have_their_own_means_and_no_seeds() -> None:
    assert one([run(3.0, 0), run(3.1, 1, lr=0.008)]).seeds == ()


def test_a_seed_that_diverged_is_a_setting_that_diverged() -> None:
    lr = one([run(3.0, 0), run(3.0, 1), run(3.0, 0, lr=0.008), run(None, 1, lr=0.008)])
    assert tried(lr)[0.008] is None


def test_unfinished_runs_are_nowhere() -> None:
    stopped = replace(run(None, lr=0.008), status="unfinished")
    assert sweeps([run(3.0), stopped]) == []


def test_a_value_that_is_not_stated_is_on_no_line_with_those_that_are() -> None:
    without = run(3.05, lr=0.008)
    without = replace(without, hyperparameters={"lr": 0.008, "beta1": 0.9})
    assert len(one([run(3.0), run(3.1, lr=0.008), without]).points) == 2


@pytest.mark.parametrize(
    ("name", "values", "axis"),
    [
        ("lr", [0.001, 0.004], LOG),
        ("eps", [1e-25, 1e-10], LOG),
        ("beta1", [0.0, 0.9, 0.98], MEMORY),
        ("momentum", [0.9, 0.95], MEMORY),
        ("shampoo_beta", [0.9, 0.95], MEMORY),
        ("beta1", [0.9, 1.0], LOG),
        ("weight_decay", [0, 0.1, 0.2], STEPS),
        ("nesterov", [True, False], NAMES),
        ("lr_schedule", ["cosine", "linear"], NAMES),
        ("clip", [None, 1.0], NAMES),
    ],
)
def test_the_axis_follows_from_name_and_values(name: str, values: list, axis: str) -> None:
    assert axis_of(name, values) == axis


def test_a_value_off_the_axis_is_kept_without_a_place() -> None:
    clip = one([run(3.0, clip=1.0), run(3.1, clip=2.0), run(3.2, clip=None)], "clip")
    assert [(point.value, point.place is None) for point in clip.points] == [
        (1.0, False),
        (2.0, False),
        (None, True),
    ]
    assert clip.edge == "low"


def test_everything_diverged_is_told_as_it_is() -> None:
    lr = one([run(None), run(None, lr=0.008)])
    assert lr.best is None and lr.edge is None and lr.above is None and not lr.bracketed
