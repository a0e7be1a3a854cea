"""What a step of a rule must do at least: bytes to move, matrix products to multiply. Counted from the rule.

Bytes: each gradient is read, each weight and each tensor of state is read and written, once, in its own type.
Products: counted on the rule's own text, run without numbers (the meta device), averaged over its calendar.
Newton-Schulz iterations count as their paper writes them, ``A = XX^T``, ``A^2`` and ``BX`` as full products,
whatever a text or a kernel saves on symmetric ones: so the bound stays one and the same under every engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from steepest.core.rule import Rule, Slot, Step, working_dtype
from steepest.optimizer import Optimizer

HORIZON = 1000
"""Steps within which a calendar must repeat itself to be averaged over its period."""
Types = tuple[str, ...]
"""Names of the types that products may be worked in; the fastest of them on the machine counts."""


@dataclass(frozen=True)
class Work:
    """One step: bytes to move, and floating-point operations of products by (side, types).

    ``side`` is the smaller dimension of the matrices: the machine's rate depends on it.
    """

    bytes: float = 0.0
    products: Mapping[tuple[int, Types], float] = field(default_factory=dict)

    def seconds(self, stream: float, rates: Mapping[tuple[int, Types], float]) -> tuple[float, float]:
        """Least time for the bytes, at ``stream`` bytes/s, and for the products, at ``rates`` operations/s by
        side and types. A step takes at least the larger of the two."""
        return self.bytes / stream, sum(flops / rates[key] for key, flops in self.products.items())

    @property
    def flops(self) -> float:
        return sum(self.products.values())


def work_of(optimizer: Optimizer, dtype: torch.dtype) -> Work:
    """What one step of this optimizer must do, all weights being of this type; its tensors are not touched."""
    moved, products = float(bytes_of(optimizer)), dict[tuple[int, Types], float]()
    counted: dict[tuple[Rule, tuple[int, ...]], float] = {}
    seen = [
        (optimizer.rule_of(group), route.shape)
        for group in optimizer.param_groups
        for p in group["params"]
        for route in optimizer.routes_of(p)
    ]
    for rule, shape in seen:
        if rule.scope == "element":
            continue
        if (rule, shape) not in counted:
            counted[rule, shape] = flops_of(rule, shape, dtype)
        if flops := counted[rule, shape]:
            key = side_of(shape), types_of(rule, dtype)
            products[key] = products.get(key, 0.0) + flops
    return Work(moved, products)


def bytes_of(optimizer: Optimizer) -> int:
    """Bytes that a step moves: each gradient read, each weight and its state read and written."""
    weights = sum(3 * p.nbytes for group in optimizer.param_groups for p in group["params"])
    state = (t for slots in optimizer.state.values() for name, t in slots.items() if name != "step")
    return weights + sum(2 * t.nbytes for t in state)


def flops_of(rule: Rule, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Operations of matrix products in a step on one weight, averaged over the rule's calendar.

    A vector's products are passes over memory: its bytes bound them.
    """
    seen = matrix_shape(shape)
    if min(seen[-2:]) == 1:
        return 0.0
    phases = period(rule)
    each = {
        phase: _counted(rule, phase, t, seen, shape, dtype) for t, phase in {p: (t, p) for t, p in phases}.values()
    }
    mean = sum(each[phase] for _, phase in phases) / len(phases)
    return newton_schulz_flops(seen, rule.ns_steps) if mean and hasattr(rule, "ns_steps") else mean


def newton_schulz_flops(shape: tuple[int, ...], steps: int) -> float:
    """``steps`` times ``A = XX^T``, ``A^2`` and ``BX`` on the side with fewer rows; a multiply-add is 2."""
    rows, cols = sorted(shape[-2:])
    return float(math.prod(shape[:-2]) * steps * (4 * rows * rows * cols + 2 * rows**3))


def householder_flops(shape: tuple[int, ...]) -> float:
    """A factor of a QR factorisation by Householder's reflections, ``2 n^2 (m - n / 3)``: R, or Q made explicit
    (Golub & Van Loan, Matrix Computations, section 5.2)."""
    *batch, rows, cols = shape
    return math.prod(batch) * 2 * cols * cols * (rows - cols / 3)


def singular_flops(shape: tuple[int, ...]) -> float:
    """Thin singular value decomposition with both bases, after a QR factorisation: ``6 m n^2 + 20 n^3`` (Golub &
    Van Loan, Matrix Computations, section 8.6)."""
    *batch, a, b = shape
    m, n = max(a, b), min(a, b)
    return math.prod(batch) * (6 * m * n * n + 20 * n**3)


def period(rule: Rule) -> list[tuple[int, str]]:
    """Steps and phases of one turn of the rule's calendar, its first steps left out; of a calendar that does not
    repeat within ``HORIZON`` steps, these."""
    start = HORIZON + 1
    phases = [rule.phase(t) for t in range(start, start + HORIZON)]
    return [(start + n, phases[n]) for n in range(repeats_after(phases))]


def repeats_after(items: Sequence[object]) -> int:
    """After how many of them the items repeat themselves; all of them, if they do not."""
    return next(n for n in range(1, len(items) + 1) if items[n:] == items[:-n])


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What a rule sees of a weight: a vector is one row, filters are (out, rest), three dimensions a stack."""
    if len(shape) < 2:
        return (1, math.prod(shape))
    return (shape[0], math.prod(shape[1:])) if len(shape) > 3 else shape


def side_of(shape: tuple[int, ...]) -> int:
    return min(matrix_shape(shape)[-2:])


def types_of(rule: Rule, dtype: torch.dtype) -> Types:
    """The types in which the rule may multiply: the working type, or what its option for it says."""
    working = _name(working_dtype(dtype))
    chosen = getattr(rule, "ns_dtype", working)
    return (working, "bfloat16") if chosen == "auto" else (chosen,)


def _counted(
    rule: Rule, phase: str, t: int, seen: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype
) -> float:
    """Operations of one update; of a rule that must look at numbers, with random ones."""
    try:
        with Householder():
            return _operations(rule, phase, t, seen, shape, dtype, "meta")
    except RuntimeError:
        return _operations(rule, phase, t, seen, shape, dtype, "cpu")


def _operations(
    rule: Rule, phase: str, t: int, seen: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> float:
    def made(like: tuple[int, ...], kind: torch.dtype) -> Tensor:
        return torch.rand(like if len(like) > 1 else (1, *like), dtype=kind, device=device)

    working = working_dtype(dtype)
    state = {name: made(slot.shape, _type(slot, dtype)) for name, slot in rule.slots(shape).items()}
    draws = {name: made(draw.shape, working) for name, draw in rule.randoms(seen, phase).items()}
    step = Step(phase, {**rule.corrections(t), **{n: made((1, 1), working).sum() for n in rule.totals}, **draws})
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FACTORS) as counter:
        rule.update(made(seen, working), made(seen, working), step, state)
    return float(counter.get_total_flops())


class Householder(TorchDispatchMode):
    """Gives the shapes of ``geqrf``, which torch does not know without numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.geqrf.default:
            (a,) = args
            return torch.empty_like(a), a.new_empty(*a.shape[:-2], min(a.shape[-2:]))
        return func(*args, **(kwargs or {}))


def _factors(count: int) -> Any:
    return lambda shape, *_, **__: round(count * householder_flops(tuple(shape)))


FACTORS = {
    torch.ops.aten.linalg_qr: _factors(2),
    torch.ops.aten.geqrf: _factors(1),
    torch.ops.aten.linalg_householder_product: _factors(1),
    torch.ops.aten._linalg_svd: lambda shape, *_, **__: round(singular_flops(tuple(shape))),
}


def _type(slot: Slot, dtype: torch.dtype) -> torch.dtype:
    return slot.dtype or working_dtype(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
