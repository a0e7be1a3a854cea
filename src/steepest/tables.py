"""What recorded tables hold, by the folder in which they lie: functions of a key to compare its array with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from steepest.schedules import Schedule, named


def _schedule(key: str, told: Mapping[str, Any], table: np.ndarray) -> np.ndarray | None:
    """The factors of a learning-rate schedule, one for each step of the run."""
    warmup = re.search(r"_W(\d+)$", told["variant"])
    made = schedule_of(key, len(table), int(warmup[1]) if warmup else 0)
    return None if made is None else np.array([made(t) for t in range(len(table))])


TABLES: dict[str, Callable[[str, Mapping[str, Any], np.ndarray], np.ndarray | None]] = {"schedules": _schedule}
"""What computes a table's key, by the table's folder: from the key, the table's JSON and the recorded array, which
gives no more than its shape; None for a key that is not known."""


def schedule_of(key: str, total: int, warmup: int) -> Schedule | None:
    """The schedule that a key of a table means (``hf_wsd_1-sqrt_w10_d20``); None if unknown.

    warmup: of the table, for keys that do not say it.
    """
    for pattern, read in _SCHEDULES:
        if found := re.fullmatch(pattern, key):
            name, own, settings = read(total, *found.groups())
            return named(name, total, warmup if own is None else own, **settings)
    return None


_Read = Callable[..., tuple[str, float | None, dict[str, Any]]]
_HF, _EPFML = {"start": 0.0}, {"start": 0.01}
_COOLDOWNS = {"linear": "", "1-sqrt": "-sqrt", "miror_cosine": "-mirror-cosine", "exp": "-exponential"}


def _wsd(kind: str) -> str:
    return f"wsd{_COOLDOWNS.get(kind, f'-{kind}')}"


_SCHEDULES: tuple[tuple[str, _Read], ...] = (
    ("(linear|cosine|rex)", lambda T, name: (name, 0, {})),
    ("rex_ivanvassi_port", lambda T: ("rex-port", 0, {})),
    ("exponential_g([.0-9]+)", lambda T, g: ("exponential", 0, {"final": float(g) ** T})),
    (
        "step((?:_[0-9]+)+)",
        lambda T, at: ("step", 0, {"milestones": tuple(int(n) / 100 for n in at[1:].split("_"))}),
    ),
    ("onecycle_cos_pct([.0-9]+)", lambda T, share: ("one-cycle", float(share) * T, {})),
    ("onecycle_linear_pct([.0-9]+)", lambda T, share: ("one-cycle-linear", float(share) * T, {})),
    ("hf_(linear|cosine)_warmup([0-9]+)", lambda T, name, W: (name, int(W), _HF)),
    (
        "hf_cosine_min([.0-9]+)_warmup([0-9]+)",
        lambda T, low, W: ("cosine", int(W), _HF | {"minimum": float(low)}),
    ),
    ("hf_inverse_sqrt_warmup([0-9]+)", lambda T, W: ("inverse-sqrt", int(W), _HF)),
    (
        "hf_polynomial_p([.0-9]+)_warmup([0-9]+)",
        lambda T, p, W: ("polynomial", int(W), _HF | {"power": float(p), "minimum": 1e-7}),
    ),
    ("hf_wsd_(.+)_w([0-9]+)_d([0-9]+)", lambda T, kind, W, D: (_wsd(kind), int(W), _HF | {"decay": int(D) / T})),
    (
        "epfml_wsd_(.+)_w([0-9]+)_d([.0-9]+)",
        lambda T, kind, W, d: (_wsd(kind), int(W), _EPFML | {"decay": int(float(d) * T) / T}),
    ),
    ("epfml_cos_inf", lambda T: ("cosine-inf", None, _EPFML)),
)
"""Patterns of keys; in these tables transformers' polynomial ends at 1e-7, epfml's cosine 20 % before the end."""
