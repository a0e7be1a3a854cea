"""What training takes in memory for weights, gradients and an optimizer's state, before any of it is allocated.

Nothing here knows how large an optimizer's state is: the optimizer itself is built on weights that have a shape
and no memory, so that it routes and allocates as it does in training, and what it allocated is counted.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steepest.arrangement import pieces_of
from steepest.core.columns import aligned
from steepest.core.errors import BadInput
from steepest.core.job import Piece
from steepest.core.naming import ROLES
from steepest.core.rule import Rule, hyperparameters, working_dtype
from steepest.engines.lowbit import names_of
from steepest.engines.units import GPU, Room, together
from steepest.inside_backward import why_not
from steepest.optimizer import Optimizer
from steepest.planning.accounting import Accounting, Unit, accounting_of, dtype_named, name_of
from steepest.planning.models import Model, Weights, model_named
from steepest.registry import Contender, explain_routing, resolve, tables_merged


@dataclass(frozen=True)
class Held:
    """One tensor of state: its slot, and whether a seed could draw it again."""

    slot: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    elements: int
    seeded: bool = False


@dataclass(frozen=True)
class Part:
    """One weight, or one part of a fused one, with its state."""

    parameter: str
    shape: tuple[int, ...]
    role: str
    rule: str
    dtype: torch.dtype
    elements: int
    trained: bool
    state: tuple[Held, ...]


def whole(part: Part) -> str:
    """The weight that a part is of."""
    return part.parameter.partition("[")[0]


@dataclass(frozen=True)
class Memory:
    """Bytes of weights, gradients and state under one accounting; ``print`` shows them by role and by slot.

    ``parts`` holds every weight with each tensor of its state; ``buffers`` are what the default engine keeps on a
    GPU to run small pieces together; ``counters`` the steps counted for each weight, in the host's memory.
    """

    model: str
    optimizer: str
    parts: tuple[Part, ...]
    buffers: int = 0
    counters: int = 0
    accounting: Accounting = Accounting()  # noqa: RUF009

    def counted(self, accounting: str | Accounting) -> Memory:
        """The same under another accounting: a preset's name, with changes such as ``scale:unit=GiB``, or one."""
        return dataclasses.replace(self, accounting=accounting_of(accounting))

    def bytes_of(self, part: Part) -> tuple[int, int, int]:
        """Weight, gradient and state of one part."""
        as_ = self.accounting
        own = (as_.dtype or part.dtype).itemsize * part.elements
        state = sum(held.elements * self._type(part, held).itemsize for held in self._held(part))
        counts = as_.gradients and part.trained and (not as_.release or whole(part) == self._largest[0])
        return own, own if counts else 0, state

    def _held(self, part: Part) -> Iterable[Held]:
        if part.role in ("embed", "head") and not self.accounting.embeddings:
            return ()
        return [held for held in part.state if self.accounting.seeded or not held.seeded]

    def _type(self, part: Part, held: Held) -> torch.dtype:
        """As what a slot counts: a type of its own, such as whole numbers, is no accounting's to change."""
        other = self.accounting.state_dtype or self.accounting.dtype
        return other if other and held.dtype == working_dtype(part.dtype) else held.dtype

    @property
    def weights(self) -> int:
        return sum(self.bytes_of(part)[0] for part in self.parts)

    @property
    def gradients(self) -> int:
        return sum(self.bytes_of(part)[1] for part in self.parts)

    @property
    def state(self) -> int:
        return sum(self.bytes_of(part)[2] for part in self.parts)

    @property
    def total(self) -> int:
        """Weights, gradients, state, and buffers if they count: less than training's peak (:data:`NOT_IN`)."""
        return self.weights + self.gradients + self.state + self.counted_buffers

    @property
    def counted_buffers(self) -> int:
        return self.buffers if self.accounting.buffers and not self.accounting.release else 0

    @property
    def state_elements(self) -> int:
        """Numbers kept as state, step counters apart."""
        return sum(held.elements for part in self.parts for held in self._held(part))

    @property
    def largest_gradient(self) -> int:
        """Bytes of one weight's gradient, the largest: the least that a step inside backward could do with."""
        return self._largest[1]

    @cached_property
    def _largest(self) -> tuple[str, int]:
        """The weight whose gradient is largest, and its bytes."""
        sizes: dict[str, int] = {}
        for part in self.parts:
            size = part.elements * part.dtype.itemsize if part.trained else 0
            sizes[whole(part)] = sizes.get(whole(part), 0) + size
        return max(sizes.items(), key=lambda item: item[1], default=("", 0))

    def by_role(self) -> dict[tuple[str, str], tuple[int, int, int, int]]:
        """Elements, and bytes of weights, gradients and state, by role and rule."""
        found: dict[tuple[str, str], tuple[int, ...]] = {}
        for part in self.parts:
            key = (part.role, part.rule)
            old = found.get(key, (0, 0, 0, 0))
            found[key] = tuple(a + b for a, b in zip(old, (part.elements, *self.bytes_of(part)), strict=True))
        order = {role: place for place, role in enumerate(ROLES)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0][0], len(order))))  # type: ignore[arg-type]

    def by_slot(self) -> dict[tuple[str, str, str], tuple[int, int]]:
        """Elements and bytes by rule, slot and the type that it counts as."""
        found: dict[tuple[str, str, str], tuple[int, int]] = {}
        for part in self.parts:
            for held in self._held(part):
                kind = self._type(part, held)
                key = (part.rule, held.slot, name_of(kind))
                elements, size = found.get(key, (0, 0))
                found[key] = (elements + held.elements, size + held.elements * kind.itemsize)
        return found

    def summary(self) -> dict[str, Any]:
        """The totals in bytes."""
        return {
            "optimizer": self.optimizer,
            "weights": self.weights,
            "gradients": self.gradients,
            "state": self.state,
            "buffers": self.counted_buffers,
            "total": self.total,
        }

    def row(self) -> dict[str, Any]:
        """Everything, JSON-able; sizes are bytes."""
        names = ("elements", "weights", "gradients", "state")
        return {
            "model": self.model,
            "accounting": self.accounting.row(),
            **self.summary(),
            "step_counters": self.counters,
            "largest_gradient": self.largest_gradient,
            "not_in_it": NOT_IN,
            "by_role": [
                {"role": role, "rule": rule, **dict(zip(names, sizes, strict=True))}
                for (role, rule), sizes in self.by_role().items()
            ],
            "by_slot": [
                {"rule": rule, "slot": slot, "dtype": dtype, "elements": elements, "bytes": size}
                for (rule, slot, dtype), (elements, size) in self.by_slot().items()
            ],
            "parts": [
                {
                    "parameter": part.parameter,
                    "shape": list(part.shape),
                    "role": part.role,
                    "rule": part.rule,
                    "dtype": name_of(part.dtype),
                    "state": {held.slot: [list(held.shape), name_of(held.dtype)] for held in part.state},
                }
                for part in self.parts
            ],
        }

    def __str__(self) -> str:
        as_, elements = legible([self])[0].accounting, sum(part.elements for part in self.parts)
        kinds = " and ".join(dict.fromkeys(name_of(part.dtype) for part in self.parts)) or "no"
        how = as_.told()
        plain = self.counted(Accounting(unit=as_.unit))
        rows: list[tuple[str, ...]] = [("role", "rule", "elements", "weights", "gradients", "state", "sum")]
        rows += [
            (role, rule, f"{count:,}", *map(as_.shown, sizes), as_.shown(sum(sizes)))
            for (role, rule), (count, *sizes) in self.by_role().items()
        ]
        sizes = [self.weights, self.gradients, self.state]
        rows.append(("all", "", f"{elements:,}", *map(as_.shown, sizes), as_.shown(sum(sizes))))
        slots: list[tuple[str, ...]] = [("slot", "rule", "type", "elements", as_.unit)]
        slots += [
            (slot, rule, dtype, f"{count:,}", as_.shown(size))
            for (rule, slot, dtype), (count, size) in self.by_slot().items()
        ]
        lines = [
            f"{self.optimizer} on {self.model}, {kinds} weights: {as_.shown(self.total)} {as_.unit}",
            f"as counted with {how}; steepest allocates {as_.shown(plain.total)} {as_.unit}" if how else
            f"as steepest allocates it: gradients in the weights' type, {state_types([self])}",
            "",
            *ruled(rows),
            "",
            *(ruled(slots) if slots[1:] else ["no state"]),
            "",
        ]  # fmt: skip
        if as_.buffers:
            lines.append(f"buffers of the default engine on a GPU: {as_.shown(self.counted_buffers)} {as_.unit}")
        lines.append(f"step counters, in the host's memory: {self.counters:,} bytes")
        return "\n".join([*lines, f"not in it: {NOT_IN}"])


NOT_IN = (
    "activations, and what a step holds only while it runs (`steepest bench` measures that); the peak is higher"
)
"""What no total here has."""


def memory(
    model: str | Path | Weights | Model,
    optimizer: str | type[torch.optim.Optimizer] | Optimizer = "adamw",
    *,
    dtype: torch.dtype | str | None = None,
    accounting: str | Accounting = "steepest",
    recipe: bool = False,
    **options: Any,
) -> Memory:
    """What a model's weights, gradients and optimizer state take, to the byte, without allocating them.

    Args:
        model: a module, also one on the meta device; (name, tensor) pairs; the name of a known model
            (steepest.planning.models.KNOWN), or the path of a Hugging Face config.json.
        optimizer: as `steepest race` takes it, such as "galore:rank=1024"; a class; an optimizer that exists,
            which is counted as it is.
        dtype: type of the weights; None: the module's own, float32 for a known model.
        accounting: "steepest" (what is allocated), or as a paper counts: scale, galore, apollo, fira, adam-mini,
            sgd-sai, with changes as "scale:unit=GiB", or an Accounting.
        recipe: whether hyperparameters are those of a race instead of the constructor's defaults.
        options: hyperparameters, and what else the optimizer's constructor takes.

    Raises: UnknownName, BadInput, RoutingError: as the optimizer's constructor, and for a model that is none.
    """
    as_ = accounting_of(accounting)
    if as_.release and isinstance(optimizer, Optimizer) and (reason := why_not(optimizer)):
        raise BadInput(reason)
    if isinstance(optimizer, Optimizer):
        name = str(model) if isinstance(model, str | Path) else type(model).__name__
        return _of_optimizer(optimizer, name, type(optimizer).__name__, as_)
    kind = dtype_named(dtype) if isinstance(dtype, str) else dtype
    found = planned(model, kind)
    label, built = _built(found, optimizer, recipe, options)
    if as_.release and (reason := why_not(built)):
        raise BadInput(reason)
    if isinstance(built, Optimizer):
        return _of_optimizer(built, found.name, label, as_)
    return _of_foreign(built, found, label, as_)


def state_types(plans: Iterable[Memory]) -> str:
    """In which types state is allocated: ``state in float32``."""
    kinds = {name_of(held.dtype) for plan in plans for part in plan.parts for held in part.state}
    return f"state in {', '.join(sorted(kinds))}" if kinds else "no state"


def legible(plans: list[Memory]) -> list[Memory]:
    """The same, all in MiB or MB if none of them would show two figures in larger units."""
    if not plans or max(plan.total for plan in plans) >= 10**8:
        return plans
    smaller: dict[str, Unit] = {"GiB": "MiB", "GB": "MB"}
    unit = smaller.get(plans[0].accounting.unit, plans[0].accounting.unit)
    return [plan.counted(dataclasses.replace(plan.accounting, unit=unit)) for plan in plans]


def planned(model: str | Path | Weights | Model, dtype: torch.dtype | None = None) -> Model:
    """The model on the meta device, to be planned for several optimizers without building it again."""
    if isinstance(model, str | Path):
        model = model_named(model)
    if isinstance(model, Model):
        return dataclasses.replace(model, weights=_on_meta(model.weights, dtype)) if dtype else model
    return Model(type(model).__name__, _on_meta(model, dtype))


def _on_meta(model: Weights, dtype: torch.dtype | None) -> Weights:
    """A copy whose tensors have no memory; the model itself is left alone."""

    def bare(t: Tensor) -> Tensor:
        empty = torch.empty_like(t, device="meta", dtype=dtype if t.is_floating_point() else None)
        return nn.Parameter(empty, t.requires_grad) if isinstance(t, nn.Parameter) else empty

    if not isinstance(model, nn.Module):
        pairs = list(model)
        if not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor) for pair in pairs):
            raise BadInput(
                f"a model is a module, (name, tensor) pairs, a name or a path, not a {type(model).__name__}"
            )
        return [(name, nn.Parameter(bare(t.detach()), t.requires_grad)) for name, t in pairs]
    memo: dict[int, Any] = {id(t): bare(t) for t in (*model.parameters(), *model.buffers())}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # a module of somebody's may hold what cannot be copied
        raise BadInput(
            f"{type(model).__name__} cannot be copied ({error}): pass model.named_parameters(), or build it under "
            'torch.device("meta")'
        ) from error


def _built(
    model: Model, optimizer: str | type[torch.optim.Optimizer], recipe: bool, options: Mapping[str, Any]
) -> tuple[str, torch.optim.Optimizer]:
    """What a table calls the optimizer, and the optimizer on the meta device."""
    if isinstance(optimizer, str):
        contender = resolve(optimizer)
    elif issubclass(optimizer, Optimizer):
        contender = Contender(optimizer.rule.name(), optimizer, (), dict(optimizer.rule.recipe))
    else:
        contender = Contender(f"torch:{optimizer.__name__}", optimizer, (1e-3,), {})
    label = contender.label
    if extra := ",".join(f"{k}={v}" for k, v in options.items()):
        label = f"{label[:-1]},{extra})" if label.endswith(")") else f"{label} ({extra})"
    if contender.rule is None:
        return label, contender.build(model.weights, lr=1e-3, **options)  # type: ignore[arg-type]
    given = contender.recipe if recipe else contender.options
    values = tables_merged(contender.rule, given, options)
    if "total_steps" in hyperparameters(contender.rule):  # of any run: state does not depend on its length
        values.setdefault("total_steps", 10_000)
    if model.layouts and "layouts" not in values:
        values["layouts"] = model.layouts
    return label, contender.kind(model.weights, **values)  # type: ignore[arg-type]


def _of_optimizer(optimizer: Optimizer, model: str, label: str, accounting: Accounting) -> Memory:
    parts: list[Part] = []
    counters = 0
    for group in optimizer.param_groups:
        rule = optimizer.rule_of(group)
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            counters += _bytes(t for name, t in state.items() if name == "step")
            parts += _parts(optimizer, p, rule, state)
    order = {route.parameter: place for place, route in enumerate(optimizer.routing())}
    parts.sort(key=lambda part: order[part.parameter])
    return Memory(model, label, tuple(parts), _buffers(optimizer), counters, accounting)


def _parts(optimizer: Optimizer, p: Tensor, rule: Rule, state: dict[str, Tensor]) -> Iterable[Part]:
    """A weight's parts with their slots, as an engine gets them."""
    routes = optimizer.routes_of(p)
    if p.numel() == 0:
        return
    pieces = pieces_of(p, p.detach(), rule, state, optimizer._layout[p])
    for route, (piece, keys) in zip(routes, pieces, strict=True):
        shape = tuple(piece.weight.shape)
        seeded = set(rule.randoms(shape, rule.phase(1))) if keys else set()
        held = tuple(_held(state[key], slot, slot in seeded) for slot, key in keys.items())
        yield Part(
            route.parameter,
            route.shape,
            route.role,
            route.rule,
            p.dtype,
            piece.weight.numel(),
            p.requires_grad,
            held,
        )


def _held(tensor: Tensor, slot: str, seeded: bool = False) -> Held:
    return Held(slot, tuple(tensor.shape), tensor.dtype, tensor.numel(), seeded)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _buffers(optimizer: Optimizer) -> int:
    """Bytes in which the default engine joins pieces on a GPU: kept between steps, for each group its own."""
    total, firsts = 0, optimizer.first_pieces()
    for group in optimizer.param_groups:
        rule = optimizer.rule_of(group)
        runs: dict[tuple[int, bool], list[Piece]] = {}
        for p in (p for p in group["params"] if p.requires_grad):
            bare = p.detach().to("meta")
            found = pieces_of(bare, bare, rule, optimizer.state.get(p, {}), optimizer._layout[p])
            for index, (piece, _) in enumerate(found, start=firsts[p]):
                coded = bool(names_of(piece))
                if not (coded and rule.scope == "element"):  # an element rule opens codes weight by weight
                    runs.setdefault((index % rule.turns, coded), []).append(piece)
        for pieces in runs.values():
            joined = (bucket for bucket in together(rule, pieces, GPU) if len(bucket) > 1)
            total += _bytes(Room(joined).buffers.values())
    return total


def _of_foreign(built: torch.optim.Optimizer, model: Model, label: str, accounting: Accounting) -> Memory:
    """Another package's optimizer has its state after a step: here one on weights without memory."""
    members = [p for group in built.param_groups for p in group["params"]]
    try:
        for p in members:
            p.grad = torch.empty_like(p) if p.requires_grad else None
        built.step()
    except Exception as error:
        raise BadInput(
            f"{label} makes no step on weights without memory ({type(error).__name__}): plan one of this package's"
        ) from error
    routes = {route.parameter: route for route in explain_routing(model.weights, "adamw")}
    named = model.weights.named_parameters() if isinstance(model.weights, nn.Module) else model.weights
    parts, counters = [], 0
    for name, p in named:
        state = {k: t for k, t in built.state.get(p, {}).items() if isinstance(t, Tensor)}
        counters += _bytes(t for k, t in state.items() if k == "step")
        held = tuple(_held(t, k) for k, t in state.items() if k != "step")
        shape, role = tuple(p.shape), routes[name].role
        parts.append(Part(name, shape, role, label, p.dtype, p.numel(), p.requires_grad, held))
    return Memory(model.name, label, tuple(parts), 0, counters, accounting)


def ruled(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned lines under a ruled head."""
    lines = aligned(rows)
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
