"""What an optimizer keeps, told by letting it allocate its state for weights that take no memory themselves."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from steepest.core.errors import SteepestError
from steepest.core.rule import Rule
from steepest.faces import face
from steepest.lab.model import Decoder
from steepest.lab.presets import preset

MODEL = "fantastic-130m"
HIDDEN = "ffn_in"  # a matrix of which no rule wants to know the heads
EXAMPLES = {
    "a hidden matrix": ((1024, 1024), HIDDEN),
    "an embedding": ((50_304, 768), "embed"),
    "an output head": ((50_304, 768), "head"),
    "a norm's gain": ((768,), "norm"),
}
UNIT = 1024
UNITS = ((2, 3), (2, 5), (2, 7), (3, 4), (3, 7), (4, 5), (5, 6), (6, 7))
"""Sizes from which a formula is found, in units of 1024: below where the largest factors are left out."""


@dataclass(frozen=True)
class Kept:
    """State of weights: bytes without step counters, how many weights, and each slot as (shape, type)."""

    rule: str
    state_bytes: int
    weights: int
    slots: dict[str, tuple[tuple[int, ...], torch.dtype]]

    @property
    def per_weight(self) -> float:
        return self.state_bytes / self.weights


def of_weight(
    rule: type[Rule],
    shape: tuple[int, ...],
    role: str,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Kept | None:
    """What is kept for one weight of this shape and role; None where the variant refuses such a weight."""
    weight = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
    try:
        optimizer = face(rule)([("weight", weight)], roles={"weight": role}, variant=variant)
    except SteepestError:
        return None
    slots = {name: (tuple(t.shape), t.dtype) for name, t in optimizer.state[weight].items() if name != "step"}
    return Kept(optimizer.param_groups[0]["rule"], _bytes(slots), math.prod(shape), slots)


@functools.cache
def of_model(rule: type[Rule], recipe: bool = False) -> Kept:
    """What is kept for all weights of :data:`MODEL`, the companion's included, by default or under the recipe."""
    model = Decoder(preset(MODEL), device="meta")
    optimizer = face(rule)(model, **(rule.recipe if recipe else {}))
    total = sum(
        _bytes({name: (tuple(t.shape), t.dtype) for name, t in state.items() if name != "step"})
        for state in optimizer.state.values()
    )
    return Kept(rule.name(), total, sum(p.numel() for p in model.parameters()), {})


def _bytes(slots: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> int:
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in slots.values())


@functools.cache
def formula(rule: type[Rule], variant: str | None = None) -> str:
    """Bytes for a hidden matrix of m rows and n columns, m <= n, such as ``8mn + 8m² + 8n²``.

    Found from what is allocated for some sizes and held to what is for others; exact for sides that are multiples
    of 1024, which blocks of state divide.
    """
    found = [of_weight(rule, (UNIT * m, UNIT * n), HIDDEN, variant) for m, n in UNITS]
    if not all(found):
        return "refuses a single matrix"
    held = np.array([kept.state_bytes for kept in found if kept], dtype=float)
    terms = np.array([(m * n, m * m, n * n, m, n, 1) for m, n in UNITS], dtype=float)
    solved = np.linalg.lstsq(terms, held)[0].round()
    if not np.array_equal(terms @ solved, held):
        return "no polynomial of m and n"
    powers = {"mn": 2, "m²": 2, "n²": 2, "m": 1, "n": 1, "": 0}
    factors = {name: value / UNIT**power for (name, power), value in zip(powers.items(), solved, strict=True)}
    shown = {name: f"{factor:,.6g}" for name, factor in factors.items() if factor}
    return " + ".join(("" if number == "1" and name else number) + name for name, number in shown.items()) or "0"
