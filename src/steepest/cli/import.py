"""Reads records of others (CSV, Parquet, JSON, exports of Weights & Biases) as one table of runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from steepest.core.errors import BadInput

if TYPE_CHECKING:
    from steepest.lab.foreign import Imported

SUMMARY = "read others' records (CSV, Parquet, W&B) as runs that the lab judges"
SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="a .csv, .tsv, .json, .jsonl or .parquet file, one run per row")
    add(
        "--columns", nargs="+", default=[], metavar="OWN=THEIRS",
        help="which column means what: loss=eval/c4/loss hp.lr=peak_lr; OWN==VALUE is every row's: size==130m",
    )  # fmt: skip
    add("--diverged-above", type=float, metavar="LOSS", help="a final loss above it counts as diverged")
    add("--out", type=Path, metavar="PLACE", help="write the runs to this .csv, or to runs.csv in this folder")
    add("--json", action="store_true", help="print what was read and every complaint as JSON")


def run(args: argparse.Namespace) -> int:
    import json

    from steepest.lab.foreign import read, write

    found = read(args.file, _pairs(args.columns), diverged_above=args.diverged_above)
    if args.json:
        print(json.dumps(_told(found), ensure_ascii=False, indent=1))
    else:
        _show(found, args.file)
    if args.out is not None:
        out = args.out if args.out.suffix == ".csv" else args.out / "runs.csv"
        print(f"{write(found.runs, out)}: {len(found.runs):,} runs", file=sys.stderr if args.json else sys.stdout)
    return 0


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = {}
    for pair in given:
        own, equals, theirs = pair.partition("=")
        if not (own and equals and theirs):
            raise BadInput(f"--columns {pair}: give OWN=THEIRS, such as loss=eval/loss, or OWN==VALUE")
        pairs[own] = theirs
    return pairs


def _told(found: Imported) -> dict[str, object]:
    return {
        "runs": len(found.runs),
        "rows": found.rows,
        "left_out": found.left_out,
        "repeated": found.repeated,
        "complaints": [vars(complaint) for complaint in found.complaints],
        "unread": found.unread,
    }


def _show(found: Imported, file: Path) -> None:
    from collections import Counter

    status = Counter(run.status for run in found.runs)
    optimizers = {run.optimizer for run in found.runs}
    cells = {run.cell for run in found.runs}
    print(
        f"{file}: {len(found.runs):,} runs of {len(optimizers)} optimizers in {len(cells)} cells ("
        + ", ".join(f"{count:,} {name}" for name, count in status.items())
        + f") from {found.rows:,} rows"
    )
    if found.repeated:
        print(f"{found.repeated:,} rows tell a run again, with the same result: it counts once")
    if found.unread:
        told = [f"{name} ({guess})" if guess else name for name, guess in found.unread.items()]
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        print(f"columns not read: {', '.join(told[:SHOWN])}{more}; --columns OWN=THEIRS reads one")
    for complaint in found.complaints[:SHOWN]:
        print(complaint, file=sys.stderr)
    if len(found.complaints) > SHOWN:
        print(f"and {len(found.complaints) - SHOWN:,} more; --json tells all", file=sys.stderr)
    if found.left_out:
        print(f"{found.left_out:,} rows are left out", file=sys.stderr)
