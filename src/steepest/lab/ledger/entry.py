"""One record read as evidence: what ``header.json`` and ``result.json`` say, checked, as a run. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, CorruptFile
from steepest.lab import record
from steepest.lab.analysis.runs import DIVERGED, FINISHED, UNFINISHED, Run, Scalar
from steepest.lab.presets import Described, described

HEADER_KEYS = frozenset(
    (
        "format", "identity", "config", "model", "parameters", "lr", "steps", "tokens", "seed", "corpus",
        "determines", "optimizer", "sessions",
    )
)  # fmt: skip
TIMES = ("forward_backward_seconds", "optimizer_seconds", "estimate_seconds")
"""Parts of a run's seconds."""
RESULT_KEYS = frozenset(
    (
        "format", "identity", "status", "reason", "step", "steps", "tokens", "lr", "loss", "val_loss",
        "val_bits_per_byte", "seconds", *TIMES, "evaluation_seconds", "state_bytes", "spikes",
    )
)  # fmt: skip

USUAL: Mapping[str, Scalar] = {
    "accumulation": 1, "divergence": 2.0, "precision": "fp32", "compile": False, "engine": "auto",
    "schedule.minimum": 0.0, "estimate.version": 1,
}  # fmt: skip
"""Settings of a run that are told only where they are otherwise, for nearly no run changes them."""

APART = ("corpus", "seq", "evaluation", "training-version", "model-version", "rule-version")
"""What must be equal where losses are compared, see :attr:`Entry.ground`."""


@dataclass(frozen=True)
class Entry:
    """A recorded run. ``run`` is what evidence takes; the rest is about its record.

    ground: corpus (first digits of its identity), seq, evaluation (tokens), versions of training, model and rule:
    on unlike grounds losses are not compared. likeness: equal for runs that differ at most in when they were
    evaluated. created: seconds since 1970, None where the clock cannot be believed. flags: why times are not used.
    unknown: keys that this version does not know. step: how far the run came; updated: when its last row was
    written, for one that is not finished.
    """

    run: Run
    identity: str
    ground: Mapping[str, str]
    likeness: str
    step: int
    created: float | None
    flags: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    updated: float | None = None

    def at(self, step: int, updated: float) -> Entry:
        """The same run, not finished, with the last row that it has."""
        reason = f"{step} of {self.run.steps} steps"
        return replace(self, step=step, updated=updated, run=replace(self.run, reason=reason))


def read_entry(folder: str) -> Entry:
    """The record of a run. Raises: CorruptFile that names file and fault; FileNotFoundError without a header."""
    header = _json(f"{folder}/{record.HEADER}")
    try:
        result = _json(f"{folder}/{record.RESULT}")
    except FileNotFoundError:
        result = None
    try:
        return entry_of(header, result, folder)
    except KeyError as error:
        raise CorruptFile(f"{folder}: its record lacks {error}: {ADVICE}") from error
    except (TypeError, AttributeError, ValueError, BadInput) as error:
        raise CorruptFile(f"{folder}: its record cannot be read ({error}): {ADVICE}") from error


ADVICE = "restore it, use the version that wrote it, or delete the folder to train the run again"


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb", buffering=0) as file:
            return record.parsed(file.read(), path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror or error}") from error


def entry_of(header: Mapping[str, Any], result: Mapping[str, Any] | None, folder: str) -> Entry:
    """From the two files of a record. Raises: CorruptFile for what contradicts itself; KeyError, TypeError,
    ValueError, AttributeError, BadInput for what is no record."""
    determines, config, identity = header["determines"], header["config"], header["identity"]
    text = _canonical(determines)
    if hashlib.sha256(text.encode()).hexdigest() != identity:
        raise CorruptFile(f"{folder}/{record.HEADER} is not what its identity {identity[:16]} says: {ADVICE}")
    if result is not None and result["identity"] != identity:
        raise CorruptFile(f"{folder}/{record.RESULT} is of another run, {result['identity'][:16]}: {ADVICE}")
    model = _described(config["model"]["preset"], tuple(determines["model"].items()))
    status, loss = _ending(result, header["steps"], folder)
    created, flags = _times(header["sessions"], result)
    run = Run(
        run=identity[:16],
        optimizer=_optimizer(determines["optimizer"], config["optimizer"]["spec"]),
        size=model.size,
        weights=model.weights,
        tokens=_count(header["tokens"], "tokens"),
        hyperparameters=_hyperparameters(determines, config),
        status=status,
        loss=loss,
        seed=determines["seed"],
        variant=model.variant,
        steps=_count(header["steps"], "steps"),
        seconds=None if result is None or flags else result["seconds"] + result["evaluation_seconds"],
        state_bytes=held if result is not None and number(held := result.get("state_bytes")) else None,
        reason=None if result is None else result["reason"],
        source=folder,
    )
    return Entry(
        run=run,
        identity=identity,
        ground=_ground(determines),
        likeness=_likeness(text),
        step=0 if result is None else result["step"],
        created=None if flags else created,
        flags=flags,
        unknown=tuple(
            f"{name}: {key}"
            for name, values, known in ((record.HEADER, header, HEADER_KEYS), (record.RESULT, result, RESULT_KEYS))
            for key in values or ()
            if key not in known
        ),
    )


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}")
    return value


def number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ending(result: Mapping[str, Any] | None, steps: int, folder: str) -> tuple[str, float | None]:
    """Status and final loss; a run that ended before its schedule did has none."""
    if result is None:
        return UNFINISHED, None
    status, loss, path = result["status"], result["val_loss"], f"{folder}/{record.RESULT}"
    if status not in (FINISHED, DIVERGED):
        raise CorruptFile(f"{path} has status {status!r}, which this version does not know: {ADVICE}")
    if result["steps"] != steps or (status == FINISHED) > (result["step"] == steps):
        told = f"{status} at step {result['step']} of {result['steps']}"
        raise CorruptFile(f"{path} says {told}, its header {steps} steps: {ADVICE}")
    if status == DIVERGED:
        return status, None
    if not number(loss) or loss < 0:
        raise CorruptFile(f"{path} has val_loss {loss!r}, which is no loss in nats per token: {ADVICE}")
    return status, float(loss)


def _times(sessions: Any, result: Mapping[str, Any] | None) -> tuple[float | None, tuple[str, ...]]:
    """When the run began, and why its times are not to be believed."""
    try:
        began = [datetime.fromisoformat(session["time"]).timestamp() for session in sessions]
    except (TypeError, KeyError, ValueError):
        return None, ("the times of its sessions cannot be read",)
    if not began:
        return None, ("it tells no session",)
    flags = []
    if any(later < earlier for earlier, later in pairwise(began)):
        flags.append("a later session began before an earlier one")
    if result is not None:
        whole, parts = result["seconds"], [result.get(name, 0.0) for name in TIMES]
        if not all(number(value) and value >= 0 for value in (whole, result.get("evaluation_seconds"), *parts)):
            flags.append("its seconds are no times")
        elif sum(parts) > 1.001 * whole + 1e-3:
            flags.append("its parts took longer than the whole")
    return began[0], tuple(flags)


@lru_cache(maxsize=4096)
def _described(preset: str, model: tuple[tuple[str, Any], ...]) -> Described:
    return described(dict(model), preset)


def _optimizer(optimizer: Mapping[str, Any], spec: str) -> str:
    """A built-in rule by its name: options that it was typed with are hyperparameters. Others as typed."""
    if "text_sha256" in optimizer or "class" in optimizer:
        return ":".join(spec.split(":")[:2])
    return str(optimizer["rule"])


def _hyperparameters(determines: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Everything that one may vary on one ground, flat: the optimizer's, then the run's, whose names win."""
    optimizer = determines["optimizer"]
    tables = {key: value for key, value in optimizer.items() if key not in OWN}
    if "companion" in tables:
        tables["companion"] = {key: value for key, value in tables["companion"].items() if key != "version"}
    schedule = dict(determines["schedule"])
    run: dict[str, Any] = {
        "batch": determines["batch"],
        "warmup": config["schedule"].get("warmup", schedule["warmup"]),
        "clip": determines["clip"],
        "seq": determines["seq"],
        "schedule": schedule.pop("name"),
    }
    del schedule["warmup"]
    if "decay" in schedule:
        run["cooldown"] = schedule.pop("decay")
    rest = {key: value for key, value in determines.items() if key not in (*ELSEWHERE, *run)}
    own: dict[str, Scalar] = {}
    _flatten({**optimizer["hyperparameters"], **tables}, own)
    flat: dict[str, Scalar] = {f"rule.{key}" if key in run else key: value for key, value in own.items()} | run
    more: dict[str, Scalar] = {}
    _flatten({f"schedule.{key}": value for key, value in schedule.items()} | rest, more)
    return flat | {key: value for key, value in more.items() if USUAL.get(key, ...) != value}


OWN = ("rule", "class", "version", "text_sha256", "hyperparameters")
ELSEWHERE = ("versions", "corpus", "optimizer", "model", "steps", "schedule", "evaluation", "seed")


def _flatten(values: Mapping[str, Any], into: dict[str, Scalar], before: str = "") -> None:
    """Tables with points, betas as beta1, beta2, ...; a list is its JSON text."""
    for key, value in values.items():
        if isinstance(value, dict):
            _flatten(value, into, f"{before}{key}.")
        elif not isinstance(value, list):
            into[before + key] = value
        elif key == "betas":
            into.update((f"{before}beta{place}", one) for place, one in enumerate(value, 1))
        else:
            into[before + key] = json.dumps(value, separators=(",", ":"))


def _ground(determines: Mapping[str, Any]) -> dict[str, str]:
    optimizer, versions = determines["optimizer"], determines["versions"]
    numbers = [part["version"] for part in (optimizer, optimizer.get("companion", {})) if "version" in part]
    return {
        "corpus": determines["corpus"][:8],
        "seq": str(determines["seq"]),
        "evaluation": str(determines["evaluation"]["tokens"]),
        "training-version": str(versions["training"]),
        "model-version": str(versions["model"]),
        "rule-version": optimizer.get("text_sha256", "")[:8] or ".".join(map(str, numbers)),
    }


def _likeness(determines: str) -> str:
    """Of the canonical text of what determines a run, without the steps of its evaluations."""
    before, mark, after = determines.partition('"evaluation":{"steps":[')
    return hashlib.sha256((before + mark + after.partition("]")[2]).encode()).hexdigest()[:16]


def last_row(folder: str) -> tuple[int, float]:
    """The step of the last whole row, 0 without any, and when the file was written to."""
    path = f"{folder}/{record.ROWS}"
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read().split(b"\n")
            written = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0, Path(folder, record.HEADER).stat().st_mtime
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror or error}") from error
    for line in reversed(lines):
        if line and (row := record.row_of(line)) is not None:
            return int(row["step"]), written
    if len(lines) > 1:
        raise CorruptFile(f"{path} ends in no row: {ADVICE}")
    return 0, written  # the first row is being written


TAIL = 1 << 12
"""Bytes at the end of the rows in which the last one is looked for."""
