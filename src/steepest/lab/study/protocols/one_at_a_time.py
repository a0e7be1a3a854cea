"""One hyperparameter at a time, as "Deconstructing What Makes a Good Optimizer" sweeps (arXiv 2407.07972).

    lr over its grid, which grows while the best lies at its end
    momentum, betas, weight decay, warm-up, epsilon, batch: each alone over its grid, at the best lr
    variants of the architecture (without QK-norm, without z-loss, without both): the lr alone, again

Every sweep of a cell runs at once after its lr. The winner is the lowest loss of all of them: one hyperparameter
beside the lr may so differ from the start, as in the study. What is not searched jointly is not known jointly.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell
from steepest.lab.study.asking import Asking, Failed
from steepest.lab.study.protocols.base import (
    SWEEP,
    Chosen,
    Protocol,
    Runs,
    Study,
    Tuning,
    cells,
    checked_ratios,
    merged,
    named,
)
from steepest.lab.study.search import checked, lowest, sweep
from steepest.lab.study.trial import Space

ORDER = ("momentum", "beta1", "beta2", "weight_decay", "warmup", "eps", "batch")
"""What is swept after lr, where an optimizer has it: the first study's order."""


@dataclass(frozen=True)
class OneAtATime:
    """hyperparameters: what is swept after lr; left out, the first study's as far as an optimizer has them. sizes:
    where; () is all. variants: hyperparameters swept on variants of the architecture after their lr. reach: how
    many values the lr's grid may grow by at each end. law_ratios: further token budgets of the baseline."""

    hyperparameters: tuple[str, ...] | None = None
    sizes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    reach: int = 4
    law_ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checked_ratios(self.law_ratios)
        if self.reach < 0:
            raise BadInput(f"reach={self.reach}: give at least 0 values")
        if "lr" in (*(self.hyperparameters or ()), *self.variants):
            raise BadInput("lr is always swept, first: leave it out of hyperparameters and variants")


def run(study: Study, options: OneAtATime) -> Asking:
    """{Cell: Chosen}: lr, then everything else alone, then fresh seeds; all cells side by side."""
    asked = cells(study, options.law_ratios)
    return (yield {cell: tuned(study, cell, options, law) for cell, law in asked.items()})


def tuned(study: Study, cell: Cell, options: OneAtATime, law: bool = False) -> Generator[Any, Any, Chosen]:
    """One cell's sweeps and its fresh seeds."""
    tuning = Tuning(study, cell)
    checked(tuning.space, tuning.start)
    losses = yield from sweep(tuning.ask(), tuning.start, "lr", tuning.space["lr"], options.reach)
    centre = lowest(losses)
    if centre is None:
        return (yield from tuning.chosen(None, losses, {"reason": "every learning rate diverged"}))
    others = _others(cell, options, tuning.space)
    found = yield {name: sweep(tuning.ask(SWEEP), centre, name, grid) for name, grid in others.items()}
    failed = {name: value.reason for name, value in found.items() if isinstance(value, Failed)}
    losses = merged([losses, *(value for name, value in found.items() if name not in failed)])
    notes = {"lr": centre["lr"]} | ({"failed": failed} if failed else {})
    return (yield from tuning.chosen(lowest(losses), losses, notes, law))


def _others(cell: Cell, options: OneAtATime, space: Space) -> Space:
    """What is swept in a cell after its lr."""
    if cell.variant:
        return named(space, options.variants)
    if options.sizes and cell.size not in options.sizes:
        return {}
    return named(space, ORDER if options.hyperparameters is None else options.hyperparameters)


def needs(options: OneAtATime) -> tuple[str, ...]:
    """lr, and what is named; what is swept without being named is what an optimizer has."""
    return ("lr", *dict.fromkeys((*(options.hyperparameters or ()), *options.variants)))


def expected(study: Study, options: OneAtATime) -> dict[Cell, Runs]:
    """The runs of every cell. The start's own value is in a sweep's grid or adds one run to it."""
    return {cell: _runs(study, cell, options) for cell in cells(study, options.law_ratios)}


def _runs(study: Study, cell: Cell, options: OneAtATime) -> Runs:
    space, start = study.space(cell.optimizer), study.start(cell.optimizer, cell.place)
    rest = sum(len(grid) - (start[name] in grid) for name, grid in _others(cell, options, space).items())
    least = len(space["lr"]) + rest + len(study.seeds)
    return Runs(least, least + 2 * options.reach)


PROTOCOL = Protocol(
    name="one_at_a_time",
    summary="lr first, then every other hyperparameter alone at the best lr (Deconstructing)",
    options=OneAtATime,
    run=run,
    needs=needs,
    expected=expected,
)
