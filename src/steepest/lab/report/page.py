"""The report page: one self-contained HTML file that needs neither network nor script to be read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from steepest.core.errors import MissingExtra
from steepest.lab.report import export
from steepest.lab.report import summary as say
from steepest.lab.report.figure import Figure, slots
from steepest.lab.report.figures import figures
from steepest.lab.report.schema import checked
from steepest.lab.report.svg import color

HERE = Path(__file__).parent
SHOWN_ROWS = 60  # of a figure's data inside the page; the files beside the link hold all


def write(race: dict[str, Any], path: Path) -> None:
    """Draws ``race`` (the content of race.json) as one HTML file, put in place at once.

    CorruptFile names the keys that are missing or wrong, MissingExtra asks for jinja2, BadInput says why the
    file cannot be written.
    """
    path = Path(path)
    export.write_text(path, html(race, path.with_name("race.json")))


def html(race: dict[str, Any], race_file: Path | str = "race.json") -> str:
    """The page as text; ``race_file`` is the path that its commands name."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingExtra.of("the report page", "jinja2") from None
    race = checked(race)
    style, script = _asset("figures.css") + _asset("page.css"), _asset("page.js")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_asset("page.html"), globals={"plain": _plain})
    rows = say.rows(race)
    return template.render(
        race=race,
        names=say.listed([say.label(race, name) for name in race["optimizers"]], 6),
        base=say.label(race, race["baseline"]),
        headline=say.headline(race),
        seconds=say.in_seconds(race),
        setting=say.setting(race),
        limits=say.limits(race),
        sentences=[race["results"][name]["verdict_text"] for name in say.ranking(race)[1:]],
        level=say.level(race),
        noise=_noise(race),
        table=[_verdict(race, row) for row in say.cells(race)],
        table_csv=_link("text/csv", export.csv_text(rows)),
        figures=[_figure(race, figure, race_file, Markup) for figure in figures(race)],
        spikes=[_verdict(race, row) for row in say.spikes(race)],
        redraw=export.redraw(race_file),
        fixed=[
            (race["results"].get(name, {"label": name})["label"], _plain(values))
            for name, values in race["untuned"]["per_optimizer"].items()
        ],
        setup=_flat(race["setup"]),
        routing=[_routing(race, name) for name in race["optimizers"]],
        tuning_text=_tuning_text(race),
        budgets=len(race["law"]["points"]) if race["law"] else "several",
        passes=f"{race['setup']['passes']:.2g}",
        statuses=_counted(Counter(run["status"] for run in race["runs"])),
        runs=_grid([_run(race, run) for run in race["runs"]]),
        runs_csv=_link("text/csv", export.csv_text(race["runs"])),
        took=say.duration(race["seconds"]),
        calibration=_flat(race["calibration"] or {}),
        race_json=_link("application/json", json.dumps(race, ensure_ascii=False, separators=(",", ":"))),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's content policy allows to run: exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _link(kind: str, text: str) -> str:
    """A data: address, readable by every browser without a server."""
    return f"data:{kind};charset=utf-8,{quote(text, safe=',:;=()!*')}"


def _verdict(race: dict[str, Any], row: dict[str, str]) -> dict[str, str]:
    slot = color(slots(race)[row["optimizer"]])
    return row | {"short": say.shortened(row["label"], 22), "slot": str(slot)}


def _grid(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as a table of words; a column of numbers is set flush right, its gaps included."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = []
    for name in names:
        kinds = {type(row.get(name)) for row in rows} - {type(None)}
        columns.append({"name": name, "numeric": bool(kinds) and kinds <= {int, float}})
    return {"columns": columns, "rows": [[_cell(row.get(name)) for name in names] for row in rows]}


def _figure(race: dict[str, Any], figure: Figure, race_file: Path | str, markup: type[str]) -> dict[str, Any]:
    figure.wide.root.set("class", "wide")
    figure.narrow.root.set("class", "narrow")
    return {
        "key": figure.key,
        "title": figure.title,
        "caption": figure.caption,
        "count": len(figure.rows),
        "shown": _grid(figure.rows[:SHOWN_ROWS]),
        "wide": markup(figure.wide.markup()),
        "narrow": markup(figure.narrow.markup()),
        "csv": _link("text/csv", export.csv_text(figure.rows)),
        "json": _link("application/json", export.json_text(race, figure, race_file)),
    }


def _routing(race: dict[str, Any], name: str) -> dict[str, Any]:
    """Rows of one optimizer's routing, equal blocks of the model folded into one row."""
    folded: dict[tuple[str, ...], int] = {}
    rules: Counter[str] = Counter()
    for row in race["results"][name]["routing"]:
        rules[row["rule"]] += 1
        pattern = re.sub(r"\.\d+\.", ".N.", row["parameter"])
        shape = "×".join(str(size) for size in row["shape"]) or "scalar"
        key = (pattern, shape, row["role"] or "", row["rule"], row["why"])
        folded[key] = folded.get(key, 0) + 1
    columns = ("parameter", "shape", "role", "rule", "why")
    rows = [dict(zip(columns, key, strict=True)) | {"tensors": count} for key, count in folded.items()]
    brief = _counted(rules, "tensor") or "no routing recorded"
    return {"label": race["results"][name]["label"], "brief": brief, "rows": _grid(rows)}


def _run(race: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run["run"],
        "optimizer": say.label(race, run["optimizer"]),
        "purpose": run.get("purpose") or "",
        "lr": say.lr(run["lr"]),
        "seed": run.get("seed"),
        "tokens": say.tokens(run["tokens"]),
        "loss": say.loss(run.get("loss")),
        "status": run["status"],
        "time": say.duration(run.get("seconds")),
        "reason": run.get("reason") or "",
    }


def _counted(counts: Counter[str], unit: str = "") -> str:
    return ", ".join(
        f"{count} {unit + ('s' if count != 1 else '') + ' by ' if unit else ''}{what}"
        for what, count in counts.items()
    )


def _tuning_text(race: dict[str, Any]) -> str:
    spent = [(say.label(race, name), race["results"][name]["tuning"]["runs"]) for name in say.ranking(race)]
    return ", ".join(f"{who} {runs:g} runs" for who, runs in spent)


def _noise(race: dict[str, Any]) -> str:
    noise = race["noise"]
    if not noise or noise["sd"] is None:
        return ""
    return f"standard deviation {noise['sd']:.4f} nats/token, from {noise['from']}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any) -> str:
    """A setting as people write it: ``betas 0.9, 0.95 · eps 1e-8``."""
    if isinstance(value, dict):
        return (
            " · ".join(
                f"{key} ({_plain(item)})" if isinstance(item, dict) else f"{key} {_plain(item)}"
                for key, item in value.items()
            )
            or "nothing"
        )
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return say.NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.6g}"
    return str(value)
