"""What stands behind a race's tuned learning rates, and what its seeds could have seen."""

from __future__ import annotations

from typing import Any

from steepest.lab.analysis.certificate import certificate
from steepest.lab.analysis.interval import Noise
from steepest.lab.analysis.law import Law
from steepest.lab.analysis.runs import DIVERGED, FINISHED, UNFINISHED, Place, Run
from steepest.lab.analysis.seeds import Known, planned
from steepest.lab.model import non_embedding
from steepest.lab.race.plan import FINAL, TUNE
from steepest.lab.race.protocol import Course

ENDED = {FINISHED, DIVERGED}


def certified(course: Course, name: str, noise: Noise | None) -> dict[str, Any] | None:
    """The certificate of an optimizer's learning rate over all that its tuning tried; None where nothing ran.

    The rate is judged on the tuning's seed, which its neighbours share, not on the fresh seeds of its final runs.
    """
    base, tuned = course.race.base, course.tuned.get(name)
    weights = non_embedding(base.model.config(vocab=2))
    runs = [
        Run(
            run=result.run,
            optimizer=name,
            size=base.model.preset,
            weights=weights,
            tokens=trial.tokens,
            hyperparameters={"lr": trial.lr},
            status=result.status if result.status in ENDED else UNFINISHED,
            loss=result.loss,
            seed=trial.seed,
            seconds=result.seconds,
            purpose=purpose,
        )
        for purpose in (TUNE, FINAL)
        for trial, result in course.trials(name, purpose).items()
    ]
    if not runs:
        return None
    best = None if tuned is None else tuned.best
    return certificate(runs, noise=noise, winner={} if best is None else {"lr": best}).told()


def seen(course: Course, noise: Noise | None, optimizers: int, law: Law | None) -> dict[str, Any] | None:
    """What the race's seeds could have told apart; None where they tell no noise."""
    if noise is None or noise.own_sd == 0:
        return None
    race = course.race
    slopes = {}
    if law is not None and law.alpha > 0:
        slopes = {Place(race.base.model.preset, race.tokens): float(law.slope(race.tokens))}
    source = f"the final runs of {optimizers} optimizers over {len(race.seeds)} seeds"
    return planned(Known(noise.own_sd, noise.own_freedom, len(race.seeds), max(2, optimizers), 1, slopes, source))
