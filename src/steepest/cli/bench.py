"""Time optimizer steps on your model's shapes: every step beside what this machine must take for it, and beside
torch's fused AdamW, in rounds of all in turn. Ctrl-C keeps what was measured.

Exit status: 0 done, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput

if TYPE_CHECKING:
    from steepest.lab.bench.measure import Tell

SUMMARY = "time optimizer steps on your model's shapes against the machine's bound"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "optimizers",
        nargs="*",
        metavar="OPTIMIZER",
        help="muon, muon:momentum=0.9, ./mine.py:MyRule, torch:AdamW (all built-in rules)",
    )
    add(
        "--model",
        default="1m",
        metavar="MODEL",
        help="gpt2, a preset, a checkpoint (.safetensors, .pt, folder) or shapes such as 768x3072:24,768:50 (1m)",
    )
    add("--engine", default="auto", metavar="NAME[,NAME]", help="loop, batched, compiled, ... or all (auto)")
    add("--rounds", type=int, default=10, help="of a block of steps of each in turn (10)")
    add("--threads", type=int, help="of the processor (all cores)")
    add("--device", default="cpu", help="cpu, cuda, ... (cpu)")
    add("--dtype", default="float32", help="of the weights: float32 or bfloat16 (float32)")
    add("--peers", action="store_true", help="other packages' forms of the same rules, as far as installed")
    add("--out", type=Path, metavar="FOLDER", help="write bench.html, bench.svg and bench.json there")
    add("--json", action="store_true", help="print JSON instead of the table")


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    import torch

    from steepest.lab.bench import figure, table
    from steepest.lab.bench.entries import contenders
    from steepest.lab.bench.measure import measure
    from steepest.lab.bench.shapes import shapes_of
    from steepest.registry import rules

    setting = _setting(args)
    shapes, dtype = shapes_of(args.model), setting.dtype
    engines = _engines(args.engine)
    chosen = list(dict.fromkeys(args.optimizers)) or list(rules())
    entries = contenders(chosen, engines, shapes, dtype, args.peers)
    before = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        with _line() as tell:
            result = measure(entries, shapes, setting, shlex.join(["steepest", *sys.argv[1:]]), tell)
    finally:
        torch.set_num_threads(before)
    written = figure.write(result, args.out) if args.out else []
    if args.json:
        print(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        print("\n".join(table.lines(result)))
        print(
            "\n"
            + (f"{written[-1]}: the picture and the numbers" if written else "--out FOLDER draws it as a page")
        )
    return 130 if result["setting"]["ended"] else 0


def _setting(args: argparse.Namespace) -> Any:
    import torch

    from steepest.lab import runtime
    from steepest.lab.bench.measure import Setting
    from steepest.lab.cluster.local import cores

    threads = cores() if args.threads is None else args.threads
    for name, value in (("rounds", args.rounds), ("threads", threads)):
        if value < 1:
            raise BadInput(f"--{name} {value}: give at least 1")
    if args.dtype not in ("float32", "bfloat16"):
        raise BadInput(f"--dtype {args.dtype}: give float32 or bfloat16")
    return Setting(runtime.device(args.device), getattr(torch, args.dtype), threads, args.rounds)


def _engines(written: str) -> list[str]:
    """The engines by name; "auto" and all that can run here for "all"."""
    from steepest.engines import ENGINES, engine, why_not_compiled

    if written == "all":
        return ["auto", *(name for name in ENGINES if name != "compiled" or not why_not_compiled())]
    named = list(dict.fromkeys(written.split(",")))
    for name in named:
        engine(name)
    return named


@contextmanager
def _line() -> Iterator[Tell]:
    """One live line on stderr in a terminal; elsewhere only what was left out."""
    live = sys.stderr.isatty()

    def tell(words: str) -> None:
        if live:
            print(f"\r{words[:100]}\x1b[K", end="", file=sys.stderr, flush=True)
        elif words.startswith("left out"):
            print(f"steepest: {words}", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
