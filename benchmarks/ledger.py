"""How long it takes to list recorded runs: first, again, after one more, and as runs for an analysis.

    python benchmarks/ledger.py [--runs 100000] [--rounds 5]

Records as `steepest train` writes them (header with the rule's text, result, three rows) are made up in a
temporary folder: eight optimizers, three sizes, their grids of rates, seeds; a few diverged, a few half done.
Every listing is a process of its own, as a user starts one. Beside it, in the same rounds, stand the least that
anybody must do without an index, open and parse the header and the result of every record, and the least with one,
look at the folder and at both files' times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from _script import RESULTS, save, tell

from steepest.lab import record
from steepest.lab.bench.deciles import summary
from steepest.lab.config import OptimizerConfig, Plan, RunConfig, plan
from steepest.lab.ledger.index import NAME

OPTIMIZERS = ("adamw", "lion", "muon", "soap", "mars", "sophia", "scion", "kron")
SIZES = ("20k", "50k", "110k")
DONE, SPOILT = 0.985, 0.99
"""Shares of finished ones and, above it, of diverged ones; the rest is half done."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="how many records (100000)")
    parser.add_argument("--rounds", type=int, default=5, help="of all in turn (5)")
    parser.add_argument("--out", type=Path, default=RESULTS / "ledger.json", help="where the results go")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steepest-ledger-") as folder:
        runs = Path(folder) / "runs"
        bytes_written = write(runs, args.runs)
        rounds = [measured(runs, place) for place in range(args.rounds)]
    rows = [{"what": what, **summary([one[what] for one in rounds])} for what in rounds[0]]
    ratios = {
        f"{what} / {least}": summary([one[what] / one[least] for one in rounds])
        for what, least in (("first", PARSED), ("again", LOOKED), ("as runs", LOOKED))
    }
    for row in rows:
        print(f"{row['what']:32s} {row['median']:7.2f} s  ({row['low']:.2f} to {row['high']:.2f})")
    for name, row in ratios.items():
        print(f"{name:60s} {row['median']:.2f}  ({row['low']:.2f} to {row['high']:.2f})")
    save(
        args.out,
        {"runs": args.runs, "bytes": bytes_written, "rows": rows, "ratios": ratios, "rounds": rounds},
    )


# ---- records


def write(runs: Path, count: int) -> int:
    """``count`` records under ``runs``; the bytes of their headers and results."""
    draw, total = random.Random(0), 0
    manifest = {"identity": "0" * 64, "vocab_size": 1024, "source": "stdlib"}
    cells = [
        plan(RunConfig.from_mapping({"optimizer": spec, "model": size, "ratio": ratio}), manifest)
        for spec, size, ratio in product(OPTIMIZERS, SIZES, (1, 2, 4, 8))
    ]
    for place in range(count):
        total += write_one(runs, cells[place % len(cells)], manifest, place // len(cells), draw)
        if place % 10_000 == 9_999:
            tell(f"{place + 1:,} records written")
    return total


def write_one(runs: Path, cell: Plan, manifest: dict[str, Any], place: int, draw: random.Random) -> int:
    """The ``place``-th record of a cell: another rate, or another seed."""
    lr, seed = cell.lr * 2.0 ** (place % 8 - 4), place // 8
    optimizer = cell.determines["optimizer"]
    hyperparameters = optimizer["hyperparameters"] | {"lr": lr}
    made = dataclasses.replace(
        cell,
        config=dataclasses.replace(cell.config, optimizer=OptimizerConfig(cell.contender.name, lr), seed=seed),
        determines=cell.determines | {"optimizer": optimizer | {"hyperparameters": hyperparameters}, "seed": seed},
    )
    folder = runs / made.identity[:16]
    folder.mkdir(parents=True)
    header = {
        "format": record.FORMAT,
        "identity": made.identity,
        "config": made.config.to_mapping(),
        "model": dataclasses.asdict(made.model),
        "parameters": 37_152,
        "lr": lr,
        "steps": made.steps,
        "tokens": made.tokens,
        "seed": seed,
        "corpus": manifest,
        "determines": made.determines,
        "optimizer": made.contender.provenance,
        "sessions": [
            {"step": 0, "time": "2026-01-01T00:00:00+0000", "versions": {}, "hardware": {}, "threads": 1}
        ],
    }
    fate = draw.random()
    step = made.steps if fate < DONE else made.steps // 2
    loss = 3.0 + draw.random()
    times = dict.fromkeys(("forward_backward_seconds", "optimizer_seconds"), 1.0) | {"seconds": 2.0}
    times |= {"estimate_seconds": 0.0, "evaluation_seconds": 0.5}
    tokens = made.config.batch * made.config.seq
    rows = [
        {"step": k, "tokens": k * tokens, "loss": loss, "lr": lr, "gradient_norm": 1.0, "val_loss": loss} | times
        for k in range(max(1, step - 2), step + 1)
    ]
    files = {record.HEADER: header}
    if fate < SPOILT:
        done = fate < DONE
        files[record.RESULT] = {
            "format": record.FORMAT,
            "identity": made.identity,
            "status": "finished" if done else "diverged",
            "reason": None if done else "loss is nan",
            "step": step,
            "steps": made.steps,
            "tokens": step * tokens,
            "lr": lr,
            "loss": loss,
            "val_loss": loss if done else None,
            "val_bits_per_byte": loss if done else None,
            **times,
            "spikes": {},
        }
    size = 0
    for name, value in files.items():
        size += (folder / name).write_text(json.dumps(value, indent=1))
    (folder / record.ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return size


# ---- timing

PARSED = "opened and parsed, no index"
LOOKED = "looked at alone"


def measured(runs: Path, place: int) -> dict[str, float]:
    """Seconds of each, each a process of its own but the two least ones."""
    tell(f"round {place + 1}")
    listing = ["-c", "import sys; from steepest.cli import main; sys.exit(main())", "runs", str(runs)]
    (runs / NAME).unlink(missing_ok=True)
    found = {PARSED: parsed(runs), LOOKED: looked(runs)}
    for what in ("first", "again"):
        found[what] = timed(listing)
    one = next(path for path in sorted(runs.iterdir()) if (path / record.RESULT).exists())
    (one / record.RESULT).touch()
    found["after one more"] = timed(listing)
    code = "import sys; from steepest.lab.ledger import read_runs; print(len(read_runs(sys.argv[1]).runs))"
    found["as runs"] = timed(["-c", code, str(runs)])
    return found


def timed(words: list[str]) -> float:
    """Seconds of a Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def parsed(runs: Path) -> float:
    """Every header and result opened and parsed, and thrown away."""
    began = time.perf_counter()
    with os.scandir(runs) as entries:
        for entry in entries:
            for name in (record.HEADER, record.RESULT):
                path = f"{entry.path}/{name}"
                with suppress(FileNotFoundError, NotADirectoryError), open(path, "rb", buffering=0) as file:
                    json.loads(file.read())
    return time.perf_counter() - began


def looked(runs: Path) -> float:
    """Every folder listed, its two files asked for their times."""
    began = time.perf_counter()
    with os.scandir(runs) as entries:
        for entry in entries:
            for name in (record.HEADER, record.RESULT):
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.stat(f"{entry.path}/{name}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
