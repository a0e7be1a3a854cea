"""The text of a rule, run once on symbols: what is left is a program of pointwise operations.

:func:`steepest.engines.write.stepped` runs on tensors without memory, of which torch reports every operation to
:meth:`Value.__torch_dispatch__`; each becomes a node that holds its C expression. A number of the rule stays a
symbol: in double precision among its like, as Python's floats are, and of an element's type where it meets one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from steepest.core.job import REST
from steepest.core.rule import Rule, Step, hyperparameters, with_tensors, working_dtype
from steepest.engines.native.ops import ELEMENTS, REWRITTEN, TABLE, Call
from steepest.engines.native.program import Graph, Inexpressible, Node, Program, Types, ctype, loaded
from steepest.engines.write import opened, rounded, stepped

WORDS = {"_local_scalar_dense": "the value of a number or element (if, float(), item())"}
"""What torch calls otherwise than a reader of the rule does."""


class Value(Tensor):
    """A symbol that the rule's text takes for a tensor, or for a number."""

    graph: Graph
    node: Node

    @staticmethod
    def __new__(cls, graph: Graph, node: Node) -> Value:
        shape = ELEMENTS if node.per_element else ()
        value = Tensor._make_wrapper_subclass(cls, shape, dtype=node.dtype, device=torch.device("cpu"))
        value.graph, value.node = graph, node
        return value

    def __init__(self, *_: Any) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names, text = REWRITTEN.get(getattr(func, "__name__", ""), ((), None))
        given = [args[n] if isinstance(n, int) and len(args) > n else (kwargs or {}).get(n) for n in names]
        if text is not None and any(isinstance(one, Value) for one in given):
            return text(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        given = [b for a in (*args, *kwargs.values()) for b in (a if isinstance(a, tuple | list) else [a])]
        graph = next(a for a in given if isinstance(a, Value)).graph
        call = Call(graph, func, tuple(map(bare, args)), {k: bare(v) for k, v in kwargs.items()})
        if call.name not in TABLE:
            raise graph.fault(WORDS.get(call.name, call.name))
        return Value(graph, TABLE[call.name](call))


def bare(value: Any) -> Any:
    return value.node if isinstance(value, Value) else value


def traced(rule: Rule, phase: str, corrections: Iterable[str], types: Types) -> Program:
    """The program of a rule with these choices in a phase; ``corrections`` are the names of its step's numbers.

    Raises: Inexpressible where the text does anything but pointwise arithmetic.
    """
    graph, numbers = Graph(rule.name()), list[str]()

    def number(name: str) -> Value:
        numbers.append(name)
        return Value(graph, graph.node(f"number[{len(numbers) - 1}]", number=True, name=name))

    def element(name: str, text: str, dtype: torch.dtype) -> Value:
        return Value(graph, graph.node(text, dtype=dtype, per_element=True, name=name))

    working = working_dtype(types.weight)
    try:
        symbols = {name: number(name) for name in named(rule)}
        bound = with_tensors(rule, {name: gathered(symbols, name, v) for name, v in numbers_of(rule).items()})
        operands = {name: element(name, loaded(name, types), dtype) for name, dtype in types.seen.items()}
        draws = {
            name: element(name, f"{kind}<{ctype(working)}>(philox(i, piece, {stream}, seed, t))", working)
            for stream, (name, kind) in enumerate(rule.draws.items())
        }
        step = Step(phase, {name: number(name) for name in corrections} | draws)
        shrink = number("shrink")
        state: dict[str, Tensor] = {n: v for n, v in operands.items() if n not in ("grad", "weight")}
        with torch.no_grad(), naming():
            w, own = opened(operands["weight"], state)
            weight, new = stepped(bound, step, shrink, operands["grad"].to(working), w, own)
            weight, new = rounded(weight, new, types.weight, REST in state, None)
            results = {"weight": weight} | {name: new[name] for name in state}
            stores = {name: stored(graph, name, r, types.seen[name]) for name, r in results.items()}
    except Inexpressible:
        raise
    except Exception as error:  # the loop will tell, if the rule itself is at fault
        raise Inexpressible(f"{rule.name()}: no native kernel: {type(error).__name__}: {error}") from error
    changed = {name: node for name, node in stores.items() if node is not operands[name].node}
    return Program(types, tuple(numbers), changed)


def stored(graph: Graph, name: str, result: Any, dtype: torch.dtype) -> Node:
    """What ``copy_`` stores of an operand's new value, which must be one for each element."""
    if not isinstance(result, Value) or result.shape != ELEMENTS:
        raise graph.fault(f"a new {name} that is not of the weight's shape")
    node: Node = bare(result.to(dtype))
    return node


def numbers_of(rule: Rule) -> dict[str, Any]:
    """The rule's numbers by field, without those that are None."""
    names = number_fields(type(rule))  # type: ignore[arg-type]  # mypy: a dataclass's type hashes as its values
    return {name: value for name in names if (value := getattr(rule, name)) is not None}


@functools.cache
def number_fields(rule: Any) -> tuple[str, ...]:
    return tuple(name for name, hyper in hyperparameters(rule).items() if hyper.is_number)


def named(rule: Rule) -> dict[str, Any]:
    """The rule's numbers one by one, those of a pair ``betas`` as ``beta1``, ``beta2``."""
    found: dict[str, Any] = {}
    for name, value in numbers_of(rule).items():
        if isinstance(value, tuple | list):
            found |= {f"{name.removesuffix('s')}{k}": one for k, one in enumerate(value, 1)}
        else:
            found[name] = value
    return found


def gathered(symbols: Mapping[str, Value], name: str, value: Any) -> Any:
    """The symbols of a field, as its value has them: one, or a tuple."""
    if not isinstance(value, tuple | list):
        return symbols[name]
    return tuple(symbols[f"{name.removesuffix('s')}{k}"] for k in range(1, len(value) + 1))


@contextmanager
def naming() -> Iterator[None]:
    """Gives nodes without a name that of the local variable that holds them when a function of the rule returns.

    The outer function's word counts: what ``ema`` calls x is the rule's g.
    """
    noted: set[Node] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        # The rule's own functions, and those that it calls outside torch and this package.
        if event == "return" and not frame.f_globals.get("__name__", "").startswith(("torch", __package__)):
            for name, value in frame.f_locals.items():
                if isinstance(value, Value) and (not value.node.name or value.node in noted):
                    value.node.name = name
                    noted.add(value.node)

    if sys.getprofile() is not None:  # somebody measures: names are not worth disturbing that
        yield
        return
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
