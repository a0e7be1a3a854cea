"""The report page of a study, own or replayed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from steepest.lab.report import files, frame
from steepest.lab.report.figure import slots
from steepest.lab.report.study import summary as say
from steepest.lab.report.study.figures import CERTAINTY, drawn
from steepest.lab.report.study.schema import checked
from steepest.lab.report.study.tables import tables
from steepest.lab.report.svg import color
from steepest.lab.report.words import NOTHING, counted, dotted, duration, listed, loss, lr, shortened, tokens

Study = dict[str, Any]
OPEN_LIMITS = 16  # sentences of limits in the open; the rest unfolds


def write(study: Study, path: Path) -> None:
    """Draws ``study`` (the content of study.json) as one HTML file, put in place at once.

    CorruptFile names the keys that are missing or wrong, MissingExtra asks for jinja2, BadInput says why the
    file cannot be written.
    """
    path = Path(path)
    runs = path.with_name("runs.csv")
    files.write_text(path, html(study, path.with_name("study.json"), runs.name if runs.exists() else ""))


def html(study: Study, file: Path | str = "study.json", runs_file: str = "") -> str:
    """The page as text; ``file`` is what its commands name, ``runs_file`` a table of all runs beside it."""
    study = checked(study)
    topics, missing = drawn(study)
    of_sizes = tables(study)
    return frame.render(
        "study.html",
        study,
        [figure for figures in topics.values() for figure in figures],
        file,
        study=study,
        topics={topic: [figure.key for figure in figures] for topic, figures in topics.items()},
        missing=missing,
        base=say.label(study, study["baseline"]),
        headline=say.headline(study),
        lead=say.lead(study),
        setting=say.setting(study),
        tables=of_sizes,
        shortened=shortened,
        slots={name: color(slot) for name, slot in slots(study).items()},
        table=frame.attached("table.csv", "text/csv", files.csv_text(say.rows(study))),
        level=say.level(study),
        supported=study.get("supported") or [],
        limits=[*study["not_supported"], *study["warnings"]],
        open_limits=OPEN_LIMITS,
        any_gap=any(value.gap for table in of_sizes for row in table.rows for value in row.values),
        any_certified=any(entry["certified"] for entry in study.get("certificates") or []),
        certificates=frame.grid([_certificate(study, entry) for entry in study.get("certificates") or []]),
        certainty=CERTAINTY,
        accounting=_accounting(study),
        noise=_sentences(study.get("noise")),
        best=frame.grid(_best(study)),
        runs=frame.grid([_run(study, run) for run in study.get("runs") or []]),
        runs_shown=len(study.get("runs") or []),
        runs_file=runs_file,
        statuses=_statuses(study),
        provenance=dotted(study["provenance"]),
        whole=frame.attached("study.json", "application/json", json.dumps(study, ensure_ascii=False)),
    )


def _certificate(study: Study, entry: Study) -> dict[str, Any]:
    near = entry["neighbours"]
    return {
        "optimizer": say.label(study, entry["optimizer"]),
        "size": entry["size"],
        "ratio": say.times_data(entry["ratio"]),
        **({"variant": entry["variant"]} if entry["variant"] else {}),
        "certificate": entry["text"] + (" (over what was tried)" if entry["inferred"] else ""),
        "neighbours tried": f"{near['tried']} of {near['all']}",
        "runs": entry["runs"],
        "seeds": entry["seeds"],
    }


def _accounting(study: Study) -> dict[str, Any]:
    """Runs and what they took, per optimizer; what was searched, where that is known."""
    slot, searched = slots(study), {entry["optimizer"]: entry for entry in study.get("accounting") or []}
    columns = [("runs", "diverged"), ("tokens", "settings"), ("operations", "FLOPs"), ("time", "of all runs")]
    columns += [("searched", "hyperparameters"), ("neighbours", "one step away"), ("certified", "of its cells")]
    rows = []
    for name in study["optimizers"]:
        mine = [cell for cell in study["cells"] if cell["optimizer"] == name]
        spent = {key: [cell[f"spent_{key}"] for cell in mine] for key in ("tokens", "flops", "seconds")}
        total = {key: None if None in found else sum(found) for key, found in spent.items()}
        search = searched.get(name)
        diverged = sum(cell["diverged"] for cell in mine)
        row = [
            (f"{sum(cell['runs'] for cell in mine):,}", f"{diverged} diverged" if diverged else ""),
            (tokens(total["tokens"] or 0), "" if search is None else f"{search['settings']:,} settings"),
            (NOTHING if total["flops"] is None else f"{total['flops']:.2g}", ""),
            (duration(total["seconds"]), ""),
            (NOTHING if search is None else _span(search["coordinates"]), ""),
            (NOTHING if search is None else _span(search["neighbours"]), ""),
            (NOTHING if search is None else f"{search['certified']} of {search['cells']}", ""),
        ]
        label = study["labels"][name]
        rows.append({"slot": color(slot[name]), "label": label, "short": shortened(label, 22), "cells": row})
    return {"columns": columns, "rows": rows}


def _span(ends: list[int]) -> str:
    return f"{ends[0]}" if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


def _sentences(section: Study | None) -> list[str]:
    """A section's own words, as sentences."""
    return [f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in (section or {}).get("text") or []]


def _best(study: Study) -> list[dict[str, Any]]:
    """The setting behind every final loss."""
    return [
        {
            "optimizer": say.label(study, cell["optimizer"]),
            "size": cell["size"],
            "ratio": say.times_data(cell["ratio"]),
            **({"variant": cell["variant"]} if cell["variant"] else {}),
            "loss": loss(cell["loss"]),
            "how": cell["how"],
            **{name: _value(value) for name, value in (cell["best"] or {}).items()},
        }
        for cell in study["cells"]
    ]


def _value(value: Any) -> str:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return lr(value) if numeric and 0 < abs(value) < 1000 else listed([str(value)])


def _run(study: Study, run: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": shortened(run["run"], 44),
        "optimizer": say.label(study, run["optimizer"]),
        "size": " ".join(filter(None, (run["size"], run.get("variant")))),
        "tokens": tokens(run["tokens"]),
        "lr": _value(run.get("hp.lr")) if run.get("hp.lr") is not None else "",
        "seed": run.get("seed"),
        "purpose": run.get("purpose") or "",
        "loss": loss(run.get("loss")),
        "status": run["status"],
        "time": duration(run.get("seconds")),
    }


def _statuses(study: Study) -> str:
    diverged = sum(cell["diverged"] for cell in study["cells"])
    return counted(Counter({"runs": study["runs_count"], "of them diverged": diverged}))
