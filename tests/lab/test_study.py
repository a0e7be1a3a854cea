"""Studies: a file means the runs that it says, each made once, whoever is killed on the way."""

from __future__ import annotations

import heapq
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from steepest.cli import main
from steepest.core.errors import BadInput, SteepestError, UnknownName
from steepest.lab import corpus as corpora
from steepest.lab import record
from steepest.lab.analysis.runs import Cell, Place
from steepest.lab.cluster.local import Job, Outcome
from steepest.lab.config import RunConfig, plan
from steepest.lab.corpus import Corpus
from steepest.lab.files import locked
from steepest.lab.race import plan as races
from steepest.lab.study import calibration
from steepest.lab.study import hold as holding
from steepest.lab.study.hold import Standing, hold
from steepest.lab.study.price import check_budget, priced
from steepest.lab.study.status import status
from steepest.lab.study.study import Study
from steepest.lab.study.training import Result

SMALL = {
    "batch": 4,
    "seq": 16,
    "model": {"layers": 1, "width": 16, "heads": 2, "ffn": 16},
    "evaluation": {"tokens": 256, "points": 3},
}


@pytest.fixture
def tables(tiny_corpus: Corpus) -> dict[str, Any]:
    """One lr sweep of two optimizers, and two fresh seeds: 10 runs of 16 steps."""
    return {
        "name": "tiny",
        "optimizers": ["adamw", "muon"],
        "sizes": ["20k"],
        "tokens": [16 * 64],
        "seeds": 2,
        "axes": ["lr"],
        "grids": {"adamw": {"lr": [1e-3, 1e-2, 1e-1]}, "muon": {"lr": [1e-3, 1e-2, 1e-1]}},
        "protocol": {"name": "one-at-a-time", "reach": 0},
        "run": SMALL | {"corpus": {"source": str(tiny_corpus.path)}},
    }


def study_of(tables: dict[str, Any], **changes: Any) -> Study:
    return Study.from_mapping(tables | changes)


def inline(
    jobs: Iterable[Job],
    workers: int,
    *,
    then: Callable[[Outcome], Iterable[Job]] = lambda outcome: (),
    progress: Callable[[Job, Any], None] | None = None,
) -> list[Outcome]:
    """``submit`` without processes."""
    count = 0
    waiting: list[tuple[float, int, Job]] = []
    outcomes = []
    new = list(jobs)
    while new or waiting:
        for job in new:
            count += 1
            heapq.heappush(waiting, (job.priority, count, job))
        job = heapq.heappop(waiting)[2]
        try:
            outcome = Outcome(job, job.function(*job.arguments, report=lambda value: None))
        except SteepestError as error:
            outcome = Outcome(job, error=str(error))
        outcomes.append(outcome)
        new = list(then(outcome))
    return outcomes


def held(
    study: Study, runs: Path, watch: Any = lambda standing, run, value: None, submit: Any = inline
) -> Standing:
    corpus = corpora.open(study.base.corpus.sources[0])
    return hold(study, corpus, runs=runs, out=runs / "study", workers=2, watch=watch, submit=submit)


def numbers(runs: Path) -> dict[str, Any]:
    """Every run's rows without their times."""
    return {
        folder.name: [
            {key: value for key, value in row.items() if not key.endswith("seconds")}
            for row in record.read_rows(folder)
        ]
        for folder in record.list_runs(runs)
    }


def sessions(runs: Path) -> list[int]:
    return [len(record.read_header(folder)["sessions"]) for folder in record.list_runs(runs)]


# ---- what a file means


def test_a_trial_is_the_run_of_a_race_and_of_plain_training_that_mean_the_same() -> None:
    base = {"evaluation": {"tokens": 32_768, "points": 6}}
    names = ["adamw", "muon", "soap", "scion", "torch:AdamW", "sgd:momentum=0.9"]
    study = study_of({"optimizers": names, "sizes": ["20k"], "ratios": [1], "protocol": "one-at-a-time"})
    race = races.make(names, RunConfig.from_mapping(base | {"model": "20k", "ratio": 1}))
    manifest = {"identity": "x", "vocab_size": 512}
    for entrant in race.entrants:
        trial = study.trial(entrant.name, study.places[0], {})
        told = plan(study.config(trial), manifest).identity
        raced = race.config(races.Trial(entrant.name, entrant.middle, 0, race.tokens))
        assert plan(raced, manifest).identity == told
        plain = RunConfig.from_mapping(base | {"model": "20k", "optimizer": {"spec": entrant.name}})
        assert plan(plain, manifest).identity == told


def test_every_value_of_every_grid_is_another_run(tables: dict[str, Any], tiny_corpus: Corpus) -> None:
    study = study_of(tables | {"axes": [], "grids": {}}, optimizers=["adamw", "muon", "scion", "lion"])
    for name in study.optimizers:
        trials = [
            study.trial(name, study.places[0], {axis: value})
            for axis, grid in study.space(name).items()
            for value in grid
        ]
        runs = {plan(study.config(trial), tiny_corpus.manifest).identity for trial in trials}
        assert len(runs) == len(set(trials)) > 10


def test_equal_values_are_one_trial_however_they_are_written(tables: dict[str, Any]) -> None:
    study = study_of(tables | {"axes": [], "grids": {}})
    place = study.places[0]

    def trial(**values: Any) -> Any:
        return study.trial("adamw", place, values)

    assert trial(weight_decay=0) == trial(weight_decay=0.0)
    assert trial(lr=3 * 0.1) == trial(lr=0.3)
    assert trial(batch=8.0) == trial(batch=8)
    assert study.config(trial(batch=8.0)).batch == 8
    assert trial(weight_decay=0.1) == trial()
    assert trial(lr=0.3) != trial(lr=0.31)
    assert study.trial("adamw", place, {}, purpose="final") == trial()


def test_flat_names_become_the_runs_settings(tables: dict[str, Any]) -> None:
    study = study_of(tables | {"axes": [], "grids": {}}, optimizers=["adamw", "muon"])
    values = {
        "lr": 0.02, "momentum": 0.9, "companion.beta1": 0.9, "companion.lr_ratio": 0.1, "weight_decay": 0.2,
        "by_role.head.lr_ratio": 0.5, "warmup": 0.3, "batch": 8, "clip": 0,
    }  # fmt: skip
    config = study.config(study.trial("muon", study.places[0], values, seed=7))
    hyper = config.optimizer.hyperparameters
    assert (config.optimizer.lr, hyper["momentum"], hyper["weight_decay"]) == (0.02, 0.9, 0.2)
    # The companion's decay was the rule's in the recipe, and stays so; the half of betas that is not set, too.
    assert hyper["companion"] == {"betas": [0.9, 0.98], "lr_ratio": 0.1, "weight_decay": 0.2}
    assert hyper["by_role"] == {"head": {"lr_ratio": 0.5}}
    assert (config.schedule.warmup, config.batch, config.clip, config.seed) == (0.3, 8, 0.0, 7)
    plain = study.config(study.trial("muon", study.places[0], {}))
    assert plain.optimizer.hyperparameters == {}
    assert (plain.schedule.warmup, plain.batch, plain.clip) == (0.1, 4, 1.0)


def test_a_cooldown_is_searched_where_the_schedule_has_one(tables: dict[str, Any]) -> None:
    assert "cooldown" not in study_of(tables | {"axes": []}).space("adamw")
    wsd = study_of(tables | {"axes": []}, run=tables["run"] | {"schedule": {"name": "wsd"}})
    trial = wsd.trial("adamw", wsd.places[0], {"cooldown": 0.4})
    assert wsd.space("adamw")["cooldown"] == (0.1, 0.2, 0.4, 0.8)
    assert wsd.config(trial).schedule.decay == 0.4


def test_a_schedule_is_searched_where_a_grid_names_some(tables: dict[str, Any]) -> None:
    assert "schedule" not in study_of(tables | {"axes": []}).space("adamw")
    some = study_of(tables | {"axes": [], "grids": {"schedule": ["wsd-sqrt", "cosine"]}})
    assert some.space("muon")["schedule"] == ("cosine", "wsd-sqrt")
    assert some.config(some.trial("muon", some.places[0], {"schedule": "wsd-sqrt"})).schedule.name == "wsd-sqrt"


def test_schedules_at_shares_of_the_tokens_are_complete_runs_of_the_plain_architecture(
    tables: dict[str, Any], tiny_corpus: Corpus
) -> None:
    protocol = {"name": "budgeted", "shares": [0.5, 1.0], "schedules": ["linear", "wsd-sqrt"]}
    study = study_of(tables | {"tokens": [8 * 1024]}, protocol=protocol)
    assert 1024 % study.step == 0
    for cell in study.expected():
        assert cell.tokens in (4 * 1024, 8 * 1024)
        name = cell.variant or "linear"
        config = study.config(study.trial(cell.optimizer, cell.place, {"schedule": name}))
        made = plan(config, tiny_corpus.manifest)
        assert made.steps * config.batch * config.seq == cell.tokens
        assert config.schedule.name == name and config.model == study.model(study.places[0])


def test_grids_are_the_rules_own_until_the_file_says_otherwise(tables: dict[str, Any]) -> None:
    plain = study_of(tables | {"axes": [], "grids": {}})
    space = plain.space("adamw")
    assert next(iter(space)) == "lr"
    assert space["beta2"] == (0.9, 0.95, 0.98, 0.99, 0.999)
    assert space["batch"] == (2, 4, 8, 16)
    start = plain.start("adamw", plain.places[0])
    assert start == {k: start[k] for k in space}
    assert (start["lr"], start["beta2"], start["warmup"]) == (space["lr"][3], 0.98, 0.1)
    grids = {"warmup": [0.2, 0.05], "eps": [], "momentum": [0.9], "muon": {"lr": [0.01], "weight_decay": [0, 1]}}
    own = study_of(tables | {"axes": [], "grids": grids})
    assert own.space("adamw")["warmup"] == own.space("muon")["warmup"] == (0.05, 0.2)
    assert "eps" not in own.space("adamw")
    assert "momentum" not in own.space("adamw")
    assert own.space("muon")["momentum"] == (0.9,)
    assert own.space("muon")["weight_decay"] == (0.0, 1.0)
    # What the file leaves out of a grid is not where a search starts: the nearest that is left is.
    assert own.start("muon")["momentum"] == 0.9
    assert own.start("muon")["weight_decay"] == 0.0
    assert set(study_of(tables, axes=["warmup"]).space("muon")) == {"lr", "warmup"}


def test_what_a_recipe_leaves_to_the_rule_stays_so_at_the_start(tables: dict[str, Any]) -> None:
    study = study_of(tables | {"axes": [], "grids": {}}, optimizers=["adamw", "soap"])
    assert study.start("soap")["block_size"] is None
    assert study.config(study.trial("soap", study.places[0], {})).optimizer.hyperparameters == {}


def test_places_are_whole_steps_at_every_batch_and_variants_may_be_narrower(tables: dict[str, Any]) -> None:
    variants = {"no-qk": {"qk_norm": False}, "z": {"z_loss": 1e-4, "sizes": "20k", "ratios": [1]}}
    study = study_of(
        {key: value for key, value in tables.items() if key not in ("tokens", "grids", "axes")},
        sizes=["20k", "50k"],
        ratios=[1, 2.5],
        variants=variants,
        run={"batch": 16},
        grids={"batch": [16, 48]},
    )
    assert [place.variant for place in study.places] == [""] * 4 + ["no-qk"] * 4 + ["z"]
    assert all(place.tokens % (48 * 128) == 0 for place in study.places)
    assert study.places[0] == Place("20k", 67 * 48 * 128)  # 409,600 tokens, and the nearest
    assert study.sizes == {"20k": 20_480, "50k": 49_152}
    assert study.place("20k", 1) == study.places[0]
    assert study.place("50k", 0.25).tokens % (48 * 128) == 0
    config = study.config(study.trial("muon", study.places[-1], {}))
    assert config.model.fields == {"z_loss": 1e-4}


def test_settings_are_fixed_and_specs_may_hold_options(tables: dict[str, Any]) -> None:
    names = ["adamw", "muon:variant=kimi", "torch:AdamW"]
    study = study_of(tables, optimizers=names, settings={"adamw": {"betas": [0.8, 0.9]}}, grids={}, axes=[])
    assert study.start("adamw")["beta1"] == 0.8
    config = study.config(study.trial("adamw", study.places[0], {"beta2": 0.99}))
    assert config.optimizer.hyperparameters == {"betas": [0.8, 0.99]}
    foreign = study.config(study.trial("torch:AdamW", study.places[0], {"weight_decay": 0.3, "beta1": 0.8}))
    assert foreign.optimizer.hyperparameters == {"weight_decay": 0.3, "betas": [0.8, 0.999]}


def test_a_file_in_toml_and_one_in_python_are_the_same_study(tables: dict[str, Any], tmp_path: Path) -> None:
    toml = tmp_path / "one.toml"
    toml.write_text(
        'optimizers = ["adamw", "muon"]\nsizes = ["20k", "50k"]\nratios = [1]\nprotocol = "one-at-a-time"\n'
        "[grids]\nwarmup = [0.1, 0.2]\nmuon.lr = [4e-3, 8e-3]\n[budget]\nruns = 900\n"
    )
    python = tmp_path / "one.py"
    python.write_text(
        'study = {"optimizers": ["adamw", "muon"], "sizes": ["20k", "50k"], "ratios": [1],'
        ' "protocol": "one-at-a-time", "grids": {"warmup": [0.1, 0.2], "muon": {"lr": [4e-3, 8e-3]}},'
        ' "budget": {"runs": 900}}\n'
    )
    made = tmp_path / "made.py"
    made.write_text(
        "from pathlib import Path\nfrom steepest.lab.study.study import Study\n"
        f"study = Study.read(Path({str(toml)!r}))\n"
    )
    assert Study.read(toml) == Study.read(python) == Study.read(made)
    assert Study.read(toml).name == "one"


def test_the_file_on_the_page_of_the_studies_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    (tmp_path / "page.toml").write_text(page.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    study = Study.read(tmp_path / "page.toml")
    assert [place.variant for place in study.places] == ["", "", "", "", "no-qk-norm"]
    assert study.space("lion") == {**study.space("lion"), "warmup": (0.05, 0.1, 0.2)}
    assert set(study.space("muon")) == {"lr", "warmup"}
    check_budget(study, priced(study))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": ["adamw"]}, "unknown key of a study 'optimizer': did you mean 'optimizers'?"),
        ({"optimizers": ["adamw", "muno"]}, "unknown optimizer 'muno': did you mean 'muon'?"),
        ({"optimizers": []}, "optimizers=[]: give a list of names"),
        ({"optimizers": ["adamw", "muon", "muon"]}, "optimizers names 'muon' twice"),
        ({"optimizers": ["lion", "muon"]}, "the baseline 'adamw' is not among the optimizers"),
        ({"baseline": "lion"}, "the baseline 'lion' is not among the optimizers"),
        ({"sizes": ["21k"]}, "unknown model '21k': did you mean '20k'?"),
        ({"sizes": ["20k", "20k"]}, "places names '20k 1024 ' twice"),
        ({"ratios": [1]}, "the study has ratios and tokens: give one of the two"),
        ({"tokens": [0]}, "tokens=0: each must be a finite number above 0"),
        ({"tokens": [1024, 1024]}, "give at least one, and each once"),
        ({"tokens": [1024, 1025]}, "places names '20k 1024 ' twice"),
        ({"seeds": 0}, "seeds=0: give at least 1"),
        ({"protocol": "one-at-a-tim"}, "unknown protocol 'one-at-a-tim': did you mean 'one_at_a_time'?"),
        ({"protocol": {"name": "one-at-a-time", "reech": 3}}, "did you mean 'protocol.reach'?"),
        ({"protocol": {"name": "one-at-a-time", "reach": "far"}}, "protocol.reach='far': it must be a whole"),
        ({"protocol": {"reach": 3}}, "give its name"),
        ({"axes": ["lr", "warmpu"]}, "unknown hyperparameter in axes 'warmpu': did you mean 'warmup'?"),
        ({"grids": {"warmpu": [0.1]}}, "unknown hyperparameter in grids 'warmpu': did you mean 'warmup'?"),
        ({"grids": {"lion": {"lr": [0.1]}}}, "unknown optimizer in grids 'lion'"),
        ({"grids": {"adamw": {"momentum": [0.9]}}}, "unknown hyperparameter of adamw 'momentum'"),
        ({"grids": {"adamw": {"beta3": [0.9]}}}, "unknown hyperparameter of adamw 'beta3'"),
        ({"grids": {"muon": {"momentum": [1.5]}}}, "muon cannot take momentum=1.5: it must be"),
        ({"grids": {"adamw": {"beta1": ["high"]}}}, "adamw cannot take beta1='high'"),
        ({"grids": {"weight_decay": [-1]}}, "cannot take weight_decay=-1"),
        ({"grids": {"lr": [0.1, 0.1]}}, "holds a value twice"),
        ({"grids": {"lr": []}}, "leaves no learning rate"),
        ({"grids": {"lr": [-0.1]}}, "lr=-0.1"),
        ({"grids": {"lr": 0.1}}, "lr=0.1 must be a list of values"),
        ({"grids": {"warmup": [-0.5]}}, "schedule.warmup=-0.5"),
        ({"grids": {"batch": [2.5]}}, "batch=2.5: it must be a whole number"),
        ({"grids": {"clip": [-1]}}, "clip=-1"),
        ({"grids": {"schedule": ["wsd-sqr"]}}, "unknown schedule 'wsd-sqr': did you mean 'wsd-sqrt'?"),
        ({"protocol": {"name": "budgeted", "schedules": ["wsd-sqr"]}}, "did you mean 'wsd-sqrt'?"),
        ({"grids": {"cooldown": [0.2]}}, "unknown hyperparameter in grids 'cooldown'"),
        ({"settings": {"adamw": {"epz": 1}}}, "unknown hyperparameter of adamw 'epz': did you mean 'eps'?"),
        ({"settings": {"adamw": {"lr": 1}}}, "the study searches lr"),
        ({"settings": {"lion": {}}}, "unknown optimizer in settings 'lion'"),
        ({"variants": {"a": {"qk_nrm": False}}}, "unknown setting 'model.qk_nrm': did you mean 'model.qk_norm'?"),
        ({"run": {"optimizer": "lion"}}, "run.optimizer: the study sets it"),
        ({"run": {"model": "50k"}}, "run.model='50k': the study sets it"),
        ({"run": {"batsh": 4}}, "unknown setting 'batsh': did you mean 'batch'?"),
        ({"budget": {"run": 4}}, "unknown setting 'budget.run': did you mean 'budget.runs'?"),
        ({"budget": {"tokens": -4}}, "budget.tokens=-4"),
    ],
)
def test_bad_input_is_told_by_name(tables: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, UnknownName)) as told:
        study_of(tables, **changes)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_protocol_is_refused_for_an_optimizer_that_lacks_its_hyperparameter(tables: dict[str, Any]) -> None:
    protocol = {"name": "one-at-a-time", "hyperparameters": ["momentum"]}
    with pytest.raises(BadInput, match="searches momentum, adamw searches"):
        study_of(tables | {"axes": [], "grids": {}}, protocol=protocol)


def test_an_impossible_budget_is_refused_with_numbers(tables: dict[str, Any]) -> None:
    study = study_of(tables, budget={"runs": 5})
    with pytest.raises(BadInput, match=r"budget\.runs=5: .* asks for first is 6 runs .*in all: 10 runs"):
        check_budget(study, priced(study))
    study = study_of(tables, budget={"tokens": 6 * 1024 - 1})
    with pytest.raises(BadInput, match=r"budget\.tokens=6,143: .*6,144 tokens .*in all: 10,240 tokens"):
        check_budget(study, priced(study))
    study = study_of(tables, budget={"tokens": 6 * 1024, "runs": 6})
    check_budget(study, priced(study))


# ---- holding one


def test_a_study_makes_every_run_once_and_again_makes_none(tables: dict[str, Any], runs: Path) -> None:
    study = study_of(tables)
    standing = held(study, runs)
    assert standing.course.ended
    chosen = standing.course.value[Cell("muon", *study.places[0])]
    assert len(chosen.finals) == 2
    assert sum(priced(study).runs.values()) == len(standing.results) == len(record.list_runs(runs)) == 10
    told = status(standing)
    assert (told["done"], told["running"], told["waiting"], told["tokens"]) == (10, 0, 0, 10_240)
    assert min(cell["best"]["loss"] for cell in told["cells"]) == min(
        result.loss for result in standing.results.values() if result.loss is not None
    )

    def never(jobs: Iterable[Job], workers: int, **callbacks: Any) -> list[Outcome]:
        assert not list(jobs)
        return []

    again = held(study, runs, submit=never)
    assert again.course.value == standing.course.value


def test_two_studies_share_their_runs(tables: dict[str, Any], runs: Path) -> None:
    held(study_of(tables, optimizers=["adamw"], grids={"lr": [1e-3, 1e-2, 1e-1]}), runs)
    before = numbers(runs)
    standing = held(study_of(tables), runs)
    assert len(before) == 5
    assert sum(result.present for result in standing.results.values()) == 5
    assert set(sessions(runs)) == {1}
    assert before.items() <= numbers(runs).items()


def test_a_run_of_another_process_is_put_aside_and_the_others_go_on(
    tables: dict[str, Any], tiny_corpus: Corpus, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks")
    monkeypatch.setattr(holding, "POLL", 0.01)
    study = study_of(tables)
    first = Standing(study, tiny_corpus, runs).begin()[0]
    (runs / first).mkdir(parents=True)
    order: list[str] = []
    lock = locked(runs / first)
    lock.__enter__()

    def watch(standing: Standing, run: str, value: Any) -> None:
        order.append(run)
        if len(order) == 7:  # the other rates of both, and muon's fresh seeds: all that needs not the first
            lock.__exit__(None, None, None)

    standing = held(study, runs, watch)
    assert order.index(first) == 7
    assert len(order) == len(set(order)) == 10
    assert standing.course.ended


def test_a_damaged_folder_is_named_and_the_others_go_on(tables: dict[str, Any], runs: Path) -> None:
    study = study_of(tables)
    whole = held(study, runs)
    trial = study.trial("adamw", study.places[0], {"lr": 1e-3})
    folder = runs / whole.runs_of[trial]
    (folder / record.RESULT).write_text("{")
    standing = held(study, runs)
    (reason,) = set(standing.course.failures.values())
    assert str(folder / record.RESULT) in reason
    assert "delete" in reason
    assert status(standing)["failures"] == [reason]
    assert standing.course.value[Cell("muon", *study.places[0])] == whole.course.value[Cell("muon", *trial.place)]


def test_a_budget_stops_a_study_at_its_last_run_and_a_greater_one_goes_on(
    tables: dict[str, Any], runs: Path
) -> None:
    standing = held(study_of(tables, budget={"runs": 8}), runs)
    assert len(record.list_runs(runs)) == 8
    assert not standing.course.ended
    assert len(standing.missing) == 2
    assert status(standing)["waiting"] == len(standing.refused) == 2
    assert sum(standing.refused.values()) == 2 * 1024
    held(study_of(tables, budget={"tokens": 9 * 1024}), runs)
    assert len(record.list_runs(runs)) == 9
    assert held(study_of(tables, budget={"runs": 10, "hours": 1}), runs).course.ended
    assert set(sessions(runs)) == {1}


# ---- kills

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "torch._dynamo", "steepest.lab.study.hold", "steepest.registry"])


def _hold(tables: dict[str, Any], runs: Path) -> None:
    held(study_of(tables), runs)


def test_processes_that_are_killed_at_random_leave_the_study_as_it_would_have_been(
    tables: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks")
    tables["budget"] = {"runs": 10}
    tables["run"] = tables["run"] | {"checkpoint": {"seconds": 0.02}}
    whole = held(study_of(tables), tmp_path / "whole")
    draw, runs, kills = random.Random(1), tmp_path / "killed", 0
    alive = [_started(tables, runs) for _ in range(3)]
    while kills < 6 and len(list(runs.glob(f"*/{record.RESULT}"))) < 10:
        time.sleep(draw.uniform(0.05, 0.3))
        place = draw.randrange(3)
        if alive[place].is_alive():
            os.kill(alive[place].pid or 0, signal.SIGKILL)
            kills += 1
        alive[place].join()
        alive[place] = _started(tables, runs)
    for process in alive:
        process.join()
        assert process.exitcode == 0
    assert kills >= 3
    assert numbers(runs) == numbers(tmp_path / "whole")
    assert held(study_of(tables), runs).course.value == whole.course.value


def _started(tables: dict[str, Any], runs: Path) -> Any:
    process = _processes.Process(target=_hold, args=(tables, runs))
    process.start()
    return process


def test_processes_at_once_do_no_run_twice(tables: dict[str, Any], runs: Path) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks")
    processes = [_started(tables, runs) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(sessions(runs)) == 10
    assert set(sessions(runs)) == {1}
    for folder in record.list_runs(runs):
        assert (folder / record.ROWS).read_bytes().count(b"\n") == 16


def test_a_killed_worker_and_a_killed_command_lose_no_run(
    tables: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole, by the command line: a worker dies and its run goes on; the command dies and the next goes on."""
    tables["tokens"] = [200 * 64]
    tables["run"] = tables["run"] | {"checkpoint": {"seconds": 0.1}}
    tables["optimizers"] = ["adamw"]
    tables["grids"] = {"lr": [1e-3, 1e-2, 1e-1]}
    file, runs = tmp_path / "tiny.py", tmp_path / "runs"
    file.write_text(f"study = {tables!r}\n")
    words = ["run", str(file), "--workers", "2", "--runs", str(runs), "--out", str(tmp_path / "out")]
    code = f"import sys; from steepest.cli import main; sys.exit(main(['study', *{words!r}]))"
    command = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first = _holder_of_a_run(runs)
    os.kill(first, signal.SIGKILL)
    second = _holder_of_a_run(runs, other_than=first)
    command.kill()
    command.wait()
    with suppress(ProcessLookupError):
        for _ in range(500):
            os.kill(second, 0)  # a worker outlives its parent for a moment only
            time.sleep(0.02)
    assert main(["study", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["failures"], told["ended"]) == (5, [], True)
    assert max(sessions(runs)) > 1
    held(study_of(tables), tmp_path / "whole")
    assert numbers(runs) == numbers(tmp_path / "whole")


def _holder_of_a_run(runs: Path, other_than: int = 0) -> int:
    """The process of a worker that is some steps into an unfinished run."""
    while True:
        for path in runs.glob(f"*/{record.ROWS}"):
            with suppress(OSError, ValueError):
                holder = int((path.parent / "lock").read_text())
                steps = path.read_bytes().count(b"\n")
                if holder != other_than and steps > 20 and not (path.parent / record.RESULT).exists():
                    return holder
        time.sleep(0.005)


def test_plan_and_status_tell_what_follows_in_numbers(
    tables: dict[str, Any], tiny_corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, runs = tmp_path / "tiny.py", tmp_path / "runs"
    tables["grids"]["muon"]["lr"].append(0.3)
    file.write_text(f"study = {tables!r}\n")
    words = [str(file), "--runs", str(runs), "--out", str(tmp_path / "out"), "--workers", "2", "--json"]
    held(study_of(tables, optimizers=["adamw"], grids={"lr": tables["grids"]["adamw"]["lr"]}), runs)
    assert main(["study", "plan", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["most"], told["present"], told["tokens"]) == (11, 11, 5, 6 * 1024)
    assert told["flops"] > 0 < told["hours"]
    assert [side["points"] for side in told["sides"]] == [3, 4]
    assert any("search spaces differ" in warning for warning in told["warnings"])
    hours = tmp_path / "hours.py"
    hours.write_text(f"study = {tables | {'budget': {'hours': 1e-9}}!r}\n")
    assert main(["study", "plan", str(hours), *words[1:]]) == 2
    assert "budget.hours=1e-09: what one-at-a-time asks for first, 7 runs, takes about" in capsys.readouterr().err
    assert main(["study", "status", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["waiting"], told["running"], told["ended"]) == (5, 4, 0, False)
    assert (told["expected"], told["seconds_left"] > 0) == (11, True)
    assert main(["study", "status", *words[:-1]]) == 0
    assert "5 of 11 runs done (5,120 tokens), 0 running, 4 asked for and waiting" in capsys.readouterr().out


def test_a_result_tells_how_a_run_ended(tables: dict[str, Any], runs: Path) -> None:
    study = study_of(tables, optimizers=["adamw"], grids={"lr": [1e-3, 1e6]}, seeds=1)
    standing = held(study, runs)
    ends = {dict(t.values)["lr"]: standing.results[run] for t, run in standing.runs_of.items() if t.seed == 0}
    assert isinstance(ends[1e-3], Result)
    assert (ends[1e-3].status, ends[1e6].status, ends[1e6].loss) == ("finished", "diverged", None)
    assert ends[1e6].trained < ends[1e-3].trained == 1024
    assert status(standing)["diverged"] == 1


def test_a_setting_that_the_optimizer_cannot_take_is_told_before_anything_runs(
    tables: dict[str, Any], runs: Path
) -> None:
    study = study_of(tables, settings={"adamw": {"betas": [0.9, 1.5]}})
    with pytest.raises(BadInput, match="betas"):
        held(study, runs)
    assert not record.list_runs(runs)


def test_a_report_tells_what_is_finished_in_the_losses_of_the_runs(
    tables: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "calibrated_steps", partial(calibration.calibrated_steps, submit=inline))
    file, runs, out = tmp_path / "tiny.py", tmp_path / "runs", tmp_path / "out"
    file.write_text(f"study = {tables!r}\n")
    words = ["report", str(file), "--runs", str(runs), "--out", str(out), "--json"]
    assert main(["study", *words]) == 2
    assert "no run of the baseline adamw is finished yet" in capsys.readouterr().err
    held(study_of(tables, budget={"runs": 8}), runs)
    assert main(["study", *words]) == 0
    early = json.loads((out / "study.json").read_text())
    assert any("2 runs that were asked for are missing" in warning for warning in early["warnings"])
    standing = held(study_of(tables), runs)
    assert main(["study", *words]) == 0
    told = json.loads((out / "study.json").read_text())
    place = study_of(tables).places[0]
    for cell in told["cells"]:
        chosen = standing.course.value[Cell(cell["optimizer"], *place)]
        assert cell["losses"] == list(chosen.finals.values())
        assert cell["best"] == dict(chosen.values)
        assert cell["how"] == "mean of 2 fresh seeds"
    assert told["runs_count"] == 10
    assert told["labels"] == {"adamw": "AdamW", "muon": "Muon"}
    assert (out / "report.html").exists()
    rows = (out / "runs.csv").read_text().splitlines()
    assert len(rows) == 11
    assert all(run["flops"] > 0 for run in told["runs"])
    assert not any("has not ended" in warning for warning in told["warnings"])
