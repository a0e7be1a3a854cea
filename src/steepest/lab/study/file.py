"""The tables of a study file, checked and made into a study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, UnknownName
from steepest.lab.analysis.runs import Place
from steepest.lab.config import ModelChoice, RunConfig
from steepest.lab.model import non_embedding
from steepest.lab.settings import build, fit
from steepest.lab.study import study as studies
from steepest.lab.study.protocols import PROTOCOLS
from steepest.lab.study.space import batches_around, recipe
from steepest.registry import resolve

if TYPE_CHECKING:
    from steepest.lab.study.study import Study

KEYS = (
    "name", "optimizers", "baseline", "sizes", "ratios", "tokens", "variants", "seeds", "tuning_seed", "protocol",
    "run", "settings", "grids", "axes", "budget",
)  # fmt: skip

PLACED = ("sizes", "ratios", "tokens")
"""Keys of a variant's table that say where it is wanted; the others are fields of the model."""


def study_of(cls: type[Study], values: Mapping[str, Any], name: str) -> Study:
    """See :class:`~steepest.lab.study.study.Study`. Raises: BadInput, UnknownName, each naming key and value."""
    for key in values:
        if key not in KEYS:
            raise UnknownName.among("key of a study", key, KEYS)
    optimizers = _texts(values, "optimizers")
    baseline = fit(values.get("baseline", "adamw"), str, "baseline")
    if baseline not in optimizers:
        raise BadInput(
            f"the baseline {baseline!r} is not among the optimizers: add it, or name one with baseline="
        )
    base = _base(values.get("run", {}))
    has = {name: {"lr", *recipe(resolve(name), {}, base)} for name in optimizers}
    grids = _grids(values.get("grids", {}), has)
    axes = _texts(values, "axes") if values.get("axes") else ()
    for axis in axes:
        _check_shared("axes", axis, has)
    batches = {base.batch}
    if not axes or "batch" in axes:
        batches |= {
            int(b) for own in grids.values() for b in own.get("batch", batches_around(base.batch)) if _positive(b)
        }
    protocol = values.get("protocol", next(iter(PROTOCOLS)))
    if isinstance(protocol, str):
        protocol = {"name": protocol}
    if not isinstance(protocol, Mapping) or not isinstance(protocol.get("name"), str):
        raise BadInput(f"protocol={protocol!r}: give its name, or a table with name= and its options")
    seeds, tuning = (fit(values.get(k, d), int, k) for k, d in (("seeds", 3), ("tuning_seed", 0)))
    return cls(
        name=fit(values.get("name", name), str, "name"),
        optimizers=optimizers,
        baseline=baseline,
        places=_places(values, base, batches),
        base=base,
        protocol=protocol["name"],
        options={key: value for key, value in protocol.items() if key != "name"},
        variants={v: {k: f for k, f in t.items() if k not in PLACED} for v, t in _variants(values).items()},
        settings=_settings(values.get("settings", {}), optimizers),
        grids=grids,
        axes=axes,
        seeds=tuple(tuning + 1 + k for k in range(seeds)),
        tuning_seed=tuning,
        budget=build(studies.Budget, _table(values, "budget"), "budget."),
    )


def _base(run: Any) -> RunConfig:
    run = dict(run) if isinstance(run, Mapping) else _no_table("run", run)
    for key, instead in (
        ("optimizer", "optimizers"),
        ("tokens", "tokens"),
        ("ratio", "ratios"),
        ("seed", "tuning_seed"),
    ):
        if key in run:
            raise BadInput(f"run.{key}: the study sets it: use `{instead}` outside of [run]")
    model = run.get("model", {})
    if isinstance(model, str) or "preset" in model:
        raise BadInput(
            f"run.model={model!r}: the study sets it: use `sizes`; fields of all models may stand there"
        )
    run["evaluation"] = studies.EVALUATION | dict(run.get("evaluation", {}))
    return RunConfig.from_mapping(run)


def _places(values: Mapping[str, Any], base: RunConfig, batches: set[int]) -> tuple[Place, ...]:
    """Base places first, each variant's after them."""
    sizes = _texts(values, "sizes")
    amounts = _amounts(values, "the study")
    found = [place for size in sizes for place in _at(size, amounts, base, batches)]
    for variant, table in _variants(values).items():
        if not variant:
            raise BadInput('variants: "" is the base architecture: give this one a name')
        own = _texts(table, "sizes", f"variants.{variant}.") if "sizes" in table else sizes
        only = _amounts(table, f"variants.{variant}") if {"ratios", "tokens"} & set(table) else amounts
        fields = {**base.model.fields, **{k: v for k, v in table.items() if k not in PLACED}}
        for size in own:
            ModelChoice(size, fields)
            found += [place._replace(variant=variant) for place in _at(size, only, base, batches)]
    return tuple(found)


def _at(size: str, amounts: tuple[str, list[float]], base: RunConfig, batches: set[int]) -> list[Place]:
    """Whole steps at every batch that is tried, so that all runs of a place train the same tokens."""
    kind, numbers = amounts
    weights = non_embedding(ModelChoice(size, base.model.fields).config(vocab=2))
    step = math.lcm(*batches) * base.seq
    if kind == "ratios":
        return [Place(size, studies.tokens_of(ratio, weights, step)) for ratio in numbers]
    return [Place(size, max(1, round(tokens / step)) * step) for tokens in numbers]


def _amounts(values: Mapping[str, Any], where: str) -> tuple[str, list[float]]:
    given = [key for key in ("ratios", "tokens") if key in values]
    if len(given) != 1:
        raise BadInput(f"{where} has {' and '.join(given) or 'neither ratios nor tokens'}: give one of the two")
    numbers = values[given[0]]
    numbers = numbers if isinstance(numbers, list | tuple) else [numbers]
    for number in numbers:
        if not _positive(number):
            raise BadInput(f"{given[0]}={number!r}: each must be a finite number above 0")
    if not numbers or len(set(numbers)) < len(numbers):
        raise BadInput(f"{given[0]}={numbers}: give at least one, and each once")
    return given[0], list(numbers)


def _grids(grids: Any, has: Mapping[str, set[str]]) -> dict[str, dict[str, list[Any]]]:
    """Per optimizer; what is given for all goes to those that have it."""
    shared = {k: v for k, v in _table({"grids": grids}, "grids").items() if not isinstance(v, Mapping)}
    own = {k: v for k, v in grids.items() if isinstance(v, Mapping)}
    for name in own:
        if name not in has:
            raise UnknownName.among("optimizer in grids", name, has)
    for axis in shared:
        _check_shared("grids", axis, has)
    found = {}
    for name in has:
        found[name] = {k: v for k, v in shared.items() if k in has[name]} | dict(own.get(name, {}))
        for axis, grid in found[name].items():
            if not isinstance(grid, list | tuple):
                raise BadInput(f"grids: {axis}={grid!r} must be a list of values; [] searches none")
    return found


def _check_shared(where: str, axis: str, has: Mapping[str, set[str]]) -> None:
    if not any(axis in names for names in has.values()):
        raise UnknownName.among(f"hyperparameter in {where}", axis, set().union(*has.values()))


def _settings(settings: Any, optimizers: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    for name, table in _table({"settings": settings}, "settings").items():
        if name not in optimizers:
            raise UnknownName.among("optimizer in settings", name, optimizers)
        if not isinstance(table, Mapping):
            raise BadInput(f"settings.{name}={table!r}: it must be a table of hyperparameters")
        if "lr" in table:
            raise BadInput(f"settings.{name}.lr: the study searches lr: use [grids.{name}]")
    return {name: dict(table) for name, table in settings.items()}


def _variants(values: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    table = _table(values, "variants")
    for name, fields in table.items():
        if not isinstance(fields, Mapping):
            _no_table(f"variants.{name}", fields)
    return table


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = values.get(key, {})
    return table if isinstance(table, Mapping) else _no_table(key, table)


def _no_table(key: str, value: Any) -> Any:
    raise BadInput(f"{key}={value!r}: it must be a table")


def _texts(values: Mapping[str, Any], key: str, before: str = "") -> tuple[str, ...]:
    texts = values.get(key)
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadInput(f"{before}{key}={texts!r}: give a list of names")
    return tuple(texts)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
