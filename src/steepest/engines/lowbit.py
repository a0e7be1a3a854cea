"""Low-bit state for any rule: opened to float32, the rule's own text, and closed again, piece by piece.

What the rule sees is full precision: the weight moves by the new state before it is rounded to codes.
"""

from __future__ import annotations

import math

from torch import Tensor

from steepest.core.job import Moment, Piece, Run
from steepest.core.lowbit import ABSMAX, LowBit
from steepest.core.rule import Rule
from steepest.engines.units import CPU, GPU, Unit, alone, cut, on_cpu, units
from steepest.engines.write import move
from steepest.linalg.quantise import blocks_of, dequantised, quantised


def names_of(piece: Piece) -> list[str]:
    """The slots of a piece that are kept in codes."""
    return [key.removesuffix(f".{ABSMAX}") for key in piece.state if key.endswith(f".{ABSMAX}")]


def opening(rule: Rule, pieces: list[Piece], form: LowBit, stacked: bool = True) -> Run:
    """Opens each unit's state, runs the rule's text, closes what changed; in memory a few copies of a unit, which
    is one piece alone where equal shapes are not ``stacked``."""
    if rule.scope == "element":
        arranged = [blocks(piece, form) for piece in pieces]
    elif not stacked:
        arranged = [alone(piece) for piece in pieces]
    else:
        arranged = units(rule, pieces, CPU if on_cpu(pieces) else GPU)

    def run(moment: Moment) -> None:
        for unit in arranged:
            for piece in unit():
                state = opened(moment.rule, piece, form)
                before = {name: tensor._version for name, tensor in state.items()}
                move(moment, Piece(piece.grad, piece.weight, state, piece.index, piece.start, piece.members))
                # What a phase leaves alone keeps its codes: rounded again it would not be the same.
                close(rule, piece, {n: t for n, t in state.items() if t._version != before[n]}, form)

    return run


def opened(rule: Rule, piece: Piece, form: LowBit | None) -> dict[str, Tensor]:
    """The state of a piece as the rule declares it: what is in codes in float32 of its own."""
    if form is None:
        return piece.state
    signed = signs(rule, piece)
    state = {n: t for n, t in piece.state.items() if not n.endswith(f".{ABSMAX}")}
    for name in names_of(piece):
        codes, absmax, shape = piece.state[name], piece.state[f"{name}.{ABSMAX}"], piece.weight.shape
        lead = absmax.shape[:-1]
        n = piece.weight.numel() // math.prod(lead)
        flat = dequantised(codes.reshape(*lead, -1), absmax, n, form.bits, form.block, signed[name])
        state[name] = flat.view(shape)
    return state


def close(rule: Rule, piece: Piece, state: dict[str, Tensor], form: LowBit | None) -> None:
    """Puts new state back: what is kept in codes, in codes."""
    low, signed = names_of(piece), signs(rule, piece)
    for name, new in state.items():
        if name not in low or form is None:
            if new is not piece.state[name]:
                piece.state[name].copy_(new)
            continue
        codes, absmax = piece.state[name], piece.state[f"{name}.{ABSMAX}"]
        flat = new.reshape(*absmax.shape[:-1], -1)
        made, maxima = quantised(flat, form.bits, form.block, signed[name], form.keep_sign)
        codes.copy_(made.view(codes.shape))
        absmax.copy_(maxima)


def signs(rule: Rule, piece: Piece) -> dict[str, bool]:
    return {name: slot.signed for name, slot in rule.slots(tuple(piece.weight.shape)).items()}


def blocks(piece: Piece, form: LowBit) -> Unit:
    """An element rule's piece cut where blocks of codes end; whole on another device than the processor."""
    if not on_cpu([piece]):
        return alone(piece)
    low, length = names_of(piece), max(1, int(CPU.block) // form.block) * form.block

    def held(name: str, elements: int) -> int:
        if name.endswith(f".{ABSMAX}"):
            return blocks_of(elements, form.block)
        return -(-elements // 2) if name in low and form.bits == 4 else elements

    return cut(piece, length, held)
