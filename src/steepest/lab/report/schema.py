"""What a race.json must hold before anything is drawn from it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, CorruptFile

FORMAT = 1
ADVICE = "run the same `steepest race` command again to write it anew"


class Maybe:
    """The value may be null; otherwise it looks like ``shape``."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


class Each:
    """A list, or with ``keyed`` a mapping, whose every value looks like ``shape``."""

    def __init__(self, shape: Any, keyed: bool = False) -> None:
        self.shape, self.keyed = shape, keyed


class Since:
    """The key may be missing, in races from before it was written; otherwise its value looks like ``shape``."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


NUMBER = (int, float)
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
    "calibration": Maybe(dict),
    "versions": dict,
    "hardware": dict,
    "warnings": Each(str),
}


def load(path: Path | str) -> dict[str, Any]:
    """Reads and checks a race.json. CorruptFile tells the damage, BadInput that there is no such file."""
    path = Path(path)
    if path.is_dir():
        path = path / "race.json"
    try:
        race = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"no race at {path}: give the folder that `steepest race` wrote, or its race.json"
        ) from None
    except (ValueError, OSError) as error:
        raise CorruptFile(f"{path} cannot be read as JSON ({error}): {ADVICE}") from None
    return checked(race, str(path))


def checked(race: Any, name: str = "race.json") -> dict[str, Any]:
    """A copy, nan and infinities as null, control characters out; CorruptFile names the faulty keys."""
    if not isinstance(race, dict):
        raise CorruptFile(f"{name} holds a {type(race).__name__} where a race is wanted: {ADVICE}")
    if race.get("format") != FORMAT:
        raise CorruptFile(
            f"{name} has format {race.get('format')!r}, this version reads format {FORMAT}: {ADVICE}"
        )
    race = _clean(race)
    faults = list(_faults(race, RACE, ""))
    if not faults:
        faults = list(_dangling(race))
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CorruptFile(f"{name}: {', '.join(faults[:5])}{more}: {ADVICE}")
    return race


def _faults(value: Any, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, Since):
        yield from _faults(value, shape.shape, where)
    elif isinstance(shape, Maybe):
        if value is not None:
            yield from _faults(value, shape.shape, where)
    elif isinstance(shape, Each):
        if shape.keyed and isinstance(value, dict):
            items = list(value.items())
        elif not shape.keyed and isinstance(value, list):
            items = list(enumerate(value))
        else:
            yield f"{where} is {_told(value)}, not a {'dict' if shape.keyed else 'list'}"
            return
        for key, item in items:
            yield from _faults(item, shape.shape, f"{where}.{key}")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where} is {_told(value)}, not a dict"
            return
        for key, item in shape.items():
            inner = f"{where}.{key}".lstrip(".")
            if key in value:
                yield from _faults(value[key], item, inner)
            elif not isinstance(item, Since):
                yield f"{inner} is missing"
    elif not isinstance(value, shape) or (shape is NUMBER and isinstance(value, bool)):
        kinds = " or ".join(kind.__name__ for kind in shape) if isinstance(shape, tuple) else shape.__name__
        yield f"{where} is {_told(value)}, not a {kinds}"


def _dangling(race: dict[str, Any]) -> Iterator[str]:
    """Names that point to nothing."""
    if race["baseline"] not in race["optimizers"]:
        yield f"baseline {_told(race['baseline'])} is not among the optimizers"
    for name in race["optimizers"]:
        if name not in race["results"]:
            yield f"results.{name} is missing"
    for index, curve in enumerate(race["curves"]):
        if len(curve["tokens"]) != len(curve["loss"]):
            yield f"curves.{index} has {len(curve['tokens'])} tokens and {len(curve['loss'])} losses"
    if race["setup"]["tokens"] <= 0:
        yield f"setup.tokens is {race['setup']['tokens']}, not positive"


def _told(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {_clean(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        # Neither XML nor UTF-8 can carry these, whatever an optimizer is named.
        return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]", "�", value)
    return value
