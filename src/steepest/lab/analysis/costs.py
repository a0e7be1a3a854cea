"""What a token costs the baseline over what it costs a contender: tokens become steps and operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steepest.lab.analysis.interval import StepRatio
from steepest.lab.analysis.runs import Cell, Run, grouped


@dataclass(frozen=True)
class Costs:
    """What the baseline pays per token over what a contender pays at one place; None where that is not known."""

    steps: float | None = None
    flops: float | None = None
    seconds: StepRatio | None = None


def costs_of(runs: Sequence[Run], baseline: str) -> dict[Cell, Costs]:
    """Ratios of steps and operations per token at each place, from means over the runs of a cell that have them.

    Pass the runs behind the final losses. Seconds are not taken from runs, which other work may have slowed down,
    but from one interleaved calibration (:func:`steepest.lab.analysis.interval.step_ratio`).
    """
    cells = grouped(runs, lambda run: run.cell)

    def mean(cell: Cell, values: list[float | None]) -> float | None:
        found = [value / cell.tokens for value in values if value]
        return sum(found) / len(found) if found else None

    def ratio(cell: Cell, name: str) -> float | None:
        base = cell._replace(optimizer=baseline)
        above, below = (mean(c, [getattr(run, name) for run in cells.get(c, [])]) for c in (base, cell))
        return above / below if above and below else None

    return {cell: Costs(ratio(cell, "steps"), ratio(cell, "flops")) for cell in cells}
