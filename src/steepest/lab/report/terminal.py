"""Tables for the terminal, and the race's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
STYLES = {"faster": "bold green", "slower": "bold red", "refused": "yellow"}
Row = Sequence[tuple[str, str]]
"""Words and the small print under them, column by column."""


def show(race: dict[str, Any], file: TextIO | None = None) -> None:
    """Prints headline, table and limits; with rich where it is installed and the output is a terminal."""
    race = checked(race)
    file = sys.stdout if file is None else file
    base = say.label(race, race["baseline"])
    print("\n".join(["", say.headline(race), say.in_seconds(race)]).rstrip() + "\n", file=file)
    rows = [[(row[key], row.get(small, "")) for key, small in COLUMNS.values()] for row in say.cells(race)]
    table(list(COLUMNS), rows, [[word for word, _ in row] for row in rows], file, left=2)
    meaning = f"{base}'s tokens (seconds) for the same final loss over the optimizer's"
    print(f"\nx: {meaning}; second lines: {say.level(race)} intervals and detail", file=file)
    print(f"best lr: {'; '.join(say.certificates(race))}", file=file)
    for sentence in say.limits(race):
        print(f"- {sentence}", file=file)


def table(
    columns: Sequence[str], rows: Sequence[Row], verdicts: Sequence[Sequence[str]], file: TextIO, left: int = 1
) -> None:
    """Prints ``rows``, two lines each; on a terminal with rich in colours, by ``verdicts`` in the same layout.

    left: how many columns are set flush left there.
    """
    if not _rich(columns, rows, verdicts, file, left):
        print(plain(columns, rows), file=file)


def plain(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The table in columns padded by spaces."""
    lines = [list(columns)]
    for row in rows:
        lines.append([words for words, _ in row])
        if any(small for _, small in row):
            lines.append([small for _, small in row])
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _rich(
    columns: Sequence[str], rows: Sequence[Row], verdicts: Sequence[Sequence[str]], file: TextIO, left: int
) -> bool:
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
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        drawn.add_column(column, justify="left" if place < left else "right")
    for row, words in zip(rows, verdicts, strict=True):
        # Text, not str: an optimizer's name is no markup.
        drawn.add_row(
            *(
                Text.assemble((said, STYLES.get(word, "")), (f"\n{small}", "dim"))
                for (said, small), word in zip(row, words, strict=True)
            )
        )
    Console(file=file).print(drawn)
    return True
