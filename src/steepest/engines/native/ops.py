"""The operations that a rule may use, as torch reports them, and the C expression of each.

In the tables {0}, {1}, ... are arguments, T is C's type of the result and F the suffix of its mathematical
functions. Each is written so that it rounds, and treats nan, zeros and infinities, as torch's own kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.engines.native.program import MATHEMATICS, Graph, Node, ctype, literal

ELEMENTS = (7,)
"""The shape that stands for every shape: the operations known here are pointwise on all."""


@dataclass(frozen=True)
class Call:
    """One operation that torch reported; symbols among its arguments are nodes."""

    graph: Graph
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.func.__name__).split(".")[0]

    def given(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its place or name."""
        value = self.args[position] if len(self.args) > position else self.kwargs.get(name)
        return default if value is None else value

    def node(self, value: Any) -> Node:
        """An argument as a node: a symbol's own, or a constant's."""
        if isinstance(value, Node):
            return value
        if isinstance(value, Tensor):
            if value.ndim:
                raise self.graph.fault(f"{self.name} with a tensor made in the rule's text, {tuple(value.shape)},")
            return self.graph.node(literal(value.item()), dtype=value.dtype)
        return self.graph.node(literal(value), dtype=torch.float64, number=True)

    @property
    def nodes(self) -> list[Node]:
        return [self.node(a) for a in self.args if isinstance(a, Node | Tensor | bool | int | float)]

    def samples(self) -> list[Any]:
        """The arguments as tensors without memory, from which torch infers types; a number weighs as a float."""
        floating = [n.dtype for n in self.nodes if not n.number and n.dtype.is_floating_point]
        scalar = floating[0] if floating else torch.get_default_dtype()

        def sample(value: Any) -> Any:
            if isinstance(value, Node):
                shape = ELEMENTS if value.per_element else ()
                kind = scalar if value.number and value.dtype != torch.bool else value.dtype
                return torch.empty(shape, dtype=kind, device="meta")
            return value.to("meta") if isinstance(value, Tensor) else value

        return [sample(a) for a in self.args]

    def inferred(self) -> torch.dtype:
        """The type of the result; double among numbers, as Python computes."""
        result: Tensor = self.func(*self.samples(), **self.kwargs)
        among_numbers = all(n.number for n in self.nodes)
        return torch.float64 if among_numbers and result.dtype.is_floating_point else result.dtype

    def met(self) -> torch.dtype:
        """The type in which the two sides of a comparison meet."""
        if all(n.number for n in self.nodes):
            return torch.float64
        one, *other = self.samples()
        return torch.result_type(one, other[0]) if other else one.dtype

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        """The node in another type; widened and rounded back it is itself."""
        if node.dtype == dtype:
            return node
        if node.widened is not None and node.widened.dtype == dtype:
            return node.widened
        text = "{0} != 0" if dtype == torch.bool else f"({ctype(dtype)}){{0}}"
        result = self.graph.node(text, [node], dtype)
        if not node.number and torch.promote_types(node.dtype, dtype) == dtype:
            result.widened = node
        # A product or quotient of bfloat16 and a scalar is computed with the scalar in float32.
        return result if node.number and self.name in ("mul", "div") else self.graph.rounded(result, dtype)

    def make(self, text: str, args: Iterable[Node], dtype: torch.dtype) -> Node:
        """A node of this type from arguments that have the types that the text needs."""
        if any(sign in text for sign in ("F(", "_of(", " / ")) and not dtype.is_floating_point:
            raise self.graph.fault(f"{self.name} of {dtype}")
        args = list(args)
        suffix = "" if ctype(dtype) == "double" else "f"
        text = text.replace("F(", f"{suffix}(").replace("(T)", f"({ctype(dtype)})")
        node = self.graph.node(text, args, dtype, number=all(n.number for n in args))
        return self.graph.rounded(node, dtype)

    def of(self, text: str, *args: Any) -> Node:
        """A node of the inferred type, of arguments (all by default) cast to that type."""
        dtype = self.inferred()
        return self.make(text, [self.cast(self.node(a), dtype) for a in args or self.nodes], dtype)


Write = Callable[[Call], Node]

ARITHMETIC = {
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "reciprocal": "1 / {0}",
    "sqrt": "__builtin_sqrtF({0})",
    "rsqrt": "1 / __builtin_sqrtF({0})",
    "square": "{0} * {0}",
    # sign(nan) is 0 in torch, and sign(-0) is 0.
    "sign": "({0} > 0 ? (T)1 : (T)0) - ({0} < 0 ? (T)1 : (T)0)",
    "relu": "0 > {0} ? (T)0 : {0}",
    "heaviside": "{0} == 0 ? {1} : {0} < 0 ? (T)0 : (T)1",
    # nan wins, and of two equal numbers the second.
    "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}",
    "minimum": "{0} < {1} || {0} != {0} ? {0} : {1}",
    "fmax": "{0} > {1} || {1} != {1} ? {0} : {1}",
    "fmin": "{0} < {1} || {1} != {1} ? {0} : {1}",
    "floor": "__builtin_floorF({0})",
    "ceil": "__builtin_ceilF({0})",
    "trunc": "__builtin_truncF({0})",
    "frac": "{0} - __builtin_truncF({0})",
    "fmod": "__builtin_fmodF({0}, {1})",
    "remainder": "remainder_of({0}, {1})",
    "floor_divide": "floor_of({0}, {1})",
    "copysign": "__builtin_copysignF({0}, {1})",
    "hypot": "hypotF({0}, {1})",
    "atan2": "atan2F({0}, {1})",
    "sigmoid": "1 / (1 + expF(-{0}))",
    "silu": "{0} / (1 + expF(-{0}))",
    "logaddexp": "logaddexp_of({0}, {1})",
}
ARITHMETIC["sgn"] = ARITHMETIC["sign"]
ARITHMETIC |= {name: f"{name}F({{0}})" for name in MATHEMATICS if name not in ("pow", "hypot", "atan2")}

COMPARISONS = {
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "isnan": "{0} != {0}",
    "isinf": "{0} == __builtin_inf() || {0} == -__builtin_inf()",
    "isposinf": "{0} == __builtin_inf()",
    "isneginf": "{0} == -__builtin_inf()",
    "signbit": "__builtin_signbit({0}) != 0",
}
LOGIC = {
    "logical_and": "{0} & {1}",
    "logical_or": "{0} | {1}",
    "logical_xor": "{0} ^ {1}",
    "logical_not": "!{0}",
}
BITWISE = {"bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}"}


def arithmetic(text: str) -> Write:
    return lambda call: call.of(text)


def comparison(text: str) -> Write:
    def write(call: Call) -> Node:
        dtype = call.met()
        return call.make(text, [call.cast(n, dtype) for n in call.nodes], torch.bool)

    return write


def logic(text: str) -> Write:
    return lambda call: call.make(text, [call.cast(n, torch.bool) for n in call.nodes], torch.bool)


def plus_or_minus(sign: str) -> Write:
    def write(call: Call) -> Node:
        one, other = call.args[:2]
        alpha = call.given(2, "alpha", 1)
        if call.name == "rsub":
            one, other = other, one
        if alpha == 1:
            return call.of(f"{{0}} {sign} {{1}}", one, other)
        return call.of(f"__builtin_fmaF({'-' * (sign == '-')}{{2}}, {{1}}, {{0}})", one, other, alpha)

    return write


def division(call: Call) -> Node:
    mode, (one, other) = call.kwargs.get("rounding_mode"), call.nodes
    if one.number and not other.number:  # Tensor.__rdiv__ of a float
        return call.of("1 / {1} * {0}")
    return call.of(
        {None: "{0} / {1}", "trunc": "__builtin_truncF({0} / {1})", "floor": "floor_of({0}, {1})"}[mode]
    )


def absolute(call: Call) -> Node:
    floating = call.inferred().is_floating_point
    return call.of("__builtin_fabsF({0})" if floating else "{0} < 0 ? -{0} : {0}")


def rounding(call: Call) -> Node:
    if call.given(1, "decimals", 0):
        raise call.graph.fault("round with decimals")
    return call.of("__builtin_rintF({0})", call.args[0])


POWERS = {
    0: "(T)1",
    0.5: "__builtin_sqrtF({0})",
    1: "{0}",
    2: "{0} * {0}",
    3: "{0} * {0} * {0}",
    -0.5: "1 / __builtin_sqrtF({0})",
    -1: "1 / {0}",
    -2: "1 / ({0} * {0})",
}
"""Exponents for which torch does not call pow."""


def power(call: Call) -> Node:
    base, exponent = call.args
    nodes = call.nodes
    if all(n.number for n in nodes):  # Python's own: always pow
        return call.of("powF({0}, {1})")
    if isinstance(exponent, int | float) and exponent in POWERS:
        return call.of(POWERS[exponent], base)
    # A number of the rule: the value decides, at each call.
    return call.of("power_of({0}, {1})" if nodes[1].number else "powF({0}, {1})")


def clamp(call: Call) -> Node:
    x, low, high = call.args[0], call.given(1, "min"), call.given(2, "max")
    if call.name in ("clamp_min", "clamp_max"):
        low, high = (low, None) if call.name == "clamp_min" else (None, call.given(1, "max"))
    dtype = call.inferred()
    node = call.cast(call.node(x), dtype)
    for bound, relation in ((low, ">"), (high, "<")):
        if bound is not None:
            limit = call.cast(call.node(bound), dtype)
            node = call.make(f"{{1}} {relation} {{0}} ? {{1}} : {{0}}", [node, limit], dtype)
    return node


def where(call: Call) -> Node:
    mask, one, other = call.args
    return choose(call, mask, one, other)


def masked_fill(call: Call) -> Node:
    x, mask, value = call.args
    return choose(call, mask, value, x)


def choose(call: Call, mask: Any, one: Any, other: Any) -> Node:
    dtype = call.inferred()
    condition = call.cast(call.node(mask), torch.bool)
    return call.make(
        "{0} ? {1} : {2}", [condition, *(call.cast(call.node(x), dtype) for x in (one, other))], dtype
    )


def lerp(call: Call) -> Node:
    """``a + w (b - a)``, from the nearer end and with one rounding of the sum, as torch's vector code."""
    near, far = "__builtin_fmaF({2}, {1} - {0}, {0})", "__builtin_fmaF({2} - 1, {1} - {0}, {1})"
    return call.of(f"{{2}} < (T)0.5 && {{2}} > (T)-0.5 ? {near} : {far}")


def addcmul(call: Call) -> Node:
    return call.of(
        "__builtin_fmaF({1} * {2}, {3}, {0})", call.args[0], call.kwargs.get("value", 1), *call.args[1:3]
    )


def addcdiv(call: Call) -> Node:
    x, one, other = call.args[:3]
    return call.of("{0} + {1} * {2} / {3}", x, call.kwargs.get("value", 1), one, other)


def filled(call: Call) -> Node:
    x = call.node(call.args[0])
    value = call.args[1] if call.name == "full_like" else float(call.name == "ones_like")
    dtype = call.kwargs.get("dtype") or x.dtype
    node = call.graph.node(f"({ctype(dtype)}){{0}}", [call.node(value)], dtype, per_element=x.per_element)
    return call.graph.rounded(node, dtype)


def same(call: Call) -> Node:
    return call.node(call.args[0])


def to_type(call: Call) -> Node:
    node, dtype = call.node(call.args[0]), call.kwargs.get("dtype")
    device = call.kwargs.get("device")
    if device is not None and torch.device(device).type != "cpu":
        raise call.graph.fault(f"a copy to {device}")
    return call.cast(node, dtype or node.dtype)


def nan_to_num(call: Call) -> Node:
    x, dtype = call.node(call.args[0]), call.inferred()
    limits = torch.finfo(dtype)
    bounds = [call.given(1, "nan", 0.0), call.given(2, "posinf", limits.max), call.given(3, "neginf", limits.min)]
    text = "{0} != {0} ? {1} : {0} == __builtin_inf() ? {2} : {0} == -__builtin_inf() ? {3} : {0}"
    return call.make(text, [x, *(call.cast(call.node(b), dtype) for b in bounds)], dtype)


def softplus(call: Call) -> Node:
    beta, threshold = call.given(1, "beta", 1), call.given(2, "threshold", 20)
    text = "{0} * {1} > {2} ? {0} : log1pF(expF({0} * {1})) / {1}"
    return call.of(text, call.args[0], beta, threshold)


def threshold(call: Call) -> Node:
    return call.of("{0} <= {1} ? {2} : {0}")


TABLE: dict[str, Write] = {
    **{name: arithmetic(text) for name, text in ARITHMETIC.items()},
    **{name: comparison(text) for name, text in COMPARISONS.items()},
    **{name: logic(text) for name, text in LOGIC.items()},
    **{name: arithmetic(text) for name, text in BITWISE.items()},
    "bitwise_not": lambda call: call.of("!{0}" if call.inferred() == torch.bool else "~{0}"),
    "add": plus_or_minus("+"),
    "sub": plus_or_minus("-"),
    "rsub": plus_or_minus("-"),
    "div": division,
    "abs": absolute,
    "round": rounding,
    "pow": power,
    "clamp": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp,
    "where": where,
    "masked_fill": masked_fill,
    "lerp": lerp,
    "addcmul": addcmul,
    "addcdiv": addcdiv,
    "zeros_like": filled,
    "ones_like": filled,
    "full_like": filled,
    "clone": same,
    "detach": same,
    "alias": same,
    "lift_fresh": same,
    "_to_copy": to_type,
    "nan_to_num": nan_to_num,
    "softplus": softplus,
    "threshold": threshold,
}
"""Every operation by torch's name of it."""


def nan_replaced(x: Any, nan: Any, *more: Any, **others: Any) -> Any:
    return torch.where(torch.isnan(x), nan, torch.nan_to_num(x, 0.0, *more, **others))


REWRITTEN: dict[str, tuple[tuple[str | int, ...], Callable[..., Any]]] = {
    "add": (("alpha",), lambda x, y, alpha: x + alpha * y),
    "sub": (("alpha",), lambda x, y, alpha: x - alpha * y),
    "addcmul": (("value",), lambda x, a, b, value: x + value * a * b),
    "addcdiv": (("value",), lambda x, a, b, value: x + value * a / b),
    "nan_to_num": (("nan", 1), nan_replaced),
    "full_like": (("fill_value", 1), lambda x, fill_value, **more: torch.zeros_like(x, **more) + fill_value),
}
"""Functions whose scalar arguments torch would ask for a value, and the same in operators, for numbers."""
