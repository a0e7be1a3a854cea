"""What a study will cost, before it runs: the runs that its protocol tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steepest.core.errors import BadInput
from steepest.lab.analysis.runs import Cell, Place
from steepest.lab.config import TOKENS_PER_WEIGHT
from steepest.lab.study.asking import Course

if TYPE_CHECKING:
    from steepest.lab.study.study import Study
    from steepest.lab.study.trial import Trial


@dataclass(frozen=True)
class Priced:
    """The runs of every cell, finished ones among them. first: what the protocol asks for at once."""

    runs: Mapping[Cell, int]
    most: Mapping[Cell, int]
    first: Mapping[Cell, int]

    def tokens(self, which: Mapping[Cell, int]) -> int:
        """Training tokens of these runs."""
        return sum(cell.tokens * count for cell, count in which.items())


def priced(study: Study) -> Priced:
    """The runs that the protocol will ask for."""
    expected = study.expected()
    course: Course[Trial] = Course(study.asking())
    first = Counter(Cell(t.optimizer, *t.place) for t in course.begin())
    return Priced(
        {cell: runs.expected for cell, runs in expected.items()},
        {cell: runs.most for cell, runs in expected.items()},
        first,
    )


def check_budget(study: Study, price: Priced) -> None:
    """Raises: BadInput for a budget that does not pay the protocol's first questions."""
    budget, runs = study.budget, sum(price.first.values())
    tokens = price.tokens(price.first)
    for name, limit, least in (("runs", budget.runs, runs), ("tokens", budget.tokens, tokens)):
        if limit is not None and limit < least:
            whole = {"runs": sum(price.runs.values()), "tokens": price.tokens(price.runs)}[name]
            raise BadInput(
                f"budget.{name}={limit:,}: what {study.protocol} asks for first is {runs:,} runs of {tokens:,} "
                f"tokens (expected in all: {whole:,} {name}): raise it, or take fewer optimizers, sizes or ratios"
            )


def ratio(study: Study, place: Place) -> float:
    """Tokens over 20 per non-embedding weight."""
    return place.tokens / (TOKENS_PER_WEIGHT * study.weights(place))
