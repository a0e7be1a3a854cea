"""The complete description of a run, from TOML and flags, and the identity of the numbers that it makes.

Two configurations that mean the same run (a preset or its numbers, a ratio or its tokens) have one identity.
A file of ``steepest train``; everything may be left out:

    tokens = 2_000_000               # or ratio = 2: tokens per 20 non-embedding weights
    batch = 16
    precision = "bf16"

    [optimizer]
    spec = "muon"                    # what `steepest list` shows, ./mine.py:MyRule, torch:AdamW
    lr = 0.02
    momentum = 0.9                   # any hyperparameter of it

    [model]
    preset = "110k"
    qk_norm = true                   # any field of ModelConfig

    [corpus]
    source = ["./texts", "more/*.jsonl"]

    [schedule]
    name = "wsd"
    warmup = 0.05
    start = 0.01                     # any setting of it, docs/schedules.md lists them

    [evaluation]
    every = 100
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steepest import estimates
from steepest.core.errors import BadInput, UnknownName
from steepest.engines import settled
from steepest.lab import model as model_module
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT
from steepest.lab.corpus import CorpusConfig
from steepest.lab.model import ModelConfig, non_embedding
from steepest.lab.presets import preset
from steepest.lab.record import canonical
from steepest.lab.settings import SHORT, build, fit, merged, read_toml
from steepest.schedules import SCHEDULES, Schedule, checked_options, known_options, named

if TYPE_CHECKING:
    from steepest.core.rule import Rule
    from steepest.registry import Contender

VERSION = 1
"""Semantic version of the training loop's numbers: raised when the same configuration gives other weights."""

DETERMINING = ("batch", "seq", "accumulation", "clip", "divergence", "precision", "compile", "seed")
"""The plain fields of a configuration that the numbers depend on as they stand."""


@dataclass(frozen=True)
class OptimizerConfig:
    """spec: whatever ``steepest.registry.resolve`` takes. lr: None is the middle of its first search grid."""

    spec: str = "adamw"
    lr: float | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.spec:
            raise BadInput("optimizer.spec is empty: name an optimizer, `steepest list` shows them")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise BadInput(f"optimizer.lr={self.lr}: a learning rate is finite and above 0, such as 3e-4")


@dataclass(frozen=True)
class ModelChoice:
    """A preset's name, and fields of :class:`~steepest.lab.model.ModelConfig` put over it."""

    preset: str = "50k"
    fields: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config(vocab=2)

    def config(self, vocab: int) -> ModelConfig:
        """The model for a corpus of ``vocab`` tokens."""
        hints = _model_hints()
        known = [name for name in hints if name != "vocab"]
        for name in self.fields:
            if name == "vocab":
                raise BadInput(f"model.vocab={self.fields[name]}: the corpus's tokenizer sets it; leave it out")
            if name not in known:
                raise UnknownName.among("setting", f"model.{name}", [f"model.{k}" for k in known])
        values = {name: fit(value, hints[name], f"model.{name}") for name, value in self.fields.items()}
        return dataclasses.replace(preset(self.preset), **values, vocab=vocab)


@cache
def _model_hints() -> dict[str, Any]:
    """The fields of a model and their types, in order."""
    hints = typing.get_type_hints(ModelConfig)
    return {f.name: hints[f.name] for f in dataclasses.fields(ModelConfig)}


@dataclass(frozen=True)
class ScheduleConfig:
    """See ``steepest.schedules``. warmup: below 1 a share of the steps, from 1 on a number of steps; a timescale
    among the options is read alike. minimum: None is the schedule's own. decay: of the wsd schedules. freeze:
    steps at zero before all others, which the run's tokens must pay for. options: what else the schedule takes."""

    name: str = "cosine"
    warmup: float = 0.1
    minimum: float | None = None
    decay: float = 0.2
    freeze: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.warmup) and self.warmup >= 0):
            raise BadInput(
                f"schedule.warmup={self.warmup}: give a share of the steps below 1, or a number of steps"
            )
        known = known_options(self.name)
        fields = [f"schedule.{f.name}" for f in dataclasses.fields(self) if f.name != "options"]
        for key in self.options:
            if key not in known:
                raise UnknownName.among("setting", f"schedule.{key}", [*fields, *(f"schedule.{k}" for k in known)])
        object.__setattr__(self, "options", checked_options(self.name, self.options))

    def warmup_steps(self, steps: int) -> int:
        """The warm-up of a run of ``steps`` steps."""
        moving = max(0, steps - self.freeze)
        return round(self.warmup * moving) if self.warmup < 1 else round(self.warmup)

    def over(self, steps: int) -> Schedule:
        """The schedule of a run of ``steps`` steps. Raises: BadInput for one that is impossible."""
        own = dict(self.options)
        if own.get("timescale", 1) < 1:
            own["timescale"] *= max(1, steps - self.freeze)
        own |= {"minimum": self.minimum, "decay": self.decay, "freeze": self.freeze}
        return named(self.name, steps, self.warmup_steps(steps), **own)

    def determines(self, steps: int) -> dict[str, Any]:
        """What of it the factors depend on: no decay where none is, no option that is as it would be anyway."""
        of, known = SCHEDULES[self.name], known_options(self.name)
        minimum = of.sets.get("minimum", 0.0) if self.minimum is None else self.minimum
        told = {"name": self.name, "warmup": self.warmup_steps(steps), "minimum": minimum}
        told |= {"decay": self.decay} if "decay" in of.sets else {}
        told |= {"version": of.version} if of.version > 1 else {}
        told |= {key: value for key, value in self.options.items() if value != known[key]}
        return told | ({"freeze": self.freeze} if self.freeze else {})

    def told(self) -> dict[str, Any]:
        """As it is written, without what says nothing here."""
        whole = dataclasses.asdict(self)
        del whole["options"]
        if "decay" not in SCHEDULES[self.name].sets:
            del whole["decay"]
        return whole | {"minimum": self.determines(1)["minimum"]} | self.options


@dataclass(frozen=True)
class EvaluationConfig:
    """tokens: validation tokens per evaluation. every: steps between evaluations; 0 means ``points``,
    log-spaced over the last five doublings. The first step and the last are always evaluated.
    """

    tokens: int = 65_536
    points: int = 8
    every: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("points", 1), ("every", 0)):
            _at_least(f"evaluation.{name}", getattr(self, name), least)

    def steps(self, total: int) -> frozenset[int]:
        """The steps, counted from 1, after which a run of ``total`` steps is evaluated."""
        if self.every:
            return frozenset((1, total, *range(self.every, total, self.every)))
        along = self.points - 1
        return frozenset((1, total, *(max(1, round(total * 32 ** (-k / along))) for k in range(along))))


@dataclass(frozen=True)
class EstimateConfig:
    """How what an optimizer asks for beside its gradient is measured, see ``lab/estimate.py``.

    share: part of the step's sequences that an estimate of the Hessian sees, where the rule does not ask for all.
    clip: greatest norm of the gradient on drawn labels, 0 is off (1 in Sophia's training script).
    """

    share: float = 0.5
    clip: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BadInput(f"estimate.share={self.share}: give the part of a batch that it sees, in (0, 1]")
        if not (math.isfinite(self.clip) and self.clip >= 0):
            raise BadInput(f"estimate.clip={self.clip}: give a finite norm above 0, or 0 for no clipping")


@dataclass(frozen=True)
class CheckpointConfig:
    """seconds: time between checkpoints; 0 writes one after every step. It never changes a number."""

    seconds: float = 30.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise BadInput(f"checkpoint.seconds={self.seconds}: it must be finite and at least 0")


@dataclass(frozen=True)
class RunConfig:
    """One run. batch: sequences per step, cut into ``accumulation`` parts; seq: predictions per sequence.

    tokens or ratio (tokens = ratio · 20 · non-embedding weights; 1 when neither is given). clip: greatest
    global gradient norm, 0 is off. divergence: after warm-up, a loss above this multiple of
    the first ends the run. release: every weight moves inside backward and its gradient is freed
    (``inside_backward.py``), with two backward passes where clip is not 0 and accumulation is 1.
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    model: ModelChoice = field(default_factory=ModelChoice)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    estimate: EstimateConfig = field(default_factory=EstimateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tokens: int | None = None
    ratio: float | None = None
    batch: int = 16
    seq: int = 128
    accumulation: int = 1
    clip: float = 1.0
    divergence: float = 2.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    engine: str = "auto"
    release: bool = False
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens is not None and self.ratio is not None:
            raise BadInput(f"tokens={self.tokens} and ratio={self.ratio} are both given: keep one")
        if self.tokens is not None:
            _at_least("tokens", self.tokens, 1)
        if self.ratio is not None and not (math.isfinite(self.ratio) and self.ratio > 0):
            raise BadInput(f"ratio={self.ratio}: it must be finite and above 0 (1 is 20 tokens per weight)")
        for name, least in (("batch", 1), ("seq", 1), ("accumulation", 1), ("seed", 0)):
            _at_least(name, getattr(self, name), least)
        if self.seed >= 1 << 63:
            raise BadInput(f"seed={self.seed}: it must be below 2**63")
        if self.batch % self.accumulation:
            raise BadInput(f"batch={self.batch} is not divisible by accumulation={self.accumulation}: change one")
        if not (math.isfinite(self.clip) and self.clip >= 0):
            raise BadInput(f"clip={self.clip}: give a finite norm above 0, or 0 for no clipping")
        if self.release and self.compile and self.clip and self.accumulation == 1:
            raise BadInput(
                f"release=true with clip={self.clip:g} takes a second backward pass, for which a compiled graph "
                "is not kept: set clip=0, compile=false, or accumulation=2"
            )
        if not self.divergence > 1:
            raise BadInput(f"divergence={self.divergence}: give a multiple of the first loss above 1, such as 2")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RunConfig:
        """From nested tables as TOML has them; ``model = "50k"`` and ``optimizer = "muon"`` are tables, too.

        In [optimizer] every key but spec and lr is a hyperparameter, in [model] all but preset are fields, in
        [schedule] what is no field is an option of the schedule that is named.
        """
        values = dict(values)
        for name, rest, own in (
            ("optimizer", "hyperparameters", ("spec", "lr", "hyperparameters")),
            ("model", "fields", ("preset", "fields")),
            ("schedule", "options", tuple(f.name for f in dataclasses.fields(ScheduleConfig))),
        ):
            table = values.get(name, {})
            if isinstance(table, str):
                table = {SHORT[name]: table}
            if isinstance(table, Mapping):
                kept = {key: table[key] for key in own if key in table}
                extra = {key: item for key, item in table.items() if key not in own}
                values[name] = kept | {rest: {**table.get(rest, {}), **extra}}
        return build(cls, values)

    @classmethod
    def from_toml(cls, path: Path, settings: Iterable[str] = ()) -> RunConfig:
        """From a TOML file with ``key=value`` settings put over it."""
        return cls.from_mapping(merged(read_toml(path), settings))

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able; :meth:`from_mapping` reads it back."""
        return dataclasses.asdict(self)

    def identity(self, corpus_manifest: Mapping[str, Any]) -> str:
        """sha256 of what determines the numbers, see :class:`Plan`."""
        return plan(self, corpus_manifest).identity


@dataclass(frozen=True)
class Plan:
    """A configuration with everything resolved against a corpus: what training needs to know.

    ``determines`` is what the numbers depend on, and nothing else: not threads, device, hardware, versions of
    libraries, folders, the cadence of checkpoints.
    """

    config: RunConfig
    contender: Contender
    lr: float
    model: ModelConfig
    steps: int
    warmup: int
    evaluations: frozenset[int]
    determines: dict[str, Any]

    @property
    def tokens(self) -> int:
        """Training tokens of the complete run."""
        return self.steps * self.config.batch * self.config.seq

    @property
    def identity(self) -> str:
        """sha256 of ``determines``, 64 hexadecimal digits."""
        return hashlib.sha256(canonical(self.determines).encode()).hexdigest()

    def factor(self, step: int) -> float:
        """Factor of every initial learning rate at ``step``, counted from 1."""
        return self._schedule(step - 1)

    @cached_property
    def _schedule(self) -> Schedule:
        return self.config.schedule.over(self.steps)


def plan(config: RunConfig, corpus_manifest: Mapping[str, Any]) -> Plan:
    """Resolves optimizer, model, steps and warm-up of a run on a corpus."""
    from steepest.registry import resolve

    contender = resolve(config.optimizer.spec)
    lr = config.optimizer.lr
    if lr is None:
        if not contender.lr_grid:
            raise BadInput(f"optimizer {contender.name!r} has no search grid to take a learning rate from: set lr")
        lr = contender.lr_grid[len(contender.lr_grid) // 2]
    model = config.model.config(corpus_manifest["vocab_size"])
    ratio = 1.0 if config.ratio is None else config.ratio
    tokens = config.tokens or ratio * TOKENS_PER_WEIGHT * non_embedding(model)
    steps = max(1, round(tokens / (config.batch * config.seq)))
    warmup = config.schedule.warmup_steps(steps)
    evaluations = config.evaluation.steps(steps)
    contender = contender.of_run(steps, **config.optimizer.hyperparameters)
    determines = {
        "versions": {"training": VERSION, "model": model_module.VERSION},
        "corpus": corpus_manifest["identity"],
        "optimizer": contender.identity(lr, **config.optimizer.hyperparameters),
        "model": dataclasses.asdict(model),
        "steps": steps,
        "schedule": config.schedule.determines(steps),
        "evaluation": {"tokens": config.evaluation.tokens, "steps": sorted(evaluations)},
        "engine": settled(config.engine),
    } | {name: getattr(config, name) for name in DETERMINING}
    if config.release and contender.rule is not None and _stacks(contender.rule, config):
        determines["release"] = True
    if contender.rule is not None and contender.rule.measures():
        determines["estimate"] = {"version": estimates.VERSION, **dataclasses.asdict(config.estimate)}
    made = Plan(config, contender, lr, model, steps, warmup, evaluations, determines)
    made.factor(1)  # an impossible schedule is refused before anything is written
    return made


def _stacks(rule: type[Rule], config: RunConfig) -> bool:
    """Whether a step inside backward may round otherwise than the engine's own, which runs equal shapes in one."""
    return rule.scope != "element" and settled(config.engine) != "loop"


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise BadInput(f"{name}={value}: it must be at least {least}")
