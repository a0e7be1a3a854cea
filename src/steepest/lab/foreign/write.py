"""Runs as one table that :func:`steepest.lab.foreign.read` gives back unchanged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from steepest.lab import files
from steepest.lab.analysis.runs import Run

COLUMNS = tuple(field.name for field in fields(Run))


def write(runs: Iterable[Run], path: Path | str) -> Path:
    """Writes ``path``, a CSV with the columns of Run, at once or not at all; returns it."""
    path = Path(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in runs:
        writer.writerow([_cell(name, getattr(run, name)) for name in COLUMNS])
    files.make_folder(path.parent)
    files.replace(path, text.getvalue().encode())
    return path


def _cell(name: str, value: Any) -> Any:
    if name == "hyperparameters":
        return json.dumps(dict(sorted(value.items())), ensure_ascii=False)
    if name == "curve":
        return json.dumps(value) if value else ""
    return "" if value is None else value
