"""Replay recorded trajectories of the authors' code through the public classes; compute recorded tables again.

Exit status: 0 all pass, 1 something fails (with --strict also if something is not implemented), 2 nothing to
replay.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

SUMMARY = "replay recorded trajectories of the authors' code"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="holds inputs.npz and OPTIMIZER/VARIANT.json, .npz; tables, such as schedules/*.json, too",
    )
    parser.add_argument("--only", metavar="OPTIMIZER[/VARIANT]", help="replay only these")
    parser.add_argument("--engine", default="loop", metavar="NAME|all", help="engine to run under (default: loop)")
    parser.add_argument("--json", metavar="FILE", help="write the verdicts as JSON, - for standard output")
    parser.add_argument("--strict", action="store_true", help="'not implemented' counts as failing")


def run(args: argparse.Namespace) -> int:
    from steepest.cli.table import table
    from steepest.verify import Verdict, verify

    quiet = args.json == "-"

    def show(done: Verdict) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{done.optimizer}/{done.variant} {done.engine}: {done.status}", end="", file=sys.stderr)

    verdicts = verify(args.folder, only=args.only, engine=args.engine, progress=show)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if args.json:
        written = json.dumps([v.__dict__ for v in verdicts], indent=1)
        if quiet:
            print(written)
        else:
            Path(args.json).write_text(written + "\n")
    if not quiet:
        rows = [
            (
                v.optimizer,
                v.variant,
                v.engine,
                "" if v.error is None else f"{v.error:.1e}",
                "" if v.tolerance is None else f"{v.tolerance:.0e}",
                v.status,
                v.reason,
            )
            for v in verdicts
        ]
        print(table(("optimizer", "variant", "engine", "error", "tolerance", "status", "reason"), rows))
        count = {s: sum(v.status == s for v in verdicts) for s in ("pass", "fail", "not implemented")}
        print(f"\n{count['pass']} pass, {count['fail']} fail, {count['not implemented']} not implemented")
    bad = {"fail", "not implemented"} if args.strict else {"fail"}
    return 1 if any(v.status in bad for v in verdicts) else 0
