"""The table of the page on stepping inside backward: peaks of memory, from benchmarks/release.py."""

from __future__ import annotations

import json
from collections.abc import Mapping

from generate.measured import RESULTS
from generate.text import table
from steepest.core.rule import Rule
from steepest.registry import resolve

MIB = 2**20


def peaks_table(rules: Mapping[str, type[Rule]]) -> list[str]:
    """A line for each optimizer: weights, state, gradients and peak, plain and released."""
    rows = json.loads((RESULTS / "release.json").read_text(encoding="utf-8"))["rows"]
    kinds = ({row["optimizer"]: row for row in rows if row["released"] is kind} for kind in (False, True))
    plain, released = kinds
    lines = [
        (
            resolve(name).label,
            *(f"{row[what] / MIB:.1f}" for what in ("weights", "state")),
            *(f"{pair[name][what] / MIB:.1f}" for what in ("gradients", "peak") for pair in (plain, released)),
        )
        for name, row in plain.items()
    ]
    head = ("MiB", "weights", "state", "gradients", "released", "peak of a step", "released")
    return table(head, lines, numbers_from=1)
