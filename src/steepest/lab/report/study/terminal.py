"""A study's verdicts for the terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from steepest.lab.report.study import summary as say
from steepest.lab.report.study.schema import checked
from steepest.lab.report.study.tables import Value, tables
from steepest.lab.report.terminal import table


def show(study: dict[str, Any], file: TextIO | None = None) -> None:
    """Prints headline, the verdicts of every size and the limits."""
    study = checked(study)
    file = sys.stdout if file is None else file
    print("\n".join(["", say.headline(study), *say.lead(study), say.setting(study)]), file=file)
    for of_size in tables(study):
        columns = [of_size.size, *of_size.ratios]
        rows = [
            [(row.label, ""), *((_signed(value), value.small) for value in row.values)] for row in of_size.rows
        ]
        styles = [["", *(value.word for value in row.values)] for row in of_size.rows]
        print(file=file)
        table(columns, rows, styles, file)
    base = say.label(study, study["baseline"])
    print(f"\n×: {base}'s tokens for the same final loss over the optimizer's; its row: final losses", file=file)
    for sentence in study.get("supported") or []:
        print(f"+ {sentence}", file=file)
    for sentence in [*study["not_supported"], *study["warnings"]]:
        print(f"- {sentence}", file=file)


def _signed(value: Value) -> str:
    return value.value + "*" * value.flagged + "✓" * value.certified
