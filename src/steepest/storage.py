"""A weight's state in memory: what is kept of each slot, and how one format becomes another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from steepest.arrangement import is_dtensor, local
from steepest.core.errors import BadInput, UnsupportedTensor
from steepest.core.job import REST, Rounding
from steepest.core.layout import Layout
from steepest.core.lowbit import ABSMAX, LowBit
from steepest.core.rule import Rule, Slot, working_dtype
from steepest.linalg.quantise import dequantised, quantised

State = dict[str, Tensor]


def slots_of(p: Tensor, rule: Rule, layout: Layout) -> Iterator[tuple[str, str, tuple[int, ...], Slot]]:
    """The slots of a weight, those of each part of a fused one: name, part, the part's shape, and the slot."""
    for part, shape in parts_of(p, rule, layout):
        for name, slot in rule.slots(shape).items():
            yield name, part, shape, slot


def parts_of(p: Tensor, rule: Rule, layout: Layout) -> list[tuple[str, tuple[int, ...]]]:
    """What a rule sees of a weight as one each: parts by name, with their shapes."""
    whole = local(p.detach())
    views = layout.parts(whole) if rule.scope == "matrix" else {"": whole}
    return [(part, tuple(view.shape)) for part, view in views.items()]


def key_of(name: str, part: str) -> str:
    return f"{name}.{part}" if part else name


def allocated(p: Tensor, rule: Rule, layout: Layout, form: LowBit | None, rounding: Rounding) -> State:
    """All state of a weight, from the start: a checkpoint has the same keys before the first step as after.

    Raises: UnsupportedTensor for state in codes of a sharded weight; BadInput for a rounding that its type lacks.
    """
    state: State = {"step": torch.zeros((), dtype=torch.float32)}
    if rounding == "stochastic" and p.dtype == torch.float16:
        raise BadInput(f"rounding='stochastic' of a float16 weight {tuple(p.shape)}: use 'kahan', or bfloat16")
    found = list(slots_of(p, rule, layout))
    if rounding == "kahan" and p.dtype != working_dtype(p.dtype):
        found += [(REST, part, shape, Slot(shape, p.dtype)) for part, shape in parts_of(p, rule, layout)]
    for name, part, shape, slot in found:
        if form is not None and form.holds(slot, shape):
            if is_dtensor(p):
                raise UnsupportedTensor(f"state of {form.bits} bits of a sharded weight {shape}: use state='full'")
            for suffix, kept in form.stored(slot).items():
                state[key_of(name + suffix, part)] = torch.zeros(kept.shape, dtype=kept.dtype, device=p.device)
        elif is_dtensor(p):  # only element rules get here with a shard: their slots have the weight's shape
            state[key_of(name, part)] = torch.zeros_like(p.detach(), dtype=slot.dtype or working_dtype(p.dtype))
        else:
            dtype = slot.dtype or working_dtype(p.dtype)
            state[key_of(name, part)] = torch.zeros(slot.shape, dtype=dtype, device=p.device)
    return state


def converted(
    saved: Mapping[str, Tensor], p: Tensor, rule: Rule, layout: Layout, old: LowBit | None, new: LowBit | None
) -> State:
    """A weight's saved state in another format; what has no place in the rule's slots stays as it is."""
    state = dict(saved)
    for name, part, shape, slot in slots_of(p, rule, layout):
        key, scale = key_of(name, part), key_of(f"{name}.{ABSMAX}", part)
        if old is not None and scale in state and key in state:
            n = math.prod(slot.shape)
            full = dequantised(state[key].reshape(-1), state.pop(scale), n, old.bits, old.block, slot.signed)
            state[key] = full.view(slot.shape)
        if new is not None and key in state and new.holds(slot, shape) and state[key].shape == slot.shape:
            codes, scales = quantised(state[key].reshape(-1), new.bits, new.block, slot.signed, new.keep_sign)
            state[key], state[scale] = codes.view(new.stored(slot)[""].shape), scales
    return state
