"""Small budgets: every optimizer at 1 to 100 % of a place's tokens, each share a complete schedule of its own.

    shares      of the tokens of every place; equal budgets of one size are one cell
    smallest    lr over its grid from the start, then coordinate descent around the best lr, ``most`` runs of it
    the next    the same from the winner of the share before, so that descent commonly ends after one pass
    the end     every winner of every share on fresh seeds
    schedules   all of it under each named schedule. A cell has no place for a schedule's name but its variant: the
                first is the plain cell, the others are variants under their names

A run stopped at 1 % of a long schedule has a learning rate that never came down, and says nothing of what 1 % of
the tokens can do; hence no share is read off a longer run.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.core.errors import BadInput, UnknownName
from steepest.lab.analysis.runs import Cell, Place, Scalar
from steepest.lab.study.asking import Asking, Failed
from steepest.lab.study.protocols.base import SWEEP, Protocol, Runs, Study, Tuning
from steepest.lab.study.search import checked, lowest, ordered, sweep
from steepest.lab.study.trial import Values
from steepest.lab.study.tuners.coordinate import Coordinate, Descended, descend
from steepest.lab.study.tuners.coordinate import expected as of_descent
from steepest.schedules import SCHEDULES

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Budgeted:
    """shares: of every place's tokens, above 0 and at most 1. schedules: compared at each share; () is the study's
    own. reach: how many values the lr's grid may grow by at each end. accept: of every descent, nats/token. most:
    runs of every descent beside its lr sweep; none for no bound."""

    shares: tuple[float, ...] = SHARES
    schedules: tuple[str, ...] = ()
    reach: int = 2
    accept: float = 3e-3
    most: int | None = 24

    def __post_init__(self) -> None:
        for share in self.shares:
            number = isinstance(share, int | float) and not isinstance(share, bool)
            if not (number and 0 < share <= 1):
                raise BadInput(f"shares has {share!r}: give shares above 0 and up to 1, such as 0.05")
        if not self.shares:
            raise BadInput("shares is empty: give at least one, such as 1.0")
        for name in self.schedules:
            if name not in SCHEDULES:
                raise UnknownName.among("schedule", str(name), SCHEDULES, "(protocol.schedules)")
        if len(set(self.schedules)) < len(self.schedules):
            raise BadInput(f"schedules={list(self.schedules)}: name each once")
        if self.reach < 0:
            raise BadInput(f"reach={self.reach}: give at least 0 values")
        _ = self.rule

    @property
    def rule(self) -> Coordinate:
        """Of every descent."""
        return Coordinate(accept=self.accept, most=self.most)


@dataclass(frozen=True)
class Rung:
    """A cell of a ladder. shares: of which places' tokens it is, {tokens: share}. fixed: values that no run of it
    changes."""

    cell: Cell
    shares: Mapping[int, float]
    fixed: Values


def ladders(study: Study, options: Budgeted) -> list[list[Rung]]:
    """For each optimizer, size, variant and schedule its cells, smallest budget first.

    Raises: BadInput for a share of less than half a step, and for schedules beside variants or beside their grid.
    """
    found = []
    for optimizer in study.optimizers:
        if options.schedules and "schedule" in study.space(optimizer):
            raise BadInput(
                f"schedule is searched for {optimizer} and compared: leave it out of grids or of schedules"
            )
        for size, variant in dict.fromkeys((place.size, place.variant) for place in study.places):
            budgets = _budgets(study, [p for p in study.places if (p.size, p.variant) == (size, variant)], options)
            for name in options.schedules or ("",):
                if name and variant:
                    raise BadInput(
                        f"schedules are told as variants, and the study has the variant {variant!r}: "
                        "make two studies of it"
                    )
                told = variant if name in options.schedules[:1] or not name else name
                fixed: Values = {"schedule": name} if name else {}
                found.append([Rung(Cell(optimizer, size, t, told), of, fixed) for t, of in budgets.items()])
    return found


def _budgets(study: Study, places: Sequence[Place], options: Budgeted) -> dict[int, dict[int, float]]:
    """Ascending tokens of one size, whole steps each, and the shares of which places they are."""
    found: dict[int, dict[int, float]] = {}
    for place in places:
        for share in options.shares:
            # The place's own tokens stay as they are, whoever made them.
            tokens = place.tokens if share == 1 else round(share * place.tokens / study.step) * study.step
            if tokens < 1:
                raise BadInput(
                    f"shares has {share:g}: of the {place.tokens:,} tokens of {place.size} that is less than half "
                    f"a step of {study.step:,}: leave it out, or take longer budgets or smaller batches"
                )
            found.setdefault(tokens, {})[place.tokens] = share
    return dict(sorted(found.items()))


def run(study: Study, options: Budgeted) -> Asking:
    """{Cell: Chosen}, all ladders side by side."""
    asked = ladders(study, options)
    found = yield {k: _climb(study, ladder, {}, options) for k, ladder in enumerate(asked)}
    ended: dict[Cell, Any] = {}
    for k, ladder in enumerate(asked):
        lost = isinstance(found[k], Failed)
        ended |= {rung.cell: found[k] for rung in ladder} if lost else found[k]
    return ended


def _climb(study: Study, ladder: Sequence[Rung], winner: Values, options: Budgeted) -> Asking:
    """A ladder from its first rung on. winner: of the rung below, {} where there is none."""
    if not ladder:
        return {}
    cell = ladder[0].cell
    found = (yield {cell: _searched(study, ladder[0], winner, options)})[cell]
    if isinstance(found, Failed):
        above = yield {"above": _climb(study, ladder[1:], winner, options)}
        return {cell: found, **_unless_failed(above["above"])}
    tuning, ended, notes = found
    # The winner's fresh seeds do not hold up the next share.
    both = yield {
        "here": tuning.chosen(ended.values, ended.losses, notes),
        "above": _climb(study, ladder[1:], ended.values or winner, options),
    }
    return {cell: both["here"], **_unless_failed(both["above"])}


def _unless_failed(cells: Any) -> Mapping[Cell, Any]:
    return {} if isinstance(cells, Failed) else cells


def _searched(
    study: Study, rung: Rung, winner: Values, options: Budgeted
) -> Generator[Any, Any, tuple[Tuning, Descended, dict[str, Any]]]:
    """The lr sweep of one share and the descent from its best."""
    tuning = Tuning(study, rung.cell)
    centre = {**tuning.start, **winner, **rung.fixed}
    checked(tuning.space, centre)
    losses = yield from sweep(
        tuning.ask(SWEEP), centre, "lr", _with(tuning.space["lr"], centre["lr"]), options.reach
    )
    best = lowest(losses)
    notes: dict[str, Any] = {"shares": {str(tokens): share for tokens, share in rung.shares.items()}}
    notes |= {"from": dict(centre), "lr": None if best is None else best["lr"], **rung.fixed}
    if best is None:
        return tuning, Descended(None, losses, None, ()), notes | {"reason": "every learning rate diverged"}
    ended = yield from descend(tuning.space, best, tuning.ask(), options.rule, losses)
    notes["passes"] = [{"centre": dict(at), "runs": runs} for at, runs in ended.passes]
    notes["ended"] = ended.centre is not None
    return tuning, ended, notes


def _with(grid: Sequence[Scalar], value: Scalar) -> tuple[Scalar, ...]:
    """A grid with a value that a smaller share's sweep may have found beyond it."""
    if value in grid or not ordered([value, *grid]):
        return tuple(grid)
    return tuple(sorted((*grid, value), key=float))  # type: ignore[arg-type]


def needs(options: Budgeted) -> tuple[str, ...]:
    """lr alone: the rest is what an optimizer has."""
    return ("lr",)


def expected(study: Study, options: Budgeted) -> dict[Cell, Runs]:
    """The runs of every cell: three passes of descent on the smallest share, one on each after it."""
    found, seeds = {}, len(study.seeds)
    for ladder in ladders(study, options):
        for k, rung in enumerate(ladder):
            space = study.space(rung.cell.optimizer)
            usual, most = of_descent(space, passes=1 if k else 3)
            bound = math.inf if options.most is None else options.most
            lrs = len(space["lr"])
            found[rung.cell] = Runs(
                lrs + int(min(usual - lrs, bound)) + seeds,
                lrs + 1 + 2 * options.reach + int(min(most, bound)) + seeds,
            )
    return found


PROTOCOL = Protocol(
    name="budgeted",
    summary="1 to 100 % of the tokens, a complete schedule each, tuned from the share before",
    options=Budgeted,
    run=run,
    needs=needs,
    expected=expected,
)
