"""How a stored weight holds the matrices that a rule must see: transposed, fused, stacked, flattened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steepest.core.errors import RoutingError, UnknownName


@dataclass(frozen=True)
class Layout:
    """From a stored tensor to (..., out, in) matrices, always as views.

    Fields, in the order in which they apply:
        flatten: filters (out, in, k, ...) are seen as (out, in * k * ...).
        transposed: stored (in, out), as ``Conv1D`` of transformers does.
        groups: the output rows are so many blocks of equal size, and each block is a matrix by itself: the
            heads of an attention, the groups of a grouped convolution.
        split: names and rows of the parts fused along the output dimension, in each group if there are groups.
        alternating: the rows of the parts alternate (gate, up, gate, up, ...) instead of following in blocks.

    Dimensions before the last two are a stack of matrices, each seen by itself.
    """

    flatten: bool = False
    transposed: bool = False
    groups: int = 1
    split: tuple[tuple[str, int], ...] = ()
    alternating: bool = False

    def parts(self, tensor: Tensor) -> dict[str, Tensor]:
        """Views of the tensor's matrices by part name, "" for a weight that is not fused."""
        if self.flatten:
            tensor = tensor.view(tensor.shape[0], -1)
        if self.transposed:
            tensor = tensor.mT
        if self.groups > 1:
            tensor = tensor.unflatten(-2, (self.groups, -1))
        if not self.split:
            return {"": tensor}
        names, sizes = zip(*self.split, strict=True)
        if self.alternating:
            return {name: tensor[..., i :: len(names), :] for i, name in enumerate(names)}
        return dict(zip(names, tensor.split(sizes, dim=-2), strict=True))

    def rows(self, shape: tuple[int, ...]) -> int:
        """Output rows of a weight of this shape, before groups and parts."""
        out, across = (shape[0], math.prod(shape[1:])) if self.flatten else (shape[-2], shape[-1])
        return across if self.transposed else out

    def fault(self, shape: tuple[int, ...]) -> str:
        """Why a weight of this shape cannot have this layout; empty if it can."""
        rows, sizes = self.rows(shape), [size for _, size in self.split]
        if self.groups < 1 or rows % self.groups:
            return f"{self.groups} groups do not divide {rows} output rows"
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            return f"the rows of a part are a whole number of at least 1, not {sizes}"
        if len({name for name, _ in self.split}) < len(sizes):
            return "two parts have the same name"
        if self.alternating and len(set(sizes)) != 1:
            return "parts that alternate have equally many rows"
        if sizes and sum(sizes) * self.groups != rows:
            told = " + ".join(f"{name} {size}" for name, size in self.split)
            return f"{f'{self.groups} x ({told})' if self.groups > 1 else told} is not its {rows} output rows"
        return ""


WHOLE = Layout()
WORDS = {"whole": (), "transposed": (), "flatten": (), "qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""Layouts that have a name, and the equal parts that they split a weight into."""


def declared(value: Layout | str | Mapping[str, int], name: str, shape: tuple[int, ...]) -> Layout:
    """A layout from what a user writes: a Layout, a word, or the rows of fused parts such as
    ``{"q": 64, "k": 16, "v": 16}``.

    Words: "whole" (one matrix, or a stack of them), "transposed", "flatten", "qkv" (three equal parts), and
    "gate_up" (two equal parts).

    Raises: UnknownName for another word; RoutingError for a layout that the shape cannot have.
    """
    if isinstance(value, str):
        if value not in WORDS:
            raise UnknownName.among(f"layout for {name}", value, WORDS)
        if parts := WORDS[value]:
            value = equal_parts(shape[-2], *parts)
        else:
            value = Layout(transposed=value == "transposed", flatten=value == "flatten")
    elif isinstance(value, Mapping):
        value = Layout(split=tuple(value.items()))
    elif not isinstance(value, Layout):
        words = ", ".join(map(repr, WORDS))
        raise RoutingError(f'layout of {name}: {value!r} is none of {words}, {{"part": rows, ...}}, Layout(...)')
    if fault := value.fault(shape):
        raise RoutingError(f"layout of {name} {shape}: {fault}: declare what the module's forward cuts out of it")
    return value


def equal_parts(rows: int, *names: str, transposed: bool = False, alternating: bool = False) -> Layout:
    """Equal parts of the output rows; a part too small shows as a fault of the layout."""
    split = tuple((name, rows // len(names)) for name in names)
    return Layout(transposed=transposed, split=split, alternating=alternating)
