"""Runs as evidence: one flat form for own records and for foreign ones, and what groups them.

Everything in this folder that looks at more than one run takes ``Sequence[Run]``: what a record holds beside it
is not needed for a verdict. Own records become runs in ``lab/ledger``, tables of others in ``lab/foreign``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

TOKENS_PER_WEIGHT = 20
"""Tokens per non-embedding weight at ratio 1: Chinchilla (arXiv 2203.15556) as both studies count it."""

K = TypeVar("K")
T = TypeVar("T")
Scalar = float | int | str | bool | None

FINISHED, DIVERGED, UNFINISHED = "finished", "diverged", "unfinished"


class Cell(NamedTuple):
    """Where optimizers are compared, and one of them: runs of one cell differ in hyperparameters and seed alone.

    size: the model's name; tokens: of the complete schedule; variant: of the architecture, "" is the base.
    """

    optimizer: str
    size: str
    tokens: int
    variant: str = ""

    @property
    def place(self) -> Place:
        """The cell without its optimizer."""
        return Place(self.size, self.tokens, self.variant)


class Place(NamedTuple):
    """Where optimizers are compared: model size, tokens, variant of the architecture."""

    size: str
    tokens: int
    variant: str = ""


@dataclass(frozen=True)
class Run:
    """One run. ``hyperparameters`` holds all that a study may vary, flat: lr, beta1, warmup, batch (sequences)...

    weights: non-embedding. loss: nats/token at the end of the completed schedule, None unless ``status`` is
    finished; a run that stopped early has none, however low it stood. flops: of the whole run; seconds: of
    training and evaluation; state_bytes: of the optimizer, per weight. curve: (tokens, validation loss) along the
    way, for pictures and rank flips, never for verdicts. source: where it comes from, for error messages.
    """

    run: str
    optimizer: str
    size: str
    weights: int
    tokens: int
    hyperparameters: Mapping[str, Scalar]
    status: str
    loss: float | None
    seed: int | None = None
    variant: str = ""
    steps: int | None = None
    flops: float | None = None
    seconds: float | None = None
    state_bytes: float | None = None
    purpose: str = ""
    reason: str | None = None
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    source: str = ""

    @property
    def cell(self) -> Cell:
        """Its cell."""
        return Cell(self.optimizer, self.size, self.tokens, self.variant)

    @property
    def ratio(self) -> float:
        """Tokens over 20 per non-embedding weight (data-to-model ratio)."""
        return self.tokens / (TOKENS_PER_WEIGHT * self.weights)

    @property
    def ranked(self) -> float:
        """The loss, infinite where there is none: a diverged run is worse than any loss."""
        return math.inf if self.loss is None else self.loss


def by_cell(runs: Iterable[Run]) -> dict[Cell, list[Run]]:
    """Runs of each cell, in order of first appearance."""
    return grouped(runs, lambda run: run.cell)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Runs, or anything else, by any key, in order of first appearance."""
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def by_setting(runs: Iterable[Run]) -> dict[tuple[tuple[str, Scalar], ...], list[Run]]:
    """Runs that differ in seed alone, by their hyperparameters."""
    return grouped(
        runs, lambda run: tuple(sorted(run.hyperparameters.items()))
    )  # names differ: no value is compared


def best(runs: Iterable[Run]) -> Run | None:
    """The run of the lowest final loss; None where none has one."""
    return min((run for run in runs if run.loss is not None), key=lambda run: run.ranked, default=None)


def mean_loss(runs: Sequence[Run]) -> float | None:
    """Mean final loss; None unless every run has one."""
    losses = [run.loss for run in runs if run.loss is not None]
    return sum(losses) / len(losses) if losses and len(losses) == len(runs) else None


@dataclass(frozen=True)
class Final:
    """What one cell came to: the losses that its verdict rests on.

    losses: nats/token, in the order of ``seeds`` (None where a seed is not known); one where the cell has one
    number. values: the hyperparameters of these runs. how: in words, such as "mean of 3 fresh seeds" or "minimum
    of 19 runs of one seed", which is biased low.
    """

    cell: Cell
    weights: int
    losses: tuple[float, ...]
    seeds: tuple[int | None, ...]
    values: Mapping[str, Scalar]
    how: str

    @property
    def loss(self) -> float:
        """Their mean, nats/token."""
        return sum(self.losses) / len(self.losses)

    @property
    def ratio(self) -> float:
        """Tokens over 20 per non-embedding weight."""
        return self.cell.tokens / (TOKENS_PER_WEIGHT * self.weights)
