"""All figures of a race, in the page's order."""

from __future__ import annotations

from steepest.lab.report.costs import step_costs, tuning_spent
from steepest.lab.report.curves import loss_vs_lr, training_curves
from steepest.lab.report.figure import Figure, Race
from steepest.lab.report.verdicts import loss_vs_tokens, speedups

DRAWN = (loss_vs_tokens, speedups, loss_vs_lr, training_curves, tuning_spent, step_costs)


def figures(race: Race) -> list[Figure]:
    """Every figure; ``race`` has gone through :func:`steepest.lab.report.schema.checked`."""
    return [draw(race) for draw in DRAWN]
