"""The race's table for the terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from steepest.lab.report import summary as say
from steepest.lab.report.schema import checked

COLUMNS = {
    "optimizer": ("label", ""),
    "verdict": ("verdict", "note"),
    "x tokens": ("tokens", "tokens_interval"),
    "x seconds": ("seconds", "seconds_interval"),
    "final loss": ("loss", "loss_interval"),
    "best lr": ("lr", "bracket"),
    "tuning": ("runs", "spent"),
    "opt. share": ("share", "step"),
    "B/weight": ("state", ""),
}


def show(race: dict[str, Any], file: TextIO | None = None) -> None:
    """Prints headline, table and limits; with rich where it is installed and the output is a terminal."""
    race = checked(race)
    file = sys.stdout if file is None else file
    base, rows = say.label(race, race["baseline"]), say.cells(race)
    print("\n".join(["", say.headline(race), say.in_seconds(race)]).rstrip() + "\n", file=file)
    if not _rich(rows, file):
        print(plain(rows), file=file)
    meaning = f"{base}'s tokens (seconds) for the same final loss over the optimizer's"
    print(f"\nx: {meaning}; second lines: {say.level(race)} intervals and detail", file=file)
    for sentence in say.limits(race):
        print(f"- {sentence}", file=file)


def plain(rows: list[dict[str, str]]) -> str:
    """The table in columns padded by spaces, two lines per optimizer."""
    lines = [list(COLUMNS)]
    for row in rows:
        lines.append([row[key] for key, _ in COLUMNS.values()])
        lines.append([row.get(key, "") for _, key in COLUMNS.values()])
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _rich(rows: list[dict[str, str]], file: TextIO) -> bool:
    """Draws the table with colours; False where the output or the installation has none."""
    if not file.isatty():
        return False
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    styles = {"faster": "bold green", "slower": "bold red", "refused": "yellow"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place < 2 else "right")
    for row in rows:
        # Text, not str: an optimizer's name is no markup.
        table.add_row(
            *(
                Text.assemble((row[key], styles.get(row[key], "")), (f"\n{row.get(small, '')}", "dim"))
                for key, small in COLUMNS.values()
            )
        )
    Console(file=file).print(table)
    return True
