"""A study as data: which optimizers, where, by which protocol, and what it may cost.

A small TOML file, or a Python file that defines ``study`` as a :class:`Study` or a table of the same shape::

    name = "small"
    optimizers = ["adamw", "muon", "lion"]   # what `steepest list` shows, ./mine.py:MyRule, torch:AdamW
    baseline = "adamw"
    sizes = ["20k", "50k"]                   # model presets
    ratios = [1, 4]                          # tokens per 20 non-embedding weights; or tokens = [...]
    seeds = 3                                # fresh ones for the winners; tuning_seed = 0 tunes
    protocol = "one-at-a-time"                     # or a table: name = "...", and its options

    [variants.no-qk-norm]                    # fields of the model; sizes and ratios may narrow where
    qk_norm = false

    [run]                                    # any table of a `steepest train` file
    batch = 16

    [settings.muon]                          # over an optimizer's recipe, not searched
    momentum = 0.9

    [grids]                                  # over the declared ones; a table is one optimizer's; [] searches none
    warmup = [0.05, 0.1, 0.2]
    muon.lr = [4e-3, 8e-3, 1.6e-2]

    [budget]                                 # of all runs of the study, finished ones among them
    runs = 400
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, SteepestError, UnknownName
from steepest.lab.analysis.runs import Cell, Place, Scalar
from steepest.lab.config import TOKENS_PER_WEIGHT, ModelChoice, OptimizerConfig, RunConfig
from steepest.lab.model import Decoder, non_embedding
from steepest.lab.presets import preset
from steepest.lab.settings import fit, read_toml
from steepest.lab.study import protocols, space
from steepest.lab.study.asking import Asking
from steepest.lab.study.trial import Space, Trial, Values

if TYPE_CHECKING:
    from steepest.registry import Contender

EVALUATION = {"tokens": 32_768, "points": 6}
"""The race's, so that races and studies share runs."""


@dataclass(frozen=True)
class Budget:
    """What a study may spend, finished runs among it; None is no limit. hours: of workers, one thread each."""

    runs: int | None = None
    tokens: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        for name in ("runs", "tokens", "hours"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise BadInput(f"budget.{name}={value}: it must be finite and above 0, or left out")


@dataclass(frozen=True)
class Side:
    """An optimizer of the study. recipe: every scalar of it and its run that can be set, at its unset value."""

    contender: Contender
    settings: Mapping[str, Any]
    recipe: Values
    space: Space


@dataclass(frozen=True)
class Study:
    """Everything that is to be known before the first run. Make one with :meth:`read` or :meth:`from_mapping`.

    optimizers: as typed, the baseline among them. places: sizes times tokens, of each variant where it is wanted.
    seeds: of winners, none of which tuned anything. base: what all runs share. grids: per optimizer.
    """

    name: str
    optimizers: tuple[str, ...]
    baseline: str
    places: tuple[Place, ...]
    base: RunConfig
    protocol: str
    options: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grids: Mapping[str, Mapping[str, Sequence[Scalar]]] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)
    tuning_seed: int = 0
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        for what, names in (("optimizers", self.optimizers), ("places", self.places)):
            if not names:
                raise BadInput(f"{what} is empty: name at least one")
            if twice := next((n for k, n in enumerate(names) if n in names[:k]), None):
                told = twice if isinstance(twice, str) else " ".join(map(str, twice))
                raise BadInput(f"{what} names {told!r} twice: once is enough")
        if self.baseline not in self.optimizers:
            raise UnknownName.among("baseline", self.baseline, self.optimizers, "(one of the optimizers)")
        if not self.seeds:
            raise BadInput("seeds=0: give at least 1 fresh seed for winners, and 2 or more for any verdict")
        protocol, options = self._protocol
        protocols.demanded(self, protocol, options)

    @classmethod
    def read(cls, path: Path) -> Study:
        """From a TOML file, or a Python file that defines ``study``."""
        if not path.is_file():
            raise BadInput(f"study {path} does not exist: check the path")
        if path.suffix != ".py":
            return cls.from_mapping(read_toml(path), path.stem)
        import runpy

        try:
            made = runpy.run_path(str(path)).get("study")
        except SteepestError:
            raise
        except Exception as error:
            raise BadInput(f"study {path} does not run: {type(error).__name__}: {error}") from error
        if isinstance(made, Mapping):
            return cls.from_mapping(made, path.stem)
        if not isinstance(made, cls):
            raise BadInput(f"study {path} defines no `study`: make it a Study or a table")
        return made

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], name: str = "study") -> Study:
        """From tables as the file has them."""
        from steepest.lab.study.file import study_of

        return study_of(cls, values, name)

    @cached_property
    def _protocol(self) -> tuple[protocols.Protocol, Any]:
        return protocols.chosen(self.protocol, self.options)

    @cached_property
    def _sides(self) -> dict[str, Side]:
        return {name: self._side(name) for name in self.optimizers}

    def _side(self, name: str) -> Side:
        from steepest.registry import resolve

        contender, settings = resolve(name), dict(self.settings.get(name, {}))
        if not contender.lr_grid:
            raise BadInput(f"{name} declares no lr grid to start from: give its lr field a grid")
        recipe = space.recipe(contender, settings, self.base)
        grids: dict[str, tuple[Scalar, ...]] = dict(space.declared(contender, recipe))
        for axis, grid in self.grids.get(name, {}).items():
            where = f"grids of {name}"
            for value in grid:
                space.check(contender, axis, value, recipe, where)
                self._run_of({axis: value}, where)
            normal = [space.normal(value, recipe.get(axis, 1.0 if axis == "lr" else None)) for value in grid]
            if len(set(normal)) < len(normal):
                raise BadInput(f"{where}: {axis}={list(grid)} holds a value twice: keep one")
            grids[axis] = space.ordered(normal)
        if not grids["lr"]:
            raise BadInput(f"grids of {name}: lr=[] leaves no learning rate: give at least one")
        searched = {
            axis: grid for axis, grid in grids.items() if grid and (not self.axes or axis in ("lr", *self.axes))
        }
        return Side(contender, settings, recipe, searched)

    def check(self) -> None:
        """Builds every optimizer once on a small model. Raises: BadInput for a setting that it cannot take."""
        model = Decoder(preset("20k"))
        for side in self._sides.values():
            side.contender.build(model, lr=float(side.space["lr"][0]), **side.settings)  # type: ignore[arg-type]

    def contender(self, optimizer: str) -> Contender:
        """The optimizer behind a name."""
        return self._sides[optimizer].contender

    def space(self, optimizer: str) -> Space:
        """The grid of everything that is searched, lr first."""
        return self._sides[optimizer].space

    def has(self, optimizer: str, name: str) -> bool:
        """Whether an optimizer, or its run, has a hyperparameter of that name."""
        return name == "lr" or name in self._sides[optimizer].recipe

    def start(self, optimizer: str, place: Place | None = None) -> dict[str, Scalar]:
        """The recipe's value of everything that is searched, in its grid; the lr is the middle of its grid."""
        side = self._sides[optimizer]
        of = {name: space.nearest(side.recipe.get(name), grid) for name, grid in side.space.items()}
        return of | {"lr": side.space["lr"][len(side.space["lr"]) // 2]}

    def trial(
        self, optimizer: str, place: Place, values: Values, seed: int | None = None, purpose: str = ""
    ) -> Trial:
        """The run at ``values``; what they leave out is as at the start. seed: None is the tuning seed.

        Raises: UnknownName for a hyperparameter that the optimizer lacks, BadInput for an impossible value.
        """
        side = self._sides[optimizer]
        for name, value in values.items():
            as_before = name in side.recipe and side.recipe[name] == value
            if not as_before and (name not in side.space or value not in side.space[name]):
                space.check(side.contender, name, value, side.recipe, f"a trial of {optimizer}")
        whole = self.start(optimizer, place) | dict(values)
        normal = {name: space.normal(value, side.recipe.get(name, 1.0)) for name, value in whole.items()}
        return Trial(
            optimizer,
            place,
            tuple(sorted(normal.items())),
            self.tuning_seed if seed is None else seed,
            purpose,
        )

    def config(self, trial: Trial) -> RunConfig:
        """The run that a trial is."""
        side, values = self._sides[trial.optimizer], dict(trial.values)
        hyper = space.over(side.contender, side.settings, values, side.recipe)
        return replace(
            self._run_of(values, trial.name),
            optimizer=OptimizerConfig(trial.optimizer, float(values["lr"]), hyper),  # type: ignore[arg-type]
            model=self.model(trial.place),
            tokens=trial.place.tokens,
            ratio=None,
            seed=trial.seed,
        )

    def model(self, place: Place) -> ModelChoice:
        """The model of a place."""
        fields = {**self.base.model.fields, **self.variants.get(place.variant, {})}
        return ModelChoice(place.size, fields)

    def place(self, size: str, ratio: float) -> Place:
        """The base architecture at ``ratio`` times 20 tokens per weight, in whole steps at every batch."""
        return Place(size, tokens_of(ratio, self.sizes[size], self.step))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Non-embedding weights by size, of the base architecture."""
        return {place.size: self.weights(place._replace(variant="")) for place in self.places}

    @cached_property
    def step(self) -> int:
        """Tokens that are whole steps at every batch that is searched."""
        batches = (batch for side in self._sides.values() for batch in side.space.get("batch", ()))
        return math.lcm(self.base.batch, *map(int, batches)) * self.base.seq  # type: ignore[arg-type]

    def weights(self, place: Place) -> int:
        """Its non-embedding weights."""
        return non_embedding(self.model(place).config(vocab=2))

    def asking(self) -> Asking:
        """The protocol, about to ask for its first runs."""
        protocol, options = self._protocol
        return protocol.run(self, options)

    def expected(self) -> dict[Cell, protocols.Runs]:
        """The runs that the protocol will ask for in every cell."""
        protocol, options = self._protocol
        return protocol.expected(self, options)

    def _run_of(self, values: Values, where: str) -> RunConfig:
        """The base with the run's own values put in."""
        given = {name: values[name] for name in space.RUN if name in values}
        schedule = {"warmup": ("warmup", float), "cooldown": ("decay", float), "schedule": ("name", str)}
        try:
            told = {schedule[n][0]: fit(v, schedule[n][1], n) for n, v in given.items() if n in schedule}
            plain = {n: fit(v, {"batch": int, "clip": float}[n], n) for n, v in given.items() if n not in schedule}
            if "cooldown" in given and "cooldown" not in space.run_values(self.base):
                raise BadInput(f"cooldown={given['cooldown']}: the {self.base.schedule.name} schedule has none")
            return replace(self.base, schedule=replace(self.base.schedule, **told), **plain)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error


def tokens_of(ratio: float, weights: int, step: int) -> int:
    """The nearest whole number of steps of ``step`` tokens."""
    return max(1, round(ratio * TOKENS_PER_WEIGHT * weights / step)) * step
