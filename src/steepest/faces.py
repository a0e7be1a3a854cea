"""The optimizer class of each rule."""

from __future__ import annotations

import inspect
from typing import Any

from steepest.core.rule import Rule, defaults, hyperparameters
from steepest.optimizer import Optimizer

_FACES: dict[Any, type[Optimizer]] = {}


def face(rule: type[Rule]) -> type[Optimizer]:
    """The optimizer class of a rule, named after it, with its hyperparameters in signature and docstring."""
    if rule not in _FACES:
        _FACES[rule] = _made(rule)
    return _FACES[rule]


def _made(rule: type[Rule]) -> type[Optimizer]:
    hypers = hyperparameters(rule)
    told = "\n".join(
        f"        {name} (default {defaults(rule)[name]!r}): {h.meaning}." for name, h in hypers.items()
    )
    doc = f"{rule.title}.\n\n{inspect.cleandoc(rule.__doc__ or '')}\n\n{rule.paper}.\n\nArgs:\n{told}\n\n"
    made = type(rule.__name__, (Optimizer,), {"rule": rule, "__doc__": doc + (Optimizer.__doc__ or "")})
    # Pickling finds the class as steepest.<name>.
    built_in = rule.__module__.startswith(("steepest.rules.", "steepest.wrappers."))
    made.__module__ = "steepest" if built_in else rule.__module__
    parameters = dict(inspect.signature(Optimizer.__init__).parameters)
    del parameters["hyper"], parameters["self"]
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults(rule)[name])
        for name in hypers
        if name != "lr"
    ]
    made.__signature__ = inspect.Signature([*parameters.values(), *own])  # type: ignore[attr-defined]
    return made
