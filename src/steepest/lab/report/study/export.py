"""The files of a study: its document, its runs, its tables, every figure, and the page over them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steepest.lab.analysis.evidence import told
from steepest.lab.analysis.runs import Run
from steepest.lab.report.files import csv_text, write_figures, write_text
from steepest.lab.report.study import summary
from steepest.lab.report.study.figures import figures
from steepest.lab.report.study.schema import checked

STUDY, RUNS, PAGE = "study.json", "runs.csv", "report.html"


def write(study: dict[str, Any], folder: Path) -> list[Path]:
    """Under ``folder``: table.csv, and figures/KEY.csv, .json and .svg of each figure; the paths written."""
    study, folder = checked(study), Path(folder)
    return [
        write_text(folder / "table.csv", csv_text(summary.rows(study))),
        *write_figures(study, figures(study), folder, folder / STUDY),
    ]


def publish(study: dict[str, Any], runs: Iterable[Run], folder: Path) -> list[Path]:
    """Everything of a study under ``folder``: study.json, runs.csv with every run, report.html and its files."""
    from steepest.lab.report.study import page

    study, folder = checked(study), Path(folder)
    document = json.dumps(study, ensure_ascii=False, separators=(",", ":")) + "\n"
    written = [
        write_text(folder / STUDY, document),
        write_text(folder / RUNS, csv_text([told(run) for run in runs])),
    ]
    page.write(study, folder / PAGE)
    return [*written, folder / PAGE, *write(study, folder)]
