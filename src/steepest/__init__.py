"""Every language-model pretraining optimizer, written once as its paper writes it.

>>> import steepest
>>> optimizer = steepest.Muon(model, lr=0.02)
>>> print(steepest.explain_routing(optimizer))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steepest.core.rule import Rule as Rule
    from steepest.initial import initialise as initialise
    from steepest.inside_backward import Release as Release
    from steepest.inside_backward import release as release
    from steepest.optimizer import Optimizer as Optimizer
    from steepest.planning.accounting import Accounting as Accounting
    from steepest.planning.plan import Memory as Memory
    from steepest.planning.plan import memory as memory
    from steepest.registry import explain_routing as explain_routing
    from steepest.registry import resolve as resolve
    from steepest.zeroth.optimizer import ZerothOrder as ZerothOrder

__version__ = "0.1.0"

# Imported at first use, so that a report is rebuilt and a help page printed without loading torch.
_PUBLIC = {
    "Accounting": "steepest.planning.accounting",
    "Memory": "steepest.planning.plan",
    "Release": "steepest.inside_backward",
    "Rule": "steepest.core.rule",
    "Layout": "steepest.core.layout",
    "Optimizer": "steepest.optimizer",
    "ZerothOrder": "steepest.zeroth.optimizer",
    "explain_routing": "steepest.registry",
    "initialise": "steepest.initial",
    "memory": "steepest.planning.plan",
    "release": "steepest.inside_backward",
    "resolve": "steepest.registry",
}


def __getattr__(name: str) -> Any:
    """The public names, and each rule's optimizer class by its name: ``steepest.AdamW``, ``steepest.Muon``."""
    import importlib

    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name.startswith("_") or not name[0].isupper():
        raise AttributeError(f"module 'steepest' has no attribute {name!r}")
    from steepest.registry import class_named

    return class_named(name)


def __dir__() -> list[str]:
    from steepest.registry import rules

    return sorted([*_PUBLIC, *(rule.__name__ for rule in rules().values())])
