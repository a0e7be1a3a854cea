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

COUNTS = (1_000, 10_000, 100_000)
SIZES = {"20k": 20_000, "50k": 50_000, "110k": 110_000, "400k": 400_000, "1m": 1_000_000}
RATIOS = (1, 2, 4, 8, 16)
NAMES = {f"{name}{number or ''}": name for number in range(2) for name in SPEEDUPS}
"""Eleven or more optimizers: those of the made study twice."""

SEEDS = 3
RESULT = Path(__file__).parent / "results" / "evidence.json"


def parts(count: int) -> dict[str, Any]:
    """Seconds of every part at about ``count`` runs."""
    from steepest.lab.analysis.evidence import evidence
    from steepest.lab.analysis.finals import finals_of
    from steepest.lab.report.load import load
    from steepest.lab.report.study import export, page

    for name, like in NAMES.items():
        SPEEDUPS.setdefault(name, SPEEDUPS[like])
        SECONDS.setdefault(name, SECONDS[like])
    names = list(NAMES)[:11]
    cells = len(names) * len(SIZES) * len(RATIOS)
    tried = max(1, round(count / cells) - SEEDS)
    runs = made(names, SIZES, RATIOS, SEEDS, tried, curves=100)
    found: dict[str, Any] = {"runs": len(runs), "cells": cells}
    given = {
        "baseline": "adamw",
        "title": "made",
        "command": "python benchmarks/evidence.py",
        "source": "made runs",
    }
    seconds: dict[str, float] = {}

    def timed(part: str, action: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = action()
        seconds[part] = round(time.perf_counter() - start, 3)
        return value

    with tempfile.TemporaryDirectory() as folder:
        finals = timed("finals", lambda: finals_of(runs))
        study = timed("document", lambda: evidence(runs, finals, **given))
        timed("page and files", lambda: export.publish(study, runs, Path(folder)))
        again = timed("reading study.json", lambda: load(folder))
        timed("page alone", lambda: page.write(again, Path(folder) / "report.html"))
        sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir() if path.is_file()}
    found |= {"seconds": seconds, "bytes": sizes}
    return found | {"peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=COUNTS, help="how many, about (1000 10000 100000)")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the results go")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(parts(args.only)))
        return
    from _script import save, tell  # here, so that the measured process holds no torch

    rows = []
    for count in args.runs:
        tell(f"{count:,} runs")
        own = [sys.executable, __file__, "--only", str(count)]
        rows.append(json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout))
        print(rows[-1], flush=True)
    save(args.out, {"rows": rows})


if __name__ == "__main__":
    main()
