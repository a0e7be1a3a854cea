"""What a kernel computes, before it is C++: nodes of typed expressions, equal ones being one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from steepest.core.job import Rounding
from steepest.core.lowbit import ABSMAX, LowBit
from steepest.engines.draws import ROUNDS_STREAM


class Inexpressible(Exception):
    """A rule's text that cannot become a kernel; the message names the rule and the operation."""


@dataclass(eq=False)
class Node:
    """One value: ``text`` is C in which {0}, {1}, ... stand for the arguments.

    ``per_element``: computed for each element, not once a call. ``number``: a Python float of the loop, which has
    no type of its own beside tensors. ``name``: the variable of the rule's text that held it first. ``widened``:
    the value that this one is in a wider type, ``unrounded`` the one that this is in a narrower.
    """

    text: str
    args: tuple[Node, ...]
    dtype: torch.dtype
    per_element: bool = False
    number: bool = False
    name: str = ""
    widened: Node | None = None
    unrounded: Node | None = None

    @property
    def constant(self) -> bool:
        return not self.per_element and "[" not in self.text and all(a.constant for a in self.args)


@dataclass
class Graph:
    """The nodes of one rule's text by what they are."""

    rule: str
    nodes: dict[Any, Node] = field(default_factory=dict)

    def node(
        self,
        text: str,
        args: Iterable[Node] = (),
        dtype: torch.dtype = torch.float64,
        *,
        per_element: bool = False,
        number: bool = False,
        name: str = "",
    ) -> Node:
        """The node of this text, made if there is none; per element if one of its arguments is."""
        args = tuple(args)
        per_element = per_element or any(a.per_element for a in args)
        key = (text, tuple(map(id, args)), dtype, per_element, number)
        if key not in self.nodes:
            self.nodes[key] = Node(text, args, dtype, per_element, number, name)
        return self.nodes[key]

    def rounded(self, node: Node, dtype: torch.dtype) -> Node:
        """A value that is computed in float32, as torch leaves it in a narrower type; others as they are."""
        if dtype not in NARROW:
            return node
        result = self.node(f"widen(to_{NARROW[dtype]}({{0}}))", [node], dtype)
        result.unrounded = node
        return result

    def fault(self, what: str) -> Inexpressible:
        return Inexpressible(f"{self.rule}: {what} cannot be written as a native kernel")


@dataclass(frozen=True)
class Types:
    """The types of a piece's tensors; pieces of the same types share a kernel.

    ``low``: the slots that are kept in codes of the format ``form``, and whether each is signed.
    """

    grad: torch.dtype
    weight: torch.dtype
    state: tuple[tuple[str, torch.dtype], ...]
    low: tuple[tuple[str, bool], ...] = ()
    form: LowBit | None = None
    rounding: Rounding = "nearest"

    @property
    def operands(self) -> dict[str, torch.dtype]:
        """All tensors of a piece by name, in the order of the kernel's pointer table."""
        return {"grad": self.grad, "weight": self.weight, **dict(self.state)}

    @property
    def seen(self) -> dict[str, torch.dtype]:
        """What the rule's text sees: opened codes, and no scales."""
        low = dict(self.low)
        scales = {f"{name}.{ABSMAX}" for name in low}
        return {n: torch.float32 if n in low else d for n, d in self.operands.items() if n not in scales}

    @property
    def block(self) -> int:
        """Elements that a kernel computes between two looks at what is not per element."""
        return self.form.block if self.form and self.low else 64


@dataclass(frozen=True)
class Program:
    """Numbers by name in the order of the kernel's argument, and the node stored in each operand.

    Operands that the step leaves as they are have no entry in ``stores``.
    """

    types: Types
    numbers: tuple[str, ...]
    stores: Mapping[str, Node]


CTYPES = {
    torch.bool: "bool",
    torch.uint8: "uint8_t",
    torch.int8: "int8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.float64: "double",
    torch.float32: "float",
    torch.bfloat16: "float",
    torch.float16: "float",
}
"""What holds a value of each type while it is computed with."""

NARROW = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""Types that have a C type of their own in memory, and to which torch rounds after each operation."""

FUNCTIONS = """
exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
erfc pow atan2 hypot
"""
MATHEMATICS = FUNCTIONS.split()
"""The C library's functions, which it may also have for vectors."""


def ctype(dtype: torch.dtype) -> str:
    if dtype not in CTYPES:
        raise Inexpressible(f"no native kernel holds {dtype}")
    return CTYPES[dtype]


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def place(operand: str, types: Types) -> str:
    """Where the element of an operand lies: in memory, or in the block that was opened from codes."""
    return f"{identifier(operand)}_{'open[i - block]' if operand in dict(types.low) else 'at[i]'}"


def loaded(operand: str, types: Types) -> str:
    """The element of an operand, as what it is computed with."""
    at = place(operand, types)
    return f"widen({at})" if types.seen[operand] in NARROW else at


def stored(operand: str, types: Types, value: str) -> str:
    dtype = types.seen[operand]
    if operand == "weight" and dtype == torch.bfloat16 and types.rounding == "stochastic":
        return f"{place(operand, types)} = at_random({value}, philox(i, piece, {ROUNDS_STREAM}, seed, t));"
    return f"{place(operand, types)} = {f'to_{NARROW[dtype]}({value})' if dtype in NARROW else value};"


def literal(value: Any) -> str:
    """A Python number as C: the shortest decimal form of a double is read as the same double."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > 2**53:
        return f"INT64_C({value})"
    value = float(value)
    if math.isnan(value):
        return '__builtin_nan("")'
    text = "__builtin_inf()" if math.isinf(value) else repr(abs(value))
    return f"(-{text})" if math.copysign(1, value) < 0 else text
