"""What was measured, read from the files of results beside the benchmarks."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "robustness"


@dataclass(frozen=True)
class Cost:
    """One measured entry of a benchmark, and what it was measured on."""

    entry: dict[str, Any]
    model: dict[str, Any]
    setting: dict[str, Any]
    machine: str
    command: str

    @property
    def rule(self) -> str:
        """The optimizer's name; empty for torch's classes and other packages."""
        return str(self.entry["spec"]).partition(":")[0] if self.entry["engine"] else ""


@functools.cache
def _files() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


@functools.cache
def costs() -> tuple[Cost, ...]:
    """Every entry of every benchmark that times steps of optimizers."""
    found = []
    for record in _files().values():
        for measurement in record.get("models", ()):
            hardware = record.get("hardware", {})
            machine = (
                hardware.get("gpu") or f"{hardware.get('processor', '?')}, {hardware.get('cores', '?')} cores"
            )
            found += [
                Cost(entry, measurement["model"], measurement["setting"], machine, record.get("command", ""))
                for entry in measurement["entries"]
            ]
    return tuple(found)


def costs_of(rule: str) -> list[Cost]:
    """The entries of one optimizer, largest model first."""
    return sorted(
        (c for c in costs() if c.rule == rule),
        key=lambda c: (-c.model["weights"], c.setting["dtype"] != "float32"),
    )


def usual_cost(rule: str) -> float | None:
    """Median time of a step over that of torch's fused AdamW, default engine, largest measured model; float32."""
    for cost in costs_of(rule):
        if cost.entry["engine"] == "auto" and cost.setting["dtype"] == "float32":
            ratio = cost.entry["over_reference"].get("median")
            if ratio is not None:
                return float(ratio)
    return None


def robustness() -> dict[str, Any]:
    """The record of ``benchmarks/robustness.py``: empty before it ran."""
    return _files().get("robustness", {})


def onebit() -> dict[str, Any]:
    """The record of ``benchmarks/onebit.py``: empty before it ran."""
    return _files().get("onebit", {})


def robustness_of(rule: str) -> dict[str, Any] | None:
    """One optimizer's part of that record."""
    found = robustness().get("rules", {}).get(rule)
    return dict(found) if found else None
