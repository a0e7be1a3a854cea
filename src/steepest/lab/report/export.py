"""The files beside a race's page: its table, its runs, every figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steepest.lab.report import summary
from steepest.lab.report.figures import figures
from steepest.lab.report.files import csv_text, write_figures, write_text
from steepest.lab.report.schema import checked


def write(race: dict[str, Any], folder: Path) -> list[Path]:
    """Under ``folder``: table.csv, runs.csv, and figures/KEY.csv, .json and .svg of each; the paths written."""
    race, folder = checked(race), Path(folder)
    return [
        write_text(folder / "table.csv", csv_text(summary.rows(race))),
        write_text(folder / "runs.csv", csv_text(race["runs"])),
        *write_figures(race, figures(race), folder, folder / "race.json"),
    ]
