"""The process around a run: device, threads, generators, determinism, compiler, interrupts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.engines import why_not_compiled
from steepest.inside_backward import Release
from steepest.lab.heap import keep_freed_memory
from steepest.lab.model import Decoder


@contextmanager
def reproducible(device: torch.device, seed: int, threads: int) -> Iterator[None]:
    """Threads, generators and determinism as the run wants them, and as they were afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        keep_freed_memory()
        if device.type == "cuda":
            # cuBLAS repeats its bits only with a fixed workspace.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])


def device(name: str) -> torch.device:
    """The device of that name. Raises BadInput when there is none such here."""
    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"device {name!r} cannot be used here: take cpu, or see `steepest info`") from error
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def compile_model(model: Decoder) -> None:
    """The model through torch.compile, in place. Raises BadInput on a machine that lacks the compiler."""
    if missing := why_not_compiled():
        raise BadInput(f"compile=true cannot run here: {missing}; or leave it out")
    model.compile()


def now(device: torch.device) -> float:
    """Seconds on a clock, after all that the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 arithmetic where the run's precision asks for it."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)


def backward(
    model: Decoder, sequences: Tensor, accumulation: int, precision: str, released: Release | None = None
) -> tuple[float, float]:
    """Gradients of the mean over the batch; returns (cross-entropy, objective), nats/token. ``released``: the last
    part's backward also moves the weights."""
    parts = sequences.chunk(accumulation)
    loss = objective = 0.0
    for number, part in enumerate(parts, start=1):
        with autocast(sequences.device, precision):
            output = model.loss(part)
            share = output.loss / len(parts)
        if released is None:
            share.backward()
        else:
            with released.accumulate() if number < len(parts) else nullcontext():
                released.backward(share)
        loss += output.nll.item() / len(parts)
        objective += share.item()
    return loss, objective


def generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's own generators, for optimizers that draw from them."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Puts :func:`generators`'s states back."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """A first Ctrl-C or SIGTERM sets the event: the step ends in a checkpoint. A second acts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: Any) -> None:
        for known, old in before.items():
            signal.signal(known, old)
        event.set()

    for number in before:
        signal.signal(number, handler)
    try:
        yield event
    finally:
        for number, old in before.items():
            signal.signal(number, old)
