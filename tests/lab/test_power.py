"""Seeds against differences: the classical tables, simulated studies, tokens through the slope."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from steepest.core.errors import BadInput
from steepest.lab.analysis.power import (
    Design,
    detectable,
    gap_of,
    needed,
    power,
    seeds_needed,
    seen,
    share_of,
    slopes,
)
from steepest.lab.analysis.runs import Cell, Final, Place

CLASSIC = Design(level=0.95, power=0.8)


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_seeds_are_those_of_the_tables_for_paired_t(effect: float, seeds: int) -> None:
    """Cohen (1988) and G*Power: paired t, two-sided 0.05, power 0.8; the effect is in sd of the differences."""
    assert seeds_needed(effect * math.sqrt(2), 1.0, CLASSIC) == seeds


def test_power_is_the_share_of_simulated_studies_that_tell_the_difference() -> None:
    random, seeds, gap, sd = np.random.default_rng(0), 4, 0.01, 0.004
    gaps = random.normal(gap, sd * math.sqrt(2), (20_000, seeds))
    told = np.abs(gaps.mean(1)) / (gaps.std(1, ddof=1) / 2) > stats.t.ppf(0.95, seeds - 1)
    assert power(gap, sd, seeds, Design()) == pytest.approx(told.mean(), abs=0.01)


def test_no_difference_is_told_as_often_as_the_level_leaves() -> None:
    assert power(0.0, 0.004, 5, Design(level=0.9)) == pytest.approx(0.1)


def test_detectable_and_needed_are_each_other_s_inverse() -> None:
    for seeds in (2, 3, 7, 50):
        gap = detectable(0.004, seeds, CLASSIC)
        assert power(gap, 0.004, seeds, CLASSIC) == pytest.approx(0.8)
        assert seeds_needed(gap * 1.0001, 0.004, CLASSIC) == seeds


def test_more_optimizers_share_the_noise_and_more_comparisons_cost_seeds() -> None:
    alone = seeds_needed(0.01, 0.01, Design())
    assert alone is not None
    pooled, many = seeds_needed(0.01, 0.01, Design(optimizers=9)), seeds_needed(0.01, 0.01, Design(comparisons=8))
    assert pooled is not None
    assert many is not None
    assert pooled < alone < many


def test_a_poorly_known_noise_leaves_the_seeds_open() -> None:
    told = needed(0.01, 0.01, Design(), freedom=10)
    assert told.low is not None
    assert told.high is not None
    assert told.seeds is not None
    assert told.low < told.seeds < told.high
    assert needed(1e-9, 0.01, Design()).seeds is None
    least = seen(0.01, 3, Design(), freedom=10)
    assert least.low is not None
    assert least.high is not None
    assert least.low < least.gap < least.high


def test_a_share_of_tokens_is_a_gap_through_the_slope() -> None:
    assert gap_of(0.01, 0.06) == pytest.approx(0.06 * math.log(1.01))
    assert share_of(gap_of(0.25, 0.06), 0.06) == pytest.approx(0.25)
    # The 8x cells of arXiv 2509.02046: 1e-3 nats/token are worth 1.2 % of tokens at 130M, 2.4 % at 1.2B.
    assert share_of(1e-3, 0.4353 * 0.4554 * 8**-0.4353) == pytest.approx(0.0126, abs=1e-4)
    assert share_of(1e-3, 0.4848 * 0.23935 * 8**-0.4848) == pytest.approx(0.0239, abs=1e-4)
    assert share_of(1e9, 0.06) == math.inf


def finals(*budgets: int) -> list[Final]:
    return [
        Final(Cell("adamw", "50k", tokens), 50_000, (2 + 40 * tokens**-0.4,), (1,), {}, "one")
        for tokens in budgets
    ]


def test_the_slope_is_that_of_the_baseline_s_law() -> None:
    found = slopes(finals(1000, 2000, 4000, 8000), "adamw")
    assert found[Place("50k", 4000)] == pytest.approx(0.4 * 40 * 4000**-0.4, rel=1e-3)
    assert slopes(finals(1000, 2000, 4000), "adamw") == {}


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: power(0.01, 0.0, 3, CLASSIC), "sd 0"),
        (lambda: detectable(0.01, 1, CLASSIC), "1 seed"),
        (lambda: seeds_needed(0.0, 0.01, CLASSIC), "not 0"),
        (lambda: gap_of(0.01, -0.06), "slope -0.06"),
        (lambda: Design(level=1.2), "level 1.2"),
        (lambda: Design(power=0.05), "power 0.05"),
        (lambda: Design(optimizers=1), "1 optimizer"),
    ],
)
def test_what_cannot_be_planned_is_named(call: object, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        call()  # type: ignore[operator]
