"""What a study will cost, before it runs: the runs that its protocol tells, and steps timed here."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, SteepestError
from steepest.lab import record
from steepest.lab.analysis.runs import Cell, Place
from steepest.lab.cluster.local import Job, submit
from steepest.lab.config import TOKENS_PER_WEIGHT
from steepest.lab.files import replace as write
from steepest.lab.race.calibrate import step_times
from steepest.lab.race.hold import _json, _read
from steepest.lab.study.asking import Course

if TYPE_CHECKING:
    from steepest.lab.corpus import Corpus
    from steepest.lab.study.study import Study
    from steepest.lab.study.trial import Trial

ROUNDS = 2
"""Of the calibration."""


@dataclass(frozen=True)
class Priced:
    """The runs of every cell, finished ones among them. first: what the protocol asks for at once."""

    runs: Mapping[Cell, int]
    most: Mapping[Cell, int]
    first: Mapping[Cell, int]

    def tokens(self, which: Mapping[Cell, int]) -> int:
        """Training tokens of these runs."""
        return sum(cell.tokens * count for cell, count in which.items())


def priced(study: Study) -> Priced:
    """The runs that the protocol will ask for."""
    expected = study.expected()
    course: Course[Trial] = Course(study.asking())
    first = Counter(Cell(t.optimizer, *t.place) for t in course.begin())
    return Priced(
        {cell: runs.expected for cell, runs in expected.items()},
        {cell: runs.most for cell, runs in expected.items()},
        first,
    )


def check_budget(study: Study, price: Priced) -> None:
    """Raises: BadInput for a budget that does not pay the protocol's first questions."""
    budget, runs = study.budget, sum(price.first.values())
    tokens = price.tokens(price.first)
    for name, limit, least in (("runs", budget.runs, runs), ("tokens", budget.tokens, tokens)):
        if limit is not None and limit < least:
            whole = {"runs": sum(price.runs.values()), "tokens": price.tokens(price.runs)}[name]
            raise BadInput(
                f"budget.{name}={limit:,}: what {study.protocol} asks for first is {runs:,} runs of {tokens:,} "
                f"tokens (expected in all: {whole:,} {name}): raise it, or take fewer optimizers, sizes or ratios"
            )


def calibrated(study: Study, corpus: Corpus, out: Path) -> dict[str, Any]:
    """Seconds and operations per training step of each optimizer at each size: {size: {"seconds", "flops"}}.

    Those of an earlier call where nothing that matters has changed.
    """
    found: dict[str, Any] = {}
    path = out / "calibration.json"
    before = _read(path)
    for place in {place.size: place for place in reversed(study.places) if not place.variant}.values():
        trials = {o: study.trial(o, place, {}) for o in study.optimizers}
        configs = {o: replace(study.config(trial), tokens=1, ratio=None) for o, trial in trials.items()}
        key = {
            "configs": {name: config.to_mapping() for name, config in configs.items()},
            "corpus": corpus.manifest["identity"],
            "versions": record.versions(),
            "hardware": record.hardware(),
            "rounds": ROUNDS,
        }
        digest = hashlib.sha256(record.canonical(key).encode()).hexdigest()
        if before.get(place.size, {}).get("of") == digest:
            found[place.size] = before[place.size]
            continue
        (outcome,) = submit([Job(place.size, step_times, (configs, corpus.path, ROUNDS, 1))], 1)
        if outcome.error is not None:
            raise SteepestError(f"the steps at {place.size} cannot be timed: {outcome.error}")
        found[place.size] = {"of": digest} | outcome.value
        out.mkdir(parents=True, exist_ok=True)
        write(path, _json(before | found))
    return found


@dataclass(frozen=True)
class Rates:
    """Seconds, evaluations among them, and operations per training token of one optimizer at one size."""

    seconds: float
    flops: float


def rates(study: Study, calibration: Mapping[str, Any]) -> Callable[[Cell], Rates]:
    """What a token costs in each cell."""
    base = study.base
    step = base.batch * base.seq

    def of(cell: Cell) -> Rates:
        told = calibration[cell.size]
        seconds = statistics.median(told["seconds"][cell.optimizer]) / step
        # A forward pass is about a third of a training step.
        evaluated = len(base.evaluation.steps(cell.tokens // step)) * base.evaluation.tokens / 3
        flops = sum(told["flops"][cell.optimizer].values()) / step
        return Rates(seconds * (1 + evaluated / cell.tokens), flops)

    return of


def ratio(study: Study, place: Place) -> float:
    """Tokens over 20 per non-embedding weight."""
    return place.tokens / (TOKENS_PER_WEIGHT * study.weights(place))
