"""Which optimizers fit into so much memory, each at its smallest and at its largest configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steepest.core.errors import SteepestError
from steepest.core.rule import Rule, defaults, hyperparameters, variant_of
from steepest.planning.accounting import Accounting
from steepest.planning.models import Model
from steepest.planning.plan import Memory, memory
from steepest.registry import rules

PROBES = ((1024, 2048), (2048, 1024), (1024, 1024), (32_000, 1024), (1024,))
"""Shapes by which configurations of equal state are told before any of them is built."""


@dataclass(frozen=True)
class Fit:
    """One optimizer: what it takes at least and at most, with the options that make it so; or why it refuses."""

    name: str
    smallest: Memory | None = None
    largest: Memory | None = None
    options: tuple[str, str] = ("", "")
    refusal: str = ""

    def row(self, size: int) -> dict[str, Any]:
        """JSON-able, in bytes; ``left`` is negative where memory lacks."""
        if self.smallest is None or self.largest is None:
            return {"optimizer": self.name, "refused": self.refusal}
        found: dict[str, Any] = {"optimizer": self.name}
        for kind, plan, options in zip(
            ("smallest", "largest"), (self.smallest, self.largest), self.options, strict=True
        ):
            found[kind] = {"options": options, "total": plan.total, "state": plan.state, "left": size - plan.total}
        return found


def fits(model: Model, accounting: str | Accounting = "steepest", **options: Any) -> list[Fit]:
    """Every optimizer of ``steepest list``, least memory first; those that refuse the model last.

    ``options`` go to every constructor, such as ``state="8bit"``.
    """
    found = [_fit(name, rule, model, accounting, options) for name, rule in rules().items()]
    return sorted(
        found, key=lambda fit: (fit.smallest is None, fit.smallest.total if fit.smallest else 0, fit.name)
    )


def _fit(name: str, rule: type[Rule], model: Model, accounting: str | Accounting, fixed: Mapping[str, Any]) -> Fit:
    plans: list[tuple[str, Memory]] = []
    refusal = ""
    for options in configurations(rule):
        try:
            plan = memory(model, name, accounting=accounting, **fixed, **options)
        except SteepestError as error:
            refusal = refusal or str(error)
            continue
        plans.append((",".join(f"{key}={value}" for key, value in options.items()), plan))
    if not plans:
        return Fit(name, refusal=refusal)
    least, most = min(plans, key=lambda p: p[1].total), max(plans, key=lambda p: p[1].total)
    return Fit(name, least[1], most[1], (least[0], most[0]))


def configurations(rule: type[Rule]) -> Iterator[dict[str, Any]]:
    """The constructor's defaults, then each named variant, then each value that an option lists or a first grid
    holds, one at a time: those of them whose state differs from all before."""
    seen: set[str] = set()
    for options in ({}, *({"variant": name} for name in rule.variants), *_single(rule)):
        state = _state(rule, options)
        if state is not None and state not in seen:
            seen.add(state)
            yield dict(options)


def _single(rule: type[Rule]) -> Iterator[dict[str, Any]]:
    for name, hyper in hyperparameters(rule).items():
        if name in ("lr", "weight_decay"):
            continue
        for value in (*(hyper.options or ()), *hyper.grid):
            if not isinstance(value, tuple):
                yield {name: value}


def _state(rule: type[Rule], options: Mapping[str, Any]) -> str | None:
    """What decides the size of the state, as text; None for options that exclude each other."""
    variant = options.get("variant")
    try:
        made = rule(
            **rule.resolved(defaults(rule, variant) | {k: v for k, v in options.items() if k != "variant"})
        )
    except SteepestError:
        return None
    own = variant_of(rule, variant).get("by_role", {})
    try:
        slots = [sorted((n, s.shape, s.dtype) for n, s in made.slots(shape).items()) for shape in PROBES]
    except Exception:  # slots that ask for what only a model tells, such as the width of its heads
        return f"{options} {own}"
    return f"{slots} {own} {[made.takes(role) for role in ('embed', 'head', 'q', 'norm')]}"
