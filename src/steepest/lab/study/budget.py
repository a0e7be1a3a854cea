"""What a study may still spend, counted once for all processes that hold it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steepest.lab.files import locked, make_folder, writing

if TYPE_CHECKING:
    from steepest.lab.study.hold import Standing
    from steepest.lab.study.study import Budget

TAKEN = "taken.jsonl"
"""One line for every run that was let start, in the folder of the study."""


@dataclass
class Purse:
    """``allows`` says whether a run may start, and counts it.

    Runs and tokens are counted when a run starts, at its full length, those that others made among them; hours
    when a run has ended, so that they may be passed by what is running.
    """

    budget: Budget
    folder: Path
    standing: Standing

    def allows(self, run: str, tokens: int) -> bool:
        """Whether the budget lets a run start or go on."""
        budget = self.budget
        if budget.runs is None and budget.tokens is None and budget.hours is None:
            return True
        folder = make_folder(self.folder / "budget")
        with locked(folder, notice=lambda message: None):
            taken = self._taken(folder / TAKEN)
            for name, result in self.standing.results.items():
                taken.setdefault(name, result.trained)
            if run in taken:
                return True
            hours = sum(result.seconds for result in self.standing.results.values()) / 3600
            over = (
                (budget.runs is not None and len(taken) + 1 > budget.runs)
                or (budget.tokens is not None and sum(taken.values()) + tokens > budget.tokens)
                or (budget.hours is not None and hours >= budget.hours)
            )
            if over:
                return False
            with writing(folder / TAKEN), open(folder / TAKEN, "a", encoding="utf-8") as file:
                # A line of its own, also after one that a kill tore.
                file.write("\n" + json.dumps({"run": run, "tokens": tokens}) + "\n")
            return True

    def _taken(self, path: Path) -> dict[str, int]:
        if not path.exists():
            return {}
        found = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                told = json.loads(line)
                found[told["run"]] = told["tokens"]
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill: that run was not started
        return found
