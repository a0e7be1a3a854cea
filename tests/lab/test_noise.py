"""The noise floor from repeated seeds and from what cannot matter; which differences it lets through."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import Noise, pooled_noise
from steepest.lab.analysis.noise import (
    floors,
    irrelevant,
    pooled_floor,
    repeats,
    same_spread,
    sd_interval,
    seed_noise,
)
from steepest.lab.analysis.runs import Cell, Final, Run
from steepest.lab.analysis.significance import HIGHER, LOWER, TIE, UNKNOWN, compare, comparisons, holm, sign_flip

LOSSES = {"adamw": (3.50, 3.52, 3.51), "muon": (3.40, 3.43, 3.40), "lion": (3.55, 3.56, 3.57)}


def run(optimizer: str, loss: float | None, seed: int | None = 0, tokens: int = 1000, **values: float) -> Run:
    status = "diverged" if loss is None else "finished"
    return Run("run", optimizer, "50k", 50_000, tokens, {"lr": 0.01, **values}, status, loss, seed)


def seeded(losses: dict[str, tuple[float, ...]] = LOSSES, tokens: int = 1000) -> list[Run]:
    return [run(name, loss, seed, tokens) for name, of in losses.items() for seed, loss in enumerate(of, 1)]


def final(optimizer: str, losses: tuple[float, ...], seeds: tuple[int | None, ...] | None = None) -> Final:
    seeds = tuple(range(len(losses))) if seeds is None else seeds
    return Final(Cell(optimizer, "50k", 1000), 50_000, losses, seeds, {"lr": 0.01}, "mean")


def test_a_floor_is_the_spread_within_settings_of_one_optimizer() -> None:
    runs = [*seeded(), run("adamw", 3.7, 1, lr=0.1), run("adamw", 3.8, 2, lr=0.1), run("adamw", 3.2, 1, lr=0.3)]
    by_name = {floor.optimizer: floor for floor in floors(repeats(runs))}
    adamw = by_name["adamw"]
    assert (adamw.freedom, adamw.settings, adamw.runs) == (3, 2, 5)  # the setting with one seed says nothing
    assert adamw.sd == pytest.approx(math.sqrt((0.0002 + 0.005) / 3))
    assert by_name["muon"].sd == pytest.approx(np.std(LOSSES["muon"], ddof=1))


def test_a_run_of_unknown_seed_repeats_nothing() -> None:
    assert repeats([run("adamw", 3.5, None), run("adamw", 3.6, None)]) == []
    assert seed_noise([]) is None
    assert pooled_floor([]) is None


def test_runs_and_finals_tell_one_noise() -> None:
    finals = [final(name, losses, (1, 2, 3)) for name, losses in LOSSES.items()]
    assert seed_noise(repeats(finals)) == seed_noise(repeats(seeded())) == pooled_noise([*LOSSES.values()])


def test_the_interval_of_a_standard_deviation_is_the_chi_square_one() -> None:
    assert sd_interval(1.0, 10, 0.95) == pytest.approx((0.6987, 1.7549), abs=1e-4)
    with pytest.raises(BadInput, match="freedom above 0"):
        sd_interval(1.0, 0)


def test_noise_of_several_places_is_pooled_by_its_degrees_of_freedom() -> None:
    at_one, at_two = {"adamw": (1.0, 1.2), "muon": (2.0, 2.1)}, {"adamw": (1.0, 1.1, 1.3), "muon": (2.0, 2.2, 2.1)}
    both = seed_noise(repeats([*seeded(at_one), *seeded(at_two, 2000)]))
    one, two = (pooled_noise([*table.values()]) for table in (at_one, at_two))
    assert both is not None
    assert both.own_freedom == 3
    assert both.own_sd**2 == pytest.approx((one.own_sd**2 + 2 * two.own_sd**2) / 3)
    with_lone = seed_noise(repeats([*seeded(at_one), *seeded({"adamw": (1.0, 5.0)}, 4000)]))
    assert with_lone is not None
    assert with_lone.own_sd == pytest.approx(one.own_sd)  # a lone optimizer cannot tell what seeds share
    assert with_lone.sd > one.sd


def test_bartlett_s_p_value_is_the_tables_where_the_tables_hold() -> None:
    random = np.random.default_rng(3)
    for scales in [(1, 1, 1), (1, 1.2, 1.4)]:
        groups = [random.normal(size=40) * scale for scale in scales]
        runs = [run(f"o{i}", float(v), seed) for i, group in enumerate(groups) for seed, v in enumerate(group)]
        told, known = same_spread(floors(repeats(runs))), stats.bartlett(*groups)
        assert told is not None
        assert told.statistic == pytest.approx(known.statistic)
        assert told.p == pytest.approx(known.pvalue, abs=0.015)
    assert same_spread(floors(repeats(seeded()))[:1]) is None


def test_equal_noise_is_rejected_as_often_as_stated_with_three_seeds() -> None:
    random = np.random.default_rng(1)
    rejected = 0
    for _ in range(200):
        runs = [run(f"o{i}", float(v), seed) for i in range(4) for seed, v in enumerate(random.normal(size=3))]
        told = same_spread(floors(repeats(runs)))
        rejected += told is not None and told.p < 0.1
    assert 8 <= rejected <= 33


def test_optimizers_of_different_noise_are_named() -> None:
    random = np.random.default_rng(2)
    runs = [
        run(n, float(v), s) for n, k in (("calm", 1), ("wild", 9)) for s, v in enumerate(k * random.normal(size=9))
    ]
    told = same_spread(floors(repeats(runs)))
    assert told is not None
    assert told.p < 0.01
    assert "do not share one noise" in told.text
    assert "calm" in told.text


EPS = {  # AdamW at 130M and 1, 2, 4 and 8 tokens per 20 weights, of the released runs of arXiv 2509.02046
    1: {1e-25: 3.52914, 1e-20: 3.52914, 1e-15: 3.53116},
    2: {1e-25: 3.40921, 1e-20: 3.40921, 1e-15: 3.40895},
    4: {1e-25: 3.32166, 1e-20: 3.32166, 1e-15: 3.32312},
    8: {1e-25: 3.26164, 1e-20: 3.26164, 1e-15: 3.26296},
}
SWEPT = [run("adamw", loss, 0, 1000 * ratio, eps=eps) for ratio, of in EPS.items() for eps, loss in of.items()]


def test_what_cannot_matter_tells_the_noise_of_one_seed() -> None:
    told = irrelevant(SWEPT, "eps")
    assert (told.groups, told.pairs, told.identical) == (4, 12, 4)
    assert told.largest == pytest.approx(0.00202)
    # Runs of the same bits are one run: four gaps, one degree of freedom each.
    assert told.floor.freedom == 4
    assert told.floor.sd == pytest.approx(math.sqrt((2.02**2 + 0.26**2 + 1.46**2 + 1.32**2) / 2 / 4) * 1e-3)
    assert told.shift_p == pytest.approx(0.25)  # four gaps, three of one sign with the small one against them
    assert told.noise.own_sd == told.floor.sd


def test_only_declared_values_and_optimizers_count_as_irrelevant() -> None:
    more = [*SWEPT, run("adamw", 9.0, 0, 1000, eps=1.0), run("soap", 3.0, eps=1e-25), run("soap", 4.0, eps=1e-15)]
    assert irrelevant(more, "eps").largest > 1
    assert irrelevant(more, "eps", values=(1e-25, 1e-20, 1e-15), optimizers=["adamw"]) == irrelevant(SWEPT, "eps")


def test_another_hyperparameter_or_seed_is_no_pair() -> None:
    with pytest.raises(BadInput, match="equal but for eps"):
        irrelevant([run("adamw", 3.5, eps=1e-8), run("adamw", 3.6, eps=1e-9, lr=0.02)], "eps")
    with pytest.raises(BadInput, match="equal but for eps"):
        irrelevant([run("adamw", 3.5, 1, eps=1e-8), run("adamw", 3.6, 2, eps=1e-9)], "eps")
    with pytest.raises(BadInput, match="same bits"):
        irrelevant([run("adamw", 3.5, eps=1e-8), run("adamw", 3.5, eps=1e-9)], "eps")


@pytest.mark.parametrize(("gaps", "p"), [((1, 2, 3), 0.25), ((1, 1, 1, 1, 1), 2 / 32), ((1, -1), 1), ((), 1)])
def test_sign_flips_are_counted_exactly(gaps: tuple[float, ...], p: float) -> None:
    assert sign_flip(gaps) == pytest.approx(p)


def test_sign_flips_agree_with_the_permutation_test_beyond_what_is_counted() -> None:
    gaps = np.random.default_rng(5).normal(0.35, 1, 40)
    assert sign_flip(gaps.tolist()) == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, abs=0.01)


def test_holm_s_correction_is_the_textbook_one() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_without_pooled_noise_the_pairs_give_student_s_paired_test() -> None:
    ours, theirs = (3.40, 3.43, 3.40, 3.45), (3.50, 3.52, 3.51, 3.50)
    told = compare(final("muon", ours), final("adamw", theirs), None)
    known = stats.ttest_rel(ours, theirs)
    assert (told.t, told.p) == pytest.approx((known.statistic, known.pvalue))
    assert (told.seeds, told.freedom, told.word) == (4, 3, LOWER)
    assert (told.p_signs, told.least) == (0.125, 0.125)


def test_a_difference_inside_the_noise_floor_is_a_tie_and_one_outside_is_not() -> None:
    noise = Noise(0.01, 20.0, 0.01, 20, (3, 3))
    base = final("adamw", (3.50, 3.50, 3.50))
    for gap, word in [(0.005, TIE), (-0.005, TIE), (0.05, HIGHER), (-0.05, LOWER)]:
        assert compare(final("muon", tuple(loss + gap for loss in base.losses)), base, noise).word == word


def test_one_seed_without_a_noise_is_not_judged() -> None:
    told = compare(final("muon", (3.4,)), final("adamw", (3.5,)), None)
    assert told.word == UNKNOWN
    assert told.gap.value == pytest.approx(-0.1)
    assert not told.gap.excludes(0)
    unpaired = compare(
        final("muon", (3.4,), (None,)), final("adamw", (3.5,)), Noise(0.01, 40.0, 0.001, 40, (2, 2))
    )
    assert unpaired.seeds == 0
    assert unpaired.gap.high == pytest.approx(-0.1 + 1.684 * 0.01 * math.sqrt(2), abs=1e-5)


def test_many_comparisons_are_corrected_together() -> None:
    noise = Noise(0.01, 30.0, 0.01, 30, (9, 3))
    base = final("adamw", (3.50, 3.51, 3.52))
    alone = final("muon", tuple(loss - 0.016 for loss in base.losses))
    others = [final(f"o{k}", tuple(loss + 0.001 * k for loss in base.losses)) for k in range(8)]
    assert compare(alone, base, noise).word == LOWER
    (first, *_) = told = comparisons([alone, *others, base], "adamw", noise)
    assert len(told) == 9
    assert first.word == TIE
    assert first.p_holm == pytest.approx(9 * (first.p or 0))
