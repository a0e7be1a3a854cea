"""``steepest study plan``: the price of a study as one document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell
from steepest.lab.study.calibration import Times, flops, seconds_per_token, starts
from steepest.lab.study.hold import Standing
from steepest.lab.study.price import Priced, check_budget, priced, ratio

if TYPE_CHECKING:
    from steepest.lab.corpus import Corpus
    from steepest.lab.study.study import Study


def planned(study: Study, corpus: Corpus, *, runs: Path, out: Path, workers: int) -> dict[str, Any]:
    """Runs, tokens, operations and hours, in all and by optimizer; what of it is present; the search spaces."""
    study.check()
    standing = Standing(study, corpus, runs)
    standing.begin()
    price = priced(study)
    check_budget(study, price)
    times = starts(study, corpus, out)
    batch = study.base.batch
    _check_hours(study, price, times)
    present = Counter(
        Cell(t.optimizer, *t.place) for t, run in standing.runs_of.items() if run in standing.results
    )
    sides: list[dict[str, Any]] = []
    for optimizer in study.optimizers:
        space = study.space(optimizer)
        own = {cell: n for cell, n in price.runs.items() if cell.optimizer == optimizer}
        left = {cell: max(0, n - present[cell]) for cell, n in own.items()}
        sides.append(
            {
                "optimizer": optimizer,
                "space": {name: list(grid) for name, grid in space.items()},
                "points": sum(len(grid) for grid in space.values()),
                "combinations": math.prod(len(grid) for grid in space.values()),
                "runs": sum(own.values()),
                "most": sum(n for cell, n in price.most.items() if cell.optimizer == optimizer),
                "present": sum(n for cell, n in present.items() if cell.optimizer == optimizer),
                "tokens": sum(cell.tokens * n for cell, n in left.items()),
                "flops": sum(n * flops(study, times, cell, cell.tokens, batch) for cell, n in left.items()),
                "hours": sum(cell.tokens * n * seconds_per_token(study, times, cell) for cell, n in left.items())
                / 3600,
            }
        )
    told: dict[str, Any] = {"name": study.name, "protocol": study.protocol, "workers": workers, "sides": sides}
    told |= {key: sum(side[key] for side in sides) for key in ("runs", "most", "present", "tokens", "flops")}
    told["hours"] = sum(side["hours"] for side in sides) / workers
    told["places"] = [
        {"size": p.size, "tokens": p.tokens, "ratio": ratio(study, p), "variant": p.variant} for p in study.places
    ]
    return told | {"warnings": _warnings(study, told, price.tokens(price.runs))}


def _check_hours(study: Study, price: Priced, times: Mapping[str, Times]) -> None:
    """Raises: BadInput for a budget that does not pay what the protocol asks for first."""
    first = sum(c.tokens * n * seconds_per_token(study, times, c) for c, n in price.first.items()) / 3600
    limit = study.budget.hours
    if limit is not None and limit < first:
        raise BadInput(
            f"budget.hours={limit:g}: what {study.protocol} asks for first, {sum(price.first.values()):,} runs, "
            f"takes about {first:.2g} hours of workers here: raise it, or take fewer optimizers, sizes or ratios"
        )


def _warnings(study: Study, told: dict[str, Any], tokens: int) -> list[str]:
    found = []
    points = {side["optimizer"]: side["points"] for side in told["sides"]}
    if len(set(points.values())) > 1:
        most, least = max(points, key=lambda o: points[o]), min(points, key=lambda o: points[o])
        found.append(
            f"the search spaces differ in size: {most} has {points[most]} grid points, {least} {points[least]}; "
            "[grids] and axes narrow them"
        )
    hours = sum(side["hours"] for side in told["sides"])
    for name, limit, wanted in (
        ("runs", study.budget.runs, told["runs"]),
        ("tokens", study.budget.tokens, tokens),
        ("hours", study.budget.hours, hours),
    ):
        if limit is not None and wanted > limit:
            found.append(f"budget.{name}={limit:,}: {wanted:,.6g} are expected; the study will stop there")
    return found
