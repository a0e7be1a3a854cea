"""What the documents of races and studies say cell by cell, in one form: the evidence that advice rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steepest.lab.analysis.quantile import student_t
from steepest.lab.analysis.runs import TOKENS_PER_WEIGHT, Scalar

UNKNOWN_SD = 4e-3
"""Noise of one run where no seed was repeated, nats/token: what three seeds tell of runs of a minute, and four
times what runs of days show (arXiv 2509.02046). It errs on the wide side."""
FLAGGED = 0.1
"""Least standard error of the logarithm of a speedup that is flagged."""

Ends = tuple[float, float, float]
"""Low end, value, high end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One optimizer at one place of one document. Losses are compared within a ``source`` only: others may have
    another corpus.

    loss, error: mean final loss and its standard error, without what the seeds share with other optimizers.
    speedup: natural logarithm of the baseline's tokens over its own, with standard error; None where none is
    stated. worth: the loss that one e-fold of tokens is worth to the baseline there, -dL / d ln D of its law, or
    between its budgets; None where neither is known. bracketed: whether a worse learning rate was tried on either
    side; certified: whether every one-step neighbour was tried and is no better; None where that is not known.
    """

    source: str
    optimizer: str
    label: str
    size: str
    weights: int
    tokens: int
    loss: float
    error: float
    seeds: int
    best: Mapping[str, Scalar]
    bracketed: bool | None = None
    certified: bool | None = None
    state_bytes: float | None = None
    speedup: tuple[float, float] | None = None
    worth: float | None = None

    @property
    def ratio(self) -> float:
        """Tokens over 20 per non-embedding weight."""
        return self.tokens / (TOKENS_PER_WEIGHT * self.weights)

    @property
    def place(self) -> tuple[str, str, int]:
        """What it can be compared at: source, size, tokens."""
        return self.source, self.size, self.tokens


@dataclass(frozen=True, slots=True)
class Known:
    """What documents say together. slopes: by optimizer and hyperparameter, the decades that its best value moves
    per decade of weights and of the ratio; None where that is not known.
    """

    baseline: str
    outcomes: tuple[Outcome, ...]
    slopes: Mapping[str, Mapping[str, tuple[Ends | None, Ends | None]]] = field(default_factory=dict)

    def joined(self, other: Known) -> Known:
        """Both, measured against this one's baseline; speedups over another baseline are dropped."""
        kept = other.outcomes
        if other.baseline != self.baseline:
            kept = tuple(replace(outcome, speedup=None) for outcome in kept)
        return Known(self.baseline, self.outcomes + kept, {**other.slopes, **self.slopes})


def outcomes(document: Mapping[str, Any], source: str) -> Known:
    """Of a race.json or a study.json that was read and checked; ``source`` tells it from others."""
    return _of_study(document, source) if document.get("kind") == "study" else _of_race(document, source)


def _of_race(race: Mapping[str, Any], source: str) -> Known:
    setup, noise, found = race["setup"], race["noise"] or {}, []
    base = race["results"][race["baseline"]]["final"] or {"mean": None}
    worth = _worth(race["law"], base["mean"])
    for name in race["optimizers"]:
        result = race["results"][name]
        final = result["final"]
        if final is None or final["mean"] is None:
            continue
        seeds = len(final["losses"])
        own = race["untuned"]["per_optimizer"].get(name, {})
        shared = {"batch": setup["batch"], "clip": setup["clip"]}
        stated = result["speedup_tokens"] or {}
        found.append(
            Outcome(
                source=source,
                optimizer=name,
                label=result["label"],
                size=setup["model_name"],
                weights=int(setup["non_embedding"]),
                tokens=int(setup["tokens"]),
                loss=final["mean"],
                error=_error(final, seeds, noise),
                seeds=seeds,
                best={"lr": result["lr"]["best"], **_flat(own), **shared},
                bracketed=result["lr"]["bracketed"],
                state_bytes=result["state_bytes_per_weight"],
                speedup=None if name == race["baseline"] else _speedup(stated.get("value"), stated),
                worth=worth,
            )
        )
    return Known(race["baseline"], tuple(found))


def _of_study(study: Mapping[str, Any], source: str) -> Known:
    weights = {entry["size"]: entry["weights"] for entry in study["sizes"]}

    def by_cell(section: str) -> dict[tuple[str, str, int], Mapping[str, Any]]:
        base = [entry for entry in study.get(section) or [] if not entry.get("variant")]
        return {(entry["optimizer"], entry["size"], entry["tokens"]): entry for entry in base}

    stated, certificates = by_cell("speedups"), by_cell("certificates")
    swept = [entry for entry in study.get("robustness") or [] if entry["hyperparameter"] == "lr"]
    bracketed = {(e["optimizer"], e["size"], e["tokens"]): e["bracketed"] for e in swept if not e["variant"]}
    held: dict[str, float] = {}
    for front in study.get("pareto") or []:
        held |= {o["optimizer"]: o["state_bytes"] for o in front["optimizers"] if o["state_bytes"] is not None}
    cells, found = by_cell("cells"), []
    worth = _worths(study, [cell for cell in cells.values() if cell["optimizer"] == study["baseline"]])
    for key, cell in cells.items():
        if cell["loss"] is None:
            continue
        entry = stated.get(key, {})
        found.append(
            Outcome(
                source=source,
                optimizer=cell["optimizer"],
                label=study["labels"][cell["optimizer"]],
                size=cell["size"],
                weights=int(weights[cell["size"]]),
                tokens=int(cell["tokens"]),
                loss=cell["loss"],
                error=_error(cell, cell["seeds"], study.get("noise") or {}),
                seeds=cell["seeds"],
                best=cell["best"] or {},
                bracketed=bracketed.get(key),
                certified=certificates.get(key, {}).get("certified"),
                state_bytes=held.get(cell["optimizer"]),
                speedup=_speedup(entry.get("speedup"), entry),
                worth=worth.get((cell["size"], cell["tokens"])),
            )
        )
    return Known(study["baseline"], tuple(found), _slopes(study))


def _worths(study: Mapping[str, Any], base: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """By size and tokens, from the baseline's cells."""
    laws = {
        law["size"]: law
        for law in study.get("laws") or []
        if law["optimizer"] == study["baseline"] and not law.get("variant")
    }
    found: dict[tuple[str, int], float] = {}
    for size in {cell["size"] for cell in base}:
        ended = sorted((c for c in base if c["size"] == size and c["loss"] is not None), key=lambda c: c["tokens"])
        for place, cell in enumerate(ended):
            worth = _worth(laws.get(size), cell["loss"])
            if worth is None and len(ended) > 1:
                one, other = ended[max(0, place - 1)], ended[min(len(ended) - 1, place + 1)]
                worth = (one["loss"] - other["loss"]) / math.log(other["tokens"] / one["tokens"])
            if worth is not None and worth > 0:
                found[size, cell["tokens"]] = worth
    return found


def _worth(law: Mapping[str, Any] | None, loss: float | None) -> float | None:
    """-dL / d ln D where the law is at this loss."""
    if not law or loss is None or law.get("floor") is None or law.get("exponent") is None:
        return None
    return float(law["exponent"] * (loss - law["floor"])) if loss > law["floor"] else None


def _slopes(study: Mapping[str, Any]) -> dict[str, dict[str, tuple[Ends | None, Ends | None]]]:
    found: dict[str, dict[str, tuple[Ends | None, Ends | None]]] = {}
    for drift in study.get("drift") or []:
        if not drift["variant"] and drift["axis"] == "log":
            both = _ends(drift["by_size"]), _ends(drift["by_ratio"])
            found.setdefault(drift["optimizer"], {})[drift["hyperparameter"]] = both
    return found


def _ends(slope: Mapping[str, Any]) -> Ends | None:
    if slope["value"] is None:
        return None
    low, high = (slope["value"] if slope[end] is None else slope[end] for end in ("low", "high"))
    return low, slope["value"], high


def _error(told: Mapping[str, Any], seeds: int, noise: Mapping[str, Any]) -> float:
    """Standard error of a mean final loss."""
    sd = noise.get("own_sd") or noise.get("sd")
    if sd:
        return float(sd) / math.sqrt(max(1, seeds))
    if told["low"] is not None and told["high"] is not None:
        return float(told["high"] - told["low"]) / 2 / student_t(0.95, 1e9)
    return UNKNOWN_SD / math.sqrt(max(1, seeds))


def _speedup(value: float | None, told: Mapping[str, Any]) -> tuple[float, float] | None:
    if not value:
        return None
    low, high = told.get("low"), told.get("high")
    ends = [abs(math.log(end / value)) for end in (low, high) if end]
    error = max(ends) / student_t(0.95, 1e9) if ends else FLAGGED
    return math.log(value), max(error, FLAGGED) if told.get("flags") else error


def _flat(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Own hyperparameters that are plain values; ``betas`` as beta1 and beta2."""
    found: dict[str, Scalar] = {}
    for key, value in values.items():
        if key == "betas" and isinstance(value, list):
            found |= {f"beta{place}": beta for place, beta in enumerate(value, 1)}
        elif value is None or isinstance(value, bool | int | float | str):
            found[key] = value
    return found
