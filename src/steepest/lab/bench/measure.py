"""One measurement: candidates made ready, rounds of them all and of the machine's own rates, ratios by round."""

from __future__ import annotations

import gc
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch

from steepest.core.errors import BadInput, SteepestError
from steepest.lab.bench import rates
from steepest.lab.bench.deciles import summary
from steepest.lab.bench.entries import Candidate, Entry, Weights
from steepest.lab.bench.machine import described, free_memory
from steepest.lab.bench.shapes import Shapes
from steepest.lab.bench.timing import Block, Rounds, interleaved, ratios

FORMAT = 1
PREPARING = 0.6
"""Share of a limited time after which no further candidate is made ready, so that rounds are left."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """Where and how: ``rounds`` of blocks, none begun after ``until`` (of ``time.monotonic``)."""

    device: torch.device
    dtype: torch.dtype
    threads: int
    rounds: int
    until: float = math.inf


def measure(
    candidates: Sequence[Candidate],
    shapes: Shapes,
    setting: Setting,
    command: str,
    tell: Tell = lambda words: None,
) -> dict[str, Any]:
    """The result as JSON-able data; the first candidate is the reference of ``over_reference``.

    A candidate that cannot be built or breaks in its first steps is left out and listed under ``skipped`` with the
    reason. Ctrl-C during the rounds keeps what they gave.

    Raises: BadInput if the memory does not suffice; SteepestError if no candidate could run.
    """
    check_memory(candidates, shapes, setting)
    weights = shapes.allocated(setting.device, setting.dtype)
    entries, skipped = ready(candidates, weights, setting, tell)
    if not entries:
        raise SteepestError(
            "; ".join(f"{row['name']}: {row['reason']}" for row in skipped) or "nothing to measure"
        )
    probes = _probes(list(entries.values()), shapes, setting, tell)
    actions: dict[str, Callable[[], Block]] = {name: entry.block for name, entry in entries.items()}
    actions |= {probe.what: _probe_block(probe, setting.device) for probe in probes.values()}
    rounds = interleaved(actions, setting.rounds, until=setting.until, tell=tell)
    return {
        "format": FORMAT,
        "command": command,
        **described(setting.device),
        "setting": {
            "device": str(setting.device),
            "dtype": str(setting.dtype).removeprefix("torch."),
            "threads": setting.threads,
            "rounds": max(len(blocks) for blocks in rounds.blocks.values()),
            "ended": rounds.ended,
        },
        "model": {"source": shapes.source, "tensors": len(shapes.named), "weights": shapes.weights},
        "rates": [_rate_row(key, probe, rounds) for key, probe in probes.items()],
        "entries": [_row(name, entry, entries, probes, rounds, shapes) for name, entry in entries.items()],
        "skipped": skipped,
    }


def check_memory(candidates: Sequence[Candidate], shapes: Shapes, setting: Setting) -> None:
    """All entries stand at once. Raises: BadInput before anything is allocated."""
    needed = sum(c.state for c in candidates) + 4 * shapes.weights * setting.dtype.itemsize
    if needed > (there := free_memory(setting.device)):
        raise BadInput(
            f"these {len(candidates)} optimizers of {shapes.weights:,} weights need {needed / 2**30:.1f} GiB, and "
            f"{there / 2**30:.1f} GiB are free: name fewer optimizers or engines, or a smaller model"
        )


def ready(
    candidates: Sequence[Candidate], weights: Weights, setting: Setting, tell: Tell
) -> tuple[dict[str, Entry], list[dict[str, str]]]:
    """Each candidate built and past its first steps, by a name of its own; and those that could not be."""
    entries, skipped = dict[str, Entry](), []
    began = time.monotonic()
    last = began + PREPARING * (setting.until - began)
    for candidate in candidates:
        name = f"{candidate.name} {candidate.engine}".strip()
        if entries and time.monotonic() > last:
            skipped.append({"name": name, "reason": "no time was left to begin it"})
            continue
        tell(f"first steps of {name}")
        try:
            with nullcontext() if candidate.engine else silent():
                entries[name] = Entry(candidate, weights, setting.device)
        except Exception as error:  # a foreign optimizer may raise anything at all
            reason = f"{'' if isinstance(error, SteepestError) else type(error).__name__ + ': '}{error}"
            skipped.append({"name": name, "reason": reason.partition("\n")[0][:300]})
            tell(f"left out: {name}: {skipped[-1]['reason']}")
            gc.collect()
    return entries, skipped


@contextmanager
def silent() -> Iterator[None]:
    """Without what other packages and their compilers say of themselves."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


Key = tuple[int, tuple[str, ...]]
STREAM: Key = (0, ())


def _probes(entries: Sequence[Entry], shapes: Shapes, setting: Setting, tell: Tell) -> dict[Key, rates.Probe]:
    tell("rates of this machine")
    # What AdamW holds: weight, gradient and two moments.
    probes = {STREAM: rates.stream(16.0 * shapes.weights, setting.device)}
    for key in dict.fromkeys(key for entry in entries for key in entry.work.products):
        probes[key] = rates.products(*key, setting.device)
    return probes


def _probe_block(probe: rates.Probe, device: torch.device) -> Callable[[], Block]:
    return lambda: probe.block(device)


def _rate_row(key: Key, probe: rates.Probe, rounds: Rounds) -> dict[str, Any]:
    blocks = rounds.blocks[probe.what]
    kind = {"kind": "stream"} if key == STREAM else {"kind": "products", "side": key[0], "types": list(key[1])}
    return {
        **kind,
        "what": probe.what,
        "amount": probe.amount,
        "per_second": summary([rates.rate(probe, block) for block in blocks]),
        "seconds": [block.mean for block in blocks],
    }


def _row(
    name: str,
    entry: Entry,
    entries: Mapping[str, Entry],
    probes: Mapping[Key, rates.Probe],
    rounds: Rounds,
    shapes: Shapes,
) -> dict[str, Any]:
    blocks, candidate = rounds.blocks[name], entry.candidate
    bounds = bounds_by_round(entry, probes, rounds)
    larger = [max(pair) for pair in bounds]
    means = [block.mean for block in blocks]
    moving, multiplying = (summary([pair[side] for pair in bounds]) for side in (0, 1))
    return {
        "name": name,
        "label": candidate.name,
        "spec": candidate.spec,
        "engine": candidate.engine,
        "steps": candidate.steps,
        "step": summary(means),
        "ns_per_weight": {key: 1e9 * value / shapes.weights for key, value in summary(means).items()},
        "processor": summary([block.processor for block in blocks]),
        "slowest": max((max(block.seconds) for block in blocks), default=None),
        "bound": {
            "bytes": entry.work.bytes,
            "flops": entry.work.flops,
            "bytes_seconds": moving.get("median"),
            "products_seconds": multiplying.get("median"),
            "seconds": summary(larger).get("median"),
        },
        "over_bound": summary([mean / bound for mean, bound in zip(means, larger, strict=False)]),
        "over_reference": summary(ratios(blocks, rounds.blocks[next(iter(entries))])),
        "state_bytes": entry.state_bytes,
        "extra_bytes": entry.extra,
        "first_step": entry.first_step,
        "seconds": [[float(f"{value:.4g}") for value in block.seconds] for block in blocks],
        "processor_seconds": [block.processor for block in blocks],
    }


def bounds_by_round(entry: Entry, probes: Mapping[Key, rates.Probe], rounds: Rounds) -> list[tuple[float, float]]:
    """Least seconds for the bytes and for the products of one step, at the rates of each round."""
    found = []
    by_key = {key: rounds.blocks[probe.what] for key, probe in probes.items()}
    for number in range(min(map(len, by_key.values()))):
        speed = {key: rates.rate(probes[key], by_key[key][number]) for key in probes}
        found.append(entry.work.seconds(speed[STREAM], speed))
    return found
