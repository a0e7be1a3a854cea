"""The pages that are made, not written: from the rules, the public names, the verbs and the measurements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from generate import interface, optimizer, overview, planned, released, schedules, studies, zeroth
from steepest.registry import rules

PLACES = {
    "memory": overview.memory_table,
    "cost": overview.cost_table,
    "robustness": overview.robustness_table,
    "onebit": overview.onebit_table,
    "published": planned.published_table,
    "models": planned.models_table,
    "released": released.peaks_table,
    **schedules.MAKERS,
    **studies.MAKERS,
    **zeroth.MAKERS,
}
"""Tables that hand-written pages take in where they say ``<!-- table: NAME -->``."""


def makers() -> dict[str, Callable[[], str]]:
    """What makes each page, by its place under docs/."""
    return {
        "optimizers/index.md": lambda: overview.page(rules()),
        **{f"optimizers/{name}.md": partial(optimizer.page, name, rule) for name, rule in rules().items()},
        "api.md": interface.names_page,
        "cli.md": interface.verbs_page,
    }


def filled(text: str) -> str:
    """A hand-written page with its tables in place. Raises: KeyError for a table that nobody makes."""
    parts = text.split("<!-- table: ")
    whole = parts[0]
    for part in parts[1:]:
        name, _, rest = part.partition(" -->")
        whole += "\n".join(PLACES[name](rules())) + rest
    return whole
