"""Fine-tuning by losses alone: accuracy for the same forward passes, and peak memory beside inference and AdamW.

    python benchmarks/zeroth.py [--threads 1] [--device cpu] [--only memory]

A decoder of 20k weights first reads made reviews that end in a verdict ("We liked it."), then is fine-tuned on
MeZO's prompt, "It was" great, terrible; what is tested are pairs of thing and adjective that fine-tuning never
saw. Each method gets the same number of forward passes, a backward pass counting as two. Learning rates are the
best of three by the training loss at the end; two more seeds follow. Peak memory is that of a process of its
own, above what it held with the model alone (on a GPU the allocator's peak).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _script import RESULTS, save, tell

import steepest
from steepest.lab import finetune
from steepest.lab.bench.figure import asset
from steepest.lab.model import Decoder
from steepest.lab.presets import preset
from steepest.lab.report.svg import Board, Scale
from steepest.zeroth.ways import WAYS

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "zeroth.svg"
MODEL, PRETRAINING, BATCH = "20k", 300, 32
FORWARDS = 2000
TRAIN, TEST = 512, 400
METHODS: dict[str, tuple[float, ...]] = {
    "mezo": (1e-4, 3e-4, 1e-3),
    "zo-sgd-mmt": (3e-5, 1e-4, 2e-4),
    "zo-sgd-sign": (1e-3, 3e-3, 1e-2),
    "zo-sgd-cons": (3e-4, 1e-3, 2e-3),
    "zo-adam": (1e-3, 3e-3, 1e-2),
    "zo-sparse": (1e-3, 3e-3, 1e-2),
    "zo-block": (1e-3, 3e-3, 1e-2),
    "zo-fo": (1e-4, 3e-4, 1e-3),
    "adamw": (3e-4, 1e-3, 3e-3),
}
"""Learning rates by method; zo-fo moves the head by AdamW with three times its own."""
SEEDS = (0, 1, 2)


def pretrained(encode: Callable[[str], list[int]]) -> Decoder:
    model = Decoder(replace(preset(MODEL), vocab=len(finetune.vocabulary()) + 1), 0)
    optimizer, text = steepest.AdamW(model, lr=4e-3), finetune.prose(BATCH * PRETRAINING, 0)
    for t in range(PRETRAINING):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - t / PRETRAINING)
        ids = [torch.tensor(encode(line)) for line in text[BATCH * t : BATCH * (t + 1)]]
        loss = model.loss(torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tell(f"pretrained: {loss.item():.2f} nats a word")
    return model


def built(name: str, model: Decoder, lr: float, seed: int) -> Any:
    if name == "adamw":
        return steepest.AdamW(model, lr=lr)
    more = {"first_order": steepest.AdamW([("head", model.head.weight)], lr=3 * lr)} if name == "zo-fo" else {}
    return WAYS[name](model, lr=lr, seed=seed, **more)


def finetuned(
    start: Decoder, name: str, lr: float, seed: int, examples: list[finetune.Example], test: finetune.Rows
) -> dict[str, Any]:
    """One run: loss and accuracy on the test reviews by forward passes."""
    encode, model = finetune.encoder(), copy.deepcopy(start)
    optimizer = built(name, model, lr, seed)
    order = torch.Generator().manual_seed(seed)
    done, curve, losses, began = 0, [], [], time.monotonic()
    while done < FORWARDS:
        chosen = torch.randint(len(examples), (BATCH,), generator=order).tolist()
        given = finetune.rows([examples[i] for i in chosen], encode)
        if name == "adamw":
            loss = finetune.objective(model, given)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            done, value = done + 3, loss.item()
        else:
            value = optimizer.step(lambda given=given: finetune.objective(model, given))
            done += len(optimizer.losses) + (3 if name == "zo-fo" else 0)
        losses.append(value)
        if not curve or done - curve[-1][0] >= FORWARDS / 25:
            with torch.no_grad():
                curve.append((done, finetune.objective(model, test).item(), finetune.accuracy(model, test)))
    last = losses[-max(1, len(losses) // 10) :]
    return {
        "name": name,
        "lr": lr,
        "seed": seed,
        "steps": len(losses),
        "training_loss": round(sum(last) / len(last), 4),
        "accuracy": round(finetune.accuracy(model, test), 4),
        "seconds": round(time.monotonic() - began, 2),
        "curve": [[n, round(loss, 4), round(share, 4)] for n, loss, share in curve],
    }


def learning(names: list[str], before: dict[str, Any]) -> dict[str, Any]:
    """What these methods learn; the others keep their numbers."""
    encode = finetune.encoder()
    start, examples = pretrained(encode), finetune.sentiment(TRAIN, 0)
    test = finetune.rows(finetune.sentiment(TEST, 1, held_out=True), encode)
    found: dict[str, Any] = {
        "setting": {
            "model": MODEL,
            "weights": sum(p.numel() for p in start.parameters()),
            "pretraining_steps": PRETRAINING,
            "batch": BATCH,
            "forwards": FORWARDS,
            "train": TRAIN,
            "test": TEST,
        },
        "before": finetune.accuracy(start, test),
        "runs": [run for run in before.get("runs", ()) if run["name"] not in names],
        "tried": [run for run in before.get("tried", ()) if run["name"] not in names],
    }
    for name in names:
        rates = METHODS[name]
        tried = [finetuned(start, name, lr, SEEDS[0], examples, test) for lr in rates]
        best = min(tried, key=lambda run: (math.isnan(run["training_loss"]), run["training_loss"]))
        runs = [best, *(finetuned(start, name, best["lr"], seed, examples, test) for seed in SEEDS[1:])]
        found["runs"] += runs
        found["tried"] += [{k: run[k] for k in ("name", "lr", "training_loss", "accuracy")} for run in tried]
        for kept in (found["runs"], found["tried"]):
            kept.sort(key=lambda run: list(METHODS).index(run["name"]))
        shares = [run["accuracy"] for run in runs]
        tell(
            f"{name}: lr {best['lr']:g}, accuracy {' '.join(f'{s:.3f}' for s in shares)}, {best['seconds']:.0f} s"
        )
    return found


# ---- memory

KINDS = ("inference", "mezo", "zo-adam", "sgd", "adamw")
SHAPE = {"cpu": ("10m", 16, 256), "cuda": ("fantastic-130m", 16, 512)}


def measured(kind: str, device: str) -> dict[str, float]:
    """Peak bytes of two steps above the model's own, in this process."""
    name, size, length = SHAPE[device]
    model = Decoder(replace(preset(name), vocab=1024), 0).to(device)
    ids = torch.randint(1024, (size, length + 1), generator=torch.Generator().manual_seed(0)).to(device)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    if device == "cpu":
        with torch.no_grad():
            model(ids[:1, :16])  # what torch itself loads at a first pass is none of a method's
    before, times = used(device), []
    optimizer: Any = None
    if kind in WAYS:
        optimizer = WAYS[kind](model, lr=1e-6)
    elif kind != "inference":
        optimizer = getattr(steepest, {"sgd": "SGD", "adamw": "AdamW"}[kind])(model, lr=1e-6)
    for _ in range(3):
        began = time.monotonic()
        one_step(kind, optimizer, loss)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    return {"weights": weights, "peak": peak(device) - before, "seconds": min(times)}


def one_step(kind: str, optimizer: Any, loss: Callable[[], torch.Tensor]) -> None:
    if kind == "inference":
        with torch.no_grad():
            loss()
    elif kind in WAYS:
        optimizer.step(loss)
    else:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()


def used(device: str) -> float:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return status("VmRSS")


def peak(device: str) -> float:
    return float(torch.cuda.max_memory_allocated()) if device == "cuda" else status("VmHWM")


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(key)).split()[1])


def memory(device: str) -> dict[str, Any]:
    name, size, length = SHAPE[device]
    found = {}
    for kind in KINDS:
        command = [sys.executable, __file__, "--measure", kind, "--device", device, "--threads", "1"]
        # Freed memory goes back at once, so that the peak is what is in use.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[kind] = json.loads(result.stdout.splitlines()[-1])
        above = found[kind]["peak"] / 2**20
        tell(f"{kind}: {above:.0f} MiB above the weights, {found[kind]['seconds']:.2f} s a step")
    return {"model": name, "batch": size, "length": length, "kinds": found}


# ---- the figure


def drawn(record: dict[str, Any]) -> Board:
    """Accuracy by forward passes, and peak memory in bars."""
    board = Board(720, 330, "Fine-tuning by losses alone: accuracy by forward passes, and peak memory")
    shown = {"mezo": 1, "zo-adam": 2, "zo-sgd-cons": 3, "adamw": 0}
    x, y = Scale(0, FORWARDS, 48, 330), Scale(0.4, 1.02, 280, 40)
    board.axes(x, y, "forward passes (a backward counts as two)", "accuracy", "{:,.0f}".format, "{:.1f}".format)
    for name, slot in shown.items():
        run = next(run for run in record["learning"]["runs"] if run["name"] == name)
        board.path([(x(n), y(share)) for n, _, share in run["curve"]], f"curve c{slot}")
        board.text({"mezo": 70, "zo-adam": 122, "zo-sgd-cons": 190, "adamw": 284}[name], 14, name, f"name c{slot}")
    kinds = record["memory"]["cpu"]["kinds"]
    most = max(row["peak"] + row["weights"] for row in kinds.values())
    bars = Scale(0, most, 470, 650)
    for place, (kind, row) in enumerate(kinds.items()):
        top = 50 + 46 * place
        board.text(460, top + 15, kind, "name", "end")
        total = row["weights"] + row["peak"]
        board.add("rect", "mark bar c1", x=bars(0), y=top, width=bars(total) - bars(0), height=20)
        board.text(bars(total) + 6, top + 15, f"{total / 2**20:,.0f} MiB", "value")
    board.text(470, 14, "weights and peak above them", "note")
    return board


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of the processor (1)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the memory (cpu)")
    parser.add_argument("--only", choices=("memory", "learning"), help="this part; the other keeps its numbers")
    parser.add_argument(
        "--methods", nargs="+", default=[*METHODS], choices=[*METHODS], metavar="NAME", help="these"
    )
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "zeroth.json", help="where the results go")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measured(args.measure, args.device)))
        return
    record = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {"memory": {}}
    if args.only != "learning":
        record["memory"][args.device] = memory(args.device)
    if args.only != "memory":
        record["learning"] = learning(args.methods, record.get("learning", {}))
    kept = {key: record[key] for key in ("memory", "learning") if key in record}
    save(
        args.out, {"command": "python benchmarks/zeroth.py", "threads": args.threads, **kept}
    )  # remakes all of it
    if "learning" in record and "cpu" in record["memory"]:
        FIGURE.write_text(drawn(record).standalone(asset("figures.css")), encoding="utf-8")


if __name__ == "__main__":
    main()
