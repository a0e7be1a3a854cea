"""Draws page, table and files of a finished race or study again from its JSON: no torch, no training."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "draw the page and the files of a finished race or study again"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "document",
        type=Path,
        metavar="FOLDER",
        help="the folder of a race or a study, or its race.json or study.json",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: beside the JSON)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON instead of text")


def run(args: argparse.Namespace) -> int:
    import json

    from steepest.lab.report.load import load

    document = load(args.document)
    if document.get("kind") == "study":
        from steepest.lab.report.study import export, page, summary, terminal
    else:
        from steepest.lab.report import export, page, summary, terminal  # type: ignore[no-redef]
    folder = args.out or (args.document if args.document.is_dir() else args.document.parent)
    page.write(document, folder / "report.html")
    written = export.write(document, folder)
    if args.json:
        print(json.dumps(summary.rows(document), ensure_ascii=False, indent=1))
    else:
        terminal.show(document)
        print(f"\n{folder / 'report.html'} and {len(written)} files of data beside it")
    return 0
