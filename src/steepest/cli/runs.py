"""List recorded runs: what finished with which loss, what diverged, how far the others are; nothing is trained.

Runs that can be compared stand together, best first. Exit status 1: some records were left out, and why is told.
What was read is remembered in FOLDER/index.jsonl, which may be deleted at any time.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, UnknownName
from steepest.lab.report.words import duration
from steepest.lab.report.words import tokens as counted

if TYPE_CHECKING:
    from steepest.lab.analysis.runs import Scalar
    from steepest.lab.ledger import Entry, Ledger

SUMMARY = "list recorded runs, finished or under way"

STATUSES = ("finished", "diverged", "unfinished")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``steepest runs``."""
    add = parser.add_argument
    add("folder", nargs="?", type=Path, default=Path("runs"), help="where the records lie (runs)")
    add("--optimizer", action="append", metavar="NAME", help="only this one; more than once for several")
    add("--size", action="append", metavar="NAME", help="only this model; more than once for several")
    add("--status", choices=STATUSES, help="only these")
    add("--since", metavar="WHEN", help="only runs that began since 2026-01-31, 2026-01-31T12:00, 90m, 12h or 7d")
    add("--sort", choices=SORTS, default="place", help="by model, tokens and loss, or by one column (place)")
    add("--csv", type=Path, metavar="FILE", help="write them to FILE, each hyperparameter in a column hp.NAME")
    add("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """0: everything was read; 1: records were left out."""
    gc.disable()  # all that is read is kept to the end: with 100,000 runs the search for garbage takes a fifth
    try:
        return _run(args)
    finally:
        gc.enable()


def _run(args: argparse.Namespace) -> int:
    from steepest.lab.cluster.local import cores
    from steepest.lab.ledger import read_runs

    since = None if args.since is None else _moment(args.since, time.time())
    ledger = read_runs(
        args.folder, workers=cores(), progress=_progress if sys.stderr.isatty() else lambda read: None
    )
    entries = sorted(_chosen(ledger, args, since), key=SORTS[args.sort])
    if args.csv is not None:
        _write_csv(args.csv, entries)
    if args.json:
        _print_json(ledger, entries)
    else:
        _print(args.folder, ledger, entries, args.csv)
    return 1 if ledger.problems else 0


def _moment(text: str, now: float) -> float:
    """Seconds since 1970 of a date, or of so long before now."""
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)
    if span:
        return now - float(span[1]) * {"m": 60, "h": 3600, "d": 86_400}[span[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise BadInput(
            f"--since {text!r}: give a date such as 2026-01-31, or a span such as 90m, 12h, 7d"
        ) from None


def _chosen(ledger: Ledger, args: argparse.Namespace, since: float | None) -> list[Entry]:
    entries = list(ledger.entries)
    for what in ("optimizer", "size"):
        names = getattr(args, what)
        if names and entries:
            known = {getattr(entry.run, what) for entry in entries}
            if unknown := next((name for name in names if name not in known), None):
                raise UnknownName.among(f"{what} of these runs", unknown, known)
            entries = [entry for entry in entries if getattr(entry.run, what) in names]
    if args.status:
        entries = [entry for entry in entries if entry.run.status == args.status]
    if since is not None:
        entries = [entry for entry in entries if entry.created is not None and entry.created >= since]
    return entries


def _by_place(entry: Entry) -> tuple[Any, ...]:
    run = entry.run
    return (run.weights, run.size, run.tokens, run.variant, run.ranked, run.optimizer, run.run)


SORTS: dict[str, Callable[[Entry], Any]] = {
    "place": _by_place,
    "loss": lambda entry: (entry.run.ranked, entry.run.run),
    "optimizer": lambda entry: (entry.run.optimizer, *_by_place(entry)),
    "began": lambda entry: (entry.created or 0.0, entry.run.run),
    "time": lambda entry: (entry.run.seconds or 0.0, entry.run.run),
}


# ---- text


def _print(folder: Path, ledger: Ledger, entries: Sequence[Entry], written: Path | None) -> None:
    from steepest.cli.table import table

    now = time.time()
    if entries and written is None:
        settings = _settings(entries)
        cells = [_cells(entry, settings[entry.run.optimizer], now) for entry in entries]
        used = [place for place in range(len(COLUMNS)) if place in (0, 1, 2) or any(row[place] for row in cells)]
        print(table([COLUMNS[p] for p in used], [[row[p] for p in used] for row in cells]) + "\n")
    print(_totals(folder, ledger, entries))
    if written is not None:
        print(f"{written}: {len(entries):,} runs in columns")
    sys.stdout.flush()
    for line in ledger.told():
        print(line, file=sys.stderr)


COLUMNS = (
    "run",
    "optimizer",
    "size",
    "tokens",
    "variant",
    "lr",
    "seed",
    "loss",
    "time",
    "began",
    "status",
    "settings",
)


def _cells(entry: Entry, settings: Sequence[str], now: float) -> tuple[str, ...]:
    run, values = entry.run, entry.run.hyperparameters
    return (
        run.run,
        run.optimizer,
        run.size,
        f"{run.tokens:,}",
        run.variant,
        _value(values.get("lr")),
        str(run.seed),
        "" if run.loss is None else f"{run.loss:.4f}",
        "" if run.seconds is None else duration(run.seconds),
        "" if entry.created is None else f"{datetime.fromtimestamp(entry.created):%Y-%m-%d %H:%M}",
        _state(entry, now),
        " ".join(f"{name}={_value(values[name])}" for name in settings if name in values),
    )


def _state(entry: Entry, now: float) -> str:
    """Nothing of a run that finished; where the others are."""
    if entry.run.status == "finished":
        return ""
    if entry.updated is None:
        return f"diverged at {entry.step:,} of {entry.run.steps:,}"
    age = duration(max(0.0, now - entry.updated))
    return f"at {entry.step:,} of {entry.run.steps:,}, {'last row' if entry.step else 'began'} {age} ago"


def _settings(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """By optimizer, the hyperparameters that its runs here do not all share; lr has a column of its own."""
    seen: dict[str, dict[str, set[Scalar]]] = {}
    runs: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {}
    for entry in entries:
        of = seen.setdefault(entry.run.optimizer, {})
        runs[entry.run.optimizer] += 1
        counts.setdefault(entry.run.optimizer, Counter()).update(entry.run.hyperparameters.keys())
        for name, value in entry.run.hyperparameters.items():
            of.setdefault(name, set()).add(value)
    return {
        optimizer: [
            name
            for name, values in of.items()
            if name != "lr" and (len(values) > 1 or counts[optimizer][name] < runs[optimizer])
        ]
        for optimizer, of in seen.items()
    }


def _value(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _totals(folder: Path, ledger: Ledger, entries: Sequence[Entry]) -> str:
    if not ledger.entries:
        return f"no runs in {folder}"
    counts = Counter(entry.run.status for entry in entries)
    told = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])
    tokens = sum(entry.run.tokens * entry.step // (entry.run.steps or 1) for entry in entries)
    seconds = math.fsum(entry.run.seconds or 0.0 for entry in entries)
    of = f" of {len(ledger.entries):,}" if len(entries) < len(ledger.entries) else ""
    lines = [
        f"{len(entries):,}{of} runs"
        + (f": {told}; {counted(tokens)} tokens in {duration(seconds)}" if told else "")
    ]
    if ledger.problems:
        lines[0] += f"; {len(ledger.problems):,} records left out"
    return "\n".join(lines)


def _progress(read: int) -> None:
    print(f"\r{read:,} records read that were not in the index\x1b[K", end="\r", file=sys.stderr, flush=True)


# ---- data


def _facts(entry: Entry) -> dict[str, Any]:
    run = entry.run
    names = (
        "run",
        "optimizer",
        "size",
        "weights",
        "tokens",
        "ratio",
        "variant",
        "status",
        "loss",
        "seed",
        "steps",
    )
    return {
        **{name: getattr(run, name) for name in names},
        "step": entry.step,
        **{name: getattr(run, name) for name in ("seconds", "state_bytes", "reason", "source")},
        "began": _iso(entry.created),
        "updated": _iso(entry.updated),
        **entry.ground,
    }


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def _print_json(ledger: Ledger, entries: Sequence[Entry]) -> None:
    whole = {
        "runs": [_facts(entry) | {"hyperparameters": dict(entry.run.hyperparameters)} for entry in entries],
        "of": len(ledger.entries),
        "problems": ledger.problems,
        "warnings": ledger.warnings,
    }
    json.dump(whole, sys.stdout, ensure_ascii=False, indent=1)
    print()


def _write_csv(path: Path, entries: Sequence[Entry]) -> None:
    """One line each, as `steepest import` reads it."""
    rows = [
        _facts(entry) | {f"hp.{name}": value for name, value in entry.run.hyperparameters.items()}
        for entry in entries
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise BadInput(f"cannot write {path} ({error.strerror or error}): name another file") from None
