"""Three phases, as "Fantastic Pretraining Optimizers" tunes (arXiv 2509.02046, section 3).

    Phase I     small places: coordinate descent over everything
    between     a hyperparameter is scaling-sensitive unless one value of it is near-best in every place of Phase I
    Phase II    further places: descent over the sensitive ones alone, on the two or three values around the
                nearest winner, which move on while the best lies at their end; the rest keep their common value
    Phase III   the largest size: what h(N, D) predicts, fitted to the optima of Phases I and II and judged where
                it was not fitted, rounded to the grid; `check` runs neighbours of the prediction, too
    the end     every winner on fresh seeds; the baseline at further budgets, for its law, as predicted

Every optimizer goes at its own pace. What the paper's authors decided by hand is a rule here: which form predicts
(the one with the smallest leave-one-out error), how a prediction is rounded (to the nearest grid value in ratio).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.predict import LEAST, Judged, Optimum, Scale, fit_power, judge, rounded
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT, Cell, Place, Scalar
from steepest.lab.analysis.sensitive import THRESHOLDS, Sensitivity, judged
from steepest.lab.study.asking import Asking, Failed
from steepest.lab.study.protocols.base import Chosen, Protocol, Runs, Study, Tuning, cells, checked_ratios
from steepest.lab.study.search import Losses, lowest, neighbours, ordered, tried
from steepest.lab.study.trial import Space, Values
from steepest.lab.study.tuners.coordinate import Coordinate, Descended, descend
from steepest.lab.study.tuners.coordinate import expected as of_descent

FIRST, SECOND, THIRD = "I", "II", "III"


@dataclass(frozen=True)
class ThreePhases:
    """first: sizes whose every place is of Phase I; () is the smallest. predicted: sizes of Phase III; () is the
    largest of three or more. accept, saving, most: of every descent, see tuners/coordinate.py. threshold: what
    counts as near-best, nats/token. always: searched in Phase II although insensitive. check: hyperparameters
    whose neighbours on the grid are run around each prediction. law_ratios: further budgets of the baseline."""

    first: tuple[str, ...] = ()
    predicted: tuple[str, ...] = ()
    accept: float = 3e-3
    saving: int = 10
    most: int | None = None
    threshold: float = 6.4e-3
    always: tuple[str, ...] = ("lr",)
    check: tuple[str, ...] = ()
    law_ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checked_ratios(self.law_ratios)
        _ = self.rule
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise BadInput(f"threshold={self.threshold}: give a difference of loss of at least 0, such as 6.4e-3")

    @property
    def rule(self) -> Coordinate:
        """Of every descent."""
        return Coordinate(self.accept, self.saving, self.most)


def phases(study: Study, options: ThreePhases) -> dict[Place, str]:
    """The phase of every place. Raises: BadInput for sizes that the study lacks, or a study without Phase I."""
    sizes = sorted({place.size for place in study.places}, key=lambda size: study.sizes[size])
    for name in (*options.first, *options.predicted):
        if name not in sizes:
            raise BadInput(f"three_phases names size {name!r}: the study has {', '.join(sizes)}")
    first = options.first or tuple(sizes[:1])
    predicted = options.predicted or tuple(sizes[-1:] if len(sizes) > 2 else ())
    if both := set(first) & set(predicted):
        raise BadInput(f"three_phases has {', '.join(sorted(both))} in first and in predicted: keep one")
    of = {size: FIRST if size in first else THIRD if size in predicted else SECOND for size in sizes}
    return {place: of[place.size] for place in study.places}


def run(study: Study, options: ThreePhases) -> Asking:
    """{Cell: Chosen}, every optimizer alone."""
    of = phases(study, options)
    found = yield {name: _optimizer(study, name, of, options) for name in study.optimizers}
    merged: dict[Cell, Any] = {}
    for name, chosen in found.items():
        lost = dict.fromkeys((cell for cell in cells(study, options.law_ratios) if cell.optimizer == name), chosen)
        merged |= lost if isinstance(chosen, Failed) else chosen
    return merged


def _optimizer(study: Study, name: str, of: Mapping[Place, str], options: ThreePhases) -> Asking:
    """One optimizer through all phases."""
    first = [place for place, phase in of.items() if phase == FIRST]
    found = yield {place: _descent(study, Cell(name, *place), options) for place in first}
    tuned = {place: value for place, value in found.items() if not isinstance(value, Failed)}
    sensitive = [_sensitive(tuned, name, threshold) for threshold in sorted({*THRESHOLDS, options.threshold})]
    told = next(s for s in sensitive if s.threshold == options.threshold)
    notes = {"sensitive": [s.told() for s in sensitive]}
    # The winners' fresh seeds do not hold up the next phase.
    ended = yield {
        FIRST: _ends(study, name, tuned, {"phase": FIRST} | notes),
        SECOND: _rest(study, name, of, tuned, told, options),
    }
    chosen = ended[FIRST] | ({} if isinstance(ended[SECOND], Failed) else ended[SECOND])
    return chosen | {Cell(name, *place): value for place, value in found.items() if isinstance(value, Failed)}


def _rest(
    study: Study,
    name: str,
    of: Mapping[Place, str],
    tuned: Mapping[Place, Descended],
    told: Sensitivity,
    options: ThreePhases,
) -> Asking:
    """Phases II and III."""
    second = [place for place, phase in of.items() if phase == SECOND]
    found = yield {place: _reduced(study, Cell(name, *place), tuned, told, options) for place in second}
    more = {place: value for place, value in found.items() if not isinstance(value, Failed)}
    known = {**tuned, **more}
    third = {Cell(name, *place): False for place, phase in of.items() if phase == THIRD}
    third |= {
        cell: law for cell, law in cells(study, options.law_ratios).items() if law and cell.optimizer == name
    }
    ended = yield {
        SECOND: _ends(
            study, name, more, {"phase": SECOND, "searched": list(_searched(study, name, told, options))}
        ),
        THIRD: _side_by_side(
            {cell: _predicted(study, cell, known, told, options, law) for cell, law in third.items()}
        ),
    }
    lost = {Cell(name, *place): value for place, value in found.items() if isinstance(value, Failed)}
    return {**ended[SECOND], **ended[THIRD], **lost}


def _descent(study: Study, cell: Cell, options: ThreePhases) -> Generator[Any, Any, Descended]:
    tuning = Tuning(study, cell)
    return (yield from descend(tuning.space, tuning.start, tuning.ask(), options.rule))


def _side_by_side(protocols: Mapping[Any, Asking]) -> Asking:
    return (yield protocols)


def _ends(study: Study, name: str, tuned: Mapping[Place, Descended], notes: Mapping[str, Any]) -> Asking:
    """The fresh seeds of descents that ended."""
    return (
        yield {Cell(name, *place): _end(study, Cell(name, *place), ended, notes) for place, ended in tuned.items()}
    )


def _end(study: Study, cell: Cell, ended: Descended, notes: Mapping[str, Any]) -> Generator[Any, Any, Chosen]:
    tuning = Tuning(study, cell)
    for setting in ended.losses:
        tuning.ask()(dict(setting))
    own = {"passes": [{"centre": dict(centre), "runs": runs} for centre, runs in ended.passes]}
    return (yield from tuning.chosen(ended.values, ended.losses, {**notes, **own}))


def _sensitive(tuned: Mapping[Place, Descended], name: str, threshold: float) -> Sensitivity:
    near = []
    for ended in tuned.values():
        bound = min(ended.losses.values(), default=math.inf) + threshold
        near.append([dict(k) for k, loss in ended.losses.items() if loss <= bound and math.isfinite(loss)])
    return judged(near, name, threshold)


def _searched(study: Study, name: str, told: Sensitivity, options: ThreePhases) -> tuple[str, ...]:
    """What Phase II searches of an optimizer, in its space's order."""
    return tuple(axis for axis in study.space(name) if axis in told.sensitive or axis in options.always)


def _settled(study: Study, cell: Cell, known: Mapping[Place, Descended], told: Sensitivity) -> Values:
    """The winner of the nearest tuned place, what is insensitive at its common value; the start without any."""
    best = {place: ended.values for place, ended in known.items() if ended.values is not None}
    if not best:
        return study.start(cell.optimizer, cell.place)

    def distance(place: Place) -> float:
        sizes = abs(math.log(study.sizes[place.size] / study.sizes[cell.size]))
        own, other = (p.tokens / study.sizes[p.size] for p in (place, cell.place))
        return sizes + abs(math.log(own / other)) + 100 * (place.variant != cell.variant)

    nearest = best[min(best, key=distance)]
    return {**nearest, **{axis: values[0] for axis, values in told.common.items()}}


def _reduced(
    study: Study, cell: Cell, known: Mapping[Place, Descended], told: Sensitivity, options: ThreePhases
) -> Generator[Any, Any, Descended]:
    """Phase II of one place: descent on the values next to the start, again where the best lies at their end."""
    tuning, space = Tuning(study, cell), study.space(cell.optimizer)
    names = _searched(study, cell.optimizer, told, options)
    centre, losses = dict(_settled(study, cell, known, told)), Losses()
    while True:
        small = {name: _around(space[name], centre[name]) for name in names}
        ended = yield from descend(small, centre, tuning.ask(), options.rule, losses)
        losses = dict(ended.losses)
        if ended.values is None or all(_around(space[n], ended.values[n]) == small[n] for n in names):
            return ended
        centre = dict(ended.values)


def _around(grid: Sequence[Scalar], value: Scalar) -> tuple[Scalar, ...]:
    """A value of a grid with those next to it; the whole of a grid that has no order."""
    if not ordered(grid) or value not in grid:
        return tuple(grid)
    place = list(grid).index(value)
    return tuple(grid[max(0, place - 1) : place + 2])


def _predicted(
    study: Study,
    cell: Cell,
    known: Mapping[Place, Descended],
    told: Sensitivity,
    options: ThreePhases,
    law: bool,
) -> Generator[Any, Any, Chosen]:
    """Phase III of one place: the prediction, what is checked around it, the fresh seeds."""
    tuning, space = Tuning(study, cell), study.space(cell.optimizer)
    values = dict(_settled(study, cell, known, told))
    notes: dict[str, Any] = {"phase": THIRD, "predicted": {}}
    for name in _searched(study, cell.optimizer, told, options):
        found = prediction(study, cell, name, known, space[name])
        if found is not None:
            notes["predicted"][name] = found
            values[name] = found["rounded"]
    losses = Losses()
    if options.check:
        near: Space = {name: _around(space[name], values[name]) for name in options.check if name in space}
        losses = yield from tried(tuning.ask(), [values, *neighbours(values, near)])
        values = dict(lowest(losses) or values)
    return (yield from tuning.chosen(values, losses, notes, law))


def prediction(
    study: Study, cell: Cell, name: str, known: Mapping[Place, Descended], grid: Sequence[Scalar]
) -> dict[str, Any] | None:
    """What h(N, D) says for a cell, as JSON: value, rounded, form, and how each form was judged; None where no law
    can be had (too few optima, a switch, an optimum at 0).

    With fewer optima than a form can be judged by, the power form is taken unjudged.
    """
    optima = [
        Optimum(place.size, study.sizes[place.size], _ratio(study, place), float(ended.values[name]))  # type: ignore[arg-type]
        for place, ended in known.items()
        if ended.values is not None and ordered([ended.values[name]]) and place.variant == cell.variant
    ]
    if not ordered(grid) or len(optima) < 3 or any(one.value <= 0 for one in optima):
        return None
    values, scale = [float(v) for v in grid], Scale(cell.size, study.sizes[cell.size], _ratio(study, cell.place))  # type: ignore[arg-type]
    told: list[Judged] = judge(optima, values, [scale]) if len(optima) >= LEAST else []
    fitting = [j for j in told if j.mean_factor is not None and j.predicted[0][2] is not None]
    if fitting:
        best = min(fitting, key=lambda j: j.mean_factor or math.inf)
        value, near = best.predicted[0][1:]
    else:
        value = fit_power(optima, values).value(scale.weights, scale.ratio)
        near = rounded(value, values)
    return {
        "value": value,
        "rounded": near,
        "form": best.form if fitting else "power, too few optima to judge",
        "optima": [vars(one) for one in optima],
        "judged": [j.told() for j in told],
    }


def _ratio(study: Study, place: Place) -> float:
    return place.tokens / (TOKENS_PER_WEIGHT * study.sizes[place.size])


def needs(options: ThreePhases) -> tuple[str, ...]:
    """lr, and what is to be checked."""
    return tuple(dict.fromkeys(("lr", *options.check)))


def expected(study: Study, options: ThreePhases) -> dict[Cell, Runs]:
    """The runs of every cell: three passes of a descent, one of a reduced one."""
    of, seeds = phases(study, options), len(study.seeds)
    found = {}
    for cell, law in cells(study, options.law_ratios).items():
        space = study.space(cell.optimizer)
        if not law and of[cell.place] == FIRST:
            usual, most = of_descent(space)
            most = most if options.most is None else min(most, options.most)
            found[cell] = Runs(min(usual, most) + seeds, most + seeds)
        elif not law and of[cell.place] == SECOND:
            most = 1 + sum(len(grid) - 1 for grid in space.values()) * 3
            found[cell] = Runs(1 + 2 * len(options.always) + seeds, most + seeds)
        else:
            check = 2 * len(options.check)
            found[cell] = Runs(check + bool(check) + seeds, check + bool(check) + seeds)
    return found


PROTOCOL = Protocol(
    name="three_phases",
    summary="descent over everything, then over what is sensitive to scale, then prediction (Fantastic)",
    options=ThreePhases,
    run=run,
    needs=needs,
    expected=expected,
)
