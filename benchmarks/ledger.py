"""How long it takes to list recorded runs: first, again, after one more, and as runs for an analysis.

    python benchmarks/ledger.py [--runs 100000] [--rounds 5] [--records FOLDER]

Records as `steepest train` writes them (header with the rule's text, result, three rows) are made up in a
temporary folder: eight optimizers, three sizes, their grids of rates, seeds; a few diverged, a few half done.
Every listing is a process of its own, as a user starts one. Beside it, in the same rounds, stand the least that
anybody must do without an index, open and parse the header and the result of every record, and the least with one,
look at the folder and at both files' times. Told are seconds on the wall and, for a machine that is shared, of the
processor, all processes together; ratios are of the latter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
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
    parser.add_argument(
        "--records", type=Path, metavar="FOLDER", help="make them here, or take those that are here"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steepest-ledger-") as folder:
        runs = args.records or Path(folder) / "runs"
        if not runs.exists():
            write(runs, args.runs)
        files = [path for name in (record.HEADER, record.RESULT) for path in runs.glob(f"*/{name}")]
        count, size = len(record.list_runs(runs)), sum(file.stat().st_size for file in files)
        rounds = [measured(runs, place) for place in range(args.rounds)]
    rows = [
        {"what": what} | {clock: summary([one[what][clock] for one in rounds]) for clock in ("wall", "processor")}
        for what in rounds[0]
    ]
    ratios = {
        f"{what} / {other}": summary([one[what]["processor"] / one[other]["processor"] for one in rounds])
        for what, other in ((FIRST, PARSED), (AGAIN, LOOKED), (RUNS, LOOKED))
    }
    for row in rows:
        wall, processor = row["wall"]["median"], row["processor"]["median"]
        print(f"{row['what']:36s} {wall:7.2f} s, {processor:7.2f} s of the processor")
    for name, row in ratios.items():
        print(f"{name:64s} {row['median']:.2f}  ({row['low']:.2f} to {row['high']:.2f})")
    save(args.out, {"runs": count, "bytes": size, "rows": rows, "ratios": ratios, "rounds": rounds})


# ---- records


def write(runs: Path, count: int) -> None:
    """``count`` records under ``runs``."""
    draw = random.Random(0)
    manifest = {"identity": "0" * 64, "vocab_size": 1024, "source": "stdlib"}
    cells = [
        plan(RunConfig.from_mapping({"optimizer": spec, "model": size, "ratio": ratio}), manifest)
        for spec, size, ratio in product(OPTIMIZERS, SIZES, (1, 2, 4, 8))
    ]
    for place in range(count):
        write_one(runs, cells[place % len(cells)], manifest, place // len(cells), draw)
        if place % 10_000 == 9_999:
            tell(f"{place + 1:,} records written")


def write_one(runs: Path, cell: Plan, manifest: dict[str, Any], place: int, draw: random.Random) -> None:
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
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=1))
    (folder / record.ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))


# ---- timing

PARSED, LOOKED = "opened and parsed, no index", "looked at alone"
FIRST, AGAIN, LATER, RUNS = "first listing", "again", "again, one record later", "as runs for an analysis"
LEAST = {
    PARSED: """import json, os, sys
for run in os.scandir(sys.argv[1]):
    for name in ("header.json", "result.json"):
        try:
            with open(f"{run.path}/{name}", "rb", buffering=0) as file:
                json.loads(file.read())
        except FileNotFoundError:
            pass
""",
    LOOKED: """import os, sys
for run in os.scandir(sys.argv[1]):
    for name in ("header.json", "result.json"):
        try:
            os.stat(f"{run.path}/{name}")
        except FileNotFoundError:
            pass
""",
}
LISTING = "import sys; from steepest.cli import main; sys.exit(main())"
READING = "import sys; from steepest.lab.ledger import read_runs; print(len(read_runs(sys.argv[1]).runs))"


def measured(runs: Path, place: int) -> dict[str, dict[str, float]]:
    """Seconds of each, every one in a process of its own."""
    tell(f"round {place + 1}")
    (runs / NAME).unlink(missing_ok=True)
    found = {what: timed(["-c", code, str(runs)]) for what, code in LEAST.items()}
    for what in (FIRST, AGAIN):
        found[what] = timed(["-c", LISTING, "runs", str(runs)])
    one = next(path for path in sorted(runs.iterdir()) if (path / record.RESULT).exists())
    (one / record.RESULT).touch()
    found[LATER] = timed(["-c", LISTING, "runs", str(runs)])
    found[RUNS] = timed(["-c", READING, str(runs)])
    return found


def timed(words: list[str]) -> dict[str, float]:
    """Seconds of a Python process: on the wall, and of the processor, what it starts among it."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


if __name__ == "__main__":
    main()
