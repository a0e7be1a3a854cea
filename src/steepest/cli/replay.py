"""Judges a published study again from its released numbers, beside what was published: no torch, no training.

steepest replay fantastic --data DIR    arXiv 2509.02046, from its best.csv and runs.csv (docs/replay.md)
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from steepest.cli.table import table
from steepest.core.errors import UnknownName

SUMMARY = "judge a published study again from its released numbers"
STUDIES = ("fantastic",)
CLOSE = 1e-4
"""How near a speedup must come to the published one: the figures' vertices have four decimals."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("study", metavar="STUDY", help=f"which: {', '.join(STUDIES)}")
    add("--data", type=Path, required=True, metavar="DIR", help="the folder of its released tables")
    add("--json", type=Path, metavar="FILE", help="write the document there")
    add("--out", type=Path, metavar="FOLDER", help="write study.json, report.html and all its files there")


def run(args: argparse.Namespace) -> int:
    """0; 1 where a speedup differs from the published one."""
    import json

    if args.study not in STUDIES:
        raise UnknownName.among("study", args.study, STUDIES)
    from steepest.lab.replay import fantastic
    from steepest.lab.replay.released import load

    released = load(args.data)
    document = fantastic.study(released, f"steepest replay {args.study} --data {shlex.quote(str(args.data))}")
    count, gap = fantastic.compared(document)
    _show(document, count, gap)
    if args.json is not None:
        from steepest.lab.report.files import write_text

        write_text(args.json, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        print(f"\n{args.json}: the document")
    if args.out is not None:
        from steepest.lab.report.study import export

        written = export.publish(document, released.runs, args.out)
        print(f"\n{args.out / export.PAGE} and {len(written) - 1} files of data beside it")
    return int(gap > CLOSE)


def _show(document: dict[str, Any], count: int, gap: float) -> None:
    label = document["labels"]
    print(f"{document['title']}: {document['runs_count']:,} runs\n")
    laws = [
        (law["size"], ", ".join(f"{p['ratio']:g}" for p in law["points"]), *_numbers(law))
        for law in document["laws"]
    ]
    print(table(("AdamW's law at", "ratios", "alpha", "exponent", "floor", "rms"), laws))
    places = list(dict.fromkeys((entry["size"], entry["ratio"]) for entry in document["speedups"]))
    at = {(e["optimizer"], e["size"], e["ratio"]): e for e in document["speedups"]}
    for size in dict.fromkeys(size for size, _ in places):
        ratios = sorted(ratio for name, ratio in places if name == size)
        rows = [
            (label[name], *(_speedup(at.get((name, size, ratio))) for ratio in ratios))
            for name in document["optimizers"]
            if any((name, size, ratio) in at for ratio in ratios)
        ]
        print("\n" + table((f"speedup at {size}", *(f"{ratio:g}x" for ratio in ratios)), rows))
    if count:
        print(f"\n{count} speedups stand beside published ones: the largest difference is {gap:.1e}")
    summary = [
        (label[row["optimizer"]], row["size"], f"{row['speedup']:.4f}", _or_none(row["published"], 4),
         _or_none(row["all_points"], 4))
        for row in document["summary_8x"]
        if row["published"] is not None and row["speedup"] is not None
    ]  # fmt: skip
    if summary:
        head = ("8x, as first published", "size", "speedup", "published", "with 16x in the law")
        print("\n" + table(head, summary))
    _show_sensitive(document)
    for title, name in (("Supported", "supported"), ("Not supported", "not_supported"), ("Notes", "warnings")):
        if document[name]:
            print(f"\n{title}:\n" + "\n".join(f"- {sentence}" for sentence in document[name]))


def _show_sensitive(document: dict[str, Any]) -> None:
    thresholds = list(dict.fromkeys(told["threshold"] for told in document["sensitive"]))
    rows = []
    for optimizer in document["optimizers"]:
        own = {told["threshold"]: told for told in document["sensitive"] if told["optimizer"] == optimizer}
        paper = next((told["published"] for told in own.values()), None)
        names = {name for told in own.values() for name in told["sensitive"]} | {*(paper or ())}
        for name in sorted(names):
            marks = ["x" if name in own[at]["sensitive"] else "" for at in thresholds if at in own]
            rows.append((document["labels"][optimizer], name, *marks, _mark(name, paper)))
    heads = ["near-best list" if threshold is None else f"{threshold:g}" for threshold in thresholds]
    print("\n" + table(("scaling-sensitive", "within", *heads, "in the paper"), rows))


def _mark(name: str, paper: list[str] | None) -> str:
    return "?" if paper is None else "x" if name in paper else ""


def _numbers(law: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_or_none(law[key], 5 if key != "rms" else 4) for key in ("alpha", "exponent", "floor", "rms"))


def _or_none(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _speedup(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    if entry["speedup"] is None:
        return "refused"
    return f"{entry['speedup']:.2f} [{_or_none(entry['low'], 2)}, {_or_none(entry['high'], 2)}]"
