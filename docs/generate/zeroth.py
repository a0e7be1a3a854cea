"""The tables of the zeroth-order page: the methods, and what was measured of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generate.text import prose, table
from steepest.core.rule import Rule
from steepest.zeroth.ways import WAYS

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "zeroth.json"


def record() -> dict[str, Any]:
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def methods(_: Mapping[str, type[Rule]]) -> list[str]:
    """Every published method, with what one step takes."""
    rows = [
        (f"[`{name}`](#{name})", prose(way.update), way.forwards, prose(way.kept)) for name, way in WAYS.items()
    ]
    return table(("method", "a step", "forward passes", "kept beside the weights"), rows)


def learning(_: Mapping[str, type[Rule]]) -> list[str]:
    """Accuracy after the same number of forward passes, by seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in record()["learning"]["runs"]:
        found.setdefault(run["name"], []).append(run)
    rows = [
        (
            f"`{name}`",
            f"{runs[0]['lr']:g}",
            f"{runs[0]['steps']:,}",
            ", ".join(f"{100 * run['accuracy']:.0f} %" for run in runs),
            f"{sum(run['training_loss'] for run in runs) / len(runs):.3f}",
        )
        for name, runs in found.items()
    ]
    return table(("method", "lr", "steps", "accuracy, three seeds", "training loss"), rows, numbers_from=1)


def memory(_: Mapping[str, type[Rule]]) -> list[str]:
    """Peak memory of two steps."""
    rows = []
    for device, found in record()["memory"].items():
        least = found["kinds"]["inference"]
        for kind, row in found["kinds"].items():
            whole = row["weights"] + row["peak"]
            rows.append(
                (
                    f"{found['model']}, {found['batch']} × {found['length']} tokens, {device}",
                    f"`{kind}`",
                    f"{row['weights'] / 2**20:,.0f}",
                    f"{row['peak'] / 2**20:,.0f}",
                    f"{whole / (least['weights'] + least['peak']):.2f}",
                )
            )
    head = ("model", "step", "weights, MiB", "peak above them, MiB", "over inference")
    return table(head, rows, numbers_from=2)


MAKERS = {"zeroth-methods": methods, "zeroth-learning": learning, "zeroth-memory": memory}
