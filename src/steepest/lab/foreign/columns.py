"""Which column of a foreign table means what: own names, names that others use, and the caller's map."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from steepest.core.errors import BadInput

FIELDS: dict[str, tuple[str, ...]] = {
    "run": ("wandb_run", "id", "name"),
    "optimizer": ("optimizer_name", "optimizer.spec", "optim"),
    "size": ("model_size", "model.preset"),
    "weights": ("n_params_nonembed", "non_embedding_weights", "non_embedding_parameters"),
    "tokens": ("total_tokens", "train_tokens", "tokens_seen"),
    "ratio": ("chinchilla_ratio", "chinchilla", "tokens_per_20_weights"),
    "loss": (
        "final_loss", "eval_loss", "val_loss", "validation_loss", "eval/loss", "val/loss", "validation/loss",
        "eval/paloma/c4_en/loss",
    ),
    "status": ("state",),
    "diverged": ("has_diverged",),
    "seed": ("random_seed",),
    "variant": ("architecture_variant",),
    "steps": ("total_steps", "max_steps", "num_train_steps"),
    "flops": ("total_flops",),
    "seconds": ("runtime", "_runtime", "wall_seconds"),
    "state_bytes": (),
    "purpose": ("phase",),
    "reason": (),
    "curve": (),
    "source": (),
}  # fmt: skip
"""The columns of the importer and other names that are taken for them, in any case."""

RENAMED = {
    "learning_rate": "lr", "peak_lr": "lr", "max_lr": "lr", "wd": "weight_decay", "epsilon": "eps",
    "adam_beta1": "beta1", "adam_beta2": "beta2", "b1": "beta1", "b2": "beta2",
    "train_batch_size": "batch", "batch_size": "batch", "global_batch_size": "batch",
    "max_grad_norm": "clip", "grad_clip": "clip", "gradient_clip_val": "clip",
    "warmup_steps": "warmup", "num_warmup_steps": "warmup",
}  # fmt: skip
"""Hyperparameters that others call otherwise."""

KNOWN = frozenset((
    "lr", "weight_decay", "momentum", "beta1", "beta2", "beta3", "betas", "eps", "alpha", "gamma", "rho", "mu",
    "warmup", "batch", "clip", "cooldown", "min_lr_ratio", "lr_schedule", "schedule", "nesterov", "ns_steps",
    "block_size", "precondition_frequency", "shampoo_beta", "preconditioner_lr", "adam_lr", "adamw_lr",
))  # fmt: skip
"""Hyperparameters that are read under their own name; any other needs the prefix ``hp.``."""

CONSTANT = "="

_OF_CONFIG = {"optimizer", "size", "weights", "tokens", "ratio", "seed", "variant", "steps", "purpose"}
_OF_SUMMARY = {"loss", "tokens", "flops", "seconds"}


class Columns:
    """What the columns of a table mean, told while its rows are read.

    wanted: own names to columns, before all that is known here; an own name is one of FIELDS or ``hp.NAME``, and a
    column that begins with ``=`` is the value of every row (``{"size": "=130m"}``). Raises BadInput for an own
    name that is none.
    """

    def __init__(self, wanted: Mapping[str, str] | None = None) -> None:
        self.wanted = dict(wanted or {})
        for own in self.wanted:
            if own not in FIELDS and not (own.startswith("hp.") and len(own) > 3):
                raise BadInput(
                    f"unknown column {own!r} before '=': {_near(own, FIELDS) or _some(FIELDS)} or hp.NAME"
                )
        self._constants = {own: name[1:] for own, name in self.wanted.items() if name.startswith(CONSTANT)}
        self._named = {name: own for own, name in self.wanted.items() if not name.startswith(CONSTANT)}
        self._meanings: dict[str, str | None] = {}

    def of(self, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """By own name, the columns of ``row`` that mean it and hold a value, in the order of preference."""
        found: dict[str, dict[str, Any]] = {own: {"": value} for own, value in self._constants.items()}
        for column, value in row.items():
            if column not in self._meanings:
                self._meanings[column] = self._meaning(column)
            own = self._meanings[column]
            if own is not None and value is not None and value != "":
                found.setdefault(own, {})[column] = value
        for own, values in found.items():
            if len(values) > 1:
                found[own] = dict(sorted(values.items(), key=lambda item: _rank(own, item[0])))
        return found

    def _meaning(self, column: str) -> str | None:
        if column in self._named:
            return self._named[column]
        own = meaning(column)
        return None if own in self.wanted else own

    @property
    def unread(self) -> dict[str, str]:
        """Columns met so far that mean nothing here, with the nearest name that would, or why not."""
        told = {}
        for column, own in self._meanings.items():
            if own is None and column:
                instead = self.wanted.get(meaning(column) or "")
                near = _near(column.lower(), [*FIELDS, *(f"hp.{name}" for name in KNOWN)])
                told[column] = f"{meaning(column)} is {instead!r}" if instead else near
        return told

    def check(self) -> None:
        """Raises BadInput for a wanted column that no row had."""
        for column, own in self._named.items():
            if column not in self._meanings:
                near = _near(column, self._meanings) or f"there are {_some(self._meanings)}"
                raise BadInput(f"no column {column!r} for {own}: {near}")


def meaning(column: str) -> str | None:
    """The own name that a column stands for by itself: a field, ``hp.NAME``, or None."""
    kind, _, rest = column.partition(".")
    if kind == "hp" and rest:
        return f"hp.{RENAMED.get(rest, rest)}"
    inner = kind in ("config", "summary") and bool(rest)
    name = (rest if inner else column).lower()
    field = next((own for own, others in FIELDS.items() if name == own or name in others), None)
    if kind == "summary" and inner:
        # What training logs as plain "loss" is as a rule its own, not that of the validation.
        return field if field in _OF_SUMMARY and name != "loss" else None
    if field is not None and (not inner or field in _OF_CONFIG):
        return field
    leaf = name.rpartition(".")[2]
    leaf = RENAMED.get(leaf, leaf)
    return f"hp.{leaf}" if leaf in KNOWN else None


def _rank(own: str, column: str) -> int:
    names = (own, *FIELDS.get(own, ()))
    return names.index(column.lower()) if column.lower() in names else len(names)


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else ""


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
