"""CSV, JSON and SVG of every figure, written so that a reader never sees half a file."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.report.figure import Figure

Row = dict[str, Any]


def write_figures(document: dict[str, Any], figures: Iterable[Figure], folder: Path, file: Path) -> list[Path]:
    """figures/KEY.csv, .json and .svg of each under ``folder``; ``file`` is what their commands name."""
    written = []
    style = Path(__file__).with_name("figures.css").read_text(encoding="utf-8")
    for figure in figures:
        path = folder / "figures" / figure.key
        written += [
            write_text(path.with_suffix(".csv"), csv_text(figure.rows)),
            write_text(path.with_suffix(".json"), json_text(document, figure, file)),
            write_text(path.with_suffix(".svg"), figure.wide.standalone(style)),
        ]
    return written


def redraw(file: Path | str) -> str:
    """The command that draws page and files again from the document's numbers, on any laptop."""
    return f"steepest report {shlex.quote(str(file))}"


def csv_text(rows: list[Row]) -> str:
    """Rows as RFC 4180 text; the columns are all keys in order of appearance, null is an empty field."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def json_text(document: dict[str, Any], figure: Figure, file: Path | str) -> str:
    """One figure's data with its words and both commands: to draw it again, to make its numbers again."""
    whole = {
        "figure": figure.key,
        "title": figure.title,
        "caption": figure.caption,
        "redraw": redraw(file),
        "rerun": document["command"],
        "rows": figure.rows,
    }
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n"


def write_text(path: Path, text: str) -> Path:
    """Puts ``text`` in place at once, or leaves what was there and raises BadInput with the cause."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        cause = error.strerror or error
        raise BadInput(
            f"cannot write {path} ({cause}): make room or name another folder, then run again"
        ) from None
    return path
