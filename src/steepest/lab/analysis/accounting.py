"""Who searched how much: runs, operations and search spaces side by side, and whether they were equal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from steepest.lab.analysis.certificate import Certificate

EVEN = 1.1
"""Ratio of the largest to the smallest above which search spaces are called unequal."""


@dataclass(frozen=True)
class Search:
    """What one optimizer's winners took in all its cells.

    runs, diverged, settings, spent_tokens, spent_flops, spent_seconds: summed over its cells; None where no run
    recorded it. coordinates, neighbours, space: hyperparameters searched, one-step neighbours, settings of the
    grids, each as (smallest, largest) of its cells. certified: of its cells. inferred: in some cell the search
    space is what was tried.
    """

    optimizer: str
    cells: int
    certified: int
    runs: int
    diverged: int
    settings: int
    spent_tokens: int
    spent_flops: float | None
    spent_seconds: float | None
    coordinates: tuple[int, int]
    neighbours: tuple[int, int]
    space: tuple[int, int]
    inferred: bool

    def told(self) -> dict[str, Any]:
        """As a flat piece of the evidence document."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def accounting(certificates: Iterable[Certificate]) -> list[Search]:
    """One row per optimizer, in order of first appearance."""
    of: dict[str, list[Certificate]] = {}
    for certificate in certificates:
        of.setdefault(certificate.cell.optimizer, []).append(certificate)
    return [
        Search(
            optimizer,
            cells=len(found),
            certified=sum(bool(c.certified) for c in found),
            runs=sum(c.runs for c in found),
            diverged=sum(c.diverged for c in found),
            settings=sum(c.settings for c in found),
            spent_tokens=sum(c.tokens for c in found),
            spent_flops=_sum(c.flops for c in found),
            spent_seconds=_sum(c.seconds for c in found),
            coordinates=_range(len(c.coordinates) for c in found),
            neighbours=_range(c.neighbours for c in found),
            space=_range(c.space for c in found),
            inferred=any(c.inferred for c in found),
        )
        for optimizer, found in of.items()
    ]


def unequal(searches: Sequence[Mapping[str, Any]], labels: Mapping[str, str] | None = None) -> list[str]:
    """Where search spaces differ among searches as told, a sentence each; empty where none does by a tenth.

    Of the cells of each optimizer the largest space counts; runs are compared where all were run, elsewhere.
    """
    said = []
    for key, what in (("neighbours", "one-step neighbours to try"), ("coordinates", "hyperparameters searched")):
        counts = {told["optimizer"]: told[key][1] for told in searches}
        least, most = (end(counts, key=counts.__getitem__, default="") for end in (min, max))
        if counts and counts[most] > EVEN * counts[least]:
            names = [(labels or {}).get(name, name) for name in (least, most)]
            said.append(
                f"the search spaces were not equal: from {counts[least]} ({names[0]}) to {counts[most]} "
                f"({names[1]}) {what}"
            )
    return said


def _range(counts: Iterable[int]) -> tuple[int, int]:
    found = [*counts]
    return min(found), max(found)


def _sum(amounts: Iterable[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None
