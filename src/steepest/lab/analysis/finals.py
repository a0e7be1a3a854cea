"""The losses that verdicts rest on: one per cell, of fresh seeds or, where there are none, of the lowest run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steepest.lab.analysis.runs import DIVERGED, Cell, Final, Run, best, by_cell, by_setting, mean_loss

FRESH = ("final", "law")
"""Purposes of runs that were made to measure a setting already chosen, so that their losses carry no choice."""


def finals_of(runs: Iterable[Run], fresh: Sequence[str] = FRESH) -> list[Final]:
    """The Final of every cell that has one, in the order of the runs.

    Where a cell has runs of a ``fresh`` purpose, their mean over seeds: none while one of them has diverged, and
    of the finished ones while some are unfinished. Elsewhere, as in foreign records, the minimum over all runs of
    the cell, which is biased low, the more so the more runs there are; ``how`` says which it is.
    """
    found = (_final(cell, of_cell, fresh) for cell, of_cell in by_cell(runs).items())
    return [final for final in found if final is not None]


def lost(runs: Iterable[Run], fresh: Sequence[str] = FRESH) -> dict[Cell, str]:
    """Why each cell without a Final has none."""
    found = {}
    for cell, of_cell in by_cell(runs).items():
        if _final(cell, of_cell, fresh) is not None:
            continue
        chosen = _chosen([run for run in of_cell if run.purpose in fresh])
        gone = sum(run.status == DIVERGED for run in chosen or of_cell)
        if chosen and gone:
            found[cell] = f"{gone} of its {len(chosen)} final runs diverged"
        else:
            found[cell] = "no run of it is finished" + (f", {gone} diverged" if gone else "")
    return found


def behind(runs: Iterable[Run], finals: Iterable[Final]) -> list[Run]:
    """The runs whose losses the finals hold, in their order."""
    of = {final.cell: final for final in finals}

    def counts(run: Run) -> bool:
        final = of.get(run.cell)
        return (
            final is not None
            and run.seed in final.seeds
            and run.loss in final.losses
            and run.hyperparameters == final.values
        )

    return [run for run in runs if counts(run)]


def _final(cell: Cell, runs: Sequence[Run], fresh: Sequence[str]) -> Final | None:
    measured = [run for run in runs if run.purpose in fresh]
    if not measured:
        return _lowest(cell, runs)
    chosen = _chosen(measured)
    ended = sorted((run for run in chosen if run.loss is not None), key=lambda run: (run.seed is None, run.seed))
    if not ended or any(run.status == DIVERGED for run in chosen):
        return None
    how = f"mean of {len(ended)} fresh seed{'s' * (len(ended) > 1)}"
    if len(ended) < len(chosen):
        how += f", {len(chosen) - len(ended)} not finished"
    return Final(
        cell,
        ended[0].weights,
        tuple(run.ranked for run in ended),
        tuple(run.seed for run in ended),
        ended[0].hyperparameters,
        how,
    )


def _chosen(measured: Sequence[Run]) -> list[Run]:
    """The setting that was measured; of several the one with the most runs, then the lowest mean."""

    def place(of_setting: list[Run]) -> tuple[int, float]:
        mean = mean_loss(of_setting)
        return -len(of_setting), float("inf") if mean is None else mean

    return min(by_setting(measured).values(), key=place, default=[])


def _lowest(cell: Cell, runs: Sequence[Run]) -> Final | None:
    lowest = best(runs)
    if lowest is None or lowest.loss is None:
        return None
    count, seeds = sum(run.loss is not None for run in runs), len({run.seed for run in runs})
    how = f"minimum of {count} run{'s' * (count > 1)}{' of one seed' if seeds == 1 else ''}"
    return Final(cell, lowest.weights, (lowest.loss,), (lowest.seed,), lowest.hyperparameters, how)
