"""Joint search and small budgets on synthetic studies; joint search beside coordinate descent on a ridge."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from driven import answered

from steepest.core.errors import BadInput, MissingExtra, SteepestError, UnknownName
from steepest.lab.analysis.runs import Cell, Place
from steepest.lab.study.asking import Failed
from steepest.lab.study.protocols import budgeted, chosen
from steepest.lab.study.protocols import joint as protocol
from steepest.lab.study.protocols.budgeted import Budgeted
from steepest.lab.study.protocols.joint import Joint
from steepest.lab.study.search import key, lowest
from steepest.lab.study.trial import Space, Trial, Values
from steepest.lab.study.tuners import joint
from steepest.lab.study.tuners.coordinate import Coordinate, descend
from steepest.lab.study.tuners.halton import halton, primes
from steepest.lab.study.tuners.joint import configurations, points, search

LRS = (0.002, 0.004, 0.008, 0.016, 0.032)
SPACE: Space = {"lr": LRS, "beta1": (0.9, 0.95, 0.98), "weight_decay": (0.0, 0.1, 0.2)}
START: Values = {"lr": 0.008, "beta1": 0.9, "weight_decay": 0.0, "batch": 8, "nesterov": True, "momentum": 0.9}


@dataclass
class Fake:
    """A study whose losses are those of ``loss``."""

    grids: Mapping[str, Space] = field(default_factory=lambda: {"adamw": SPACE, "muon": SPACE})
    places: tuple[Place, ...] = (Place("20k", 40_000),)
    seeds: tuple[int, ...] = (1, 2)
    baseline: str = "adamw"
    tuning_seed: int = 0
    step: int = 100
    sizes: Mapping[str, int] = field(default_factory=lambda: {"20k": 2000})

    @property
    def optimizers(self) -> tuple[str, ...]:
        return tuple(self.grids)

    def place(self, size: str, ratio: float) -> Place:
        return Place(size, round(ratio * 20 * self.sizes[size] / self.step) * self.step)

    def space(self, optimizer: str) -> Space:
        return self.grids[optimizer]

    def start(self, optimizer: str, place: Place) -> Values:
        return {name: START[name] for name in self.grids[optimizer]}

    def trial(
        self, optimizer: str, place: Place, values: Values, seed: int | None = None, purpose: str = ""
    ) -> Trial:
        return Trial(optimizer, place, key(values), self.tuning_seed if seed is None else seed, purpose)


def bowl(trial: Trial) -> float:
    """The best lr falls with the tokens."""
    at: Any = dict(trial.values)
    best = 0.016 * (trial.place.tokens / 40_000) ** -0.2
    bent = 0.05 * math.log(at["lr"] / best) ** 2 + 4 * (at.get("weight_decay", 0.1) - 0.1) ** 2
    return 3 + trial.place.tokens**-0.3 + bent + 2 * (at.get("beta1", 0.95) - 0.95) ** 2


def tuning(asked: list[Trial], optimizer: str) -> list[dict[str, Any]]:
    return [dict(t.values) for t in asked if t.optimizer == optimizer and t.seed == 0]


# ---- points of the cube


def test_the_sequence_is_even_in_every_dimension_and_its_beginning_does_not_change() -> None:
    points = halton(0, 210, 12, seed=3)
    assert primes(4) == [2, 3, 5, 7]
    for j, base in enumerate(primes(12)):
        whole = 210 - 210 % base
        counts = np.bincount((points[:whole, j] * base).astype(int), minlength=base)
        assert (counts == whole // base).all()
    assert (halton(100, 10, 5, seed=3) == points[100:110, :5]).all()
    assert (halton(0, 210, 12, seed=4) != points).any()


def test_two_dimensions_are_filled_more_evenly_than_by_chance() -> None:
    def empty(points: np.ndarray) -> int:
        return 64 - len({tuple(p) for p in (points * 8).astype(int)})

    pairs = [(i, j) for j in range(8) for i in range(j)]
    own = statistics.mean(empty(halton(0, 64, 8, s)[:, pair]) for s in range(10) for pair in pairs)
    chance = statistics.mean(empty(np.random.default_rng(s).random((64, 2))) for s in range(100))
    assert own < chance


# ---- joint search


def test_optimizers_see_the_same_points_in_what_they_share() -> None:
    lion = {"lr": LRS, "momentum": (0.9, 0.95), "weight_decay": (0.0, 0.1, 0.2), "batch": (4, 8, 16)}
    study = Fake({"adamw": SPACE, "lion": lion})
    _, asked = answered(protocol.run(study, Joint(runs=12)), bowl)
    shared = [
        [{name: at[name] for name in ("lr", "weight_decay")} for at in tuning(asked, optimizer)]
        for optimizer in study.optimizers
    ]
    # A duplicate that one of them skips shifts it against the other: points, not ranks, are the same.
    dims = protocol.dimensions(study)
    assert dims[0] == "lr" and set(dims) == {*SPACE, *lion}
    cube = halton(0, 60, len(dims), 0)
    for name, own in zip(("lr", "weight_decay"), (LRS, (0.0, 0.1, 0.2)), strict=True):
        drawn = [own[int(u * len(own))] for u in cube[:, dims.index(name)]]
        for seen in shared:
            rest = iter(drawn)
            assert all(any(at[name] == value for value in rest) for at in seen[1:])
    _, alike = answered(protocol.run(Fake(), Joint(runs=12)), bowl)
    assert tuning(alike, "adamw") == tuning(alike, "muon")


def test_every_cell_gets_the_same_number_of_runs_and_the_start_is_the_first() -> None:
    study = Fake(
        {"adamw": SPACE, "muon": {**SPACE, "batch": (4, 8, 16)}, "lion": {"lr": LRS, "beta1": (0.9, 0.95)}}
    )
    options = Joint(runs=10, law_ratios=(0.5,))
    found, asked = answered(protocol.run(study, options), bowl)
    assert Cell("adamw", "20k", 20_000) in found and len(found) == 4
    for cell, told in found.items():
        own = [t for t in asked if Cell(t.optimizer, *t.place) == cell]
        assert len(own) == told.runs == 10 + 2 == protocol.expected(study, options)[cell].expected
        assert dict(own[0].values) == study.start(cell.optimizer, cell.place)
        assert [t.purpose for t in own[-2:]] == ["law" if cell.tokens == 20_000 else "final"] * 2
        assert told.loss == min(told.notes["best_so_far"]) == told.notes["best_so_far"][-1]


def test_duplicates_are_replaced_by_the_next_point_until_the_whole_grid_is_run() -> None:
    losses, asked = answered(search(SPACE, {**START}, key, joint.Joint(runs=45)), lambda k: 3.0)
    assert len(losses) == len(asked) == len(set(asked)) == 45
    again = [key(values) for values in points(SPACE, START, joint.Joint(), tuple(SPACE), 0)]
    assert again == asked


def test_more_runs_than_configurations_are_refused_with_both_numbers() -> None:
    with pytest.raises(BadInput, match="every cell 46 runs, adamw has 45 configurations"):
        protocol.expected(Fake(), Joint(runs=46))
    with pytest.raises(BadInput, match="46"):
        answered(protocol.run(Fake(), Joint(runs=46)), bowl)
    assert protocol.expected(Fake(), Joint(runs=46, continuous=True))


def test_what_cannot_be_run_is_replaced_so_that_the_runs_stay_equal() -> None:
    found, _ = answered(
        protocol.run(Fake(), Joint(runs=12)),
        bowl,
        fails=lambda t: t.optimizer == "muon" and dict(t.values)["beta1"] == 0.98,
    )
    told = {cell.optimizer: len(value.notes["best_so_far"]) for cell, value in found.items()}
    assert told == {"adamw": 12, "muon": 12}


def test_an_optimizer_that_cannot_run_at_all_leaves_the_others_alone() -> None:
    found, _ = answered(protocol.run(Fake(), Joint(runs=12)), bowl, fails=lambda t: t.optimizer == "muon")
    assert isinstance(found[Cell("muon", "20k", 40_000)], Failed)
    assert found[Cell("adamw", "20k", 40_000)].values is not None


def test_a_start_that_diverges_ends_no_search_and_one_where_all_does_says_so() -> None:
    def loss(trial: Trial) -> float | None:
        at = dict(trial.values)
        return None if trial.optimizer == "muon" or at["lr"] == 0.008 else bowl(trial)

    found, asked = answered(protocol.run(Fake(), Joint(runs=12)), loss)
    told = found[Cell("adamw", "20k", 40_000)]
    assert told.notes["best_so_far"][0] is None and told.values["lr"] != 0.008
    lost = found[Cell("muon", "20k", 40_000)]
    assert lost.values is None and lost.notes["reason"] == "every configuration diverged"
    assert {t.seed for t in asked if t.optimizer == "muon"} == {0}


def test_a_continuous_axis_is_even_in_its_logarithm_and_whole_numbers_and_switches_keep_their_grid() -> None:
    space = {
        "lr": (0.001, 0.1),
        "beta2": (0.9, 0.9999),
        "batch": (4, 8),
        "weight_decay": (0.0, 0.1),
        "nesterov": (False, True),
    }
    start = {**START, "beta2": 0.9}
    drawn: list[Any] = list(islice(points(space, start, joint.Joint(continuous=True), tuple(space), 0), 1, 201))
    assert configurations(space, start, joint.Joint(continuous=True)) == math.inf
    assert {at["batch"] for at in drawn} == {4, 8}
    assert {at["weight_decay"] for at in drawn} == {0.0, 0.1}
    assert {at["nesterov"] for at in drawn} == {False, True}
    assert all(0.001 <= at["lr"] <= 0.1 and at["lr"] == float(f"{at['lr']:.3g}") for at in drawn)
    assert abs(np.median([math.log(at["lr"]) for at in drawn]) - math.log(0.01)) < 0.1
    assert all(0.9 <= at["beta2"] <= 0.9999 for at in drawn)
    assert abs(np.median([math.log(1 - at["beta2"]) for at in drawn]) - math.log(10**-2.5)) < 0.3


def test_a_winner_at_the_end_of_its_grid_is_told() -> None:
    found, _ = answered(protocol.run(Fake(), Joint(runs=45)), lambda t: 3 - dict(t.values)["lr"])  # type: ignore[operator]
    told = found[Cell("muon", "20k", 40_000)]
    assert told.values["lr"] == 0.032 and told.notes["ends"]["lr"] == "high"


def test_a_sampler_without_optuna_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert Joint(sampler="quasi")
    with pytest.raises(MissingExtra) as told:
        chosen("joint", {"sampler": "tpe"})
    assert str(told.value) == "sampler='tpe' needs optuna: pip install 'steepest[samplers]'"


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_takes_as_many_runs_begins_with_the_same_points_and_repeats_itself(sampler: str) -> None:
    pytest.importorskip("optuna")
    rule = joint.Joint(runs=13, sampler=sampler, batch=2)

    def loss(k: Any) -> float | None:
        at = dict(k)
        return None if at["lr"] > 0.02 else bowl(Trial("adamw", Place("20k", 40_000), k, 0))

    losses, asked = answered(search(SPACE, START, key, rule), loss)
    _, again = answered(search(SPACE, START, key, rule), loss)
    _, quasi = answered(search(SPACE, START, key, joint.Joint(runs=13)), loss)
    assert asked == again
    assert len(losses) == len(set(asked)) == 13
    assert asked[: joint.FIRST] == quasi[: joint.FIRST] and asked != quasi
    floating = {"lr": (0.002, 0.032), "beta1": (0.9, 0.98), "nesterov": (False, True)}
    found, _ = answered(search(floating, START, key, joint.Joint(11, sampler, 1, continuous=True)), loss)
    assert len(found) == 11


@pytest.mark.parametrize(
    "bad", [{"runs": 0}, {"batch": 0}, {"sampler": "tpee"}, {"law_ratios": [-1.0]}, {"rnus": 3}]
)
def test_impossible_options_of_a_joint_search_are_told(bad: dict[str, Any]) -> None:
    with pytest.raises(SteepestError) as told:
        chosen("joint", bad)
    assert "\n" not in str(told.value)


# ---- beside coordinate descent

LONG = tuple(0.5 * 2 ** (k / 2) for k in range(13))


def ridge(width: float, at: tuple[float, float], narrow: float = 8.0) -> Callable[[Any], float]:
    """A valley along the diagonal of two logarithms, a bowl in a third: the lr and weight decay of a paper."""

    def loss(k: Any) -> float:
        a, b, c = (math.log2(dict(k)[name]) for name in "abc")
        along, across = (a - at[0]) + (b - at[0]), (a - at[0]) - (b - at[0])
        return 3 + 0.002 * along**2 / width + 0.002 * narrow * across**2 + 0.002 * (c - at[1]) ** 2

    return loss


def ended(searched: str, budget: int, surface: Callable[[Any], float], start: Values) -> float:
    """The loss at which a search of ``budget`` runs ends, nats/token."""
    space = {name: LONG for name in "abc"}
    if searched == "coordinate":
        value, _ = answered(descend(space, start, key, Coordinate(most=budget)), surface)
        best = value.values
    else:
        value, _ = answered(search(space, start, key, joint.Joint(runs=budget)), surface)
        best = lowest(value)
    return surface(key(best))


@cache
def surfaces(narrow: float) -> list[tuple[Callable[[Any], float], Values, float]]:
    """Surfaces, a start on each, and the lowest loss of its grid."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(12):
        at = (float(rng.uniform(0, 4)), float(rng.uniform(0, 4)))
        surface, start = ridge(1.0, at, narrow), {name: float(rng.choice(LONG)) for name in "abc"}
        lowest_of = min(surface(key({"a": a, "b": b, "c": c})) for a in LONG for b in LONG for c in LONG)
        found.append((surface, start, lowest_of))
    return found


def gaps(searched: str, budget: int, narrow: float) -> float:
    """How far above the lowest loss of the grid a search ends, nats/token, in the mean of the surfaces."""
    return statistics.mean(ended(searched, budget, loss, at) - least for loss, at, least in surfaces(narrow))


def test_joint_search_ends_closer_on_a_ridge_and_coordinate_descent_in_a_bowl_once_it_has_two_passes() -> None:
    # One pass over three grids of 13 is 36 runs: a bowl takes two, a ridge stops descent wherever it meets it.
    assert gaps("coordinate", 80, narrow=1.0) < gaps("joint", 80, narrow=1.0)
    assert gaps("joint", 80, narrow=8.0) < 0.6 * gaps("coordinate", 80, narrow=8.0)


def test_few_points_in_a_very_narrow_ridge_end_joint_search_further_off_than_descent() -> None:
    assert gaps("coordinate", 40, narrow=64.0) < gaps("joint", 40, narrow=64.0)


# ---- small budgets

SHARES = {400: 0.01, 2000: 0.05, 4000: 0.1, 10_000: 0.25, 20_000: 0.5, 40_000: 1.0}


def test_every_share_is_a_cell_of_its_own_tokens_with_fresh_seeds() -> None:
    study = Fake()
    found, asked = answered(budgeted.run(study, Budgeted()), bowl)
    assert {cell.tokens for cell in found} == set(SHARES)
    assert set(found) == set(budgeted.expected(study, Budgeted()))
    for cell, told in found.items():
        assert told.notes["shares"] == {"40000": SHARES[cell.tokens]}
        assert [t.seed for t in told.trials["final"]] == [1, 2]
        assert {t.place for of in told.trials.values() for t in of} == {cell.place}
    assert len(asked) == sum(told.runs for told in found.values())


def test_shares_are_whole_steps_and_one_of_less_than_half_a_step_is_refused() -> None:
    study = Fake(step=3000)
    found, _ = answered(budgeted.run(study, Budgeted(shares=(0.05, 0.1, 0.11, 1.0))), bowl)
    assert sorted({cell.tokens for cell in found}) == [3000, 40_000]
    with pytest.raises(BadInput, match=r"shares has 0\.01: of the 40,000 tokens of 20k .* a step of 3,000"):
        answered(budgeted.run(study, Budgeted()), bowl)


def test_a_share_starts_at_the_winner_of_the_share_before_and_costs_less() -> None:
    found, asked = answered(budgeted.run(Fake(), Budgeted()), bowl)
    own = [found[Cell("muon", "20k", tokens)] for tokens in sorted(SHARES)]
    tuned = [len(told.trials["sweep"]) + len(told.trials.get("tune", ())) for told in own]
    assert own[0].notes["from"] == {name: START[name] for name in SPACE}
    for before, after in pairwise(own):
        assert after.notes["from"] == before.values
    assert max(tuned[1:]) < tuned[0]
    # No share waits for the fresh seeds of the one before.
    of = [t for t in asked if t.optimizer == "muon"]
    first, second = (
        next(k for k, t in enumerate(of) if t.place.tokens == n and t.seed == s) for n, s in ((400, 2), (2000, 0))
    )
    assert abs(first - second) <= len(LRS) + 2


def test_equal_budgets_of_two_places_are_one_cell() -> None:
    study = Fake(places=(Place("20k", 10_000), Place("20k", 40_000)))
    found, _ = answered(budgeted.run(study, Budgeted(shares=(0.25, 1.0))), bowl)
    assert {cell.tokens for cell in found} == {2500, 10_000, 40_000}
    assert found[Cell("adamw", "20k", 10_000)].notes["shares"] == {"10000": 1.0, "40000": 0.25}


def test_runs_of_a_share_keep_to_what_is_expected() -> None:
    study = Fake()
    for options in (Budgeted(), Budgeted(most=3)):
        found, _ = answered(budgeted.run(study, options), bowl)
        for cell, runs in budgeted.expected(study, options).items():
            assert found[cell].runs <= runs.most
            assert 0.5 <= found[cell].runs / runs.expected <= 1.6


def test_schedules_are_compared_at_each_share_the_first_as_the_plain_cell() -> None:
    options = Budgeted(shares=(0.1, 1.0), schedules=("cosine", "wsd-sqrt"))
    found, asked = answered(
        budgeted.run(Fake(), options), lambda t: bowl(t) + 0.1 * (dict(t.values)["schedule"] == "cosine")
    )
    assert {(cell.variant, cell.tokens) for cell in found} == {
        (variant, tokens) for variant in ("", "wsd-sqrt") for tokens in (4000, 40_000)
    }
    for trial in asked:
        assert dict(trial.values)["schedule"] == (trial.place.variant or "cosine")
    assert found[Cell("muon", "20k", 4000, "wsd-sqrt")].loss < found[Cell("muon", "20k", 4000)].loss


def test_schedules_beside_variants_or_their_own_grid_are_refused() -> None:
    options = Budgeted(schedules=("cosine", "wsd"))
    with pytest.raises(BadInput, match="variant 'no-qk-norm': make two studies"):
        budgeted.expected(Fake(places=(Place("20k", 40_000, "no-qk-norm"),)), options)
    with pytest.raises(BadInput, match="schedule is searched for adamw and compared"):
        budgeted.expected(Fake({"adamw": {"lr": LRS, "schedule": ("cosine", "wsd")}}), options)


def test_a_share_where_every_rate_diverges_leaves_the_next_its_start() -> None:
    found, _ = answered(budgeted.run(Fake(), Budgeted()), lambda t: None if t.place.tokens == 400 else bowl(t))
    lost, after = (found[Cell("adamw", "20k", tokens)] for tokens in (400, 2000))
    assert lost.values is None and lost.notes["reason"] == "every learning rate diverged"
    assert after.notes["from"] == {name: START[name] for name in SPACE} and after.finals


def test_a_share_that_cannot_run_leaves_the_other_shares_and_optimizers_alone() -> None:
    found, _ = answered(
        budgeted.run(Fake(), Budgeted()), bowl, fails=lambda t: t.optimizer == "muon" and t.place.tokens == 2000
    )
    lost = [cell for cell, told in found.items() if isinstance(told, Failed)]
    assert lost == [Cell("muon", "20k", 2000)]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"shares": [1.5]}, "shares has 1.5: give shares above 0 and up to 1"),
        ({"shares": []}, "shares is empty"),
        ({"schedules": ["wsd-sqr"]}, "unknown schedule 'wsd-sqr': did you mean 'wsd-sqrt'?"),
        ({"schedules": ["wsd", "wsd"]}, "name each once"),
        ({"most": 0}, "most=0"),
        ({"reach": -1}, "reach=-1"),
        ({"share": [1.0]}, "unknown setting 'protocol.share'"),
    ],
)
def test_impossible_options_of_small_budgets_are_told(bad: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, UnknownName)) as told:
        chosen("budgeted", bad)
    assert words in str(told.value) and "\n" not in str(told.value)


if __name__ == "__main__":
    for narrow in (1.0, 8.0, 64.0):
        for budget in (40, 80, 160):
            print(narrow, budget, *(f"{gaps(s, budget, narrow):.4f}" for s in ("coordinate", "joint")))
