"""What every protocol shares: what it is, what it sees of a study, what it returns, how a cell ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Shape

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell, Place, Scalar
from steepest.lab.study.asking import Asking
from steepest.lab.study.search import Ask, Losses, brackets, key, results
from steepest.lab.study.trial import Space, Trial, Values

TUNE, SWEEP, FINAL, LAW = "tune", "sweep", "final", "law"
"""Purposes of runs: the search of a configuration; one hyperparameter around it; its fresh seeds; those of the
baseline at budgets where nothing is compared, so that its law has points enough."""


class Study(Shape):
    """What a protocol sees of a study.

    places: where every optimizer is compared. seeds: of the winners, none of them ``tuning_seed``. sizes:
    non-embedding weights by model size. place: the base architecture at a ratio of tokens to 20 per weight, in
    whole steps. space: the grids of an optimizer's hyperparameters. start: a value for each of them, at least.
    step: tokens of whole steps at every batch. trial: the run of a configuration, on the tuning seed unless
    another is given.
    """

    @property
    def optimizers(self) -> Sequence[str]: ...

    @property
    def baseline(self) -> str: ...

    @property
    def places(self) -> Sequence[Place]: ...

    @property
    def seeds(self) -> Sequence[int]: ...

    @property
    def tuning_seed(self) -> int: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...

    @property
    def step(self) -> int: ...

    def place(self, size: str, ratio: float) -> Place: ...

    def space(self, optimizer: str) -> Space: ...

    def start(self, optimizer: str, place: Place) -> Values: ...

    def trial(
        self, optimizer: str, place: Place, values: Values, seed: int | None = None, purpose: str = ""
    ) -> Trial: ...


@dataclass(frozen=True)
class Chosen:
    """What a protocol chose for a cell.

    values: None if every run diverged. loss: on the tuning seed, biased low by the choice. finals: by fresh seed,
    None where one diverged. trials: by purpose. edges: for each hyperparameter "bracketed", "low", "high", "alone"
    or "passed", see :func:`~steepest.lab.study.search.brackets`. notes: what else the protocol wants known.
    """

    values: Values | None
    loss: float | None
    finals: Mapping[int, float | None]
    trials: Mapping[str, tuple[Trial, ...]]
    edges: Mapping[str, str]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """Runs in all."""
        return sum(len(trials) for trials in self.trials.values())


@dataclass(frozen=True)
class Runs:
    """How many runs a cell takes. expected: where the search goes as it commonly does; most: at most."""

    expected: int
    most: int


@dataclass(frozen=True)
class Protocol:
    """A protocol of studies.

    run: ``(study, options)``, a generator that returns {Cell: Chosen or Failed}. options: its dataclass. needs:
    ``(options)``, the hyperparameters that every optimizer must search. expected: ``(study, options)``, the runs
    of every cell that it will ask for, without running anything.
    """

    name: str
    summary: str
    options: type
    run: Callable[[Study, Any], Asking]
    needs: Callable[[Any], tuple[str, ...]]
    expected: Callable[[Study, Any], dict[Cell, Runs]]


class Tuning:
    """One cell being tuned: makes its trials and remembers what each was for."""

    def __init__(self, study: Study, cell: Cell) -> None:
        self.study, self.cell = study, cell
        self.space = study.space(cell.optimizer)
        self.start = dict(study.start(cell.optimizer, cell.place))
        self.trials: dict[str, dict[Trial, None]] = {}

    def ask(self, purpose: str = TUNE, seed: int | None = None) -> Ask:
        """Makes trials of configurations for one purpose."""

        def make(values: Values) -> Trial:
            trial = self.study.trial(self.cell.optimizer, self.cell.place, values, seed=seed, purpose=purpose)
            if all(trial not in known for known in self.trials.values()):
                self.trials.setdefault(purpose, {})[trial] = None
            return trial

        return make

    def chosen(
        self, values: Values | None, losses: Losses, notes: Mapping[str, Any] | None = None, law: bool = False
    ) -> Generator[Any, Any, Chosen]:
        """The fresh seeds of a configuration, then all that is known of the cell."""
        finals: dict[int, float | None] = {}
        if values is not None:
            purpose = LAW if law else FINAL
            found = yield from results({seed: self.ask(purpose, seed)(values) for seed in self.study.seeds})
            finals = {seed: result.loss for seed, result in found.items()}
        return Chosen(
            values=values,
            loss=None if values is None else losses.get(key(values)),
            finals=finals,
            trials={purpose: tuple(of) for purpose, of in self.trials.items()},
            edges={} if values is None else brackets(values, losses, self.space),
            notes=notes or {},
        )


def cells(study: Study, law_ratios: Sequence[float] = ()) -> dict[Cell, bool]:
    """Every cell of a study, and whether it is one of the baseline's further budgets."""
    found = {Cell(name, *place): False for name in study.optimizers for place in study.places}
    further = (Cell(study.baseline, *place) for place in law_places(study, law_ratios))
    return found | {cell: True for cell in further if cell not in found}


def law_places(study: Study, ratios: Sequence[float]) -> list[Place]:
    """The base architecture of every size at further ratios of tokens to 20 per weight."""
    sizes = dict.fromkeys(place.size for place in study.places if not place.variant)
    return [study.place(size, ratio) for size in sizes for ratio in ratios]


def checked_ratios(ratios: Sequence[float], name: str = "law_ratios") -> None:
    """Raises BadInput for what is no data-to-model ratio."""
    for ratio in ratios:
        if not isinstance(ratio, int | float) or not (math.isfinite(ratio) and ratio > 0):
            raise BadInput(f"{name} has {ratio!r}: give ratios above 0, such as 0.5 (1 is 20 tokens per weight)")


def demanded(study: Study, protocol: Protocol, options: Any) -> None:
    """Raises BadInput where an optimizer lacks a hyperparameter that the protocol searches."""
    for optimizer in study.optimizers:
        space = study.space(optimizer)
        if not space:
            raise BadInput(f"{optimizer} has nothing to search: give it a grid, such as lr")
        for name in protocol.needs(options):
            if name not in space:
                told = ", ".join(space)
                raise BadInput(f"{protocol.name} searches {name}, {optimizer} searches {told} alone: add a grid")


def space_sizes(study: Study) -> dict[str, dict[str, int]]:
    """How much each optimizer may search: {optimizer: {"hyperparameters", "values", "neighbours", "points"}}.

    neighbours: configurations that differ in one hyperparameter. points: of the whole grid. Where these differ
    between optimizers, whoever has more was tuned more, and a report says so.
    """
    return {name: _size(study.space(name)) for name in study.optimizers}


def _size(space: Space) -> dict[str, int]:
    counts = [len(grid) for grid in space.values()]
    return {
        "hyperparameters": len(counts),
        "values": sum(counts),
        "neighbours": sum(counts) - len(counts),
        "points": math.prod(counts),
    }


def merged(parts: Iterable[Losses]) -> Losses:
    """The losses of several searches of one cell."""
    whole: Losses = {}
    for part in parts:
        whole |= part
    return whole


def named(space: Space, names: Sequence[str]) -> dict[str, tuple[Scalar, ...]]:
    """The part of a space under these names, in their order."""
    return {name: space[name] for name in names if name in space}
