"""Batched: pieces of an element rule joined or cut to blocks of one size, equal shapes of other rules stacked.

The loop's result to the working type's precision: a tape rounds some sums once where the text rounds twice, and a
batched product may round otherwise than a single one.
"""

from __future__ import annotations

from steepest.core.job import Moment, Piece, Run
from steepest.core.rule import Rule, working_dtype
from steepest.engines.tape import Scratch, Tape, Unrecorded
from steepest.engines.units import CPU, GPU, on_cpu, units
from steepest.engines.write import move


def batched(rule: Rule, pieces: list[Piece]) -> Run:
    """Run the pieces unit by unit; temporary memory is a few copies of the largest unit."""
    blocked = rule.scope == "element" and on_cpu(pieces)
    arranged = units(rule, pieces, CPU if on_cpu(pieces) else GPU)
    scratch = Scratch(int(CPU.block))

    def run(moment: Moment) -> None:
        tapes: dict[tuple[object, ...], Tape | None] = {}
        for unit in arranged:
            for piece in unit():
                tape = None
                if blocked and playable(moment.rule, piece):
                    key = (piece.weight.dtype, *(t.dtype for t in piece.state.values()))
                    if key not in tapes:
                        tapes[key] = recorded(moment, piece)
                    tape = tapes[key]
                if tape is None:
                    move(moment, piece)
                else:
                    tape.play(piece, scratch)

    return run


def recorded(moment: Moment, piece: Piece) -> Tape | None:
    try:
        return Tape(moment, piece)
    except Unrecorded:
        return None  # the text itself runs everywhere, a little slower


def playable(rule: Rule, piece: Piece) -> bool:
    """Whether the piece is a flat block in the type in which its rule computes, without random draws."""
    dtype = piece.weight.dtype
    flat = piece.weight.ndim == 1 and piece.weight.numel() <= CPU.block
    return flat and not rule.draws and piece.grad.dtype == dtype == working_dtype(dtype)
