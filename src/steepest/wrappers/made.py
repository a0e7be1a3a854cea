"""How a wrapper's class gets its public name and its authors' defaults."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from steepest.core.errors import BadInput
from steepest.core.rule import Rule, Step


def made(
    body: type[Rule],
    rule: type[Rule],
    over: str,
    defaults: Mapping[str, Any],
    grids: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
    *,
    called: str = "",
) -> type[Rule]:
    """The rule that a wrapper makes of ``rule``: ``body``, a subclass of it, named after both.

    Over the rule that the bare name means it is ``Cautious``, "cautious"; over Lion ``CautiousLion``,
    "cautious-lion". ``defaults`` and ``grids`` replace those of the wrapped rule's hyperparameters; ``called`` is
    the wrapper's own word where it is not its class's.

    Raises: BadInput where the two have hyperparameters or methods of one name, and for a rule that is not given
    gradients.
    """
    if rule.sends():
        raise BadInput(
            f"{called or body.__name__.lower()} over {rule.name()}: its update is given the mean of all workers' "
            "messages, which the wrapper would take for a gradient: wrap a rule whose workers send gradients, "
            "such as adamw"
        )
    bare, called = rule.name() == over, called or body.__name__.lower()
    if shared := in_both(body, rule):
        raise BadInput(f"{called} over {rule.name()}: both have a {shared} of their own: wrap once, or rename one")
    name = body.__name__ if bare else body.__name__ + rule.__name__
    told = called if bare else f"{called}-{rule.name()}"
    known = vars(sys.modules[body.__module__]).get(name)
    if known is not None and rule in known.__mro__:
        return known  # one class for a rule, however often it is asked for: pickling compares them
    anew = {*defaults, *grids}
    again = [(f.name, f.type, again_of(f, defaults, grids)) for f in dataclasses.fields(body) if f.name in anew]
    namespace = {"__doc__": body.__doc__, "name": classmethod(lambda _: told)}
    found: type[Rule] = dataclasses.make_dataclass(name, again, bases=(body,), frozen=True, namespace=namespace)
    found.__module__ = body.__module__
    setattr(sys.modules[found.__module__], name, found)  # where pickling looks for it
    return found


def again_of(f: dataclasses.Field[Any], defaults: Mapping[str, Any], grids: Mapping[str, tuple[Any, ...]]) -> Any:
    """A hyperparameter with another default or search grid."""
    hyper = f.metadata["hyper"]
    hyper = dataclasses.replace(hyper, grid=grids.get(f.name, hyper.grid))
    return dataclasses.field(default=defaults.get(f.name, f.default), metadata={"hyper": hyper})


def in_both(body: type[Rule], rule: type[Rule]) -> str:
    """What a wrapper adds to every rule and this rule has already: one would be read as the other."""
    added = (name for one in body.__mro__ if one not in rule.__mro__ for name in vars(one))
    taken = (name for name in added if not name.startswith("__") and not hasattr(Rule, name))
    return next((name for name in taken if hasattr(rule, name) and name != "seed"), "")


def above(word: str, phase: str) -> str:
    """The phase of a wrapper in front of the wrapped rule's."""
    return f"{word} {phase}".rstrip()


def below(step: Step) -> tuple[str, Step]:
    """A wrapper's own word of the phase, and the step as the wrapped rule sees it."""
    word, _, phase = step.phase.partition(" ")
    return word, Step(phase, {name: value for name, value in vars(step).items() if name != "phase"})
