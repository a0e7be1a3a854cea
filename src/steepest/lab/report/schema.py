"""What a race.json must hold before anything is drawn from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steepest.lab.report import shape
from steepest.lab.report.shape import NUMBER, Each, Maybe, Since, said

FORMAT = 1
ADVICE = "run the same `steepest race` command again to write it anew"

RATIO = Maybe({"value": Maybe(NUMBER), "low": Maybe(NUMBER), "high": Maybe(NUMBER)})
INTERVAL = {"tokens": NUMBER, "loss": NUMBER, "low": Maybe(NUMBER), "high": Maybe(NUMBER)}

SPIKES = {
    "runs": NUMBER,
    "loss": {"spike_score": Maybe(NUMBER), "above_median": Maybe(NUMBER), "z_spikes": Maybe(NUMBER)},
    "gradient_norm": {"spike_score": Maybe(NUMBER), "z_spikes": Maybe(NUMBER)},
    "diverged": NUMBER,
    "of": NUMBER,
}

RESULT = {
    "label": str,
    "tuning": {"runs": NUMBER, "tokens": NUMBER, "seconds": Maybe(NUMBER), "grid": list},
    "lr": {
        "best": Maybe(NUMBER),
        "bracketed": bool,
        "edge": Maybe(str),
        "points": Each({"lr": NUMBER, "loss": Maybe(NUMBER), "status": str}),
    },
    "certificate": Since(Maybe({"text": str})),
    "final": Maybe(
        {
            "losses": Each({"seed": NUMBER, "loss": Maybe(NUMBER)}),
            "mean": Maybe(NUMBER),
            "low": Maybe(NUMBER),
            "high": Maybe(NUMBER),
            "bits_per_byte": Maybe(NUMBER),
        }
    ),
    "spikes": Since(SPIKES),
    "speedup_tokens": RATIO,
    "speedup_seconds": RATIO,
    "step": Maybe({"seconds": Maybe(NUMBER), "optimizer_share": Maybe(NUMBER), "relative": Maybe(NUMBER)}),
    "state_bytes_per_weight": Maybe(NUMBER),
    "verdict": str,
    "verdict_text": str,
    "routing": Each({"parameter": str, "shape": list, "role": Maybe(str), "rule": str, "why": str}),
}

RACE = {
    "command": str,
    "created": str,
    "seconds": NUMBER,
    "baseline": str,
    "optimizers": Each(str),
    "setup": {
        "model": dict,
        "model_name": str,
        "non_embedding": NUMBER,
        "parameters": NUMBER,
        "corpus": {
            "source": str,
            "documents": Maybe(NUMBER),
            "train_tokens": NUMBER,
            "val_tokens": NUMBER,
            "tokenizer": str,
            "vocab_size": NUMBER,
            "identity": str,
        },
        "passes": NUMBER,
        "tokens": NUMBER,
        "budgets": Each(NUMBER),
        "batch": NUMBER,
        "seq": NUMBER,
        "steps": NUMBER,
        "schedule": dict,
        "clip": Maybe(NUMBER),
        "seeds": Each(NUMBER),
        "tuning_seed": Maybe(NUMBER),
        "workers": NUMBER,
    },
    "untuned": {"shared": dict, "per_optimizer": Each(dict, keyed=True)},
    "results": Each(RESULT, keyed=True),
    "law": Maybe({"points": Each(INTERVAL), "band": Each(INTERVAL), "flags": Each(str)}),  # may hold what it cost
    "curves": Each({"optimizer": str, "seed": NUMBER, "tokens": Each(NUMBER), "loss": list, "final": bool}),
    "rank_flips": Each({"a": str, "b": str, "tokens": NUMBER, "text": str}),
    "runs": Each({"run": str, "optimizer": str, "lr": NUMBER, "tokens": NUMBER, "status": str}),
    "noise": Maybe({"sd": Maybe(NUMBER), "from": str}),
    "power": Since(Maybe({"text": Each(str)})),
    "calibration": Maybe(dict),
    "versions": dict,
    "hardware": dict,
    "warnings": Each(str),
}


def checked(race: Any, name: str = "race.json") -> dict[str, Any]:
    """A copy, nan and infinities as null, control characters out; CorruptFile names the faulty keys."""
    return shape.checked(race, name, RACE, _dangling, version=FORMAT, what="a race", advice=ADVICE)


def _dangling(race: dict[str, Any]) -> Iterator[str]:
    """Names that point to nothing."""
    if race["baseline"] not in race["optimizers"]:
        yield f"baseline {said(race['baseline'])} is not among the optimizers"
    for name in race["optimizers"]:
        if name not in race["results"]:
            yield f"results.{name} is missing"
    for index, curve in enumerate(race["curves"]):
        if len(curve["tokens"]) != len(curve["loss"]):
            yield f"curves.{index} has {len(curve['tokens'])} tokens and {len(curve['loss'])} losses"
    if race["setup"]["tokens"] <= 0:
        yield f"setup.tokens is {race['setup']['tokens']}, not positive"
