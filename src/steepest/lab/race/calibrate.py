"""Seconds per training step of all contenders, timed in turn in one process, so that what the machine does
meanwhile falls on all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from steepest.lab import corpus as corpora
from steepest.lab import runtime
from steepest.lab.batches import batch
from steepest.lab.config import RunConfig
from steepest.lab.heap import keep_freed_memory
from steepest.lab.model import Decoder
from steepest.registry import resolve

BLOCK = 10
"""Steps timed as one: long enough that work done every ten steps is in every block once."""


def step_times(
    configs: Mapping[str, RunConfig],
    corpus_path: Path,
    rounds: int,
    threads: int = 1,
    report: Callable[[Any], None] = lambda value: None,
) -> dict[str, Any]:
    """{"steps", "rounds", "seconds": {name: [rounds]}, "optimizer_seconds": {name: [rounds]}}, per step.

    Each round times ``BLOCK`` steps of every contender, the order turned by one from round to round; one block of
    each goes before, untimed. The learning rate is a tenth of the configured one: the weights are not of interest,
    only that they stay finite.
    """
    corpus = corpora.open(corpus_path)
    torch.set_num_threads(threads)
    keep_freed_memory()  # as a run does
    sides = {name: _Side(config, corpus) for name, config in configs.items()}
    for side in sides.values():
        side.block()
    found: dict[str, Any] = {"steps": BLOCK, "rounds": rounds, "seconds": {}, "optimizer_seconds": {}}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            whole, optimizer = sides[name].block()
            found["seconds"].setdefault(name, []).append(whole)
            found["optimizer_seconds"].setdefault(name, []).append(optimizer)
        report((number + 1, rounds))
    return found


class _Side:
    def __init__(self, config: RunConfig, corpus: corpora.Corpus) -> None:
        self.config, self.corpus, self.device = config, corpus, runtime.device(config.device)
        self.model = Decoder(config.model.config(corpus.vocab_size), config.seed, self.device)
        optimizer, self.step = config.optimizer, 0
        if config.compile:
            runtime.compile_model(self.model)
        self.optimizer = resolve(optimizer.spec).build(
            self.model, lr=(optimizer.lr or 1e-3) / 10, engine=config.engine, **optimizer.hyperparameters
        )

    def block(self) -> tuple[float, float]:
        """Mean seconds per step, and its part in the optimizer."""
        spent = 0.0
        began = self._now()
        for _ in range(BLOCK):
            c = self.config
            sequences = batch(self.corpus, seed=c.seed, step=self.step, size=c.batch, seq=c.seq).to(self.device)
            runtime.backward(self.model, sequences, c.accumulation, c.precision)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip or math.inf)
            halfway = self._now()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            spent += self._now() - halfway
            self.step += 1
        return (self._now() - began) / BLOCK, spent / BLOCK

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
