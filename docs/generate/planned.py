"""The tables of the page on memory: what papers print beside what the planner counts, and the models it knows."""

from __future__ import annotations

from collections.abc import Mapping

from generate.text import prose, table
from steepest.core.rule import Rule
from steepest.planning.models import KNOWN, model_named
from steepest.planning.published import HEAD, rows


def published_table(rules: Mapping[str, type[Rule]]) -> list[str]:
    """A line for each row of a paper's table."""
    return table(HEAD, [tuple(map(prose, row)) for row in rows()])


def models_table(rules: Mapping[str, type[Rule]]) -> list[str]:
    """Name, architecture, weights."""
    found = []
    for name, config in KNOWN.items():
        parameters = dict(model_named(name).weights.named_parameters()).values()  # type: ignore[union-attr]
        found.append((f"`{name}`", config["model_type"], f"{sum(p.numel() for p in parameters):,}"))
    return table(("name", "architecture", "weights"), found, numbers_from=2)
