"""All figures of a study, by topic, in the page's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steepest.lab.report.figure import Figure
from steepest.lab.report.study import certificates, laws, overview

Study = dict[str, Any]
Draw = Callable[[Study], Figure | None]

TOPICS: dict[str, tuple[Draw, ...]] = {
    "Final losses": overview.DRAWN,
    "Laws and speedups": laws.DRAWN,
    "Certainty": certificates.DRAWN,
}
"""Headings, and the figures under each; a figure is None where the study has no data for it."""


def drawn(study: Study) -> dict[str, list[Figure]]:
    """The figures of every topic that has one."""
    found = {topic: [figure for draw in draws if (figure := draw(study))] for topic, draws in TOPICS.items()}
    return {topic: figures for topic, figures in found.items() if figures}


def figures(study: Study) -> list[Figure]:
    """All of them in one list."""
    return [figure for of_topic in drawn(study).values() for figure in of_topic]
