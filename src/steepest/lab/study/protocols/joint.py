"""Joint search at an equal number of runs, by which searches of one hyperparameter at a time can be judged.

    every cell      the start, then configurations that differ in everything at once, ``runs`` in all
    the same        points of one cube for every optimizer and place: what two optimizers share, they try alike
    the end         every winner on fresh seeds; the baseline at further budgets searched like any other cell

Coordinate descent and sweeps take as many runs as the spaces and losses of an optimizer make them take, and see
no two hyperparameters that trade against each other. Here nobody is tuned more than another, and pairs are seen.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell
from steepest.lab.study.asking import Asking
from steepest.lab.study.protocols.base import Chosen, Protocol, Runs, Study, Tuning, cells, checked_ratios
from steepest.lab.study.search import lowest, ordered
from steepest.lab.study.trial import Space, Values
from steepest.lab.study.tuners import joint
from steepest.lab.study.tuners.joint import configurations, search


@dataclass(frozen=True)
class Joint:
    """runs: of every cell, those that diverged among them and the fresh seeds not. sampler: "quasi" (points of the
    cube), "tpe" or "gp" (of Optuna). batch: proposals of a sampler at once. continuous: between the ends of a grid
    of fractions above 0 every value of three digits, not the grid's alone. law_ratios: further token budgets of
    the baseline, searched with as many runs."""

    runs: int = 40
    sampler: str = "quasi"
    batch: int = 5
    continuous: bool = False
    law_ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checked_ratios(self.law_ratios)
        _ = self.rule

    @property
    def rule(self) -> joint.Joint:
        """Of every search."""
        return joint.Joint(self.runs, self.sampler, self.batch, self.continuous)


def run(study: Study, options: Joint) -> Asking:
    """{Cell: Chosen}, all cells side by side. Raises: BadInput for a space with fewer configurations than runs."""
    _enough(study, options)
    asked = cells(study, options.law_ratios)
    return (yield {cell: tuned(study, cell, options, law) for cell, law in asked.items()})


def tuned(study: Study, cell: Cell, options: Joint, law: bool = False) -> Generator[Any, Any, Chosen]:
    """One cell's search and its fresh seeds."""
    tuning = Tuning(study, cell)
    names = dimensions(study)
    losses = yield from search(tuning.space, tuning.start, tuning.ask(), options.rule, names, study.tuning_seed)
    best = lowest(losses)
    told = [loss if math.isfinite(loss) else None for loss in accumulate(losses.values(), min)]
    notes: dict[str, Any] = {"sampler": options.sampler, "best_so_far": told}
    if best is None:
        notes["reason"] = "every configuration diverged"
    else:
        notes["ends"] = ends(best, tuning.space)
    return (yield from tuning.chosen(best, losses, notes, law))


def dimensions(study: Study) -> tuple[str, ...]:
    """The cube's: everything that any optimizer searches, what the first ones share first, lr before all."""
    names = dict.fromkeys(name for optimizer in study.optimizers for name in study.space(optimizer))
    return tuple(sorted(names, key=lambda name: name != "lr"))


def ends(values: Values, space: Space) -> Mapping[str, str]:
    """Where a chosen value is the first ("low") or last ("high") of its ordered grid, which is then too short."""
    found = {}
    for name, grid in space.items():
        if ordered(grid) and len(grid) > 1 and values[name] in (grid[0], grid[-1]):
            found[name] = "low" if values[name] == grid[0] else "high"
    return found


def _enough(study: Study, options: Joint) -> None:
    for name in study.optimizers:
        space = study.space(name)
        whole = configurations(space, study.start(name, study.places[0]), options.rule)
        if whole < options.runs:
            raise BadInput(
                f"joint gives every cell {options.runs} runs, {name} has {whole:.0f} configurations "
                f"({', '.join(space)}): lower runs, lengthen grids, or set continuous = true"
            )


def needs(options: Joint) -> tuple[str, ...]:
    """lr alone: the rest is what an optimizer has."""
    return ("lr",)


def expected(study: Study, options: Joint) -> dict[Cell, Runs]:
    """The runs of every cell: known beforehand, but for those that cannot be run and are replaced."""
    _enough(study, options)
    runs, seeds = options.runs, len(study.seeds)
    return {cell: Runs(runs + seeds, 2 * runs + seeds) for cell in cells(study, options.law_ratios)}


PROTOCOL = Protocol(
    name="joint",
    summary="everything at once, the same number of runs and the same points for everyone",
    options=Joint,
    run=run,
    needs=needs,
    expected=expected,
)
