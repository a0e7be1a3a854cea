"""Which numbers of a direction are set to zero, so that only a random subspace is searched."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.errors import BadInput, UnknownName

LAWS = ("fraction", "below-ratio")
SCOPES = ("layer", "global")


@dataclass(frozen=True)
class Sparsity:
    """Masks of ZO-Bench (arXiv 2402.11592): a share of each direction is zero, in probing and update alike.

    ``law``: "fraction" zeroes the share ``ratio``; "below-ratio", the authors' code, zeroes a number where a
    normal one is below ``ratio``, which is the share Phi(ratio): .5 zeroes 69 %, .9 zeroes 82 %. ``scope``:
    "layer", the same ratio in each weight; "global", in each weight the share of its numbers that were smaller
    in size than that quantile of all numbers when the optimizer began. A mask lasts ``every`` steps and has a
    ``seed`` of its own (None: made from the optimizer's). ``in_update`` False leaves the mask out of the update,
    as the authors' code does with several queries and in the conservative form.
    """

    ratio: float
    law: str = "fraction"
    scope: str = "layer"
    every: int = 1
    seed: int | None = None
    in_update: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise BadInput(f"sparsity {self.ratio!r} must be a share in [0, 1)")
        if self.every < 1:
            raise BadInput(f"a mask lasts every={self.every!r} steps: give a whole number of at least 1")
        for kind, value, known in (("law", self.law, LAWS), ("scope", self.scope, SCOPES)):
            if value not in known:
                raise UnknownName.among(f"{kind} of sparsity", value, known)

    def share(self, ratio: float) -> float:
        """The share of zeros where the ratio is this."""
        return ratio if self.law == "fraction" else 0.5 * (1 + math.erf(ratio / math.sqrt(2)))


def ratios(weights: Iterable[Tensor], sparsity: Sparsity) -> list[float]:
    """Each weight's ratio."""
    weights = list(weights)
    if sparsity.scope == "layer":
        return [sparsity.ratio] * len(weights)
    threshold = quantile(weights, sparsity.ratio)
    return [float((w.detach().abs() < threshold).double().mean()) if w.numel() else 0.0 for w in weights]


def quantile(weights: list[Tensor], q: float) -> float:
    """The size below which a share q of all numbers lies, by halving: nothing as large as the model is made."""
    total = sum(w.numel() for w in weights)
    low, high = 0.0, max((float(w.detach().abs().max()) for w in weights if w.numel()), default=0.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(int(torch.count_nonzero(w.detach().abs() < middle)) for w in weights)
        low, high = (middle, high) if below < q * total else (low, middle)
    return high
