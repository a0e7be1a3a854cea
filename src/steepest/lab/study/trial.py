"""What a study asks for, one run, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steepest.lab.analysis.runs import Place, Scalar

Values = Mapping[str, Scalar]
"""Hyperparameters by name, flat: the optimizer's own (lr, beta1, weight_decay) and the run's (warmup, batch)."""

Space = Mapping[str, tuple[Scalar, ...]]
"""The grid of each hyperparameter that is searched, ascending where it is ordered."""


@dataclass(frozen=True)
class Trial:
    """One run of a study. Equal trials are one run, whatever they are for.

    values: every hyperparameter that the study sets, sorted by name; what it does not set is the recipe's.
    """

    optimizer: str
    place: Place
    values: tuple[tuple[str, Scalar], ...]
    seed: int
    purpose: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """For people: ``muon 20k 409,600 tokens lr=0.016 seed 1``."""
        told = " ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in self.values
        )
        variant = f" {self.place.variant}" if self.place.variant else ""
        return f"{self.optimizer} {self.place.size}{variant} {self.place.tokens:,} tokens {told} seed {self.seed}"
