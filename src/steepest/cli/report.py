"""Draws page, table and files of a finished race again from its race.json: no torch, no training."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "draw the page and the files of a finished race again"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "race", type=Path, metavar="RACE", help="the folder that `steepest race` wrote, or its race.json"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: beside race.json)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON instead of text")


def run(args: argparse.Namespace) -> int:
    import json

    from steepest.lab.report import export, page, schema, summary, terminal

    race = schema.load(args.race)
    folder = args.out or (args.race if args.race.is_dir() else args.race.parent)
    page.write(race, folder / "report.html")
    written = export.write(race, folder)
    if args.json:
        print(json.dumps(summary.rows(race), ensure_ascii=False, indent=1))
    else:
        terminal.show(race)
        print(f"\n{folder / 'report.html'} and {len(written)} files of data beside it")
    return 0
