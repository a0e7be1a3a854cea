"""What the scripts share: their options, a line of progress, results written whole and after every stage."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from steepest.engines import ENGINES, why_not_compiled
from steepest.lab import runtime
from steepest.lab.bench import table
from steepest.lab.bench.deciles import summary
from steepest.lab.bench.entries import contenders
from steepest.lab.bench.machine import described
from steepest.lab.bench.measure import Setting, ready
from steepest.lab.bench.shapes import shapes_of
from steepest.lab.bench.timing import interleaved
from steepest.lab.cluster.local import cores
from steepest.lab.heap import keep_freed_memory

BEGAN = time.monotonic()
RESULTS = Path(__file__).parent / "results"
FEW, MANY = 40, 240
PATIENCE = 10.0


def options(doc: str, name: str, rounds: int = 20, device: bool = True) -> argparse.ArgumentParser:
    """--rounds, --threads, --device where the script has a choice, and --out; with the script's own text."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"of all in turn ({rounds})")
    parser.add_argument("--threads", type=int, default=cores(), help="of the processor (all cores)")
    if device:
        parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="where the results go")
    return parser


def setting(args: argparse.Namespace, dtype: torch.dtype = torch.float32, until: float = math.inf) -> Setting:
    """The setting that the options name; the process gets its threads, as a run of the lab does."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    # What ends a script from outside ends its rounds, and what they gave is written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return Setting(runtime.device(getattr(args, "device", "cpu")), dtype, args.threads, args.rounds, until)


def shown(result: dict[str, Any]) -> None:
    """Prints the table; ends the script where Ctrl-C has ended the rounds."""
    print("\n".join(table.lines(result)), "\n", flush=True)
    if result["setting"]["ended"] == "Ctrl-C":
        raise SystemExit(130)


def command() -> str:
    """What was typed, from the repository's root."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def tell(words: str, told: list[float] = [BEGAN]) -> None:  # noqa: B006 - the time of the last line
    """One line of progress with the minutes gone; of rounds one in some seconds."""
    now = time.monotonic()
    if words.startswith("round ") and now - told[0] < PATIENCE:
        return
    told[0] = now
    minutes, seconds = divmod(int(now - BEGAN), 60)
    print(f"{minutes:3d}:{seconds:02d}  {words}", file=sys.stderr, flush=True)


def save(path: Path, record: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """The record under a head that says what it was made on and with which command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"command": command(), **described(device), **record}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    temporary.replace(path)


def engines_here() -> list[str]:
    """Every engine that can run on this machine, and "auto", which chooses among them."""
    return ["auto"] + [name for name in ENGINES if name != "compiled" or not why_not_compiled()]


def overhead(specs: Sequence[str], engines: Sequence[str], one: str, where: Setting) -> dict[str, Any]:
    """Seconds that one more tiny tensor of shape ``one`` costs: the slope between two counts of them, by round."""
    both = {}
    for count in (FEW, MANY):
        shapes = shapes_of(f"{one}:{count}")
        chosen = [
            c
            for c in contenders(specs, engines, shapes, where.dtype, True)
            if c.engine or c.name.startswith("torch ")
        ]
        both[count], _ = ready(chosen, shapes.allocated(where.device, where.dtype), where, tell)
    actions = {
        f"{count} {name}": entry.block for count, entries in both.items() for name, entry in entries.items()
    }
    rounds = interleaved(actions, where.rounds, until=where.until)
    rows = []
    for name in both[FEW]:
        few, many = (rounds.blocks.get(f"{count} {name}", []) for count in (FEW, MANY))
        slopes = [(b.mean - a.mean) / (MANY - FEW) for a, b in zip(few, many, strict=False)]
        rows.append({"name": name, "per_tensor": summary(slopes), "seconds": slopes})
    return {"tensor": one, "counts": [FEW, MANY], "rows": rows}
