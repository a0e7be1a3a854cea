"""The training loop: pure batches, one rule, one schedule, a row per step; a kill at any moment is harmless.

``train`` ends with the same weights and the same record, times aside, whether it ran at once or was killed
and called again: weights, optimizer state and generators come from the checkpoint, batches from the step.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.core.errors import BadInput, CorruptFile
from steepest.inside_backward import Release, why_not
from steepest.lab import checkpoint, record, runtime
from steepest.lab.analysis.spikes import scores
from steepest.lab.batches import batch, validation_batches
from steepest.lab.config import Plan, RunConfig, plan
from steepest.lab.corpus import Corpus
from steepest.lab.estimate import Estimator
from steepest.lab.files import locked, make_folder, tell
from steepest.lab.model import Decoder, ModelConfig
from steepest.optimizer import Optimizer as Stepper
from steepest.registry import held_bytes


@dataclass(frozen=True)
class Progress:
    """One step, for a progress bar. loss: nats/token of its batch; val_loss: None where not evaluated."""

    step: int
    steps: int
    loss: float
    val_loss: float | None
    lr: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class RunResult:
    """How a run ended; ``result.json`` holds the same. Losses are nats/token, None for a diverged run.

    seconds: training without evaluation. state_bytes: of the optimizer, per weight. spikes: as analysis/spikes.py
    scores the rows, also those of an older record. ``present`` says that the run was finished before this call.
    """

    folder: Path
    identity: str
    status: str
    reason: str | None
    step: int
    steps: int
    tokens: int
    lr: float
    loss: float | None
    val_loss: float | None
    val_bits_per_byte: float | None
    seconds: float
    forward_backward_seconds: float
    optimizer_seconds: float
    evaluation_seconds: float
    estimate_seconds: float = 0.0
    state_bytes: float | None = None
    spikes: dict[str, Any] = field(default_factory=dict)
    present: bool = False


class Mirror(Protocol):
    """Another place that sees the record while it grows; see ``steepest.lab.mirrors``."""

    def start(self, folder: Path, header: dict[str, Any], step: int) -> None:
        """Rows after ``step`` follow; earlier ones were mirrored before."""

    def row(self, row: dict[str, Any]) -> None:
        """One row."""

    def close(self) -> None:
        """No more rows."""


def train(
    config: RunConfig,
    runs: Path,
    *,
    corpus: Corpus,
    progress: Callable[[Progress], None] | None = None,
    threads: int = 1,
    mirrors: Sequence[Mirror] = (),
    notice: Callable[[str], None] = tell,
    wait: bool = True,
) -> RunResult:
    """Trains ``runs/<first 16 digits of its identity>``, goes on with it, or returns the finished one.

    threads: of torch; provenance, not identity, yet only the same number gives the same bits. wait: for a process
    that trains the run now, else ``files.Busy``. An interrupt writes a checkpoint before KeyboardInterrupt.
    """
    if threads < 1:
        raise BadInput(f"threads={threads}: it must be at least 1")
    planned = plan(config, corpus.manifest)
    device = runtime.device(config.device)
    folder = make_folder(Path(runs) / planned.identity[:16])
    with locked(folder, notice, wait):
        if (finished := record.read_result(folder)) is not None:
            if "spikes" not in finished:
                finished["spikes"] = scores(record.read_rows(folder), config.divergence)
            return _result(folder, finished, present=True)
        with (
            runtime.reproducible(device, config.seed, threads),
            runtime.interruptible() as interrupted,
            closing(_Run(planned, folder, corpus, device, notice)) as run,
        ):
            run.start(mirrors, threads)
            result = run.go(progress, interrupted)
    if interrupted.is_set():
        raise KeyboardInterrupt
    return result


def load_model(folder: Path) -> Decoder:
    """The model of a run as its last checkpoint has it, on the CPU."""
    header = record.read_header(folder)
    content = checkpoint.latest(folder, header["identity"], len(record.read_rows(folder)))
    if content is None:
        raise CorruptFile(f"{folder} holds no checkpoint yet: train the run first")
    model = Decoder(ModelConfig(**header["model"]))
    model.load_state_dict(content["model"])
    return model


def sample_text(
    model: Decoder,
    corpus: Corpus,
    tokens: int,
    *,
    prompt: str = "",
    context: int | None = None,
    temperature: float = 0.8,
    seed: int = 0,
) -> str:
    """``prompt`` continued by ``tokens`` tokens; without one, the first token of the validation text is.

    context: how many of the last tokens the model sees; best the length of sequence that it was trained on.
    """
    if tokens < 1:
        raise BadInput(f"sample of {tokens} tokens: ask for at least 1")
    ids = corpus.encode(prompt) if prompt else corpus.val[:1].tolist()
    generator = torch.Generator().manual_seed(seed)
    drawn = model.sample(torch.tensor(ids), tokens, temperature, generator=generator, context=context)
    return corpus.decode(drawn.tolist())


class _Run:
    """A planned run with its model, optimizer and record open."""

    def __init__(
        self,
        planned: Plan,
        folder: Path,
        corpus: Corpus,
        device: torch.device,
        notice: Callable[[str], None],
    ) -> None:
        config = planned.config
        self.plan, self.folder, self.corpus, self.device = planned, folder, corpus, device
        self.validation = _validation(corpus, config)
        self.model = Decoder(planned.model, config.seed, device)
        self.optimizer: Optimizer = planned.contender.build(
            self.model, lr=planned.lr, engine=config.engine, **config.optimizer.hyperparameters
        )
        self.estimator = Estimator(self.model, config, corpus, device, notice)
        self.released = _released(self.optimizer, config)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        if config.compile:
            runtime.compile_model(self.model)
        self.rows = record.read_rows(folder)
        content = checkpoint.latest(folder, planned.identity, len(self.rows), notice)
        if content is not None:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            runtime.set_generators(content["generators"], device)
        self.step = content["step"] if content else 0
        self.rows = self.rows[: self.step]
        self.mirrors: list[Mirror] = []
        self.record = record.Record(folder)

    def close(self) -> None:
        """Closes the record and its mirrors."""
        self.record.close()
        for mirror in self.mirrors:
            mirror.close()

    def start(self, mirrors: Sequence[Mirror], threads: int) -> None:
        """Opens the record: the header once, and one line in it for every continuation."""
        place = {"versions": record.versions(), "hardware": record.hardware(), "threads": threads}
        moment = {"step": self.step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")} | place
        if (self.folder / record.HEADER).exists():
            header = record.read_header(self.folder)
            header["sessions"].append(moment)
        else:
            header = {
                "format": record.FORMAT,
                "identity": self.plan.identity,
                "config": self.plan.config.to_mapping(),
                "model": asdict(self.plan.model),
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "lr": self.plan.lr,
                "steps": self.plan.steps,
                "tokens": self.plan.tokens,
                "seed": self.plan.config.seed,
                "corpus": {k: v for k, v in self.corpus.manifest.items() if k not in ("shards", "skipped")},
                "determines": self.plan.determines,
                "optimizer": self.plan.contender.provenance,
                "sessions": [moment],
            }
        record.write_header(self.folder, header)
        for mirror in mirrors:
            mirror.start(self.folder, header, self.step)
            self.mirrors.append(mirror)

    def go(self, progress: Callable[[Progress], None] | None, interrupted: threading.Event) -> RunResult:
        """Steps to the end, or to a divergence."""
        saved = time.monotonic()
        pace = _Pace(self.plan, self.step, self.rows[-1]["seconds"] if self.rows else 0.0)
        reason = None
        while self.step < self.plan.steps and reason is None:
            row, reason = self._one_step()
            self.rows.append(row)
            self.record.append(row)
            for mirror in self.mirrors:
                mirror.row(row)
            if progress is not None:
                progress(pace.progress(row))
            if reason is None and self.step < self.plan.steps:
                stop = interrupted.is_set()
                if stop or time.monotonic() - saved >= self.plan.config.checkpoint.seconds:
                    self._save()
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        return self._finish(reason)

    def _one_step(self) -> tuple[dict[str, Any], str | None]:
        """One update; its row, and why the run ends here if it does."""
        config, step = self.plan.config, self.step + 1
        factor = self.plan.factor(step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * factor)
            else:
                group["lr"] = peak * factor

        began = runtime.now(self.device)
        sequences = batch(self.corpus, seed=config.seed, step=step - 1, size=config.batch, seq=config.seq)
        sequences = sequences.to(self.device)
        loss, objective = runtime.backward(
            self.model, sequences, config.accumulation, config.precision, self.released
        )
        if self.released is None:
            norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip or math.inf))
        else:
            norm = 0.0 if self.released.norm is None else float(self.released.norm)
        halfway, estimated = runtime.now(self.device), self.estimator.seconds
        reason = self._diverged(step, loss, objective, norm)
        if reason is None and self.released is None:
            self.estimator.step(self.optimizer, step)
        self.optimizer.zero_grad(set_to_none=True)
        ended, estimated = runtime.now(self.device), self.estimator.seconds - estimated

        val_loss = bits = None
        if reason is None and step in self.plan.evaluations:
            val_loss = self._evaluate()
            bits = val_loss / math.log(2) / self.corpus.bytes_per_token("val")
            if not math.isfinite(val_loss):
                reason = f"validation loss is {val_loss} at step {step}"
        before = dict.fromkeys(_TIMES, 0.0) | (self.rows[-1] if self.rows else {})
        self.step = step
        return {
            "step": step,
            "tokens": step * config.batch * config.seq,
            "loss": loss,
            "lr": self.plan.lr * factor,
            "gradient_norm": norm,
            "val_loss": val_loss,
            "val_bits_per_byte": bits,
            "seconds": before["seconds"] + ended - began,
            "forward_backward_seconds": before["forward_backward_seconds"] + halfway - began,
            "optimizer_seconds": before["optimizer_seconds"] + ended - halfway - estimated,
            "estimate_seconds": before["estimate_seconds"] + estimated,
            "evaluation_seconds": before["evaluation_seconds"] + runtime.now(self.device) - ended,
        }, reason

    def _diverged(self, step: int, loss: float, objective: float, norm: float) -> str | None:
        for what, value in (("loss", loss), ("objective", objective), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"{what} is {value} at step {step}"
        start = self.rows[0]["loss"] if self.rows else loss
        multiple = self.plan.config.divergence
        if step > self.plan.warmup and loss > multiple * start:
            return f"loss {loss:.4g} at step {step} is above {multiple:g} times the first, {start:.4g}"
        return None

    @torch.no_grad()
    def _evaluate(self) -> float:
        """Mean cross-entropy over the validation windows, nats/token."""
        total = 0.0
        for part in self.validation:
            with runtime.autocast(self.device, self.plan.config.precision):
                total += self.model.loss(part.to(self.device)).nll.item() * len(part)
        return total / sum(map(len, self.validation))

    def _save(self) -> None:
        self.record.sync()  # rows first: a checkpoint never knows more than the record
        content = {
            "identity": self.plan.identity,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": runtime.generators(self.device),
        }
        checkpoint.save(self.folder, content)

    def _finish(self, reason: str | None) -> RunResult:
        last = self.rows[-1]
        if reason is None:
            self._save()
        else:
            self.record.sync()
        result = {
            "format": record.FORMAT,
            "identity": self.plan.identity,
            "status": "finished" if reason is None else "diverged",
            "reason": reason,
            "step": last["step"],
            "steps": self.plan.steps,
            "tokens": last["tokens"],
            "lr": self.plan.lr,
            "loss": last["loss"],
            "val_loss": last["val_loss"] if reason is None else None,
            "val_bits_per_byte": last["val_bits_per_byte"] if reason is None else None,
            **{name: last[name] for name in _TIMES},
            "state_bytes": held_bytes(self.optimizer) / sum(p.numel() for p in self.model.parameters()),
            "spikes": scores(self.rows, self.plan.config.divergence),
        }
        record.write_result(self.folder, result)
        (self.folder / checkpoint.PREVIOUS).unlink(missing_ok=True)
        return _result(self.folder, result)


class _Pace:
    """Speed since this call began: tokens/s of training alone, time left with evaluations."""

    def __init__(self, planned: Plan, step: int, seconds: float) -> None:
        self.plan, self.step, self.seconds, self.began = planned, step, seconds, time.monotonic()

    def progress(self, row: dict[str, Any]) -> Progress:
        done = row["step"] - self.step
        tokens = done * self.plan.config.batch * self.plan.config.seq
        return Progress(
            step=row["step"],
            steps=self.plan.steps,
            loss=row["loss"],
            val_loss=row["val_loss"],
            lr=row["lr"],
            tokens_per_second=tokens / max(row["seconds"] - self.seconds, 1e-9),
            seconds_left=(time.monotonic() - self.began) / done * (self.plan.steps - row["step"]),
        )


_TIMES = tuple(f.name for f in fields(RunResult) if f.name.endswith("seconds"))


def _result(folder: Path, result: dict[str, Any], present: bool = False) -> RunResult:
    known = {f.name for f in fields(RunResult)} & result.keys()
    return RunResult(folder=folder, present=present, **{name: result[name] for name in known})


def _released(optimizer: Optimizer, config: RunConfig) -> Release | None:
    """Steps inside backward, where the run's configuration asks for it. The gradient's norm is recorded anyway."""
    if not config.release:
        return None
    if reason := why_not(optimizer):
        raise BadInput(f"release=true: {reason}")
    return Release(cast(Stepper, optimizer), clip_norm=config.clip or None, note_norm=True)


def _validation(corpus: Corpus, config: RunConfig) -> tuple[Tensor, ...]:
    """The same windows for every batch size, in parts that fit where a training part fits."""
    windows = validation_batches(corpus, 1, config.seq, config.evaluation.tokens)
    return torch.cat(windows).split(config.batch // config.accumulation)
