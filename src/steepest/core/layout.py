"""How a stored weight holds the matrices that a rule must see: transposed, fused, stacked, flattened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steepest.core.errors import RoutingError, UnknownName


@dataclass(frozen=True)
class Layout:
    """From a stored tensor to (..., out, in) matrices, always as views.

    ``transposed``: stored (in, out), as ``Conv1D`` of transformers. ``flatten``: filters (out, in, k, ...) as
    (out, rest). ``split``: names and sizes of the parts fused along the output dimension, after transposing.
    Leading dimensions beyond two are a stack of matrices, each seen by itself.
    """

    transposed: bool = False
    flatten: bool = False
    split: tuple[tuple[str, int], ...] = ()

    def parts(self, tensor: Tensor) -> dict[str, Tensor]:
        """Views of the tensor's matrices by part name, "" for a weight that is not fused."""
        if self.flatten:
            tensor = tensor.view(tensor.shape[0], -1)
        if self.transposed:
            tensor = tensor.mT
        if not self.split:
            return {"": tensor}
        names, sizes = zip(*self.split, strict=True)
        return dict(zip(names, tensor.split(sizes, dim=-2), strict=True))


WHOLE = Layout()


def declared(value: Layout | str | Mapping[str, int], name: str, shape: tuple[int, ...]) -> Layout:
    """A layout from what a user writes: a Layout, a word, or the sizes of fused parts such as
    ``{"q": 64, "k": 16, "v": 16}``.

    Words: "whole" (one matrix, or a stack of them), "transposed", "flatten", "qkv" (three equal parts), and
    "gate_up" (two equal parts).
    """
    if isinstance(value, str):
        words = {
            "whole": WHOLE,
            "transposed": Layout(transposed=True),
            "flatten": Layout(flatten=True),
            "qkv": equal_parts(shape[-2], "q", "k", "v") if value == "qkv" else WHOLE,
            "gate_up": equal_parts(shape[-2], "gate", "up") if value == "gate_up" else WHOLE,
        }
        if value not in words:
            raise UnknownName.among(f"layout for {name}", value, words)
        value = words[value]
    elif not isinstance(value, Layout):
        value = Layout(split=tuple(value.items()))
    rows = shape[-1] if value.transposed else shape[-2]
    if value.split and sum(size for _, size in value.split) != rows:
        sizes = " + ".join(f"{part} {size}" for part, size in value.split)
        raise RoutingError(f"layout of {name}: {sizes} is not its {rows} output rows (shape {shape})")
    return value


def equal_parts(rows: int, *names: str, transposed: bool = False) -> Layout:
    """Equal parts of the output rows."""
    if rows % len(names):
        raise RoutingError(f"{rows} output rows do not divide into equal {', '.join(names)}: declare their sizes")
    return Layout(transposed=transposed, split=tuple((name, rows // len(names)) for name in names))
