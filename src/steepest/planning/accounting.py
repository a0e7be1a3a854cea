"""How memory is counted: as it is allocated, or as a paper counts it. Papers differ in all of this."""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch

from steepest.core.errors import BadInput, UnknownName

UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}
Unit = Literal["GB", "GiB", "MB", "MiB"]


@dataclass(frozen=True)
class Accounting:
    """What is counted, and in which unit it is told.

    Attributes:
        unit: GB and MB are powers of ten, GiB and MiB powers of two.
        gradients: whether gradients count.
        release: of gradients only the largest counts: weights move inside backward (``steepest.release``).
        embeddings: whether the state of embeddings and output head counts.
        seeded: whether state counts that a seed could draw again (random projectors).
        buffers: whether the engine's own buffers count.
        dtype: the type that weights, gradients and state are counted in; None: the one that they have.
        state_dtype: the type that state alone is counted in.
    """

    unit: Unit = "GiB"
    gradients: bool = True
    release: bool = False
    embeddings: bool = True
    seeded: bool = True
    buffers: bool = True
    dtype: torch.dtype | None = None
    state_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UnknownName.among("unit", str(self.unit), UNITS)
        for name in ("dtype", "state_dtype"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, dtype_named(value))

    def shown(self, size: float) -> str:
        """Bytes in this unit, two places."""
        return f"{size / UNITS[self.unit]:,.2f}"

    def told(self) -> str:
        """What departs from plain allocation, in words."""
        words = [
            "" if self.dtype is None else f"everything in {name_of(self.dtype)}",
            "" if self.state_dtype is None else f"state in {name_of(self.state_dtype)}",
            "" if self.gradients else "no gradients",
            "the largest gradient alone" if self.gradients and self.release else "",
            "" if self.embeddings else "no state of embeddings and head",
            "" if self.seeded else "no projectors that a seed draws",
            "" if self.buffers else "no buffers",
        ]
        return ", ".join(filter(None, words))

    def row(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {k: name_of(v) if isinstance(v, torch.dtype) else v for k, v in values.items()}


_PAPER = Accounting(dtype=torch.bfloat16, gradients=False, buffers=False)
PRESETS: dict[str, Accounting] = {
    "steepest": Accounting(),
    "scale": dataclasses.replace(_PAPER, unit="GB", seeded=False),
    "galore": _PAPER,
    "apollo": dataclasses.replace(_PAPER, embeddings=False, seeded=False),
    "fira": dataclasses.replace(_PAPER, gradients=True),
    "adam-mini": Accounting(unit="GB", dtype=torch.float32, gradients=False, buffers=False),
    "sgd-sai": Accounting(dtype=torch.float32, gradients=False, buffers=False),
}
"""``steepest``: all that is allocated. The others: as far as a paper's printed totals tell how it counted."""


def accounting_of(given: str | Accounting) -> Accounting:
    """A preset by name, with changes after a colon: ``scale:unit=GiB,gradients=True``.

    Raises: UnknownName; BadInput for a change that cannot be.
    """
    if isinstance(given, Accounting):
        return given
    name, _, changes = given.partition(":")
    if name not in PRESETS:
        raise UnknownName.among("accounting", name, PRESETS)
    values: dict[str, Any] = {}
    known = {f.name: f for f in dataclasses.fields(Accounting)}
    for change in filter(None, changes.split(",")):
        key, equals, written = change.partition("=")
        if key not in known:
            raise UnknownName.among("part of an accounting", key, known)
        text = key in ("unit", "dtype", "state_dtype")
        values[key] = written if text and written != "None" else _literal(written)
        if not equals or not (text or isinstance(values[key], bool)):
            raise BadInput(f"accounting {given}: {change!r} is not {key}=True or {key}=False")
    return dataclasses.replace(PRESETS[name], **values)


def size_of(written: str) -> tuple[int, Unit]:
    """``24GiB``, ``16 GB`` as bytes, and the unit. Raises: BadInput."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*", written)
    unit = next((u for u in UNITS if found and u.lower() == found[2].lower()), None)
    if found is None or unit is None:
        raise BadInput(f"size {written!r} is no number with a unit: write 24GiB, or 24GB (1 GiB = 1.074 GB)")
    return int(float(found[1]) * UNITS[unit]), unit  # type: ignore[return-value]


SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}


def dtype_named(name: str) -> torch.dtype:
    """``bfloat16``, ``bf16``, ``torch.bfloat16`` as a type. Raises: UnknownName."""
    words = ("bfloat16", "float16", "float32", "float64", "int8")
    plain = name.removeprefix("torch.")
    plain = SHORT.get(plain, plain)
    if plain not in words:
        raise UnknownName.among("dtype", name, [*words, *SHORT])
    found: torch.dtype = getattr(torch, plain)
    return found


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _literal(written: str) -> Any:
    try:
        return ast.literal_eval(written)
    except (ValueError, SyntaxError):
        return written
