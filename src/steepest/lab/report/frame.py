"""What every report page is made of: one self-contained file that needs neither network nor script to be read."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from steepest.core.errors import MissingExtra
from steepest.lab.report import files
from steepest.lab.report.figure import Figure
from steepest.lab.report.words import cell, plain

HERE = Path(__file__).parent
SHOWN_ROWS = 60  # of a figure's data inside the page; the files behind its links hold all
HELD_ROWS = 5000  # of a figure's data behind its links; of more, the files beside the page hold all
PLAIN = 100_000  # letters behind a link as they are; more are packed


def render(
    template: str, document: dict[str, Any], figures: Iterable[Figure], file: Path | str, **given: Any
) -> str:
    """``template`` over frame.html, with the drawn ``figures`` by key; ``file`` is what their commands name.

    A template sees the document's ``command``, everything ``given`` and the macros of macros.html. MissingExtra
    asks for jinja2.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingExtra.of("the report page", "jinja2") from None
    style, script = asset("figures.css") + asset("page.css"), asset("page.js")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals |= {
        "plain": plain,
        "redraw": files.redraw(file),
        "command": document["command"],
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    drawn = {figure.key: _figure(document, figure, file, Markup) for figure in figures}
    return environment.get_template(template).render(figures=drawn, **given)


def asset(name: str) -> str:
    """A file beside this one: styles and script."""
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's content policy allows to run: exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def link(kind: str, text: str) -> str:
    """A data: address, readable by every browser without a server."""
    return f"data:{kind};charset=utf-8,{quote(text, safe=',:;=()!*{}[]/')}"


def attached(name: str, kind: str, text: str) -> dict[str, str]:
    """A file inside the page: the address and the name that it is saved by; long text is gzipped, name.gz."""
    if len(text) <= PLAIN:
        return {"href": link(kind, text), "name": name}
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return {"href": f"data:application/gzip;base64,{packed}", "name": f"{name}.gz"}


def beside(name: str) -> dict[str, str]:
    """A file beside the page."""
    return {"href": name, "name": name.rpartition("/")[2]}


def grid(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as a table of words; a column of numbers is set flush right, its gaps included."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = []
    for name in names:
        kinds = {type(row.get(name)) for row in rows} - {type(None)}
        columns.append({"name": name, "numeric": bool(kinds) and kinds <= {int, float}})
    return {"columns": columns, "rows": [[cell(row.get(name)) for name in names] for row in rows]}


def _figure(document: dict[str, Any], figure: Figure, file: Path | str, markup: type[str]) -> dict[str, Any]:
    figure.wide.root.set("class", "wide")
    figure.narrow.root.set("class", "narrow")
    held = len(figure.rows) <= HELD_ROWS
    csv, json = f"{figure.key}.csv", f"{figure.key}.json"
    return {
        "key": figure.key,
        "title": figure.title,
        "caption": figure.caption,
        "count": len(figure.rows),
        "shown": grid(figure.rows[:SHOWN_ROWS]),
        "wide": markup(figure.wide.markup()),
        "narrow": markup(figure.narrow.markup()),
        "held": held,
        "files": {
            "CSV": attached(csv, "text/csv", files.csv_text(figure.rows)) if held else beside(f"figures/{csv}"),
            "JSON": attached(json, "application/json", files.json_text(document, figure, file))
            if held
            else beside(f"figures/{json}"),
        },
    }
