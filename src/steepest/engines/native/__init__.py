"""Native: the text of an element rule as one C++ kernel that runs over all pieces of a model in one call.

The rule is traced once on symbols, written as C++, compiled by the machine's own compiler (a fraction of a second,
kept on disk) and called with a table of pointers: nothing is gathered, nothing is copied. Bitwise the loop's
result, but for functions such as exp, which are the C library's and not torch's.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from steepest.core.errors import BuildFailed
from steepest.core.job import Moment, Piece, Run
from steepest.core.lowbit import LowBit
from steepest.core.rule import Rule, working_dtype
from steepest.engines.draws import seed_of
from steepest.engines.loop import loop
from steepest.engines.lowbit import names_of, opening
from steepest.engines.native.build import compiler, library
from steepest.engines.native.cpp import source
from steepest.engines.native.program import Inexpressible, Program, Types
from steepest.engines.native.table import Table, check, order_of, through_copies
from steepest.engines.native.trace import named, numbers_of, traced
from steepest.engines.write import shrinkage

__all__ = ["Inexpressible", "kernel_of", "native", "text_of", "why_not_native"]


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel and what it was made from."""

    program: Program
    text: str
    run: Callable[..., None]


KERNELS: dict[tuple[Any, ...], Kernel] = {}
"""One kernel for a rule, the Python values that decide its text, a phase, and the types of a piece's tensors."""


def kernel_of(rule: Rule, phase: str, corrections: Iterable[str], types: Types) -> Kernel:
    """The kernel for this rule and phase, made at first use.

    Raises: Inexpressible for a text that is not pointwise arithmetic; BuildFailed.
    """
    key = (type(rule), structure(rule), phase, types)
    if key not in KERNELS:
        program = traced(rule, phase, corrections, types)
        text = source(rule, phase, program)
        run = library(text, "-".join(filter(None, (rule.name(), phase)))).run
        p, i, w = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32
        run.argtypes, run.restype = (i, p, p, p, p, w, w, ctypes.c_int), None
        KERNELS[key] = Kernel(program, text, run)
    return KERNELS[key]


def structure(rule: Rule) -> tuple[Any, ...]:
    """The values that decide a rule's text: choices, and which numbers are None. The seed of draws is none."""
    numbers = numbers_of(rule)
    names = field_names(type(rule))  # type: ignore[arg-type]  # mypy: a dataclass's type hashes as its values
    fields = [name for name in names if name not in numbers]
    return tuple((name, getattr(rule, name)) for name in fields if not (name == "seed" and rule.draws))


@functools.cache
def field_names(rule: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(rule))


def text_of(rule: Rule, t: int = 2, dtype: torch.dtype = torch.float32) -> str:
    """The C++ text of an element rule's step t, for weights of this type.

    Raises: Inexpressible.
    """
    if getattr(rule, "total_steps", 0) is None:
        rule = replace(rule, total_steps=1000)  # type: ignore[call-arg]  # its phases are of some run
    working = working_dtype(dtype)
    types = Types(dtype, dtype, tuple((name, slot.dtype or working) for name, slot in rule.slots((2, 2)).items()))
    phase = rule.phase(t)
    return source(rule, phase, traced(rule, phase, rule.corrections(t), types))


def native(rule: Rule, pieces: list[Piece], form: LowBit | None = None) -> Run:
    """Arranges the pieces for kernels, of which each phase has its own, made when it first comes.

    Pieces whose gradient, weight and state lie in memory in one dense order run where they are, all in one call;
    another runs alone, through contiguous copies. ``form`` is that of state in codes.

    Raises: BuildFailed; Inexpressible for a text that is not pointwise, and for pieces that no kernel can run (a
    GPU's, sparse, state of another shape than the weight). A phase whose text is no kernel runs in the loop.
    """
    groups: dict[Types, tuple[list[Piece], list[Piece]]] = {}
    for piece in pieces:
        check(rule, piece)
        if piece.weight.numel():
            types = types_of(rule, piece, form)
            groups.setdefault(types, ([], []))[order_of(rule, piece) is None].append(piece)
    for types in groups:  # what is wrong with the text or the compiler shows before the first step
        kernel_of(rule, rule.phase(2), [*rule.corrections(2), *rule.totals], types)
    tables = [Table(rule, types, direct) for types, (direct, _) in groups.items() if direct]
    reference = loop(rule, pieces) if form is None else opening(rule, pieces, form)
    strays = [(types, piece) for types, (_, others) in groups.items() for piece in others]

    def run(moment: Moment) -> None:
        now, corrections = moment.rule, moment.corrections
        # Kernels and pointers of all before the first one runs: a failure leaves the weights as they are.
        try:
            kernels = {
                types: kernel_of(now, moment.phase, corrections, replace(types, rounding=moment.rounding))
                for types in groups
            }
        except Inexpressible:
            return reference(moment)
        for table in tables:
            table.fill()
        values = named(now) | corrections | {"shrink": shrinkage(now, moment.peak_lr)}
        seed, t = seed_of(now) & 0xFFFFFFFF, moment.t & 0xFFFFFFFF

        def launch(table: Table) -> None:
            kernel = kernels[table.types]
            numbers = [float(values[name]) for name in kernel.program.numbers]
            table.run(kernel.run, (ctypes.c_double * len(numbers))(*numbers), seed, t)

        for table in tables:
            launch(table)
        for types, piece in strays:
            through_copies(now, types, piece, kernels[types].program.stores, launch)

    return run


def types_of(rule: Rule, piece: Piece, form: LowBit | None) -> Types:
    slots = rule.slots(tuple(piece.weight.shape))
    low = tuple((name, slots[name].signed) for name in names_of(piece))
    state = tuple((name, tensor.dtype) for name, tensor in piece.state.items())
    return Types(piece.grad.dtype, piece.weight.dtype, state, low, form if low else None)


def why_not_native() -> str | None:
    """What native kernels lack on this machine and how to get it; None if nothing."""
    try:
        compiler()
    except BuildFailed as missing:
        return str(missing)
    return None
