"""Seeds against differences: the classical tables, simulated studies, tokens through the slope."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from steepest.cli import main
from steepest.core.errors import BadInput
from steepest.lab.analysis.noise import repeats
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
from steepest.lab.analysis.runs import Cell, Final, Place, Run
from steepest.lab.analysis.seeds import Known, of_repeats, of_study, planned

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


def test_a_study_is_known_by_its_repeats_and_told_what_it_could_have_seen() -> None:
    random = np.random.default_rng(4)
    runs = [
        Run("r", name, "50k", 50_000, tokens, {"lr": 0.1}, "finished", 3 + float(random.normal()) * 0.01, seed)
        for name in ("adamw", "muon", "lion")
        for tokens in (1000, 2000)
        for seed in (1, 2, 3)
    ]
    known = of_repeats(repeats(runs), {Place("50k", 1000): 0.06, Place("50k", 2000): 0.05})
    assert known is not None
    assert (known.seeds, known.optimizers, known.places, known.freedom) == (3, 3, 2, 8)
    told = json.loads(json.dumps(planned(known)))
    assert told["seen"]["gap"] == pytest.approx(detectable(known.sd, 3, Design(optimizers=3, places=2)))
    assert [at["seeds"] for at in told["at"]] == [
        seeds_needed(slope * math.log(1.01), known.sd, Design(optimizers=3, places=2)) for slope in (0.06, 0.05)
    ]
    assert told["low"] < told["sd"] < told["high"]
    # The document's section is enough to plan from it anew.
    assert planned(of_study({"power": told}))["curve"] == told["curve"]
    assert of_repeats([], {}) is None


def test_the_words_say_what_was_missed() -> None:
    text = planned(Known(0.004, 10, 3, slopes={Place("50k", 1000): 0.06}), gap=0.003)["text"]
    assert "3 seeds tell two optimizers apart that differ by 0.013 nats/token" in text[0]
    assert "24 % of the tokens" in text[0]
    assert text[1].startswith("1 % of the tokens would take 557 seeds")
    assert "24 seeds" in text[2]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["power", *words]) == 0
    return capsys.readouterr().out


RACE = Path(__file__).with_name("data") / "race.json"


def test_the_verb_plans_from_numbers_and_from_a_race(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain = told(capsys, "--sd", "0.004", "--freedom", "10", "--slope", "0.06", "--seeds", "3")
    assert "3 (this study)" in plain
    assert "557" in plain
    of_race = json.loads(told(capsys, str(RACE), "--json"))
    assert (of_race["seeds"], of_race["sd"], of_race["at"][0]["size"]) == (3, 0.0041, "220k")
    (tmp_path / "race.json").write_text(RACE.read_text())
    assert json.loads(told(capsys, str(tmp_path), "--json")) == of_race


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "or --sd such as"),
        (["--sd", "-1"], "sd -1"),
        (["--sd", "0.01", "--seeds", "1"], "1 seed"),
        (["nowhere"], "no race and no study at nowhere"),
    ],
)
def test_the_verb_names_what_it_lacks(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", *words]) == 2
    assert said in capsys.readouterr().err
