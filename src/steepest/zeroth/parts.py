"""Which weights are probed together: all, or block by block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from steepest.core.errors import BadInput, UnknownName
from steepest.core.naming import ROLES

NAMED = ("layers", "tensors")
REST = "the rest"


def parts_of(
    weights: Iterable[tuple[str, str, Tensor]], blocks: str | Sequence[str | Sequence[str]] | None
) -> dict[str, list[Tensor]]:
    """The blocks in the order in which they are visited, from the weights' (name, role, tensor).

    ``blocks``: None, one block of all; "layers", by the path up to its first number ("h.0") or, without one, to
    its last word; "tensors", each weight alone; or patterns of names, or roles, each (or each tuple of them) a
    block of what no earlier one has. What none of them matches is the last block: the authors' patterns leave
    the head out, and it is never trained.

    Raises: BadInput, UnknownName for patterns.
    """
    weights = list(weights)
    if blocks is None:
        return {"all": [p for *_, p in weights]}
    if isinstance(blocks, str) and blocks not in NAMED:
        raise UnknownName.among("way to cut a model into blocks", blocks, NAMED, "or a list of patterns")
    asked = {} if isinstance(blocks, str) else {str(b): (b,) if isinstance(b, str) else tuple(b) for b in blocks}
    found: dict[str, list[Tensor]] = {block: [] for block in asked}
    for i, (name, role, p) in enumerate(weights):
        if blocks == "tensors":
            key = name if name not in found else f"{name} {i}"
        elif blocks == "layers":
            key = layer(name)
        else:
            key = next((block for block, those in asked.items() if matches(name, role, those)), REST)
        found.setdefault(key, []).append(p)
    if empty := [pattern for pattern, members in found.items() if not members]:
        known = ", ".join(name for name, *_ in weights[:3])
        raise BadInput(
            f"blocks name {empty[0]!r}, which no weight matches: names are as {known}; roles are {ROLES}"
        )
    return found


def matches(name: str, role: str, patterns: Sequence[str]) -> bool:
    return any(role == one or fnmatchcase(name, one) for one in patterns)


def layer(name: str) -> str:
    """Of "model.h.3.attn.q.weight" it is "model.h.3", of "model.norm.weight" "model.norm"."""
    numbered = re.match(r"(.*?\.)?\d+(?=\.)", name)
    return numbered[0] if numbered else name.rpartition(".")[0] or name
