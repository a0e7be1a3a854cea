"""Hyperparameters as a study has them, flat scalars by name, and back as a run's configuration takes them.

The optimizer's own go by their names, ``betas`` as beta1 and beta2, a companion's and a role's by paths
(``companion.lr_ratio``, ``by_role.head.lr_ratio``). The run's are ``warmup`` (schedule.warmup), ``batch``,
``clip``, ``schedule`` (its name) and, where the study's schedule has one, ``cooldown`` (schedule.decay); a rule's
own hyperparameter of such a name is set for a whole study, not searched. No grid of schedules is declared.
``weight_decay`` moves a companion's too where the recipe has both alike.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, UnknownName
from steepest.core.rule import Hyper, hyperparameters
from steepest.rules.adamw import AdamW
from steepest.schedules import SCHEDULES

if TYPE_CHECKING:
    from steepest.lab.analysis.runs import Scalar
    from steepest.lab.config import RunConfig
    from steepest.registry import Contender

RUN = ("warmup", "batch", "clip", "cooldown", "schedule")
"""The run's own names."""

LR_RATIOS = (0.1, 0.3, 1.0)
"""Of a companion, over the rule's lr: the first study's range (0.1 to 0.3 for Muon) and equal rates."""

DIGITS = 9
"""Significant digits of a value: what differs by less is one run."""


def recipe(contender: Contender, settings: Mapping[str, Any], base: RunConfig) -> dict[str, Scalar]:
    """Every scalar that can be set, with the value of a run that sets none; lr is not among them."""
    if contender.rule is None:
        own = _signature(contender.kind) | contender.hyperparameters(**settings)
    else:
        own = contender.identity(1.0, **settings)
        companion = {k: v for k, v in own.get("companion", {}).items() if k != "version"}
        own = {**own["hyperparameters"], "companion": companion, "by_role": own.get("by_role", {})}
    flat = {name: value for name, value in _flat(own) if name not in ("lr", *RUN)}
    return flat | run_values(base)


def run_values(base: RunConfig) -> dict[str, Scalar]:
    """The run's own names and values."""
    schedule = base.schedule
    values: dict[str, Scalar] = {"warmup": schedule.warmup, "batch": base.batch, "clip": base.clip}
    values |= {"cooldown": schedule.decay} if "decay" in SCHEDULES[schedule.name].sets else {}
    return values | {"schedule": schedule.name}


def declared(contender: Contender, recipe: Mapping[str, Scalar]) -> dict[str, tuple[Scalar, ...]]:
    """The grids that the rule declares, and those of the run, each with the recipe's value in it; lr first."""
    found: dict[str, Iterable[Scalar]] = {}
    for name in recipe:
        hyper = declaration(contender, name)
        if hyper is not None and hyper.grid:
            found[name] = hyper.grid
    if isinstance(recipe.get("companion.lr_ratio"), float | int):
        found["companion.lr_ratio"] = LR_RATIOS
    found |= {
        "warmup": (0.02, 0.05, 0.1, 0.2, 0.4),
        "batch": batches_around(int(recipe["batch"])),  # type: ignore[arg-type]
        "clip": (0.0, 1.0, 2.0),
    }
    found |= {"cooldown": (0.1, 0.2, 0.4, 0.8)} if "cooldown" in recipe else {}
    grids: dict[str, tuple[Scalar, ...]] = {"lr": tuple(contender.lr_grid)}
    for name, grid in found.items():
        grids[name] = ordered({normal(v, recipe[name]) for v in (*grid, recipe[name]) if v is not None})
    return grids


def batches_around(batch: int) -> tuple[int, ...]:
    """Half of a batch to four times it."""
    return tuple(b for b in (batch // 2, batch, 2 * batch, 4 * batch) if b > 0)


def declaration(contender: Contender, name: str) -> Hyper | None:
    """What the rule says of a hyperparameter; a half of ``betas`` has its half of the grid. None: nothing."""
    table, _, own = name.rpartition(".")
    if contender.rule is None or name in RUN or table.startswith("by_role"):
        return None
    hypers = hyperparameters(AdamW if table == "companion" else contender.rule)
    place = _place(contender, name)
    if place is not None:
        grid = hypers["betas"].grid
        return replace(hypers["betas"], grid=grid[place] if place < len(grid) else ())
    # Of a companion's other hyperparameters neither study searched any.
    return replace(hypers[own], grid=()) if own in hypers and table else hypers.get(own)


def check(contender: Contender, name: str, value: Any, known: Mapping[str, Scalar], where: str) -> None:
    """Raises: UnknownName for a name that neither optimizer nor run have, BadInput for an impossible value."""
    if name != "lr" and name not in known and not name.startswith("by_role."):
        raise UnknownName.among(f"hyperparameter of {contender.name}", name, ["lr", *known], f"({where})")
    if not isinstance(value, bool | int | float | str):
        raise BadInput(f"{where}: {name}={value!r} is no number, text, true or false")
    if name == "schedule" and value not in SCHEDULES:
        raise UnknownName.among("schedule", str(value), SCHEDULES, f"({where})")
    hyper = declaration(contender, name)
    like = known.get(name, 1.0 if name == "lr" else None)
    fault = hyper.fault(normal(value, like), like) if hyper is not None else None
    if fault is not None:
        raise BadInput(f"{where}: {contender.name} cannot take {name}={value!r}: it {fault}")


def normal(value: Any, like: Scalar) -> Any:
    """A scalar so that equal ones are one run: the kind of number that ``like`` is, ``DIGITS`` digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(like, int) and not isinstance(like, bool) and value % 1 == 0:
        return int(value)
    if isinstance(value, int) and not isinstance(like, float):
        return value
    return float(f"{value:.{DIGITS}g}")


def ordered(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    """Numbers ascending; anything else in the order of its text."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    rest = [v for v in values if not isinstance(v, int | float) or isinstance(v, bool)]
    return (*sorted(numbers), *sorted(rest, key=str))


def nearest(value: Scalar, grid: tuple[Scalar, ...]) -> Scalar:
    """The value of the grid that is nearest, the middle where nearness means nothing; None stays None."""
    if value is None or value in grid:
        return value
    numbers = [v for v in grid if isinstance(v, int | float) and not isinstance(v, bool)]
    if not numbers or isinstance(value, bool) or not isinstance(value, int | float):
        return grid[len(grid) // 2]
    logs = value > 0 and min(numbers) > 0
    return min(numbers, key=lambda v: abs(math.log(v / value)) if logs else abs(v - value))


def over(
    contender: Contender, settings: Mapping[str, Any], values: Mapping[str, Scalar], recipe: Mapping[str, Scalar]
) -> dict[str, Any]:
    """The optimizer's hyperparameters of a run: ``settings``, and over them what differs from the recipe."""
    changed = {k: v for k, v in values.items() if k not in ("lr", *RUN) and (k not in recipe or recipe[k] != v)}
    decay, companions = changed.get("weight_decay"), "companion.weight_decay"
    if decay is not None and companions not in values and recipe.get(companions) == recipe["weight_decay"]:
        changed[companions] = decay
    result = {key: dict(item) if isinstance(item, Mapping) else item for key, item in settings.items()}
    for name, value in changed.items():
        *tables, own = name.split(".", 2 if name.startswith("by_role.") else 1)
        target = result
        for table in tables:
            target[table] = dict(target.get(table, {}))
            target = target[table]
        if _place(contender, name) is None:
            target[own] = value
        else:
            halves = [f"{name[: -len(own)]}beta{k}" for k in (1, 2, 3)]
            target["betas"] = [{**recipe, **changed}[half] for half in halves if half in recipe]
    return result


def _place(contender: Contender, name: str) -> int | None:
    """Which of ``betas`` a name such as beta1 is; None where it is a hyperparameter of its own."""
    table, _, own = name.rpartition(".")
    if table.startswith("by_role") or not (own.startswith("beta") and own[4:].isdigit()):
        return None
    if contender.rule is None:
        return int(own[4:]) - 1 if "betas" in _signature(contender.kind) else None
    hypers = hyperparameters(AdamW if table == "companion" else contender.rule)
    return None if own in hypers or "betas" not in hypers else int(own[4:]) - 1


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Scalar]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif name == "betas" and isinstance(value, list | tuple):
            yield from ((f"{before}beta{k}", one) for k, one in enumerate(value, 1))
        elif value is None or isinstance(value, bool | int | float | str):
            yield f"{before}{name}", value


def _signature(kind: type) -> dict[str, Any]:
    """The defaults of a foreign class."""
    known = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in known if p.default is not inspect.Parameter.empty}
