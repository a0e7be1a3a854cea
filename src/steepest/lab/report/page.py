"""The report page of a race."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from steepest.lab.report import files, frame
from steepest.lab.report import summary as say
from steepest.lab.report.figure import slots
from steepest.lab.report.figures import figures
from steepest.lab.report.schema import checked
from steepest.lab.report.svg import color
from steepest.lab.report.words import counted, dotted, plain


def write(race: dict[str, Any], path: Path) -> None:
    """Draws ``race`` (the content of race.json) as one HTML file, put in place at once.

    CorruptFile names the keys that are missing or wrong, MissingExtra asks for jinja2, BadInput says why the
    file cannot be written.
    """
    path = Path(path)
    files.write_text(path, html(race, path.with_name("race.json")))


def html(race: dict[str, Any], race_file: Path | str = "race.json") -> str:
    """The page as text; ``race_file`` is the path that its commands name."""
    race = checked(race)
    rows = say.rows(race)
    return frame.render(
        "page.html",
        race,
        figures(race),
        race_file,
        race=race,
        names=say.listed([say.label(race, name) for name in race["optimizers"]], 6),
        base=say.label(race, race["baseline"]),
        headline=say.headline(race),
        seconds=say.in_seconds(race),
        setting=say.setting(race),
        certificates=say.certificates(race),
        limits=say.limits(race),
        sentences=[race["results"][name]["verdict_text"] for name in say.ranking(race)[1:]],
        level=say.level(race),
        noise=_noise(race),
        table=[_verdict(race, row) for row in say.cells(race)],
        table_csv=frame.link("text/csv", files.csv_text(rows)),
        spikes=[_verdict(race, row) for row in say.spikes(race)],
        fixed=[
            (race["results"].get(name, {"label": name})["label"], plain(values))
            for name, values in race["untuned"]["per_optimizer"].items()
        ],
        setup=dotted(race["setup"]),
        routing=[_routing(race, name) for name in race["optimizers"]],
        tuning_text=_tuning_text(race),
        budgets=len(race["law"]["points"]) if race["law"] else "several",
        passes=f"{race['setup']['passes']:.2g}",
        statuses=counted(Counter(run["status"] for run in race["runs"])),
        runs=frame.grid([_run(race, run) for run in race["runs"]]),
        runs_csv=frame.link("text/csv", files.csv_text(race["runs"])),
        took=say.duration(race["seconds"]),
        calibration=dotted(race["calibration"] or {}),
        race_json=frame.link("application/json", json.dumps(race, ensure_ascii=False, separators=(",", ":"))),
    )


def _verdict(race: dict[str, Any], row: dict[str, str]) -> dict[str, str]:
    slot = color(slots(race)[row["optimizer"]])
    return row | {"short": say.shortened(row["label"], 22), "slot": str(slot)}


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
    brief = counted(rules, "tensor") or "no routing recorded"
    return {"label": race["results"][name]["label"], "brief": brief, "rows": frame.grid(rows)}


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


def _tuning_text(race: dict[str, Any]) -> str:
    spent = [(say.label(race, name), race["results"][name]["tuning"]["runs"]) for name in say.ranking(race)]
    return ", ".join(f"{who} {runs:g} runs" for who, runs in spent)


def _noise(race: dict[str, Any]) -> str:
    noise = race["noise"]
    if not noise or noise["sd"] is None:
        return ""
    return f"standard deviation {noise['sd']:.4f} nats/token, from {noise['from']}"
