"""The reference: one piece at a time, eagerly."""

from __future__ import annotations

from steepest.core.job import Moment, Piece, Run
from steepest.core.rule import Rule
from steepest.engines.write import move


def loop(rule: Rule, pieces: list[Piece]) -> Run:
    """Run the pieces one by one; temporary memory is a few copies of the largest piece."""

    def run(moment: Moment) -> None:
        for piece in pieces:
            move(moment, piece)

    return run
