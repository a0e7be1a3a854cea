"""The reference: one piece at a time, eagerly."""

from __future__ import annotations

from steepest.core.job import Job, Piece
from steepest.core.rule import Step, working_dtype
from steepest.engines.write import shrinkage, stepped


def run(job: Job) -> None:
    """Run the job piece by piece; temporary memory is a few copies of the largest piece."""
    step = Step(job.rule.phase(job.t), job.rule.corrections(job.t))
    shrink = shrinkage(job.rule, job.peak_lr)
    for piece in job.pieces:
        one(job, step, shrink, piece)


def one(job: Job, step: Step, shrink: object, piece: Piece) -> None:
    """Run the rule on one piece and store what it returns, rounded to the types of weight and state."""
    working = working_dtype(piece.weight.dtype)
    w, new = stepped(job.rule, step, shrink, piece.grad.to(working), piece.weight.to(working), piece.state)
    piece.weight.copy_(w)
    for name, tensor in piece.state.items():
        tensor.copy_(new[name])
