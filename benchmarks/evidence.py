"""How long 100,000 recorded runs take: the document of a study from its runs, and its page and files from that.

    python benchmarks/evidence.py [--runs 1000 10000 100000]

The runs are made (_made.py): eleven optimizers, five sizes, five ratios, three fresh seeds at every winner, the
rest tuning runs of one seed. Each count has a process of its own; ``peak_mib`` is the most memory that it held.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _made import SECONDS, SPEEDUPS, made

from steepest.lab.bench.deciles import summary

COUNTS = (1_000, 10_000, 100_000)
SIZES = {"20k": 20_000, "50k": 50_000, "110k": 110_000, "400k": 400_000, "1m": 1_000_000}
RATIOS = (1, 2, 4, 8, 16)
NAMES = {f"{name}{number or ''}": name for number in range(2) for name in SPEEDUPS}
"""Eleven or more optimizers: those of the made study twice."""

SEEDS = 3
RESULT = Path(__file__).parent / "results" / "evidence.json"


def parts(count: int) -> dict[str, Any]:
    """Wall and processor seconds of every part at about ``count`` runs."""
    from steepest.lab.analysis.evidence import evidence
    from steepest.lab.analysis.finals import finals_of
    from steepest.lab.report.load import load
    from steepest.lab.report.study import export, page

    for name, like in NAMES.items():
        SPEEDUPS.setdefault(name, SPEEDUPS[like])
        SECONDS.setdefault(name, SECONDS[like])
    names = list(NAMES)[:11]
    cells = len(names) * len(SIZES) * len(RATIOS)
    runs = made(names, SIZES, RATIOS, SEEDS, max(1, round(count / cells) - SEEDS), curves=100)
    given = {"baseline": "adamw", "title": "made", "command": "python benchmarks/evidence.py", "source": "made"}
    clocks: dict[str, dict[str, float]] = {"wall": {}, "processor": {}}

    def timed(part: str, action: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        value = action()
        clocks["wall"][part] = round(time.perf_counter() - wall, 3)
        clocks["processor"][part] = round(time.process_time() - processor, 3)
        return value

    with tempfile.TemporaryDirectory() as folder:
        finals = timed("final losses", lambda: finals_of(runs))
        study = timed("document", lambda: evidence(runs, finals, **given))
        timed("page and all files", lambda: export.publish(study, runs, Path(folder)))
        again = timed("document read again", lambda: load(folder))
        timed("page alone", lambda: page.write(again, Path(folder) / "report.html"))
        sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir() if path.is_file()}
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {"runs": len(runs), "cells": cells, **clocks, "bytes": sizes, "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=COUNTS, help="how many, about (1000 10000 100000)")
    parser.add_argument("--rounds", type=int, default=3, help="of all counts in turn (3)")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the results go")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(parts(args.only)))
        return
    from _script import save, tell  # here, so that the measured process holds no torch

    rounds: dict[int, list[dict[str, Any]]] = {count: [] for count in args.runs}
    for place in range(args.rounds):
        for count, found in rounds.items():
            tell(f"round {place + 1}: {count:,} runs")
            own = [sys.executable, __file__, "--only", str(count)]
            found.append(json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout))
            print(found[-1], flush=True)
    save(args.out, {"rows": [told(found) for found in rounds.values()]})


def told(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One count's rounds as one row."""
    last = rounds[-1]
    clocks = {
        clock: {part: summary([one[clock][part] for one in rounds]) for part in last[clock]}
        for clock in ("wall", "processor")
    }
    return last | clocks | {"rounds": len(rounds), "peak_mib": max(one["peak_mib"] for one in rounds)}


if __name__ == "__main__":
    main()
