"""Settings become one complete run, or one line that says what to mend; the identity is of the numbers."""

from __future__ import annotations

import hashlib
import json
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steepest.core.errors import BadInput, SteepestError, UnknownName
from steepest.lab import config as config_module
from steepest.lab.config import (
    CheckpointConfig,
    EvaluationConfig,
    ModelChoice,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    plan,
)
from steepest.lab.corpus import CorpusConfig
from steepest.lab.model import non_embedding
from steepest.lab.presets import MODELS
from steepest.lab.record import canonical
from steepest.lab.settings import merged
from steepest.schedules import named

MANIFEST = {"identity": "0" * 64, "vocab_size": 256}


def test_a_configuration_survives_json_unchanged() -> None:
    config = RunConfig(
        optimizer=OptimizerConfig("muon", 0.02, {"momentum": 0.9}),
        model=ModelChoice("110k", {"qk_norm": True}),
        corpus=CorpusConfig(("a", "b")),
        tokens=4096,
    )
    assert RunConfig.from_mapping(json.loads(json.dumps(config.to_mapping()))) == config


def test_a_toml_file_with_settings_over_it_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'model = "110k"\ntokens = 1e6\nclip = 1\n[optimizer]\nspec = "muon"\nlr = 0.02\nmomentum = 0.9\n'
        '[schedule]\nname = "wsd"\n'
    )
    config = RunConfig.from_toml(
        path, ["optimizer.momentum=0.8", "model.tied=true", "ratio=.5", "schedule.warmup=3"]
    )
    assert config.optimizer == OptimizerConfig("muon", 0.02, {"momentum": 0.8})
    assert config.model == ModelChoice("110k", {"tied": True})
    assert (config.tokens, config.ratio) == (None, 0.5)
    assert config.schedule == ScheduleConfig("wsd", warmup=3.0)


def test_the_example_in_the_documentation_is_a_configuration() -> None:
    example = textwrap.dedent(str(config_module.__doc__).partition("left out:\n")[2])
    config = RunConfig.from_mapping(tomllib.loads(example))
    assert config.optimizer == OptimizerConfig("muon", 0.02, {"momentum": 0.9})
    assert config.corpus.source == ("./texts", "more/*.jsonl")


def test_a_setting_that_is_no_toml_is_a_text() -> None:
    values = merged({}, ["optimizer.spec=muon:variant=kimi", "corpus.source=./texts", "seed=7"])
    assert values == {"optimizer": {"spec": "muon:variant=kimi"}, "corpus": {"source": "./texts"}, "seed": 7}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedul": {}}, "did you mean 'schedule'"),
        ({"schedule": {"warmpu": 3}}, "did you mean 'schedule.warmup'"),
        ({"schedule": {"name": "cosin"}}, "did you mean 'cosine'"),
        ({"model": "51k"}, "did you mean '50k'"),
        ({"model": {"widht": 3}}, "did you mean 'model.width'"),
        ({"precision": "bf61"}, "did you mean 'bf16'"),
        ({"corpus": {"sorce": "x"}}, "did you mean 'corpus.source'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        RunConfig.from_mapping(values)


@pytest.mark.parametrize(
    "setting",
    [
        *(f"optimizer.lr={value}" for value in ("nan", "inf", "-inf", "-0.1", "0", "much", "true")),
        *(f"tokens={value}" for value in ("0", "-5", "1.5", "nan", "inf", "many")),
        *(f"ratio={value}" for value in ("0", "-1", "nan", "inf")),
        *(f"batch={value}" for value in ("0", "-2", "true", "[]")),
        "seq=0",
        "accumulation=0",
        "accumulation=3",
        "seed=-1",
        "clip=nan",
        "clip=-1",
        "divergence=1",
        "divergence=nan",
        "compile=yes",
        "optimizer=",
        "optimizer=3",
        "model=[]",
        "model.width=x",
        "model.vocab=7",
        "schedule=3",
        "schedule.warmup=-1",
        "schedule.warmup=nan",
        "schedule.freeze=half",
        "schedule.name.x=3",
        "evaluation.tokens=0",
        "evaluation.points=0",
        "evaluation.every=-1",
        "checkpoint.seconds=nan",
        "clip",
        "=3",
    ],
)
def test_a_value_that_cannot_be_used_is_one_line_that_names_it(setting: str) -> None:
    with pytest.raises(SteepestError) as caught:
        RunConfig.from_mapping(merged({}, [setting]))
    message = str(caught.value)
    assert "\n" not in message
    assert setting.partition("=")[0].split(".")[-1] in message


def test_tokens_and_ratio_together_are_refused() -> None:
    with pytest.raises(BadInput, match="keep one"):
        RunConfig(tokens=5, ratio=1.0)


@pytest.mark.parametrize("text", ["= 3", "a = ", b"\xff\xfe\x00"])
def test_a_file_that_is_no_toml_is_one_line_with_its_name(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BadInput, match=r"run\.toml cannot be read") as caught:
        RunConfig.from_toml(path)
    assert "\n" not in str(caught.value)


def test_ratio_one_is_twenty_tokens_per_non_embedding_weight() -> None:
    planned = plan(RunConfig(ratio=2.0), MANIFEST)
    assert planned.tokens == pytest.approx(2 * 20 * non_embedding(MODELS["50k"]), rel=0.002)
    assert planned.model.vocab == 256


def test_warmup_is_a_share_below_one_and_steps_from_one_on() -> None:
    assert ScheduleConfig(warmup=0.1).warmup_steps(200) == 20
    assert ScheduleConfig(warmup=1.0).warmup_steps(200) == 1
    assert ScheduleConfig(warmup=7.0).warmup_steps(200) == 7


def test_a_warmup_longer_than_the_run_is_refused_before_anything_is_written() -> None:
    with pytest.raises(BadInput, match="warmup=50"):
        plan(RunConfig(tokens=2048, schedule=ScheduleConfig(warmup=50.0)), MANIFEST)


@pytest.mark.parametrize("evaluation", [EvaluationConfig(), EvaluationConfig(every=7), EvaluationConfig(points=1)])
@pytest.mark.parametrize("total", [1, 2, 30, 10_000])
def test_the_first_and_the_last_step_are_evaluated(evaluation: EvaluationConfig, total: int) -> None:
    steps = evaluation.steps(total)
    assert {1, total} <= steps <= set(range(1, total + 1))


def test_without_a_learning_rate_the_middle_of_the_grid_is_taken() -> None:
    planned = plan(RunConfig(tokens=2048), MANIFEST)
    grid = planned.contender.lr_grid
    assert planned.lr == grid[len(grid) // 2]


BASE = RunConfig(optimizer=OptimizerConfig("adamw", 1e-3), tokens=20_480)


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, optimizer=OptimizerConfig("adamw", 2e-3)),
        replace(BASE, optimizer=OptimizerConfig("lion", 1e-3)),
        replace(BASE, optimizer=OptimizerConfig("adamw", 1e-3, {"weight_decay": 0.3})),
        replace(BASE, model=ModelChoice("20k")),
        replace(BASE, model=ModelChoice("50k", {"qk_norm": True})),
        replace(BASE, tokens=40_960),
        replace(BASE, batch=8),
        replace(BASE, seq=64),
        replace(BASE, accumulation=2),
        replace(BASE, clip=0.5),
        replace(BASE, divergence=3.0),
        replace(BASE, precision="bf16"),
        replace(BASE, compile=True),
        replace(BASE, engine="loop"),
        replace(BASE, seed=1),
        replace(BASE, schedule=ScheduleConfig("linear")),
        replace(BASE, schedule=ScheduleConfig(warmup=0.3)),
        replace(BASE, schedule=ScheduleConfig(minimum=0.1)),
        replace(BASE, schedule=ScheduleConfig(freeze=2)),
        replace(BASE, evaluation=EvaluationConfig(tokens=1024)),
        replace(BASE, evaluation=EvaluationConfig(every=2)),
    ],
)
def test_the_identity_changes_with_what_determines_the_numbers(other: RunConfig) -> None:
    assert other.identity(MANIFEST) != BASE.identity(MANIFEST)


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, checkpoint=CheckpointConfig(1.0)),
        replace(BASE, device="meta"),
        replace(BASE, corpus=CorpusConfig("elsewhere")),
        replace(BASE, model=ModelChoice("20k", {"layers": 3, "ffn": 128})),
        replace(BASE, tokens=None, ratio=20_480 / 20 / non_embedding(MODELS["50k"])),
        replace(BASE, schedule=ScheduleConfig(warmup=1.0)),
        replace(BASE, schedule=ScheduleConfig(decay=0.5)),
    ],
    ids=[
        "checkpoints",
        "device",
        "path",
        "preset spelled out",
        "ratio for tokens",
        "steps for share",
        "unused decay",
    ],
)
def test_the_identity_does_not_change_with_anything_else(other: RunConfig) -> None:
    assert other.identity(MANIFEST) == BASE.identity(MANIFEST)


def test_the_identity_changes_with_the_decay_of_a_schedule_that_has_one() -> None:
    one, other = (replace(BASE, schedule=ScheduleConfig("wsd", decay=decay)) for decay in (0.2, 0.5))
    assert one.identity(MANIFEST) != other.identity(MANIFEST)


@pytest.mark.parametrize(
    ("schedule", "identity"),
    [
        (ScheduleConfig(), "18a8f1013e47b68c"),
        (ScheduleConfig("linear", warmup=0.0, minimum=0.1), "3219490b5eabc615"),
        (ScheduleConfig("wsd", freeze=2), "1e1da77faf88a80b"),
    ],
    ids=["cosine", "linear", "wsd"],
)
def test_what_is_new_in_schedules_left_the_identity_of_old_runs_alone(
    schedule: ScheduleConfig, identity: str
) -> None:
    """Fingerprints of what the first version wrote, so that finished runs are found again."""
    told = schedule.determines(100)
    assert hashlib.sha256(canonical(told).encode()).hexdigest()[:16] == identity


def test_any_setting_of_a_schedule_is_a_key_of_its_table(tmp_path: Path) -> None:
    config = RunConfig.from_mapping(
        merged({"schedule": "rex"}, ["schedule.d=0", "schedule.sampling=[0.5, 0.75]", "schedule.start=0"])
    )
    assert config.schedule.options == {"d": 0.0, "sampling": (0.5, 0.75), "start": 0.0}
    assert RunConfig.from_mapping(json.loads(json.dumps(config.to_mapping()))) == config
    planned = plan(replace(config, tokens=204_800), MANIFEST)
    expected = named("rex", 100, 10, d=0.0, sampling=(0.5, 0.75), start=0)
    assert [planned.factor(t + 1) for t in range(100)] == [expected(t) for t in range(100)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "cosine", "power": 3}, "'schedule.power'"),
        ({"name": "rex", "warmpu": 3}, "did you mean 'schedule.warmup'"),
        ({"name": "rex", "d": 1}, "schedule.d=1: it must be below 1"),
        ({"name": "step", "milestones": 3}, "schedule.milestones=3"),
        ({"name": "rex", "over": "rset"}, "did you mean 'rest'"),
    ],
)
def test_a_setting_that_a_schedule_does_not_take_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SteepestError, match=message):
        RunConfig.from_mapping({"schedule": values})


def test_a_schedules_own_minimum_holds_unless_another_is_given() -> None:
    assert ScheduleConfig("cosine-inf").over(100)(99) == pytest.approx(0.1)
    assert ScheduleConfig("cosine-inf", minimum=0.0).over(100)(99) == 0.0
    assert ScheduleConfig("inverse-sqrt", options={"timescale": 0.2}).over(100)(50) == pytest.approx(
        (20 / (20 + 40)) ** 0.5
    )


@pytest.mark.parametrize(
    "same",
    [
        ScheduleConfig("rex", options={"d": 0.5}),
        ScheduleConfig("rex", minimum=0.0),
        ScheduleConfig("rex", options={"sampling": 1, "start": None, "floor": "rescale"}),
    ],
)
def test_what_a_schedule_would_do_anyway_is_no_other_run(same: ScheduleConfig) -> None:
    base, other = (replace(BASE, schedule=schedule) for schedule in (ScheduleConfig("rex"), same))
    assert other.identity(MANIFEST) == base.identity(MANIFEST)
    changed = replace(BASE, schedule=ScheduleConfig("rex", options={"d": 0.4}))
    assert changed.identity(MANIFEST) != base.identity(MANIFEST)


def test_the_identity_changes_with_the_corpus_and_its_vocabulary() -> None:
    assert BASE.identity(MANIFEST) != BASE.identity({**MANIFEST, "identity": "1" * 64})
    assert BASE.identity(MANIFEST) != BASE.identity({**MANIFEST, "vocab_size": 257})


def test_the_identity_changes_with_the_version_of_model_and_training(monkeypatch: pytest.MonkeyPatch) -> None:
    before = BASE.identity(MANIFEST)
    with monkeypatch.context() as patch:
        patch.setattr("steepest.lab.config.VERSION", 2)
        assert BASE.identity(MANIFEST) != before
    monkeypatch.setattr("steepest.lab.model.VERSION", 99)
    assert BASE.identity(MANIFEST) != before


def test_equal_evaluations_written_differently_are_one_identity() -> None:
    one, other = (replace(BASE, evaluation=EvaluationConfig(every=2, points=points)) for points in (3, 8))
    assert one.identity(MANIFEST) == other.identity(MANIFEST)


def test_a_rule_that_wants_the_runs_length_has_it_in_the_runs_identity(tmp_path: Path) -> None:
    path = tmp_path / "ramp.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from steepest.core.rule import number\n"
        "from steepest.rules.lion import Lion\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Ramp(Lion):\n"
        "    total_steps: int | None = number(None, 'steps of the run')\n"
    )

    def planned(tokens: int, **hyper: Any) -> config_module.Plan:
        return plan(RunConfig(OptimizerConfig(f"{path}:Ramp", 1e-3, hyper), tokens=tokens), MANIFEST)

    untold = planned(2048 * 30)
    assert untold.steps == 30
    assert untold.determines["optimizer"]["hyperparameters"]["total_steps"] == 30
    assert untold.contender.hyperparameters()["total_steps"] == 30
    assert untold.identity == planned(2048 * 30, total_steps=30).identity
    assert untold.identity != planned(2048 * 30, total_steps=60).identity
