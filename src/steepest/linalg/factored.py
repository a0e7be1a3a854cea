"""Second moments of rank one: of a matrix only its rows' and columns' means are kept (Adafactor, 1804.04235)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from steepest.linalg.adam import ema


def averaged(state: Mapping[str, Tensor], q: Tensor, beta: Any) -> dict[str, Tensor]:
    """The averages that a state keeps of q: its rows' means, its columns', or q itself (one number: its mean)."""
    seen = {
        "row_var": lambda: q.mean(dim=-1, keepdim=True),
        "col_var": lambda: q.mean(dim=-2, keepdim=True),
        "variance": lambda: q if state["variance"].shape == q.shape else q.mean(dim=-1, keepdim=True),
    }
    return {name: ema(state[name], of(), beta) for name, of in seen.items() if name in state}


def second_moment(averages: Mapping[str, Tensor], floor: Any) -> Tensor:
    """V from what is kept of it: rows times columns over the mean of the rows."""
    if "variance" in averages:
        return averages["variance"]
    rows = averages["row_var"]
    if "col_var" not in averages:
        return rows
    return rows / rows.mean(dim=-2, keepdim=True).clamp(min=floor) * averages["col_var"]


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def whitened(g: Tensor, averages: Mapping[str, Tensor]) -> Tensor:
    """g / sqrt(V), the root of each factor taken by itself: their product may be too small for its type."""
    if "variance" in averages:
        return g * averages["variance"].rsqrt()
    rows = averages["row_var"]
    return g * (rows / rows.mean(dim=-2, keepdim=True)).rsqrt() * averages["col_var"].rsqrt()
