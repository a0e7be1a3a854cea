"""Seconds of one optimizer step beside torch's fused and foreach AdamW, all in turn, on one thread.

    python benchmarks/optimizer_step.py [--models 50k 1m] [--rounds 20] [--out FILE]

Each round times a block of steps of every contender on its own copy of the model, with fixed gradients, in an
order that is turned by one from round to round; the figure is the median over rounds of the ratio to torch's fused
AdamW of the same round. Compilation is not in it. The results hold every block.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import steepest
from steepest.lab.heap import keep_freed_memory
from steepest.lab.model import Decoder
from steepest.lab.presets import preset

Make = Callable[[torch.nn.Module], torch.optim.Optimizer]
PEER = "torch AdamW fused"
CONTENDERS: dict[str, Make] = {
    PEER: lambda m: torch.optim.AdamW(m.parameters(), fused=True),
    "torch AdamW foreach": lambda m: torch.optim.AdamW(m.parameters(), foreach=True),
    "AdamW loop": lambda m: steepest.AdamW(m, engine="loop"),
    "AdamW batched": lambda m: steepest.AdamW(m, engine="batched"),
    "AdamW compiled": lambda m: steepest.AdamW(m, engine="compiled"),
    "SGD batched": lambda m: steepest.SGD(m, momentum=0.9, engine="batched"),
    "Lion batched": lambda m: steepest.Lion(m, engine="batched"),
    "Signum batched": lambda m: steepest.Signum(m, engine="batched"),
    "Muon batched": lambda m: steepest.Muon(m, engine="batched"),
    "SOAP batched, vocabulary unrotated": lambda m: steepest.SOAP(m, max_precond_dim=1023, engine="batched"),
}


def with_gradients(model: torch.nn.Module, make: Make) -> torch.optim.Optimizer:
    own = copy.deepcopy(model)
    for p in own.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / 100
    return make(own)


def block(optimizer: torch.optim.Optimizer, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.step()
    return (time.perf_counter() - start) / steps


def measured(model: torch.nn.Module, rounds: int, steps: int = 10) -> dict[str, list[float]]:
    """Seconds per step of each contender, by round; ten steps hold one refresh of SOAP's bases."""
    optimizers = {name: with_gradients(model, make) for name, make in CONTENDERS.items()}
    for optimizer in optimizers.values():
        block(optimizer, 2 * steps)
    names, found = list(optimizers), {name: [] for name in optimizers}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(block(optimizers[name], steps))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["50k", "1m"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "optimizer_step.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    told = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        "models": {},
    }
    for name in args.models:
        model = Decoder(preset(name))
        weights, tensors = sum(p.numel() for p in model.parameters()), len(list(model.parameters()))
        found = measured(model, args.rounds)
        told["models"][name] = {"weights": weights, "tensors": tensors, "seconds": found}
        print(f"{name}: {weights:,} weights in {tensors} tensors")
        for contender, seconds in found.items():
            ratios = sorted(s / p for s, p in zip(seconds, found[PEER], strict=True))
            tenth = len(ratios) // 10
            median, ratio = statistics.median(seconds) * 1e3, statistics.median(ratios)
            spread = f"({ratios[tenth]:.2f} to {ratios[-1 - tenth]:.2f})"
            print(f"  {contender:36s} {median:8.3f} ms  {ratio:6.2f} x fused  {spread}")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
