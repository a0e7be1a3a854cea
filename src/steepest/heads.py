"""How many rows of a weight belong to one attention head, for rules with a hyperparameter ``head_dim``.

A module, or its ``config``, tells the width of a head, or how many heads the queries below it have. Keys and
values may have fewer heads than queries, of the same width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from steepest.core.errors import RoutingError
from steepest.core.naming import Named, named_role, place

WIDTH = ("qk_head_dim", "head_dim", "attention_head_size", "head_size", "key_value_proj_dim", "d_kv", "d_head")
COUNT = ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads")
"""What common models call the width of a head, and the number of heads."""


def with_head_dims(members: Iterable[Named], model: nn.Module) -> list[Named]:
    """The parameters of a model, each with what the innermost module around it tells of its heads."""
    members = list(members)
    queries = {n.name: n.shape[0] for n in members if n.shape and named_role(place(n.name)) == "q"}
    found: dict[Tensor, int] = {}

    def descend(module: nn.Module, path: str, above: int | None) -> None:
        width = told(module, (rows for name, rows in queries.items() if name.startswith(path))) or above
        if width is not None:
            found.update(dict.fromkeys(module.parameters(recurse=False), width))
        for name, child in module.named_children():
            descend(child, f"{path}{name}.", width)

    descend(model, "", None)
    return [dataclasses.replace(n, head_dim=found.get(n.parameter)) for n in members]


def told(module: nn.Module, query_rows: Iterable[int]) -> int | None:
    """The width of a head that a module tells of itself and what is below it."""
    config = getattr(module, "config", None)
    if width := count(module, WIDTH) or count(config, WIDTH):
        return width
    heads, rows = count(module, COUNT) or count(config, COUNT), next(iter(query_rows), 0)
    return rows // heads if heads and rows % heads == 0 else None


def count(source: Any, names: Iterable[str]) -> int | None:
    """The first of these attributes that is a number of something."""
    values = (getattr(source, name, None) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None)


def by_head_dim(
    values: Mapping[str, Any], members: list[Named], rule: str
) -> Iterator[tuple[dict[str, Any], list[Named]]]:
    """The weights of a group parted by their head_dim, if its blocks are heads and nobody said how large.

    Raises: RoutingError for a weight of which the model does not tell it.
    """
    if values.get("blocks") != "head" or values.get("head_dim") is not None:
        yield dict(values), members
        return
    for n in members:
        if n.head_dim is None and len(n.shape) > 1:
            raise RoutingError(
                f"{n.label} {n.shape} is cut by heads, and nothing tells {rule} how many rows a head has: pass "
                "the model itself instead of its parameters, or head_dim=64 (the width of a head)"
            )
    for width in dict.fromkeys(n.head_dim for n in members):
        yield {**values, "head_dim": width}, [n for n in members if n.head_dim == width]
