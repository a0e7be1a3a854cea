"""Which hyperparameters must be tuned again at every scale: the rule of arXiv 2509.02046 at several thresholds.

A regime is a place (size, tokens, variant) in which an optimizer was tuned. Its near-best runs are those whose
final loss lies within a threshold of the lowest. A hyperparameter is insensitive if some one value of it is
near-best in every regime, so that a study of all scales may fix it there; otherwise it is scaling-sensitive. The
answer depends on the threshold and on what was run: :func:`sweep` gives it at several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.lab.analysis.runs import Run, Scalar, grouped

THRESHOLD = 6.4e-3
"""Nats/token, as the paper reports it."""

THRESHOLDS = (3e-3, 5e-3, THRESHOLD, 7e-3)
"""The values that the paper's code held over time."""


@dataclass(frozen=True)
class Sensitivity:
    """What the rule says of one optimizer at one threshold (None: the near-best runs were given, not found).

    sensitive: names, sorted. common: of every other hyperparameter that varies, the values that are near-best in
    every regime, the most frequent first. unjudged: searched, but not recorded in every near-best run. regimes:
    their number.
    """

    optimizer: str
    threshold: float | None
    sensitive: tuple[str, ...]
    common: Mapping[str, tuple[Scalar, ...]]
    unjudged: tuple[str, ...]
    regimes: int

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "optimizer": self.optimizer,
            "threshold": self.threshold,
            "sensitive": list(self.sensitive),
            "common": {name: list(values) for name, values in self.common.items()},
            "unjudged": list(self.unjudged),
            "regimes": self.regimes,
        }


def near_best(runs: Sequence[Run], threshold: float) -> list[Run]:
    """The finished runs within ``threshold`` nats/token of the lowest final loss among ``runs``."""
    losses = [run.loss for run in runs if run.loss is not None]
    limit = min(losses) + threshold if losses else 0.0
    return [run for run in runs if run.loss is not None and run.loss <= limit]


def judged(
    near: Sequence[Sequence[Mapping[str, Scalar]]],
    optimizer: str = "",
    threshold: float | None = None,
    searched: Collection[str] | None = None,
) -> Sensitivity:
    """The rule over the near-best settings of each regime; regimes without any are left out.

    searched: the hyperparameters to judge; all if None.
    """
    near = [regime for regime in near if regime]
    names = {name for regime in near for values in regime for name in values}
    names &= names if searched is None else {*searched}
    sensitive, unjudged = [], []
    common: dict[str, tuple[Scalar, ...]] = {}
    for name in sorted(names):
        if any(name not in values for regime in near for values in regime):
            unjudged.append(name)
            continue
        counts = Counter(values[name] for regime in near for values in regime)
        everywhere = set.intersection(*({values[name] for values in regime} for regime in near))
        if not everywhere:
            sensitive.append(name)
        elif len(counts) > 1:
            common[name] = tuple(value for value, _ in counts.most_common() if value in everywhere)
    return Sensitivity(optimizer, threshold, tuple(sensitive), common, tuple(unjudged), len(near))


def sensitivity(runs: Sequence[Run], threshold: float) -> Sensitivity:
    """The rule over runs of one optimizer, whose places are the regimes, for what was searched in any of them."""
    regimes = grouped(runs, lambda run: run.cell.place).values()
    near = [[run.hyperparameters for run in near_best(regime, threshold)] for regime in regimes]
    searched = {name for regime in regimes for name in _varied(regime)}
    return judged(near, runs[0].optimizer if runs else "", threshold, searched)


def _varied(runs: Sequence[Run]) -> set[str]:
    """Hyperparameters of which the runs have more than one value; what some do not record has none there."""
    seen: dict[str, set[Scalar]] = {}
    for run in runs:
        for name, value in run.hyperparameters.items():
            seen.setdefault(name, set()).add(value)
    return {name for name, values in seen.items() if len(values) > 1}


def sweep(runs: Sequence[Run], thresholds: Sequence[float] = THRESHOLDS) -> list[Sensitivity]:
    """The rule for every optimizer, in order of first appearance, at every threshold."""
    of_optimizer = grouped(runs, lambda run: run.optimizer).values()
    return [sensitivity(own, threshold) for own in of_optimizer for threshold in thresholds]
