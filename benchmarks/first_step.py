"""How long the first step takes in fresh processes: the compilers' caches empty, then filled.

    python benchmarks/first_step.py [--models 1m gpt2] [--optimizers adamw muon] [--repeats 3]

Each repeat is two processes with a cache folder of their own: the first finds it empty (cold), the second finds
what the first left there (warm). The seconds are those of ``optimizer.step()`` alone: imports, weights and
optimizer stand before it. The step after it tells whether anything is left to compile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _script import options, save, setting, tell

from steepest.lab.bench import table
from steepest.lab.bench.deciles import summary
from steepest.lab.bench.entries import candidates
from steepest.lab.bench.shapes import shapes_of
from steepest.lab.bench.timing import once

CACHES = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def child(args: argparse.Namespace) -> None:
    """Prints the seconds of the first step and of the second, as JSON."""
    where = setting(args)
    shapes = shapes_of(args.models[0])
    (candidate,) = candidates(args.optimizers[0], args.engines, shapes, where.dtype)
    (optimizer,) = candidate.build(shapes.allocated(where.device, where.dtype))
    print(json.dumps([once(optimizer.step, where.device) for _ in range(2)]))


def run(args: argparse.Namespace, model: str, spec: str, engine: str, cache: Path) -> list[float]:
    """First and second step of a fresh process whose compiler keeps its results under ``cache``."""
    same = ["--engines", engine, "--threads", str(args.threads), "--device", args.device]
    command = [sys.executable, __file__, "--child", "--models", model, "--optimizers", spec, *same]
    environment = os.environ | {name: str(cache / name.lower()) for name in CACHES}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"first step of {spec} on {model}: {done.stderr.strip().splitlines()[-1]}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    parser = options(__doc__, "first_step")
    parser.add_argument("--models", nargs="+", default=["1m", "gpt2"], help="presets, gpt2, files or shapes")
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon"], help="as steepest race takes them")
    parser.add_argument("--engines", nargs="+", default=["auto", "compiled"])
    parser.add_argument("--repeats", type=int, default=3, help="pairs of fresh processes (3)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    rows: list[dict[str, Any]] = []
    for model in args.models:
        shapes = shapes_of(model)
        for spec, engine in itertools.product(args.optimizers, args.engines):
            raw: dict[str, list[list[float]]] = {"cold": [], "warm": []}
            for repeat in range(args.repeats):
                tell(f"{spec} on {model}, {engine}, pair {repeat + 1} of {args.repeats}")
                with tempfile.TemporaryDirectory() as folder:
                    for kind in raw:
                        raw[kind].append(run(args, model, spec, engine, Path(folder)))
            first = {kind: summary([pair[0] for pair in pairs]) for kind, pairs in raw.items()}
            row = {"model": model, "tensors": len(shapes.named), "weights": shapes.weights, "optimizer": spec}
            rows.append({**row, "engine": engine, **first, "raw": raw})
            save(args.out, {"rows": rows}, args.device)
            cold, warm = (table.seconds(first[kind]["median"]) for kind in raw)
            print(f"{model:>6s} {spec:8s} {engine:8s} first step {cold} cold, {warm} warm", flush=True)


if __name__ == "__main__":
    main()
