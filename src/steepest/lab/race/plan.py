"""What a race will run, checked before anything runs, and what it will cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, UnknownName
from steepest.lab.analysis.law import POINTS
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT
from steepest.lab.config import OptimizerConfig, RunConfig, plan
from steepest.lab.model import Decoder, ModelConfig, non_embedding
from steepest.lab.presets import preset
from steepest.lab.race.tune import Rule
from steepest.lab.settings import literal, put

if TYPE_CHECKING:
    from steepest.lab.corpus import Corpus
    from steepest.registry import Contender

BUDGETS = (0.25, 0.5, 1.0, 2.0)
"""The baseline's token budgets as multiples of the comparison's."""

ENDS = Rule(runs=5, factor=2.0, refine=False)
"""How the baseline's lr is bracketed again at its smallest and largest budget, around the best one so far."""

TUNE, FINAL, ENDING, LAW = "tune", "final", "bracket again", "law"


@dataclass(frozen=True)
class Entrant:
    """An optimizer of the race: its spec as typed, and the hyperparameters put over its recipe."""

    name: str
    contender: Contender
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    @property
    def middle(self) -> float:
        """The learning rate around which its tuning starts: the middle of its own search grid."""
        grid = self.contender.lr_grid
        return grid[len(grid) // 2]


@dataclass(frozen=True)
class Trial:
    """One run of the race. Equal trials are one run, whatever they are for."""

    optimizer: str
    lr: float
    seed: int
    tokens: int
    purpose: str = field(default=TUNE, compare=False)

    @property
    def name(self) -> str:
        """For people: ``muon lr 0.016 seed 1, 524,288 tokens``."""
        return f"{self.optimizer} lr {self.lr:g} seed {self.seed}, {self.tokens:,} tokens"


@dataclass(frozen=True)
class Race:
    """A complete race. entrants: baseline first. tokens: the comparison budget; budgets: of the law, ascending.

    seeds: of the winners' runs, none of which tuned anything; law_seeds: how many of them each other budget gets.
    """

    base: RunConfig
    entrants: tuple[Entrant, ...]
    tokens: int
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    law_seeds: int
    tuning_seed: int = 0
    tuning: Rule = field(default_factory=Rule)

    @property
    def baseline(self) -> Entrant:
        return self.entrants[0]

    def entrant(self, name: str) -> Entrant:
        """The entrant of that name."""
        return next(e for e in self.entrants if e.name == name)

    def config(self, trial: Trial) -> RunConfig:
        """The run that a trial is."""
        entrant = self.entrant(trial.optimizer)
        return replace(
            self.base,
            optimizer=OptimizerConfig(entrant.name, trial.lr, entrant.hyperparameters),
            tokens=trial.tokens,
            ratio=None,
            seed=trial.seed,
        )


def make(
    names: Sequence[str],
    base: RunConfig,
    *,
    baseline: str = "adamw",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 3,
    law_seeds: int | None = None,
    budgets: Iterable[float] = BUDGETS,
    tuning: Rule | None = None,
) -> Race:
    """Checks everything that can be known before a corpus is read. ``settings``: per optimizer, over its recipe.

    budgets: multiples of the comparison's tokens (those of ``base``), 1 among them or added.
    """
    from steepest.registry import resolve

    names = list(dict.fromkeys([baseline, *names]))
    settings = settings or {}
    entrants = tuple(Entrant(name, resolve(name), dict(settings.get(name, {}))) for name in names)
    for entrant in entrants:
        if not entrant.contender.lr_grid:
            raise BadInput(f"{entrant.name} declares no lr grid to start from: give its lr field a grid")
        # Built once on a small model: a value that it cannot take is told before any text is read.
        entrant.contender.build(Decoder(preset("20k")), lr=entrant.middle, **entrant.hyperparameters)
    if seeds < 1:
        raise BadInput(f"--seeds {seeds}: give at least 1, and 2 or more for any verdict")
    if law_seeds is not None and not 1 <= law_seeds <= seeds:
        raise BadInput(f"--law-seeds {law_seeds}: give 1 to {seeds}, the number of seeds")
    shares = sorted({1.0, *budgets})
    if not all(math.isfinite(share) and share > 0 for share in shares):
        raise BadInput(f"--budgets {_words(shares)}: give positive multiples of the comparison's tokens")
    if len(shares) < POINTS:
        raise BadInput(f"--budgets {_words(shares)}: the law needs {POINTS} or more, such as {_words(BUDGETS)}")
    step = base.batch * base.seq
    tokens = rounded(_tokens(base), step)
    every = tuple(rounded(tokens * share, step) for share in shares)
    if len(set(every)) < POINTS:
        raise BadInput(
            f"{tokens:,} tokens are {tokens // step} steps, too few for {POINTS} budgets: give more tokens"
        )
    return Race(
        base=base,
        entrants=entrants,
        tokens=tokens,
        budgets=tuple(sorted(set(every))),
        seeds=tuple(base.seed + 1 + k for k in range(seeds)),
        law_seeds=min(2, seeds) if law_seeds is None else law_seeds,
        tuning_seed=base.seed,
        tuning=tuning or Rule(),
    )


def rounded(tokens: float, step: int) -> int:
    """The nearest whole number of steps, in tokens; at least one."""
    return max(1, round(tokens / step)) * step


def _tokens(base: RunConfig) -> float:
    if base.tokens is not None:
        return base.tokens
    ratio = 1.0 if base.ratio is None else base.ratio
    return ratio * TOKENS_PER_WEIGHT * non_embedding(base.model.config(vocab=2))


def _words(shares: Iterable[float]) -> str:
    return ",".join(f"{share:g}" for share in shares)


def split_settings(names: Iterable[str], settings: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """``muon.momentum=0.9`` to that optimizer's hyperparameters, the rest (``schedule.name=wsd``) as it is."""
    of: dict[str, dict[str, Any]] = {name: {} for name in names}
    rest = []
    for setting in settings:
        path, _, text = setting.partition("=")
        name = next((n for n in of if path.startswith(f"{n}.")), None)
        if name is None:
            rest.append(setting)
        elif path == f"{name}.lr":
            raise BadInput(f"setting {setting}: the race tunes lr; `steepest train` takes one")
        else:
            put(of[name], path[len(name) + 1 :], literal(text))
    known = {"model", "corpus", "schedule", "evaluation", "checkpoint"}
    for setting in rest:
        head, dot, _ = setting.partition("=")[0].partition(".")
        if dot and head not in known:
            raise UnknownName.among("setting of", head, known | set(of), "(optimizers of this race and tables)")
    return of, rest


@dataclass(frozen=True)
class Line:
    """A part of the race: what for, how many runs of how many tokens each."""

    optimizer: str
    purpose: str
    runs: int
    tokens: int


def expected(race: Race) -> list[Line]:
    """The runs of the race if no edge has to be moved; at an end of the law up to two more may follow."""
    lines = []
    for entrant in race.entrants:
        lines.append(Line(entrant.name, TUNE, race.tuning.runs, race.tokens))
        lines.append(Line(entrant.name, FINAL, len(race.seeds), race.tokens))
    name = race.baseline.name
    for budget in race.budgets:
        if budget in ends(race):
            lines.append(Line(name, ENDING, ENDS.first, budget))
        if budget != race.tokens:
            lines.append(Line(name, LAW, race.law_seeds, budget))
    return lines


def ends(race: Race) -> list[int]:
    """The budgets where the baseline's lr is bracketed again: the smallest and the largest."""
    return [budget for budget in (race.budgets[0], race.budgets[-1]) if budget != race.tokens]


def check_corpus(race: Race, corpus: Corpus) -> float:
    """How often the longest run passes over the training text; BadInput where no batch can be made of it."""
    from steepest.lab.batches import batch, passes, validation_batches

    batch(corpus, seed=0, step=0, size=race.base.batch, seq=race.base.seq)
    validation_batches(corpus, 1, race.base.seq, race.base.evaluation.tokens)
    for entrant in race.entrants:
        plan(race.config(Trial(entrant.name, entrant.middle, 0, race.budgets[0])), corpus.manifest)
    return passes(corpus, race.budgets[-1])


def model_config(race: Race, corpus: Corpus) -> ModelConfig:
    """The model that all runs share."""
    return race.base.model.config(corpus.vocab_size)


def seconds(race: Race, corpus: Corpus, step_seconds: Mapping[str, float], workers: int) -> float:
    """Wall time that the expected runs take, from seconds per training step of each optimizer."""
    step = race.base.batch * race.base.seq
    # A forward pass is about a third of a training step.
    evaluation = race.base.evaluation.tokens / step / 3
    total = 0.0
    for line in expected(race):
        steps = line.tokens // step
        evaluated = len(race.base.evaluation.steps(steps)) * evaluation
        total += line.runs * (steps + evaluated) * step_seconds[line.optimizer]
    return total / workers
