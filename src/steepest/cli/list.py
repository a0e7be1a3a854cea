"""The optimizers, one line each."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "the optimizers, one line each"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from steepest.cli.table import table
    from steepest.registry import rules
    from steepest.zeroth.ways import WAYS

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "title": rule.title,
            "scope": rule.scope,
            "weights": moved(rule),
            "state_bytes_per_weight": round(bytes_per_weight(rule), 2),
            "variants": list(rule.variants),
        }
        for name, rule in rules().items()
    ]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    head = ("name", "scope", "weights", "state B/weight", "variants", "title")
    cells = [
        (
            r["name"],
            r["scope"],
            r["weights"],
            f"{r['state_bytes_per_weight']:.1f}",
            ", ".join(r["variants"]),
            r["title"],
        )
        for r in rows
    ]
    print(table(head, cells))
    print("\nState bytes are for a square float32 matrix of 1024 x 1024. `steepest show NAME` tells the rest.")
    print(f"Ways to run a rule on losses alone, for fine-tuning: {', '.join(WAYS)}.")
    return 0


def moved(rule: Any) -> str:
    """Which weights the rule itself moves, in two words."""
    from steepest.core.naming import HIDDEN, ROLES
    from steepest.core.rule import defaults

    made = rule(**defaults(rule))
    roles = {role for role in ROLES if made.takes(role)}
    named = {"all": set(ROLES), "hidden matrices": set(HIDDEN), "matrices": {*HIDDEN, "embed", "head"}}
    return next((words for words, those in named.items() if roles == those), ", ".join(sorted(roles)))


def bytes_per_weight(rule: type) -> float:
    """State of a 1024 x 1024 float32 matrix under the rule's defaults, per weight."""
    from steepest.core.rule import defaults

    values = defaults(rule)
    return float(rule(**values).state_bytes((1024, 1024)) / 1024**2)
