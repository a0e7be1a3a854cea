"""One trial trained as an ordinary recorded run, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.lab import record

if TYPE_CHECKING:
    from steepest.lab.config import RunConfig


@dataclass(frozen=True)
class Result:
    """How a trial ended. status: "finished", "diverged" or "failed"; loss in nats/token, None unless finished.

    seconds: training and evaluation, whenever they were spent; present: it was finished before it was asked for.
    tokens and losses: the validation losses along the way, where they were read. trained: tokens trained. spikes:
    as ``lab/analysis/spikes.py`` scores the rows; empty for a trial that failed.
    """

    run: str
    status: str
    loss: float | None
    bits: float | None
    seconds: float
    reason: str | None = None
    present: bool = False
    tokens: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    spikes: dict[str, Any] = field(default_factory=dict, hash=False)
    trained: int = 0


def train_trial(
    config: RunConfig,
    runs: Path,
    corpus_path: Path,
    threads: int,
    report: Callable[[Any], None],
    *,
    wait: bool = True,
) -> Result:
    """The job of one trial: trains it, continues it or finds it finished.

    Raises: Busy, with wait=False, where another process trains it.
    """
    from steepest.lab import corpus as corpora
    from steepest.lab.train import Progress, train

    told = 0.0

    def progress(now: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            report((now.step, now.steps, now.loss))

    done = train(config, runs, corpus=corpora.open(corpus_path), threads=threads, progress=progress, wait=wait)
    rows = [row for row in record.read_rows(done.folder) if row["val_loss"] is not None]
    return Result(
        run=done.folder.name,
        status=done.status,
        loss=done.val_loss,
        bits=done.val_bits_per_byte,
        seconds=done.seconds + done.evaluation_seconds,
        reason=done.reason,
        present=done.present,
        tokens=tuple(row["tokens"] for row in rows),
        losses=tuple(row["val_loss"] for row in rows),
        spikes=done.spikes,
        trained=done.tokens,
    )


def finished(folder: Path) -> Result | None:
    """The result of a run's folder without its way there; None while it is not finished. Raises: CorruptFile."""
    told = record.read_result(folder)
    return None if told is None else result_of(folder.name, told)


def result_of(run: str, told: Mapping[str, Any]) -> Result:
    """What ``result.json`` holds."""
    return Result(
        run=run,
        status=told["status"],
        loss=told["val_loss"],
        bits=told["val_bits_per_byte"],
        seconds=told["seconds"] + told["evaluation_seconds"],
        reason=told["reason"],
        present=True,
        spikes=told.get("spikes", {}),
        trained=told["tokens"],
    )
