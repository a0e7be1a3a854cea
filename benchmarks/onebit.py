"""Bytes on the wire against loss: dense Adam, 1-bit Adam, and torch's PowerSGD hook, each over gloo processes.

    python benchmarks/onebit.py [--world 4] [--steps 300] [--model 20k]

The same small decoder, batches and seeds for all: each of the workers has its share of every batch. Every method
is run at learning rates around its best (cosine after a warm-up of a twentieth), and that one is told. All use
dense means for the same first fifth of the steps: 1-bit Adam until its variance freezes, PowerSGD by its
start_powerSGD_iter, under torch's AdamW. Bytes are what one worker sends (a sum as a ring makes it, others
directly), counted where torch.distributed is called, for all methods alike.

A few minutes on two cores; docs/one-bit-adam.svg is the figure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _script import RESULTS, save, tell
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import steepest
from steepest.lab.batches import batch, validation_batches
from steepest.lab.bench.figure import asset
from steepest.lab.corpus import DEFAULT_ROOT, Corpus, CorpusConfig, prepare
from steepest.lab.model import Decoder
from steepest.lab.presets import preset
from steepest.lab.report.svg import Board, Scale, color
from steepest.schedules import schedule

FIGURE = Path(__file__).parents[1] / "docs" / "one-bit-adam.svg"
BATCH, SEQ, SEED, WARM, SHARE = 16, 64, 0, 0.2, 0.05
CORPUS = CorpusConfig(tokenizer="bytes", max_bytes=4 << 20)
COMMON = {"betas": (0.9, 0.999), "weight_decay": 0.1}
METHODS: dict[str, dict[str, Any]] = {
    "dense Adam": {"compress": False},
    "1-bit Adam": {},
    "1-bit Adam, one joined vector": {"fusion": "joined"},
    "1-bit Adam, not bounded": {"bounded": False},
    "1-bit Adam, as published": {"variant": "official"},
    "PowerSGD, rank 1": {"rank": 1},
    "PowerSGD, rank 4": {"rank": 4},
}


class Objective(torch.nn.Module):
    """A model as DistributedDataParallel wants it: what it is called for is what is differentiated."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        return self.model.loss(sequences).loss


class Counted:
    """Counts what this process hands to torch.distributed's collectives."""

    def __init__(self, world: int) -> None:
        self.bytes, self.world = 0, world
        for name, factor in (
            ("all_reduce", 2 / world),
            ("all_to_all_single", 1 / world),
            ("all_gather_single", 1),
        ):
            if hasattr(dist, name):
                setattr(dist, name, self.counting(getattr(dist, name), int(name == "all_to_all_single"), factor))

    def counting(self, call: Any, place: int, factor: float) -> Any:
        def counted(*tensors: Any, **more: Any) -> Any:
            x = tensors[1] if call.__name__ != "all_reduce" else tensors[place]
            self.bytes += int(factor * x.numel() * x.element_size()) * (self.world - 1)
            return call(*tensors, **more)

        return counted


def worker(rank: int, args: argparse.Namespace, meeting: str, out: str) -> None:
    """One process of all runs, one after the other; the first writes what came of each."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=args.world, timeout=timedelta(minutes=3)
    )
    counted = Counted(args.world)
    corpus = prepare(CORPUS, DEFAULT_ROOT)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in args.only:
        for lr in args.lrs:
            curve = trained_with(name, lr, rank, args, corpus, counted)
            found.setdefault(name, []).append({"lr": lr, "curve": curve})
            if rank == 0:
                tell(f"{name}, lr {lr:g}: {curve[-1]}")
                Path(out).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def trained_with(
    name: str, lr: float, rank: int, args: argparse.Namespace, corpus: Corpus, counted: Counted
) -> list[dict[str, Any]]:
    """One run; at the first worker the loss and the bytes sent so far, 20 times."""
    counted.bytes = 0
    model = Decoder(replace(preset(args.model), vocab=corpus.vocab_size), SEED)
    trained: Any = Objective(model)
    options = dict(METHODS[name])
    frozen = round(WARM * args.steps)
    if "rank" in options:
        trained = DistributedDataParallel(Objective(model))
        state = PowerSGDState(None, options["rank"], start_powerSGD_iter=frozen, warm_start=True)
        trained.register_comm_hook(state, powerSGD_hook)
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=lr, **COMMON)
    else:
        optimizer = steepest.OneBitAdam(model, lr=lr, freeze_step=frozen, **COMMON, **options, group="world")
    scheduler = schedule(optimizer, "cosine", total_steps=args.steps, warmup=round(SHARE * args.steps))
    held = validation_batches(corpus, 64, SEQ, 4 * 64 * SEQ)
    curve = []
    for t in range(args.steps):
        part = batch(corpus, seed=SEED, step=t, size=BATCH, seq=SEQ, rank=rank, world=args.world)
        trained(part).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if (t + 1) % (args.steps // 20) == 0 and rank == 0:
            with torch.no_grad():
                loss = sum(model.loss(x).nll.item() for x in held) / len(held)
            curve.append({"step": t + 1, "bytes": counted.bytes, "loss": round(loss, 4)})
    return curve


def run(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every run of every method."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.json"
        mp.spawn(worker, (args, f"{folder}/meeting", out), nprocs=args.world)
        found: dict[str, list[dict[str, Any]]] = json.loads(Path(out).read_text())
        return found


def drawn(record: dict[str, Any]) -> Board:
    """Validation loss over bytes sent, a curve for each method at its best learning rate."""
    best = {name: found["best"]["curve"] for name, found in record["methods"].items()}
    board = Board(760, 400, "Validation loss over the bytes that a worker sends")
    points = [(p["bytes"] / 2**20, p["loss"]) for curve in best.values() for p in curve]
    x = Scale.around([a for a, _ in points], 60, 500, log=True)
    y = Scale.around([b for _, b in points], 340, 34)
    board.axes(
        x, y, "MiB sent by a worker, logarithmic", "validation loss, nats/token", "{:g}".format, "{:g}".format
    )
    for slot, (name, curve) in enumerate(best.items()):
        css = f"c{color(slot)}"
        board.path([(x(p["bytes"] / 2**20), y(p["loss"])) for p in curve], f"curve {css}")
        board.text(516, 52 + 38 * slot, name, f"name {css}")
        board.text(516, 67 + 38 * slot, f"{curve[-1]['bytes'] / 2**20:.1f} MiB, {curve[-1]['loss']:.3f}", "note")
    return board


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, default=4, help="processes (4)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--model", default="20k")
    parser.add_argument("--lrs", type=float, nargs="+", default=[2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2])
    parser.add_argument("--more", action="store_true", help="keep what the results hold, add these runs")
    parser.add_argument("--only", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--out", type=Path, default=RESULTS / "onebit.json", help="where the results go")
    args = parser.parse_args()
    prepare(CORPUS, DEFAULT_ROOT)  # once, before all workers want it
    setting = {"model": args.model, "batch": BATCH, "seq": SEQ, "steps": args.steps, "world": args.world}
    methods: dict[str, Any] = json.loads(args.out.read_text())["methods"] if args.more else {}
    for name, runs in run(args).items():
        told = methods.get(name, {})
        runs += [told["best"]] if told else []
        best = min(runs, key=lambda found: found["curve"][-1]["loss"])
        warm = next(p["bytes"] for p in best["curve"] if p["step"] >= WARM * args.steps) / (WARM * args.steps)
        later = (best["curve"][-1]["bytes"] - warm * WARM * args.steps) / ((1 - WARM) * args.steps)
        final = told.get("final_loss_by_lr", {}) | {str(one["lr"]): one["curve"][-1]["loss"] for one in runs}
        final = dict(sorted(final.items(), key=lambda pair: float(pair[0])))
        methods[name] = {"final_loss_by_lr": final, "best": best, "bytes_a_step": [round(warm), round(later)]}
    whole = {"command": "python benchmarks/onebit.py"}  # which remakes all of it
    save(args.out, {**whole, "setting": setting | {"warm_share": WARM}, "methods": methods})
    if args.out == RESULTS / "onebit.json":
        FIGURE.write_text(drawn({"methods": methods}).standalone(asset("figures.css")), encoding="utf-8")


if __name__ == "__main__":
    main()
