"""All figures of a study, by topic, in the page's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steepest.lab.report.figure import Figure
from steepest.lab.report.study import (
    certificates,
    laws,
    optima,
    overview,
    predictions,
    published,
    robustness,
    tuning,
)
from steepest.lab.report.words import listed

Study = dict[str, Any]
Draw = Callable[[Study], Figure | None]

LAWS, LOSSES, CERTAINTY = "Laws and speedups", "Final losses", "Certainty"
ROBUSTNESS, TUNING, OPTIMA = "Robustness", "Tuning", "Optima and trade-offs"
SCALE, PUBLISHED = "What moves with scale", "Beside what was published"

TOPICS: dict[str, tuple[Draw, ...]] = {
    LAWS: laws.DRAWN,
    LOSSES: overview.DRAWN,
    CERTAINTY: certificates.DRAWN,
    ROBUSTNESS: robustness.DRAWN,
    TUNING: tuning.DRAWN,
    OPTIMA: optima.DRAWN,
    SCALE: predictions.DRAWN,
    PUBLISHED: published.DRAWN,
}
"""Headings, and the figures under each; a figure is None where the study has no data for it."""

WANTED = {
    LAWS: "a law takes the baseline at four budgets of one size, a trend two sizes, a joint law both",
    LOSSES: "gaps take a rival of the baseline with a final loss, curves take recorded evaluations",
    CERTAINTY: "power takes repeated seeds, certificates runs around the winners",
    ROBUSTNESS: "a sweep takes runs that differ in one hyperparameter alone",
    TUNING: "costs take several settings of a cell, flips take curves along the final runs",
    OPTIMA: "drift takes one sweep at several sizes or ratios, trade-offs take recorded times or states",
    SCALE: "the rule takes an optimizer searched at several scales, laws their optima",
}
"""What a topic's figures are drawn from; of a topic that only replayed studies have, nothing is missed."""


def drawn(study: Study) -> tuple[dict[str, list[Figure]], list[str]]:
    """The figures of every topic that has one; and a sentence per topic on those left out and what they want."""
    found: dict[str, list[Figure]] = {}
    missing = []
    for topic, draws in TOPICS.items():
        made = {draw.__name__.replace("_", " "): draw(study) for draw in draws}
        if figures := [figure for figure in made.values() if figure is not None]:
            found[topic] = figures
        absent = [name for name, figure in made.items() if figure is None]
        if absent and topic in WANTED:
            missing.append(f"{topic}: without {listed(absent, len(absent))} ({WANTED[topic]}).")
    return found, missing


def figures(study: Study) -> list[Figure]:
    """All of them in one list."""
    return [figure for of_topic in drawn(study)[0].values() for figure in of_topic]
