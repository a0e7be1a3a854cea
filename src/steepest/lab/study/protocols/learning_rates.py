"""The learning rate of every optimizer alone, everywhere; the winners on fresh seeds. The cheapest fair protocol.

The same rule for all, as in a race (``lab/race/tune.py``): a grid around the middle of the optimizer's own, which
grows where the best lies at an edge, and halved gaps with what is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from steepest.lab.race.tune import Rule, search

if TYPE_CHECKING:
    from steepest.lab.analysis.runs import Place
    from steepest.lab.study.asking import Asking
    from steepest.lab.study.study import Study


def protocol(study: Study, *, runs: int = 6, factor: float = 4.0) -> Asking:
    """runs: learning rates tried in every cell. factor: between neighbours of the first three.

    Returns by cell the best learning rate, None where all diverged.
    """
    return (
        yield {
            (optimizer, *place): _cell(study, optimizer, place, Rule(runs, factor))
            for place in study.places
            for optimizer in study.optimizers
        }
    )


def check(study: Study, *, runs: int = 6, factor: float = 4.0) -> None:
    """Raises: BadInput for an impossible rule."""
    Rule(runs, factor)


def _cell(study: Study, optimizer: str, place: Place, rule: Rule) -> Asking:
    searching = search(float(study.start(optimizer, place)["lr"]), rule)  # type: ignore[arg-type]
    rates = next(searching)
    while True:
        trials = {lr: study.trial(optimizer, place, {"lr": lr}, purpose="tune") for lr in rates}
        found = yield list(trials.values())
        losses = {lr: found[trial].loss for lr, trial in trials.items()}
        try:
            rates = searching.send({lr: math.inf if loss is None else loss for lr, loss in losses.items()})
        except StopIteration as end:
            tuned = end.value
            break
    if tuned.best is not None:
        yield [study.trial(optimizer, place, {"lr": tuned.best}, seed, "final") for seed in study.seeds]
    return tuned.best
