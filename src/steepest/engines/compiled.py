"""Compiled: the same text through a compiler, updating weights and state in place.

Element rules on a CPU become one native kernel for all pieces (engines/native). Everything else goes through
torch.compile: learning rate, bias corrections and every other number reach the kernel as 0-d tensors, so that a
new value recompiles nothing. On a GPU element rules run on flat pieces through one kernel with a dynamic length,
small ones joined; other rules run on stacks of equal shapes, one kernel a shape.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steepest.core.job import REST, Moment, Piece, Run
from steepest.core.rule import Rule, hyperparameters, with_tensors, working_dtype
from steepest.engines.draws import ROUNDS, draws_of
from steepest.engines.native import Inexpressible, native
from steepest.engines.units import CPU, GPU, on_cpu, units
from steepest.engines.write import move, opened, rounded, shrinkage, store, text_of


def compiled(rule: Rule, pieces: list[Piece]) -> Run:
    """Run the pieces through compiled kernels, which are made at first use.

    Raises: BuildFailed where the machine's compiler makes no native kernel.
    """
    if rule.scope == "element" and on_cpu(pieces):
        try:
            return native(rule, pieces)
        except Inexpressible:
            pass  # torch.compile knows more than pointwise arithmetic
    return inductor(rule, pieces)


def inductor(rule: Rule, pieces: list[Piece]) -> Run:
    """Run the pieces unit by unit through torch.compile."""
    sizes = replace(CPU, bucket=GPU.bucket, block=GPU.block) if on_cpu(pieces) else GPU
    if rule.scope == "tensor" and on_cpu(pieces):
        # Stacked, a reduction beside state that is written in place fails in torch 2.13's fusion of CPU loops.
        sizes = replace(sizes, stack=0)
    arranged = units(rule, pieces, sizes)

    def run(moment: Moment) -> None:
        rule = moment.rule
        numbers = {name: as_tensors(value) for name, value in numbers_of(rule).items()}
        corrections = {name: as_tensors(value) for name, value in moment.corrections.items()}
        shrink = as_tensors(shrinkage(rule, moment.peak_lr))
        for unit in arranged:
            for piece in unit():
                if piece.weight.numel() < 2:
                    move(moment, piece)  # not worth a kernel of its own
                    continue
                shape = None if rule.scope == "element" else tuple(piece.weight.shape)
                kernel = kernel_of(rule, moment.phase, shape, bool(piece.members))
                draws = draws_of(moment, piece)
                rounds = draws.pop(ROUNDS, None)
                told = (numbers, corrections, shrink, draws)
                if rounds is None and REST not in piece.state:
                    kernel(piece.grad, piece.weight, piece.state, *told)
                    continue
                # Rounded eagerly: Inductor leaves out a rounding that it thinks is undone.
                weight, state = opened(piece.weight, piece.state)
                kernel(piece.grad, weight, state, *told)
                w, new = rounded(weight, {}, piece.weight.dtype, REST in piece.state, rounds)
                piece.weight.copy_(w)
                for name, rest in new.items():
                    piece.state[name].copy_(rest)

    return run


Kernel = Callable[..., None]
KERNELS: dict[tuple[Any, ...], Kernel] = {}
"""One kernel for a rule, the values that decide its text, a phase, and (other than element rules) a shape."""


def kernel_of(rule: Rule, phase: str, shape: tuple[int, ...] | None, joined: bool) -> Kernel:
    """The kernel for this rule and moment, made at first use."""
    key = (type(rule), _structure(rule), phase, shape, joined)
    if key not in KERNELS:
        KERNELS[key] = _compiled(rule, phase, shape, joined)
    return KERNELS[key]


def _compiled(prototype: Rule, phase: str, shape: tuple[int, ...] | None, joined: bool) -> Kernel:
    def kernel(
        grad: Tensor,
        weight: Tensor,
        state: dict[str, Tensor],
        numbers: dict[str, Any],
        corrections: dict[str, Any],
        shrink: Any,
        draws: dict[str, Tensor],
    ) -> None:
        working = working_dtype(weight.dtype)
        text = text_of(with_tensors(prototype, numbers), phase, corrections, shrink, joined)
        start = weight.to(working)
        # Inductor takes a 0-d tensor on a CPU for a number: what is written into one is lost, without a word.
        places = {name: tensor.view(1) if tensor.ndim == 0 else tensor for name, tensor in state.items()}
        seen = {name: places[name].sum() if tensor.ndim == 0 else tensor for name, tensor in state.items()}
        w, new = text(grad.to(working), start, seen, draws)
        store(weight, start, places, w, {n: places[n] if new[n] is seen[n] else new[n] for n in places})

    # torch.compile counts recompilations by code object; a copy for each kernel keeps one rule's shapes
    # and phases from using up another's allowance, after which all would silently run uncompiled.
    own = kernel.__code__.replace(co_name=f"{prototype.name()}_{phase or 'step'}")
    kernel = types.FunctionType(own, kernel.__globals__, own.co_name, None, kernel.__closure__)
    return fused_if_possible(functools.partial(torch.compile, kernel, dynamic=shape is None, fullgraph=True))


def fused_if_possible(compiler: Callable[..., Kernel]) -> Kernel:
    """The kernel that the compiler makes, without fused loops where it fails with them.

    Inductor fails where a loop over a stack holds a reduction, and state that was read before it is written
    (pytorch issue 188228). Each loop alone it compiles.
    """
    kernels = [compiler()]

    def kernel(*arguments: Any) -> None:
        try:
            kernels[-1](*arguments)
        except RuntimeError as error:  # raised before anything was run
            if type(error).__name__ != "InductorError" or len(kernels) > 1:
                raise
            kernels.append(compiler(options={"max_fusion_size": 1}))
            kernels[-1](*arguments)

    return kernel


def numbers_of(rule: Rule) -> dict[str, Any]:
    """The rule's numbers by name, None and tuples as they are."""
    known = hyperparameters(type(rule))
    return {n: getattr(rule, n) for n, h in known.items() if h.is_number and getattr(rule, n) is not None}


def as_tensors(value: Any) -> Any:
    """A float as a 0-d float64 tensor, a pair as a pair of them; a tensor as it is."""
    if isinstance(value, tuple | list):
        return tuple(as_tensors(v) for v in value)
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


def _structure(rule: Rule) -> tuple[tuple[str, Any], ...]:
    numbers = numbers_of(rule)
    return tuple((f.name, getattr(rule, f.name)) for f in dataclasses.fields(rule) if f.name not in numbers)
