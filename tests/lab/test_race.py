"""A race: its protocol against runs whose losses are known, then whole and small on real runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steepest.cli import main
from steepest.core.errors import BadInput, SteepestError, UnknownName
from steepest.lab.analysis.spikes import scores
from steepest.lab.cluster.local import Job, Outcome
from steepest.lab.config import RunConfig
from steepest.lab.corpus import Corpus
from steepest.lab.race.hold import hold
from steepest.lab.race.plan import ENDING, FINAL, LAW, TUNE, Race, Trial, expected, make, split_settings
from steepest.lab.race.protocol import Course, Result
from steepest.lab.race.result import evidence
from steepest.lab.race.tune import Rule
from steepest.lab.report.schema import checked

BASE = RunConfig(tokens=512_000)
SPEED = {"adamw": 1.0, "muon": 1.35, "lion": 0.8, "sgd": 1.0}
BEST = {"adamw": 6e-3, "muon": 2e-2, "lion": 1.5e-3, "sgd": 0.4}


def known_loss(trial: Trial, noise: float = 0.003) -> float:
    """A law, a bowl over the learning rate, and noise that depends on optimizer, seed and budget alone."""
    law = 2 + 40 * (trial.tokens * SPEED[trial.optimizer]) ** -0.35
    bowl = 0.05 * math.log(trial.lr / BEST[trial.optimizer]) ** 2
    key = [trial.seed, trial.tokens, *trial.optimizer.encode()]
    return law + bowl + noise * float(np.random.default_rng(key).normal())


Known = Callable[[Trial], Result]


def finished(trial: Trial) -> Result:
    loss = known_loss(trial)
    tokens = tuple(trial.tokens // k for k in (4, 2, 1))
    along = (loss + 0.4, loss + 0.2, loss)
    return Result(f"run-{trial.name}", "finished", loss, loss / 2, 1.0, tokens=tokens, losses=along)


def run_known(race: Race, known: Known = finished) -> tuple[Course, list[list[str]]]:
    """The course of a race of known losses, and what could run at once at each turn."""
    course = Course(race, lambda trial, priority: Job(trial.name, print, (trial,), priority))
    waiting, turns = course.begin(), []
    while waiting:
        turns.append([job.name for job in waiting])
        later: list[Job] = []
        for job in waiting:
            (trial,) = job.arguments
            result = known(trial)
            failed = result.status == "failed"
            later += course.ended(Outcome(job, None if failed else result, result.reason if failed else None))
        waiting = later
    return course, turns


def calibration(race: Race, slower: float = 1.1) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    seconds = {e.name: (0.06 * (1 + draw.random(8) / 50) * slower**place) for place, e in enumerate(race.entrants)}
    return {
        "seconds": {name: list(values) for name, values in seconds.items()},
        "optimizer_seconds": {name: list(values / 10) for name, values in seconds.items()},
        "estimate_seconds": {name: list(values / 40) for name, values in seconds.items()},
        "flops": {
            name: {"model": 6e9, "estimates": 3e9 * place, "optimizer": 1e9 * place}
            for place, name in enumerate(seconds)
        },
    }


def test_the_protocol_tunes_repeats_brackets_again_and_spans_the_budgets() -> None:
    race = make(["muon", "lion"], BASE)
    course, _ = run_known(race)
    for name in SPEED.keys() - {"sgd"}:
        assert len(course.trials(name, TUNE)) == 6
        assert {t.seed for t in course.trials(name, TUNE)} == {0}
        finals = course.trials(name, FINAL)
        assert [t.seed for t in finals] == [1, 2, 3]
        assert {t.lr for t in finals} == {course.tuned[name].best}
        assert {t.tokens for t in [*finals, *course.trials(name, TUNE)]} == {race.tokens}
    assert {t.tokens for t in course.trials("adamw", ENDING)} == {race.budgets[0], race.budgets[-1]}
    assert {t.tokens for t in course.trials("adamw", LAW)} == set(race.budgets) - {race.tokens}
    assert all(tuned.bracketed for tuned in course.at.values())


def test_the_plan_counts_the_runs_that_follow() -> None:
    race = make(["muon"], BASE)
    course, _ = run_known(race)
    assert sum(line.runs for line in expected(race)) == len(course.results)
    assert sum(line.runs * line.tokens for line in expected(race)) == sum(t.tokens for t in course.results)


def test_no_optimizer_waits_for_another() -> None:
    """Muon's finals may start although no run of Lion has ended."""
    race = make(["muon", "lion"], BASE)
    course = Course(race, lambda trial, priority: Job(trial.name, print, (trial,), priority))
    waiting = [job for job in course.begin() if job.arguments[0].optimizer == "muon"]
    while waiting:
        job = waiting.pop()
        waiting += course.ended(Outcome(job, finished(job.arguments[0])))
    assert len(course.trials("muon", FINAL)) == 3
    assert not course.trials("lion", TUNE)


def test_known_speedups_are_told_and_everything_is_stated() -> None:
    race = make(["muon", "lion", "sgd"], BASE)
    course, _ = run_known(race)
    told = evidence(course, calibration(race))
    assert {name: r["verdict"] for name, r in told["results"].items()} == {
        "adamw": "baseline",
        "muon": "faster",
        "lion": "slower",
        "sgd": "not told apart",
    }
    for name, result in told["results"].items():
        in_tokens, in_seconds = result["speedup_tokens"], result["speedup_seconds"]
        assert in_tokens["value"] == pytest.approx(SPEED[name], rel=0.08)
        assert result["lr"]["bracketed"]
        assert result["tuning"]["runs"] == 6
        assert result["certificate"]["text"].startswith("certified: locally optimal")
        assert result["certificate"]["neighbours"]["tried"] == 5
        if name != "adamw":
            assert in_tokens["low"] < SPEED[name] < in_tokens["high"]
            assert in_seconds["value"] == pytest.approx(in_tokens["value"] / result["step"]["relative"], rel=0.01)
        work = 1 + 4 / 6 * list(told["results"]).index(name)
        in_flops = result["speedup_flops"]
        for key in ("value", "low", "high"):
            assert in_flops[key] == pytest.approx(in_tokens[key] / work)
        assert result["step"]["optimizer_share"] == pytest.approx(0.125)
        assert result["step"]["estimate_share"] == pytest.approx(0.025)
    assert len(told["law"]["points"]) == 4
    assert told["law"]["exponent"] == pytest.approx(0.35, abs=0.1)
    assert told["law"]["tuning"]["runs"] == 6
    assert told["power"]["seeds"] == 3
    assert told["power"]["freedom"] == told["noise"]["own_freedom"] == 6
    slope = told["law"]["exponent"] * told["law"]["alpha"] * race.tokens ** -told["law"]["exponent"]
    assert told["power"]["at"][0]["slope"] == pytest.approx(slope)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_spikes_are_means_over_the_final_runs_and_divergence_counts_all_runs() -> None:
    def spiky(trial: Trial) -> Result:
        if trial.optimizer == "muon" and trial.purpose == TUNE and trial.lr > 0.05:
            return Result("run", "diverged", None, None, 1.0, "loss is nan", spikes=scores([]))
        rows = [{"loss": 3.0 + 0.01 * (-1) ** t, "gradient_norm": 1.0 + 0.01 * (-1) ** t} for t in range(200)]
        if trial.purpose == FINAL and trial.seed == race.seeds[0]:
            rows[150]["loss"] = 9.0
        return replace(finished(trial), spikes=scores(rows))

    race = make(["muon"], BASE, seeds=4)
    told = evidence(run_known(race, spiky)[0], calibration(race))
    found = told["results"]["muon"]["spikes"]
    assert (found["runs"], found["loss"]["spike_score"]) == (4, pytest.approx(0.5 / 4))
    assert found["gradient_norm"]["spike_score"] == 0.0
    assert found["of"] > found["diverged"] >= 1
    assert max(run["loss_spike_score"] or 0 for run in told["runs"]) == 0.5


def test_one_seed_gives_losses_and_no_verdict() -> None:
    course, _ = run_known(make(["muon"], BASE, seeds=1))
    told = evidence(course, {})
    assert told["noise"] is None
    assert told["power"] is None
    assert "no noise is known" in told["results"]["muon"]["certificate"]["text"]
    assert told["results"]["muon"]["verdict"] == "refused"
    assert "--seeds 2" in told["results"]["muon"]["verdict_text"]
    assert told["results"]["muon"]["final"]["mean"] is not None
    assert told["results"]["muon"]["final"]["low"] is None


def test_an_optimizer_that_always_diverges_is_refused_and_the_rest_compared() -> None:
    def known(trial: Trial) -> Result:
        if trial.optimizer == "lion":
            return Result("run", "diverged", None, None, 1.0, "loss is nan")
        return finished(trial)

    course, _ = run_known(make(["lion", "muon"], BASE), known)
    told = evidence(course, {})["results"]
    assert told["lion"]["verdict"] == "refused"
    assert "diverged at every learning rate" in told["lion"]["verdict_text"]
    assert told["lion"]["final"] is None
    assert told["lion"]["tuning"]["runs"] == 6
    assert told["muon"]["verdict"] == "faster"


def test_a_winner_that_diverges_on_one_seed_gets_no_mean() -> None:
    def known(trial: Trial) -> Result:
        if trial.optimizer == "muon" and trial.seed == 2:
            return Result("run", "diverged", None, None, 1.0, "loss is nan")
        return finished(trial)

    told = evidence(run_known(make(["muon"], BASE), known)[0], {})["results"]["muon"]
    assert told["final"]["mean"] is None
    assert told["verdict"] == "refused"
    assert "every seed" in told["verdict_text"]


def test_a_run_that_fails_takes_only_its_optimizer_with_it() -> None:
    def known(trial: Trial) -> Result:
        if trial.optimizer == "lion" and trial.lr > 1e-3:
            return Result("", "failed", None, None, 0.0, "its process was ended by SIGKILL")
        return finished(trial)

    told = evidence(run_known(make(["lion", "muon"], BASE), known)[0], {})["results"]
    assert told["lion"]["verdict"] == "refused"
    assert "SIGKILL" in told["lion"]["verdict_text"]
    assert told["muon"]["verdict"] == "faster"


def test_without_a_law_the_reason_is_told() -> None:
    def known(trial: Trial) -> Result:
        if trial.purpose == LAW and trial.tokens < trial_tokens:
            return Result("", "failed", None, None, 0.0, "disk full")
        return finished(trial)

    race = make(["muon"], BASE)
    trial_tokens = race.tokens
    told = evidence(run_known(race, known)[0], {})
    assert told["law"] is None
    assert "disk full" in told["law_reason"]
    assert told["results"]["muon"]["verdict"] == "refused"


def test_runs_of_the_same_race_are_the_same_runs() -> None:
    race = make(["muon"], BASE)
    one, other = run_known(race)[0], run_known(race)[0]
    assert list(one.results) == list(other.results)
    assert evidence(one, calibration(race)) == evidence(other, calibration(race))


# ---- what cannot be raced


@pytest.mark.parametrize(
    ("names", "options", "word"),
    [
        (["muon"], {"seeds": 0}, "--seeds 0"),
        (["muon"], {"seeds": -2}, "--seeds -2"),
        (["muon"], {"law_seeds": 4}, "--law-seeds 4"),
        (["muon"], {"budgets": [0.5, 1, 2]}, "needs 4"),
        (["muon"], {"budgets": [-1, 0.5, 1, 2]}, "positive"),
        (["muon"], {"budgets": [math.nan, 0.5, 1, 2]}, "positive"),
        (["muon"], {"settings": {"muon": {"momentum": 2}}}, "momentum=2"),
        (["muon:momentum=2"], {}, "momentum=2"),
    ],
)
def test_an_impossible_race_is_refused_when_it_is_made(
    names: list[str], options: dict[str, Any], word: str
) -> None:
    with pytest.raises(BadInput, match=word):
        make(names, BASE, **options)


def test_too_few_steps_for_the_budgets_are_refused() -> None:
    with pytest.raises(BadInput, match="too few"):
        make(["muon"], replace(BASE, tokens=2048))


@pytest.mark.parametrize(("names", "baseline"), [(["muno"], "adamw"), (["muon"], "adamv")])
def test_an_unknown_optimizer_is_answered_with_the_nearest(names: list[str], baseline: str) -> None:
    with pytest.raises(UnknownName, match=r"did you mean '(muon|adamw)'"):
        make(names, BASE, baseline=baseline)


def test_the_baseline_is_added_and_nobody_runs_twice() -> None:
    assert [e.name for e in make(["muon", "adamw", "muon"], BASE).entrants] == ["adamw", "muon"]


def test_settings_go_to_the_optimizer_that_they_name() -> None:
    of, rest = split_settings(["adamw", "muon"], ["muon.momentum=0.9", "muon.companion.lr_ratio=.2", "batch=8"])
    assert of == {"adamw": {}, "muon": {"momentum": 0.9, "companion": {"lr_ratio": 0.2}}}
    assert rest == ["batch=8"]
    race = make(["muon"], BASE, settings=of)
    assert race.config(Trial("muon", 0.02, 1, 4096)).optimizer.hyperparameters == of["muon"]
    assert race.config(Trial("adamw", 0.02, 1, 4096)).optimizer.hyperparameters == {}


@pytest.mark.parametrize(
    ("setting", "word"), [("muno.momentum=0.9", "did you mean 'muon'"), ("muon.lr=1", "tunes lr")]
)
def test_settings_of_nobody_and_of_lr_are_refused(setting: str, word: str) -> None:
    with pytest.raises(SteepestError, match=word):
        split_settings(["adamw", "muon"], [setting])


# ---- real runs


def here(
    jobs: Iterable[Job], workers: int | None = None, *, then: Any = None, progress: Any = None
) -> list[Outcome]:
    """``submit`` in this process."""
    waiting, ended = sorted(jobs, key=lambda job: job.priority), []
    while waiting:
        job = waiting.pop(0)
        ended.append(Outcome(job, job.function(*job.arguments, report=lambda value: None)))
        waiting += then(ended[-1]) if then is not None else []
    return ended


@pytest.fixture
def tiny_race(tiny_config: RunConfig) -> Race:
    """Two optimizers, two seeds, budgets of 3 to 24 steps."""
    base = replace(tiny_config, tokens=12 * 4 * 16)
    return make(["lion"], base, seeds=2, tuning=Rule(runs=3))


def held(race: Race, corpus: Corpus, folder: Path, **options: Any) -> dict[str, Any]:
    options = {"submit": here} | options
    return hold(race, corpus, runs=folder / "runs", out=folder / "race", workers=1, command="race", **options)


def test_a_race_on_real_runs_fills_the_whole_file(tiny_race: Race, tiny_corpus: Corpus, tmp_path: Path) -> None:
    told = held(tiny_race, tiny_corpus, tmp_path)
    assert json.loads((tmp_path / "race" / "race.json").read_text()) == told
    assert checked(told)["optimizers"] == ["adamw", "lion"]
    assert {run["status"] for run in told["runs"]} <= {"finished", "diverged"}
    assert all((tmp_path / "runs" / run["run"] / "result.json").exists() for run in told["runs"])
    for name, result in told["results"].items():
        assert result["final"]["mean"] is not None
        assert result["step"]["seconds"] > 0
        assert 0 < result["step"]["optimizer_share"] < 1
        assert result["routing"][0]["parameter"]
        assert "lr" not in told["untuned"]["per_optimizer"][name]
        assert result["spikes"]["runs"] == 2
        assert result["spikes"]["of"] == sum(run["optimizer"] == name for run in told["runs"])
        assert result["spikes"]["loss"] == dict.fromkeys(("spike_score", "above_median", "z_spikes"))
    assert told["results"]["adamw"]["state_bytes_per_weight"] == pytest.approx(8, rel=0.01)
    assert told["results"]["lion"]["state_bytes_per_weight"] == pytest.approx(4, rel=0.01)
    assert [c["tokens"][-1] for c in told["curves"] if c["final"]] == [tiny_race.tokens] * 4


def test_an_interrupted_race_goes_on_without_training_anything_twice(
    tiny_race: Race, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    def interrupted(
        jobs: Iterable[Job], workers: int | None = None, *, then: Any, **options: Any
    ) -> list[Outcome]:
        count = 0

        def stop(outcome: Outcome) -> list[Job]:
            nonlocal count
            count += 1
            if count == 5:
                raise KeyboardInterrupt
            return list(then(outcome))

        return here(jobs, workers, then=stop)

    with pytest.raises(KeyboardInterrupt):
        held(tiny_race, tiny_corpus, tmp_path, submit=interrupted)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*/result.json")}
    assert len(before) == 5
    told = held(tiny_race, tiny_corpus, tmp_path)
    assert any("5 of" in warning for warning in told["warnings"])
    assert {path: path.read_bytes() for path in before} == before
    at_once = held(tiny_race, tiny_corpus, tmp_path / "elsewhere")
    for key in ("law", "rank_flips", "noise", "curves"):
        assert without_times(told[key]) == without_times(at_once[key])


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_the_calibration_is_kept_and_a_damaged_one_measured_anew(
    tiny_race: Race, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    first = held(tiny_race, tiny_corpus, tmp_path)["calibration"]
    assert held(tiny_race, tiny_corpus, tmp_path)["calibration"] == first
    kept = tmp_path / "race" / "calibration.json"
    kept.write_text(kept.read_text()[:100])
    again = held(tiny_race, tiny_corpus, tmp_path)["calibration"]
    assert again["of"] == first["of"]
    assert again["seconds"] != first["seconds"]


def test_a_failing_baseline_is_one_line_and_what_is_finished_is_kept(
    tiny_race: Race, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    def half(
        jobs: Iterable[Job], workers: int | None = None, *, then: Any = None, **options: Any
    ) -> list[Outcome]:
        ended = []
        for number, job in enumerate(jobs):
            broken = number == 2
            value = None if broken else job.function(*job.arguments, report=lambda value: None)
            ended.append(Outcome(job, value, "cannot write runs: disk full" if broken else None))
            then(ended[-1])
        return ended

    with pytest.raises(SteepestError, match=r"baseline failed: adamw lr .* disk full.*same command again"):
        held(tiny_race, tiny_corpus, tmp_path, submit=half)
    assert not (tmp_path / "race" / "race.json").exists()
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 5


TINY = {
    "--tokenizer": "bytes",
    "--model": "20k",
    "--tokens": "768",
    "--batch": "4",
    "--seq": "16",
    "--seeds": "2",
    "--tuning-runs": "3",
    "--workers": "2",
}
SMALL = ["model.layers=1", "model.width=16", "model.ffn=16", "evaluation.tokens=256"]


def words(**changed: str) -> list[str]:
    """The flags of a race that takes seconds."""
    flags = TINY | {f"--{name}": value for name, value in changed.items()}
    return [word for flag in flags.items() for word in flag] + [w for s in SMALL for w in ("--set", s)]


@pytest.fixture
def text(tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Text in the working folder."""
    (tmp_path / "text.txt").write_text(tiny_corpus.decode(np.asarray(tiny_corpus.train)[:40_000].tolist()))
    monkeypatch.chdir(tmp_path)
    return "text.txt"


def test_the_verb_writes_page_and_data_and_tells_the_verdict(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["race", "lion", "--corpus", text, *words()]) == 0
    told = capsys.readouterr()
    assert "Lion" in told.out
    assert "report.html" in told.out
    assert "runs done" in told.err
    assert {"race.json", "report.html", "runs.csv", "table.csv"} <= {path.name for path in Path("race").iterdir()}


def test_a_dry_run_prices_and_trains_nothing(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["race", "lion", "--corpus", text, *words(), "--dry-run", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["runs"] == sum(line["runs"] for line in plan["plan"])
    assert plan["hours"] > 0
    assert not list(Path("runs").glob("*/header.json"))
    assert not Path("race").exists()


def test_too_little_text_is_told_as_passes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["race", "lion", "--corpus", text, *words(tokens="128000"), "--dry-run"]) == 0
    assert "passes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["muno"], "did you mean 'muon'"),
        (["lion", "--seeds", "0"], "--seeds 0"),
        (["lion", "--workers", "0"], "--workers 0"),
        (["lion", "--budgets", "1,x"], "--budgets '1,x'"),
        (["lion", "--set", "lion.lr=nan"], "tunes lr"),
        (["lion", "--set", "optimizer.lr=nan"], "'optimizer'"),
        (["lion", "--model", "20k,51k"], "'51k'"),
        (["lion", "--tuning-factor", "nan"], "tuning factor nan"),
    ],
)
def test_bad_words_are_one_line_before_anything_runs(
    text: str, typed: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["race", *typed, "--corpus", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line
    assert not Path("runs").exists()
    assert not Path("race").exists()
