"""Advice: carried over as far as the cells allow, graded, and tied where nothing tells apart."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from steepest import cli
from steepest.core.errors import BadInput
from steepest.lab.analysis.advice import sentences, told
from steepest.lab.analysis.evidence import evidence
from steepest.lab.analysis.finals import finals_of
from steepest.lab.analysis.outcomes import Known, Outcome, outcomes
from steepest.lab.analysis.recommend import Advice, Target, difference, graded, recommend

RACE = Path(__file__).with_name("data") / "race.json"
WORTH = 0.2


def cell(optimizer: str, weights: float, gap: float, ratio: float = 1.0, **given) -> Outcome:
    """A cell in which the optimizer ends ``gap`` e-folds of the baseline's tokens above it."""
    made = {
        "error": 1e-4,
        "seeds": 3,
        "best": {"lr": 0.01},
        "bracketed": True,
        "worth": WORTH,
        "source": "s",
    } | given
    return Outcome(
        optimizer=optimizer,
        label=optimizer.upper(),
        size=f"{weights:g}",
        weights=int(weights),
        tokens=int(20 * weights * ratio),
        loss=3.0 + WORTH * gap,
        speedup=None if optimizer == "adamw" else (-gap, 0.01),
        **made,
    )


def study(gap, sizes=(1e6, 1e7), ratios=(1, 8), **given) -> Known:
    """Baseline and muon, whose gap is a function of weights and ratio."""
    places = [(weights, ratio) for weights in sizes for ratio in ratios]
    return Known(
        "adamw",
        tuple(cell("adamw", w, 0.0, r, **given) for w, r in places)
        + tuple(cell("muon", w, gap(w, r), r, **given) for w, r in places),
    )


def of(known: Known, name: str, target: Target, **given) -> Advice:
    return next(one for one in recommend(known, target, **given) if one.optimizer == name)


def at(weights: float, ratio: float = 1.0) -> Target:
    return Target(weights, 20 * weights * ratio)


def test_at_a_cell_the_advice_is_what_was_measured() -> None:
    one = of(study(lambda w, r: -0.3), "muon", at(1e7))
    assert one.gap.value == pytest.approx(-0.3 * WORTH, rel=0.01)
    assert one.speedup.value == pytest.approx(math.exp(0.3), rel=0.01)
    assert one.word == "better" and one.rank == 1
    assert one.gap.high - one.gap.low < 0.01


def test_a_trend_over_sizes_is_carried_on_and_its_interval_grows_with_the_distance() -> None:
    known = study(lambda w, r: -0.4 + 0.1 * math.log10(w / 1e6), sizes=(1e6, 3e6, 1e7, 3e7))
    near, far = (of(known, "muon", at(weights)).speedup for weights in (1e8, 1e10))
    for speedup, true in ((near, math.exp(0.2)), (far, 1.0)):
        assert speedup.low < true < speedup.high
    assert near.value == pytest.approx(math.exp(0.2), rel=0.03)
    assert math.log(far.high / far.low) > 2 * math.log(near.high / near.low)


def test_a_difference_between_two_sizes_lies_between_theirs() -> None:
    one = of(study(lambda w, r: -0.4 if w < 2e6 else -0.2, ratios=(1,)), "muon", at(math.sqrt(1e13)))
    assert -0.4 * WORTH < one.gap.value < -0.2 * WORTH


def test_one_small_race_says_little_a_decade_away_and_nothing_three_away() -> None:
    known = study(lambda w, r: -0.3, sizes=(1e5,), ratios=(1,))
    near, far = of(known, "muon", at(1e6)), of(known, "muon", at(1e8))
    assert near.gap.high - near.gap.low > 0.1 * WORTH
    assert far.word == "not told apart" and far.gap.low < 0 < far.gap.high
    assert far.grade == "D" and "3.0 decades of weights" in far.reasons[0]
    said = " ".join(sentences(recommend(known, at(1e8)), known, at(1e8)))
    assert "No winner" in said and "a hint" in said and "a factor of 1,000" in said


def test_ties_share_the_first_rank_and_the_next_has_its_place() -> None:
    known = study(lambda w, r: -0.3)
    known = replace(
        known,
        outcomes=known.outcomes
        + tuple(cell("soap", w, -0.3005, r) for w in (1e6, 1e7) for r in (1, 8))
        + tuple(cell("lion", w, 0.2, r) for w in (1e6, 1e7) for r in (1, 8)),
    )
    found = {one.optimizer: (one.rank, one.word) for one in recommend(known, at(1e7))}
    assert found == {
        "soap": (1, "better"),
        "muon": (1, "better"),
        "adamw": (3, "baseline"),
        "lion": (4, "worse"),
    }


def test_nats_come_back_by_what_tokens_are_worth_there_and_keep_their_sign() -> None:
    """Worth falls by a factor of e per decade in these cells; a decade on, so does the difference."""
    known = study(lambda w, r: -0.3, sizes=(1e5, 1e6, 1e7))
    falling = tuple(replace(one, worth=WORTH * math.exp(-math.log10(one.weights / 1e5))) for one in known.outcomes)
    scaled = tuple(replace(one, loss=3 + (one.loss - 3) / WORTH * one.worth) for one in falling)
    one = of(Known("adamw", scaled), "muon", at(1e8))
    assert one.gap.value == pytest.approx(-0.3 * WORTH * math.exp(-3), rel=0.1)
    assert one.gap.low < one.gap.value < one.gap.high < 0


def test_cells_of_another_source_are_no_rivals() -> None:
    here, there = cell("adamw", 1e6, 0.0, source="here"), cell("muon", 1e6, -0.5, source="there")
    found = recommend(Known("adamw", (here, there)), at(1e6))
    assert [(one.optimizer, one.rank) for one in found] == [("adamw", 1), ("muon", None)]
    assert "not ranked: MUON" in sentences(found, Known("adamw", (here, there)), at(1e6))[-1]
    assert difference([there], [here], at(1e6)).value is None


def test_evidence_of_another_baseline_gives_losses_and_no_speedups() -> None:
    other = Known("muon", tuple(replace(one, source="t") for one in study(lambda w, r: -0.3).outcomes))
    joined = study(lambda w, r: -0.3).joined(other)
    assert joined.baseline == "adamw" and len(joined.outcomes) == 16
    assert all(one.speedup is None for one in joined.outcomes if one.source == "t")


@pytest.mark.parametrize(
    ("grade", "count", "given", "target"),
    [
        ("A", 4, {"certified": True}, at(1e7)),
        ("A", 4, {"certified": True}, at(1.9e7)),
        ("B", 4, {}, at(1e7)),
        ("B", 4, {"certified": True, "seeds": 2}, at(1e7)),
        ("B", 4, {"certified": True}, at(8e7)),
        ("C", 4, {"certified": True}, at(8e8)),
        ("C", 4, {"certified": True, "seeds": 1}, at(1e7)),
        ("C", 4, {"bracketed": False}, at(1e7)),
        ("C", 2, {"certified": True}, at(8e7, 8)),
        ("D", 1, {"certified": True}, at(8e7, 8)),
        ("D", 4, {"certified": True}, at(2e9)),
        ("D", 4, {"certified": True}, at(1e7, 8e4)),
        ("D", 0, {}, at(1e7)),
    ],
)
def test_the_grade_is_the_worst_of_distance_seeds_tuning_and_breadth(
    grade: str, count: int, given: dict, target: Target
) -> None:
    known = study(lambda w, r: -0.3, **given)
    base, muon = known.outcomes[:4], known.outcomes[4:]
    pairs = list(zip(muon, base, strict=True))[4 - count :]
    assert graded(pairs, target)[0] == grade


def test_what_does_not_fit_is_last_and_has_no_rank() -> None:
    known = study(lambda w, r: -0.3)
    heavy = tuple(replace(one, state_bytes=8.0 if one.optimizer == "muon" else 0.0) for one in known.outcomes)
    found = recommend(Known("adamw", heavy), at(1e7), limit=1e8)
    assert [(one.optimizer, one.rank, one.fits, one.memory) for one in found] == [
        ("adamw", 1, True, 8e7),
        ("muon", None, False, 16e7),
    ]
    exact = recommend(Known("adamw", heavy), at(1e7), limit=1e8, needs=lambda name: 5.0)
    assert [one.memory for one in exact] == [5.0, 5.0]
    none = recommend(Known("adamw", heavy), at(1e7), limit=1.0)
    assert [one.rank for one in none] == [None, None]
    assert sentences(none, known, at(1e7))[0].startswith("Nothing that was compared fits")


def test_values_are_those_of_the_nearest_cell_and_move_with_their_drift() -> None:
    known = study(lambda w, r: -0.3)
    slopes = {"muon": {"lr": ((-0.5, -0.4, -0.3), None), "beta1": (None, None)}}
    known = replace(known, slopes=slopes)
    one = of(known, "muon", at(1e8))
    assert one.nearest.weights == 10**7 and one.values == {"lr": 0.01}
    lr = one.scaled["lr"]
    assert (lr.low, lr.value, lr.high) == pytest.approx((0.01 * 10**-0.5, 0.01 * 10**-0.4, 0.01 * 10**-0.3))
    assert of(known, "muon", at(1e7)).scaled == {}


def test_bad_targets_and_evidence_without_its_baseline_are_refused() -> None:
    with pytest.raises(BadInput, match="above 0"):
        recommend(study(lambda w, r: 0.0), Target(0, 1))
    with pytest.raises(BadInput, match="sgd is finished"):
        recommend(replace(study(lambda w, r: 0.0), baseline="sgd"), at(1e6))


def test_a_race_is_read_with_its_worth_and_noise() -> None:
    known = outcomes(json.loads(RACE.read_text()), "race")
    muon = next(one for one in known.outcomes if one.optimizer == "muon")
    assert muon.seeds == 3 and muon.bracketed and muon.error == pytest.approx(0.0041 / math.sqrt(3))
    assert muon.worth == pytest.approx(0.245 * (2.87923 - 1.72), rel=0.02)
    assert muon.best["lr"] == 0.02 and muon.best["momentum"] == 0.95 and muon.best["batch"] == 16
    assert math.exp(muon.speedup[0]) == pytest.approx(1.4361)
    json.dumps(told(recommend(known, at(1e9)), known, at(1e9)), allow_nan=False)


def test_a_study_foretells_its_next_size(made) -> None:
    """The made study's laws are known: what 20k and 50k say of 110k holds there."""
    runs = made.made(tried=8, curves=0)
    small = [run for run in runs if run.size != "110k"]
    words = {"baseline": "adamw", "title": "t", "command": "c", "source": "s"}
    known = outcomes(evidence(small, finals_of(small), **words), "small")
    found = {one.optimizer: one for one in recommend(known, at(110_000, 4))}
    base = made.loss("adamw", 110_000, 4, made.SIZES)
    for name in ("nadamw", "lion", "muon", "soap", "kron"):
        gap = found[name].gap
        assert gap.low < made.loss(name, 110_000, 4, made.SIZES) - base < gap.high, name
    assert found["muon"].word == "better" and found["lion"].word != "better"
    assert found["muon"].grade in "BC" and "lr" in found["muon"].scaled


def test_the_verb_prints_a_table_or_json_and_exits_by_what_fits(capsys, tmp_path, monkeypatch) -> None:
    assert cli.main(["recommend", str(RACE), "--size", "1.2B", "--memory", "24GiB"]) == 0
    table = capsys.readouterr().out
    assert "D, a hint" in table and "too much" in table and "No winner" in table
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "race.json").write_text(RACE.read_text())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recommend", "--size", "221664", "--tokens", "2.1M", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optimizers"][0]["optimizer"] == "muon" and found["target"]["tokens"] == 2.1e6
    assert found["optimizers"][0]["from"]["source"] == "race/race.json"
    assert cli.main(["recommend", "--size", "1.2B", "--memory", "1MiB"]) == 1
    assert "Nothing that was compared fits" in capsys.readouterr().out


def test_the_verb_takes_a_named_model_to_the_byte(capsys) -> None:
    assert cli.main(["recommend", str(RACE), "--size", "512x512:8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target"]["weights"] == 8 * 512**2
    adamw = next(one for one in found["optimizers"] if one["optimizer"] == "adamw")
    assert adamw["memory"] == pytest.approx(16 * 8 * 512**2, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "1m"], "no evidence"),
        (["nowhere", "--size", "1m"], "no evidence at nowhere"),
        ([str(RACE), "--size", "1m", "--tokens", "2B", "--ratio", "3"], "give one"),
        ([str(RACE), "--size", "1m", "--tokens", "many"], "2.5B"),
        ([str(RACE), "--size", "0"], "above 0"),
        ([str(RACE), "--size", "no-such-model"], "unknown model"),
    ],
)
def test_bad_words_are_one_line(words, message, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recommend", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
