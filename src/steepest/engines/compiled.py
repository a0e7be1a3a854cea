"""Compiled: the same text through torch.compile, updating weights and state in place.

Learning rate, bias corrections and every other number reach the kernel as 0-d tensors, so that a new value
recompiles nothing. Element rules run on flattened pieces through one kernel with a dynamic length, all small
ones joined; matrix rules on stacks of equal matrices, one kernel a shape.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steepest.core.job import Job, Piece
from steepest.core.rule import Rule, Step, hyperparameters, with_tensors, working_dtype
from steepest.engines.batched import SMALL, buckets, gathered, spread
from steepest.engines.loop import one
from steepest.engines.write import shrinkage, stepped


def run(job: Job) -> None:
    """Run the job bucket by bucket through compiled kernels, which are made at first use."""
    rule, phase, corrections = job.rule, job.rule.phase(job.t), job.rule.corrections(job.t)
    shrink = shrinkage(rule, job.peak_lr)
    numbers = {name: as_tensors(value) for name, value in numbers_of(rule).items()}
    scalars = {name: as_tensors(value) for name, value in corrections.items()}
    for bucket, gather, scatter in buckets(job):
        if rule.scope == "element" and sum(p.weight.numel() for p in bucket) < 2:
            eager = Step(phase, corrections)  # a length of 1 would be a kernel of its own
            for piece in bucket:
                one(job, eager, shrink, piece)
            continue
        element, first = rule.scope == "element", bucket[0]
        joined = len(bucket) > 1 or (
            element and (first.weight.numel() <= SMALL or not first.weight.is_contiguous())
        )
        whole = gathered(bucket, gather) if joined else first
        if element and not joined:
            # The compiler sees that these are views, and of what: a second kernel beside the joined pieces'.
            flat_state = {name: tensor.view(-1) for name, tensor in first.state.items()}
            whole = Piece(first.grad.reshape(-1), first.weight.view(-1), flat_state)
        shape = None if element else tuple(whole.weight.shape)
        kernel_of(rule, phase, shape)(whole.grad, whole.weight, whole.state, numbers, scalars, as_tensors(shrink))
        if joined:
            spread(whole, bucket, scatter)


Kernel = Callable[..., None]
KERNELS: dict[tuple[Any, ...], Kernel] = {}
"""One kernel for a rule, the Python values that decide its text, a phase, and (matrix rules) a shape."""


def kernel_of(rule: Rule, phase: str, shape: tuple[int, ...] | None) -> Kernel:
    """The kernel for this rule and moment, made at first use."""
    key = (type(rule), _structure(rule), phase, shape)
    if key not in KERNELS:
        KERNELS[key] = _compiled(rule, phase, shape)
    return KERNELS[key]


def _compiled(prototype: Rule, phase: str, shape: tuple[int, ...] | None) -> Kernel:
    def kernel(
        grad: Tensor,
        weight: Tensor,
        state: dict[str, Tensor],
        numbers: dict[str, Any],
        corrections: dict[str, Any],
        shrink: Any,
    ) -> None:
        working = working_dtype(weight.dtype)
        bound, step = with_tensors(prototype, numbers), Step(phase, corrections)
        w, new = stepped(bound, step, shrink, grad.to(working), weight.to(working), state)
        weight.copy_(w)
        for name, tensor in state.items():
            tensor.copy_(new[name])

    # torch.compile counts recompilations by code object; a copy for each kernel keeps one rule's shapes
    # and phases from using up another's allowance, after which all would silently run uncompiled.
    own = kernel.__code__.replace(co_name=f"{prototype.name()}_{phase or 'step'}")
    kernel = types.FunctionType(own, kernel.__globals__, own.co_name, None, kernel.__closure__)
    return torch.compile(kernel, dynamic=shape is None, fullgraph=True)


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
