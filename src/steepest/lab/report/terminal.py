"""The race's table for the terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from steepest.lab.report import summary as say
from steepest.lab.report.schema import checked

COLUMNS = (
    "optimizer", "verdict", "final loss", "× tokens", "× seconds", "best lr", "tuning", "opt. share", "B/weight",
)  # fmt: skip


def show(race: dict[str, Any], file: TextIO | None = None) -> None:
    """Prints headline, table and limits; with rich where it is installed and the output is a terminal."""
    race = checked(race)
    file = sys.stdout if file is None else file
    rows = cells(race)
    print(f"\n{say.headline(race)}\n{say.in_seconds(race)}".rstrip() + "\n", file=file)
    if not _rich(rows, file):
        print(plain(rows), file=file)
    print(f"\nsmall print: {say.level(race)} intervals; speedup is {say.label(race, race['baseline'])}'s tokens "
          "(seconds) for the same loss over the optimizer's.", file=file)  # fmt: skip
    for sentence in say.limits(race):
        print(f"- {sentence}", file=file)


def cells(race: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table as text, one tuple per optimizer in the order of :data:`COLUMNS`."""
    table = []
    for row in say.rows(race):
        result, base = race["results"][row["optimizer"]], row["optimizer"] == race["baseline"]
        share, state = row["optimizer_share"], row["state_bytes_per_weight"]
        edge = "" if row["bracketed"] else f" ({row['edge']} edge)" if row["edge"] else " (not bracketed)"
        table.append(
            (
                row["label"],
                row["verdict"],
                "none" if row["final_loss"] is None else _with(say.loss(row["final_loss"]), row, "final", 3),
                "1" if base else _speedup(result["speedup_tokens"], row, "speedup_tokens"),
                "1" if base else _speedup(result["speedup_seconds"], row, "speedup_seconds"),
                say.lr(row["best_lr"]) + edge,
                f"{row['tuning_runs']:g} runs, {say.duration(row['tuning_seconds'])}",
                say.NOTHING if share is None else f"{100 * share:.2g} %",
                say.NOTHING if state is None else f"{state:.3g}",
            )
        )
    return table


def plain(rows: list[tuple[str, ...]]) -> str:
    """Columns padded by spaces."""
    widths = [max(len(row[place]) for row in [COLUMNS, *rows]) for place in range(len(COLUMNS))]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in [COLUMNS, tuple("-" * width for width in widths), *rows]
    ]
    return "\n".join(lines)


def _rich(rows: list[tuple[str, ...]], file: TextIO) -> bool:
    if not file.isatty():
        return False
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    styles = {"faster": "green", "slower": "red", "refused": "yellow"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place < 2 else "right")
    for row in rows:
        # Text, not str: an optimizer's name is no markup.
        table.add_row(*(Text(word, style=styles.get(word, "")) for word in row))
    Console(file=file).print(table)
    return True


def _speedup(speedup: dict[str, Any] | None, row: dict[str, Any], key: str) -> str:
    if row[key] is None:
        return "refused"
    return _with(say.ratio(speedup) + ("*" if (speedup or {}).get("flags") else ""), row, key, 2)


def _with(words: str, row: dict[str, Any], key: str, digits: int) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return words if low is None or high is None else f"{words} ({low:.{digits}f}-{high:.{digits}f})"
