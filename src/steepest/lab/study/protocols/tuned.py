"""Every cell tuned by the same tuner with the same number of runs: what a study does unless told otherwise.

    every cell   the search: a bowl fitted to what is known (``tuners/surrogate.py``), or coordinate descent
    then         the winner's neighbours that were not run, so that it can be certified
    the end      every winner on fresh seeds; the baseline at further budgets tuned like any other cell

The bowl is the default because it won: on five synthetic surfaces it regrets less than coordinate descent at a
third of its runs, and with its certificate at half of them on every quantile (``benchmarks/tuners.py``).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell
from steepest.lab.study.asking import Asking
from steepest.lab.study.protocols.base import Chosen, Protocol, Runs, Study, Tuning, cells, checked_ratios
from steepest.lab.study.tuners.coordinate import Coordinate, descend
from steepest.lab.study.tuners.found import Found, certified
from steepest.lab.study.tuners.surrogate import Surrogate, fit_bowl

TUNERS = ("bowl", "descent")


@dataclass(frozen=True)
class Tuned:
    """tuner: "bowl" or "descent". runs: of every search, equal for everyone; a descent may end before. certify:
    runs at most for the winner's missing neighbours, 0 for none. noise: of a loss between seeds, nats/token, as
    the bowl supposes. law_ratios: further token budgets of the baseline, tuned like the others."""

    tuner: str = "bowl"
    runs: int = 16
    certify: int = 16
    noise: float = 3e-3
    law_ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.tuner not in TUNERS:
            raise BadInput(f"tuner={self.tuner!r}: give {' or '.join(TUNERS)}")
        if self.certify < 0:
            raise BadInput(f"certify={self.certify}: give at least 0 runs")
        checked_ratios(self.law_ratios)
        _ = Surrogate(runs=self.runs, noise=self.noise)


def run(study: Study, options: Tuned) -> Asking:
    """{Cell: Chosen}, all cells side by side."""
    asked = cells(study, options.law_ratios)
    return (yield {cell: tuned(study, cell, options, law) for cell, law in asked.items()})


def tuned(study: Study, cell: Cell, options: Tuned, law: bool = False) -> Generator[Any, Any, Chosen]:
    """One cell's search, its certificate and its fresh seeds."""
    tuning = Tuning(study, cell)
    if options.tuner == "bowl":
        rule = Surrogate(runs=options.runs, noise=options.noise, seed=study.tuning_seed)
        found = yield from fit_bowl(tuning.space, tuning.start, tuning.ask(), rule)
    else:
        ended = yield from descend(tuning.space, tuning.start, tuning.ask(), Coordinate(most=options.runs))
        found = Found(ended.values, ended.losses)
    if options.certify:
        found = yield from certified(tuning.space, found, tuning.ask(), options.certify)
    notes = {"tuner": options.tuner, **found.notes}
    return (yield from tuning.chosen(found.values, dict(found.losses), notes, law))


def needs(options: Tuned) -> tuple[str, ...]:
    """lr alone: the rest is what an optimizer has."""
    return ("lr",)


def expected(study: Study, options: Tuned) -> dict[Cell, Runs]:
    """The runs of every cell; about one neighbour of each hyperparameter is missing when the search ends."""
    seeds = len(study.seeds)
    found = {}
    for cell in cells(study, options.law_ratios):
        missing = min(options.certify, len(study.space(cell.optimizer)))
        found[cell] = Runs(options.runs + missing + seeds, options.runs + options.certify + seeds)
    return found


PROTOCOL = Protocol(
    name="tuned",
    summary="every cell by the best tuner at hand, with equal runs and a certificate",
    options=Tuned,
    run=run,
    needs=needs,
    expected=expected,
)
