"""Seconds per training step of all contenders, timed in turn in one process, so that what the machine does
meanwhile falls on all of them alike."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from steepest.lab import corpus as corpora
from steepest.lab import record, runtime
from steepest.lab.batches import batch
from steepest.lab.bench.bounds import repeats_after
from steepest.lab.cluster.local import Job, Outcome, submit
from steepest.lab.config import RunConfig, plan
from steepest.lab.estimate import Estimator
from steepest.lab.files import make_folder, replace
from steepest.lab.heap import keep_freed_memory
from steepest.lab.model import Decoder
from steepest.lab.race.work import flops_per_step, wanted
from steepest.optimizer import Optimizer

BLOCK = 10
"""Steps timed as one: long enough that work done every ten steps is in every block once."""
LONGEST = 1000
"""Steps within which what a rule asks for must repeat itself to be in every block alike."""

CALIBRATION = "calibration"
"""The name of its job, which is no trial's."""
FILE = "calibration.json"
"""What was measured, by what it was measured of."""

KINDS = ("seconds", "optimizer_seconds", "estimate_seconds")


def step_times(
    configs: Mapping[str, RunConfig],
    corpus_path: Path,
    rounds: int,
    threads: int = 1,
    report: Callable[[Any], None] = lambda value: None,
) -> dict[str, Any]:
    """{"steps", "rounds"} and by name, per step: "seconds", "optimizer_seconds", "estimate_seconds" of each round,
    "flops" as ``work.py`` counts them.

    Each round times ``BLOCK`` steps of every contender (more where a rule asks for an estimate at every k-th step
    and k does not divide that), the order turned by one from round to round; one block of
    each goes before, untimed. The learning rate is a tenth of the configured one: the weights are not of interest,
    only that they stay finite.
    """
    corpus = corpora.open(corpus_path)
    torch.set_num_threads(threads)
    keep_freed_memory()  # as a run does
    sides = {name: _Side(config, corpus) for name, config in configs.items()}
    for side in sides.values():
        side.block()
    found: dict[str, Any] = {"steps": BLOCK, "rounds": rounds} | {kind: {} for kind in KINDS}
    found["flops"] = {name: side.flops() for name, side in sides.items()}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            for kind, seconds in zip(KINDS, sides[name].block(), strict=True):
                found[kind].setdefault(name, []).append(seconds)
        report((number + 1, rounds))
    return found


def calibrated_steps(
    configs: Mapping[str, RunConfig],
    corpus: corpora.Corpus,
    folder: Path,
    rounds: int,
    submit: Callable[..., list[Outcome]] = submit,
    progress: Callable[[Job, Any], None] | None = None,
) -> dict[str, Any]:
    """:func:`step_times` in a process of its own, with "of" and "threads", or {"error": why there are none}.

    What an earlier call measured is taken from ``folder`` where nothing that matters has changed.
    """
    key = {
        "configs": {name: config.to_mapping() for name, config in configs.items()},
        "corpus": corpus.manifest["identity"],
        "versions": record.versions(),
        "hardware": record.hardware(),
        "rounds": rounds,
        "format": 3,
    }
    digest = hashlib.sha256(record.canonical(key).encode()).hexdigest()[:16]
    if isinstance(known := _known(folder).get(digest), dict):
        return known
    (outcome,) = submit([Job(CALIBRATION, step_times, (configs, corpus.path, rounds, 1))], 1, progress=progress)
    if outcome.error is not None:
        return {"error": outcome.error}
    measured = {"of": digest, "threads": 1, **outcome.value}
    told = json.dumps(_known(folder) | {digest: measured}, indent=1, allow_nan=False) + "\n"
    replace(make_folder(folder) / FILE, told.encode())
    return measured


def _known(folder: Path) -> dict[str, Any]:
    """What was measured before; a damaged file is measured anew."""
    try:
        value = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _Side:
    def __init__(self, config: RunConfig, corpus: corpora.Corpus) -> None:
        self.config, self.corpus, self.device = config, corpus, runtime.device(config.device)
        self.model = Decoder(config.model.config(corpus.vocab_size), config.seed, self.device)
        optimizer, self.step = config.optimizer, 0
        if config.compile:
            runtime.compile_model(self.model)
        self.optimizer = plan(config, corpus.manifest).contender.build(
            self.model, lr=(optimizer.lr or 1e-3) / 10, engine=config.engine, **optimizer.hyperparameters
        )
        self.estimator = Estimator(self.model, config, corpus, self.device)
        self.steps = block_length(self.optimizer)

    def block(self) -> tuple[float, float, float]:
        """Mean seconds per step, its part in the optimizer and in what the rule asks for."""
        spent, estimated = 0.0, self.estimator.seconds
        began = runtime.now(self.device)
        for _ in range(self.steps):
            self.forward_backward()
            halfway = runtime.now(self.device)
            self.step += 1
            self.estimator.step(self.optimizer, self.step)
            self.optimizer.zero_grad(set_to_none=True)
            spent += runtime.now(self.device) - halfway
        whole, estimated = runtime.now(self.device) - began, self.estimator.seconds - estimated
        return whole / self.steps, (spent - estimated) / self.steps, estimated / self.steps

    def forward_backward(self) -> None:
        """The gradient of the coming step, clipped."""
        c = self.config
        sequences = batch(self.corpus, seed=c.seed, step=self.step, size=c.batch, seq=c.seq).to(self.device)
        runtime.backward(self.model, sequences, c.accumulation, c.precision)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip or math.inf)

    def flops(self) -> dict[str, float]:
        """Operations per step, counted beside the timing."""
        found = flops_per_step(self.forward_backward, self.optimizer, self.estimator, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        return found


def block_length(optimizer: torch.optim.Optimizer) -> int:
    """The fewest steps, ``BLOCK`` or more, of which any two successive runs hold the same estimates."""
    if not isinstance(optimizer, Optimizer):
        return BLOCK
    rules = [optimizer.rule_of(group) for group in optimizer.param_groups]
    asked = [[wanted(rule, t) for rule in rules] for t in range(1, LONGEST + 1)]
    period = repeats_after(asked)
    return period * math.ceil(BLOCK / period)
