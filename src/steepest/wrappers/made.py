"""How a wrapper's class gets its public name and its authors' defaults."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from steepest.core.rule import Rule


def made(
    body: type[Rule],
    rule: type[Rule],
    over: str,
    defaults: Mapping[str, Any],
    grids: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
) -> type[Rule]:
    """The rule that a wrapper makes of ``rule``: ``body``, a subclass of it, named after both.

    Over the rule that the bare name means it is ``Cautious``, "cautious"; over Lion ``CautiousLion``,
    "cautious-lion". ``defaults`` and ``grids`` replace those of the wrapped rule's hyperparameters.
    """
    bare = rule.name() == over
    name = body.__name__ if bare else body.__name__ + rule.__name__
    told = body.__name__.lower() if bare else f"{body.__name__.lower()}-{rule.name()}"
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
